"""SHA-256 over the replicated state: equal logs give equal digests, on any node."""

import hashlib
from collections.abc import Callable

import msgspec

from storage.database import FORMAT, Database

ROWS_AT_ONCE = 128

Pause = Callable[[], None]

# What is covered, in this order; surrogate row numbers are left out. First what all regions share.
SHARED = (
    "SELECT position, request_id, time_ns, outcome FROM outcomes ORDER BY position",
    "SELECT * FROM cluster",
    "SELECT * FROM key_terms ORDER BY term",
    "SELECT * FROM regions ORDER BY name",
    "SELECT * FROM epochs ORDER BY epoch",
    "SELECT * FROM mounts ORDER BY path",
    """SELECT mount_id, path, current_version, oldest_version, created_ns, updated_ns, max_versions,
       cas_required, delete_version_after_ns, custom_metadata FROM kv_keys ORDER BY mount_id, path""",
    """SELECT k.mount_id, k.path, v.version, v.created_ns, v.deletion_ns, v.destroyed, v.term, d.wrapped_key,
       v.ciphertext FROM kv_versions v JOIN kv_keys k ON k.id = v.key_id LEFT JOIN data_keys d USING (slot)
       ORDER BY k.mount_id, k.path, v.version""",
    """SELECT e.view, e.path, e.revision, e.created_ns, e.updated_ns, e.expires_ns, e.owner, e.term,
       d.wrapped_key, e.ciphertext FROM entries e LEFT JOIN data_keys d USING (slot)
       WHERE e.view NOT LIKE 'own:%' ORDER BY e.view, e.path""",
    """SELECT l.lease_id, l.mount_id, l.owner, l.issued_ns, l.ttl_ns, l.expires_ns, l.max_ns, l.renewed_ns, l.renewable,
       l.ending, l.due_ns, l.attempts, l.problem, l.irrevocable, l.term, d.wrapped_key, l.ciphertext
       FROM leases l LEFT JOIN data_keys d USING (slot) ORDER BY l.lease_id""",
    "SELECT * FROM policies ORDER BY name",
    "SELECT * FROM tokens ORDER BY digest",
)
OWN = (
    "SELECT * FROM system_secrets ORDER BY name",
    "SELECT * FROM nodes ORDER BY node_id",
    "SELECT * FROM join_tokens ORDER BY digest",
    """SELECT e.view, e.path, e.revision, e.created_ns, e.updated_ns, e.expires_ns, e.owner, e.term,
       d.wrapped_key, e.ciphertext FROM entries e LEFT JOIN data_keys d USING (slot)
       WHERE e.view LIKE 'own:%' ORDER BY e.view, e.path""",
    "SELECT * FROM region",
    "SELECT * FROM history ORDER BY position",
)


def digest(
    database: Database, queries: tuple[str, ...], counters: tuple[int, ...], pause: Pause | None = None
) -> str:
    """In hex, over the rows that `queries` give and what the machine counts beside them.

    `pause` is called every few rows: other threads have work for this interpreter, too.
    """
    whole = hashlib.sha256(msgspec.msgpack.encode((FORMAT, *counters)))
    for number, query in enumerate(queries):
        whole.update(msgspec.msgpack.encode(number))
        for count, row in enumerate(database.each(query)):
            whole.update(msgspec.msgpack.encode(row))
            if pause is not None and count % ROWS_AT_ONCE == 0:
                pause()
    return whole.hexdigest()
