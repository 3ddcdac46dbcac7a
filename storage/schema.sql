-- The state of a store. Times and durations are nanoseconds, 0 means none. Every row is a function of the
-- replicated log alone, except state.applied_index, which says how much of it. PRAGMA user_version is the format.

-- How far this region's log has been applied; how many commands of the store's history, which all regions share, that
-- was; the latest time that any of them was stamped with; how many data keys the newest key term has wrapped (older
-- terms: key_terms.wraps); and the position of the last change that may have taken a permission from anybody.
CREATE TABLE state (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    applied_index INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    clock_ns      INTEGER NOT NULL,
    wraps         INTEGER NOT NULL DEFAULT 0,
    authority     INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO state VALUES (1, 0, 0, 0, 0, 0);

-- This region's part in it. The role is "alone" (there are no regions), "primary", "leaving" (it handed over),
-- "secondary" or "called" (it was handed over to).
CREATE TABLE region (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    level      INTEGER NOT NULL,
    settled_by BLOB NOT NULL -- the request by which it last took another region's state for its own, or declined a copy
) STRICT;
INSERT INTO region VALUES (1, '', 'alone', 1, x'');

-- The regions that hold the store's history, and who ordered which part of it: an epoch begins with its first position.
CREATE TABLE regions (
    name       TEXT PRIMARY KEY,
    endpoints  BLOB NOT NULL, -- msgpack arrays: URLs for clients, host:port for other regions
    links      BLOB NOT NULL,
    created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE epochs (
    epoch    INTEGER PRIMARY KEY,
    region   TEXT NOT NULL,
    position INTEGER NOT NULL
) STRICT;

-- The latest commands of the store's history, for regions that follow; kept once there are regions.
CREATE TABLE history (
    position   INTEGER PRIMARY KEY,
    request_id BLOB NOT NULL,
    command    BLOB NOT NULL
) STRICT;

-- The outcome of recent commands by request id, so that a retry is answered and not repeated.
-- time_ns never decreases with position, so the oldest are found at its small end. The machine keeps the ids in
-- memory: an index over random ids would touch a page of its own with every command.
CREATE TABLE outcomes (
    position   INTEGER PRIMARY KEY,
    request_id BLOB NOT NULL,
    time_ns    INTEGER NOT NULL,
    outcome    BLOB NOT NULL
) STRICT;

-- One row, once the store is initialised.
CREATE TABLE cluster (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    cluster_id   TEXT NOT NULL,
    cluster_name TEXT NOT NULL
) STRICT;

-- The keyring: each term's key, wrapped under the root key.
CREATE TABLE key_terms (
    term        INTEGER PRIMARY KEY,
    wrapped_key BLOB NOT NULL,
    created_ns  INTEGER NOT NULL,
    wraps       INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Secrets of the cluster's own, enveloped like values.
CREATE TABLE system_secrets (
    name        TEXT PRIMARY KEY,
    term        INTEGER NOT NULL,
    wrapped_key BLOB NOT NULL,
    ciphertext  BLOB NOT NULL
) STRICT;

-- What everybody knows of each node.
CREATE TABLE nodes (
    node_id         TEXT PRIMARY KEY,
    region          TEXT NOT NULL,
    api_address     TEXT NOT NULL,
    cluster_address TEXT NOT NULL,
    link_address    TEXT NOT NULL,
    software        TEXT NOT NULL,
    level           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One-time tickets by keyed digest; taken_by is the node that used it.
CREATE TABLE join_tokens (
    digest     BLOB PRIMARY KEY,
    expires_ns INTEGER NOT NULL,
    taken_by   TEXT
) STRICT, WITHOUT ROWID;

-- Mounted engines. No path is a prefix of another. The KV defaults ride along.
CREATE TABLE mounts (
    path                    TEXT PRIMARY KEY,
    mount_id                TEXT NOT NULL UNIQUE,
    accessor                TEXT NOT NULL,
    kind                    TEXT NOT NULL,
    version                 INTEGER NOT NULL,
    description             TEXT NOT NULL,
    default_lease_ttl_ns    INTEGER NOT NULL,
    max_lease_ttl_ns        INTEGER NOT NULL,
    max_versions            INTEGER NOT NULL DEFAULT 0,
    cas_required            INTEGER NOT NULL DEFAULT 0,
    delete_version_after_ns INTEGER NOT NULL DEFAULT 0,
    details                 BLOB NOT NULL -- a msgpack map
) STRICT;

-- What engines and auth methods keep by name. A view is a mount's id, or a name that begins with "sys:". revision is
-- the position of the last write in the store's history; owner is the digest of a token with which the entry goes.
CREATE TABLE entries (
    id         INTEGER PRIMARY KEY,
    view       TEXT NOT NULL,
    path       TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    owner      BLOB,
    term       INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    ciphertext BLOB NOT NULL,
    UNIQUE (view, path)
) STRICT;
CREATE INDEX entries_by_expiry ON entries (expires_ns) WHERE expires_ns > 0;
CREATE INDEX entries_by_owner ON entries (owner) WHERE owner IS NOT NULL;

-- What engines handed out for a time. ending: the engine is to take it back, from due_ns on; a live lease falls due when
-- it expires. owner is the digest of a token with which it ends. irrevocable: given up after `attempts` failures.
CREATE TABLE leases (
    id          INTEGER PRIMARY KEY,
    lease_id    TEXT NOT NULL UNIQUE,
    mount_id    TEXT NOT NULL,
    owner       BLOB,
    issued_ns   INTEGER NOT NULL,
    ttl_ns      INTEGER NOT NULL,
    expires_ns  INTEGER NOT NULL,
    max_ns      INTEGER NOT NULL,
    renewed_ns  INTEGER NOT NULL DEFAULT 0,
    renewable   INTEGER NOT NULL,
    ending      INTEGER NOT NULL DEFAULT 0,
    due_ns      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    problem     TEXT NOT NULL DEFAULT '',
    irrevocable INTEGER NOT NULL DEFAULT 0,
    term        INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    ciphertext  BLOB NOT NULL
) STRICT;
CREATE INDEX leases_by_due ON leases (due_ns) WHERE irrevocable = 0;
CREATE INDEX leases_irrevocable ON leases (lease_id) WHERE irrevocable = 1;
CREATE INDEX leases_by_owner ON leases (owner) WHERE owner IS NOT NULL;
CREATE INDEX leases_by_mount ON leases (mount_id);

-- KV v2 keys. custom_metadata is a msgpack map or NULL.
CREATE TABLE kv_keys (
    id                      INTEGER PRIMARY KEY,
    mount_id                TEXT NOT NULL,
    path                    TEXT NOT NULL,
    current_version         INTEGER NOT NULL DEFAULT 0,
    oldest_version          INTEGER NOT NULL DEFAULT 0,
    created_ns              INTEGER NOT NULL,
    updated_ns              INTEGER NOT NULL,
    max_versions            INTEGER NOT NULL DEFAULT 0,
    cas_required            INTEGER NOT NULL DEFAULT 0,
    delete_version_after_ns INTEGER NOT NULL DEFAULT 0,
    custom_metadata         BLOB,
    UNIQUE (mount_id, path)
) STRICT;

-- The wrapped data keys of versions, entries and leases, in slots of one size that are overwritten in place and used again, never
-- deleted: when rows go, SQLite moves others between pages and leaves copies of them in slack space, which no
-- later destroy would reach. Here nothing ever moves. Without its data key a ciphertext is noise.
CREATE TABLE data_keys (
    slot        INTEGER PRIMARY KEY,
    used        INTEGER NOT NULL CHECK (used IN (0, 1)),
    wrapped_key BLOB NOT NULL
) STRICT;
CREATE INDEX data_keys_free ON data_keys (slot) WHERE used = 0;

-- Versions of a key. The value comes last, so that metadata is read without it; NULL once destroyed.
CREATE TABLE kv_versions (
    id          INTEGER PRIMARY KEY,
    key_id      INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    created_ns  INTEGER NOT NULL,
    deletion_ns INTEGER NOT NULL,
    destroyed   INTEGER NOT NULL DEFAULT 0,
    term        INTEGER,
    slot        INTEGER,
    ciphertext  BLOB,
    UNIQUE (key_id, version)
) STRICT;

-- Policies by canonical name, as written.
CREATE TABLE policies (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;

-- Service tokens by keyed digest. num_uses: 0 without limit, -1 spent (at spent_ns). parent NULL: an orphan.
-- policies, metadata and bound_cidrs are msgpack; issuer is the id of the auth method's mount, or empty.
CREATE TABLE tokens (
    digest              BLOB PRIMARY KEY,
    accessor            TEXT NOT NULL UNIQUE,
    parent              BLOB,
    policies            BLOB NOT NULL,
    path                TEXT NOT NULL,
    display_name        TEXT NOT NULL,
    metadata            BLOB,
    num_uses            INTEGER NOT NULL,
    ttl_ns              INTEGER NOT NULL,
    explicit_max_ttl_ns INTEGER NOT NULL,
    period_ns           INTEGER NOT NULL,
    renewable           INTEGER NOT NULL,
    created_ns          INTEGER NOT NULL,
    expires_ns          INTEGER NOT NULL,
    last_renewal_ns     INTEGER NOT NULL DEFAULT 0,
    spent_ns            INTEGER NOT NULL DEFAULT 0,
    entity_id           TEXT NOT NULL,
    role                TEXT NOT NULL,
    bound_cidrs         BLOB NOT NULL,
    issuer              TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_parent ON tokens (parent) WHERE parent IS NOT NULL;
CREATE INDEX tokens_by_expiry ON tokens (expires_ns) WHERE expires_ns > 0;
CREATE INDEX tokens_spent ON tokens (spent_ns) WHERE spent_ns > 0;
CREATE INDEX tokens_by_issuer ON tokens (issuer) WHERE issuer <> '';
