"""The cluster's own state as replicated commands: identity, keyring, nodes and join tokens."""

from storage.command import (
    ClusterInit,
    JoinTokenPut,
    JoinTokenTake,
    KeyTermAdd,
    LevelProbe,
    LevelRaise,
    NodePut,
    NodeRemove,
    SystemSecretPut,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected


def init(db: Database, command: ClusterInit) -> Outcome:
    if db.one("SELECT 1 FROM cluster"):
        return Rejected(Reason.ALREADY_INITIALIZED)
    db.run("INSERT INTO cluster VALUES (1, ?, ?)", (command.cluster_id, command.cluster_name))
    return Done()


def key_term_add(db: Database, command: KeyTermAdd) -> Outcome:
    if db.one("SELECT 1 FROM key_terms WHERE term = ?", (command.term,)):
        return Rejected(Reason.TERM_EXISTS)
    db.run(
        "INSERT INTO key_terms (term, wrapped_key, created_ns) VALUES (?, ?, ?)",
        (command.term, command.wrapped_key, command.time_ns),
    )
    return Done()


def system_secret_put(db: Database, command: SystemSecretPut) -> Outcome:
    value = command.value
    db.run(
        "INSERT OR REPLACE INTO system_secrets (name, term, wrapped_key, ciphertext) VALUES (?, ?, ?, ?)",
        (command.name, value.term, value.wrapped_key, value.ciphertext),
    )
    return Done()


def node_put(db: Database, command: NodePut) -> Outcome:
    """A node that does not know the cluster's level could not read its log."""
    if command.level < level(db):
        return Rejected(Reason.LEVEL_UNKNOWN)
    db.run(
        "INSERT OR REPLACE INTO nodes (node_id, region, api_address, cluster_address, link_address, software,"
        " level) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            command.node_id,
            command.region,
            command.api_address,
            command.cluster_address,
            command.link_address,
            command.software,
            command.level,
        ),
    )
    return Done()


def node_remove(db: Database, command: NodeRemove) -> Outcome:
    """With the tickets that it spent: a retry may show one again, but not to come back."""
    db.run("DELETE FROM nodes WHERE node_id = ?", (command.node_id,))
    db.run("DELETE FROM join_tokens WHERE taken_by = ?", (command.node_id,))
    return Done()


def level(db: Database) -> int:
    """The feature level at which this cluster is."""
    row = db.one("SELECT level FROM region")
    return int(row[0]) if row else 1


def level_raise(db: Database, command: LevelRaise) -> Outcome:
    if command.level <= level(db):
        return Done()
    least = db.one("SELECT min(level) FROM nodes")
    if least is None or (least[0] or 0) < command.level:
        return Rejected(Reason.LEVEL_UNKNOWN)
    db.run("UPDATE region SET level = ?", (command.level,))
    return Done()


def level_probe(db: Database, command: LevelProbe) -> Outcome:
    return Done()


def join_token_put(db: Database, command: JoinTokenPut) -> Outcome:
    """Writing a digest again changes nothing: a ticket that was taken must not become free."""
    db.run("DELETE FROM join_tokens WHERE expires_ns <= ?", (command.time_ns,))
    db.run(
        "INSERT OR IGNORE INTO join_tokens (digest, expires_ns) VALUES (?, ?)",
        (command.digest, command.expires_ns),
    )
    return Done()


def join_token_take(db: Database, command: JoinTokenTake) -> Outcome:
    row = db.one("SELECT expires_ns, taken_by FROM join_tokens WHERE digest = ?", (command.digest,))
    if row is None or row[0] <= command.time_ns or row[1] not in (None, command.node_id):
        return Rejected(Reason.TOKEN_INVALID)
    db.run("UPDATE join_tokens SET taken_by = ? WHERE digest = ?", (command.node_id, command.digest))
    return Done()
