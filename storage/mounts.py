"""Mounts and policies as replicated commands."""

import msgspec

from storage import entries, kv, leases, tokens
from storage.command import (
    MountMove,
    MountPut,
    MountRemove,
    MountTune,
    PolicyDelete,
    PolicyPut,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

_map_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def put(db: Database, command: MountPut) -> Outcome:
    if _conflict(db, command.path, ignoring=None) or db.one(
        "SELECT 1 FROM mounts WHERE mount_id = ?", (command.mount_id,)
    ):
        return Rejected(Reason.PATH_IN_USE)
    db.run(
        "INSERT INTO mounts (path, mount_id, accessor, kind, version, description, default_lease_ttl_ns,"
        " max_lease_ttl_ns, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            command.path,
            command.mount_id,
            command.accessor,
            command.kind,
            command.version,
            command.description,
            command.default_lease_ttl_ns,
            command.max_lease_ttl_ns,
            _map_encode(command.details),
        ),
    )
    return Done()


def tune(db: Database, command: MountTune) -> Outcome:
    changed = db.run(
        "UPDATE mounts SET description = coalesce(?, description),"
        " default_lease_ttl_ns = coalesce(?, default_lease_ttl_ns),"
        " max_lease_ttl_ns = coalesce(?, max_lease_ttl_ns), details = coalesce(?, details),"
        " version = coalesce(?, version) WHERE path = ?",
        (
            command.description,
            command.default_lease_ttl_ns,
            command.max_lease_ttl_ns,
            None if command.details is None else _map_encode(command.details),
            command.version,
            command.path,
        ),
    )
    return Done() if changed else Rejected(Reason.NO_SUCH_MOUNT)


def move(db: Database, command: MountMove) -> Outcome:
    if db.one("SELECT 1 FROM mounts WHERE path = ?", (command.source,)) is None:
        return Rejected(Reason.NO_SUCH_MOUNT)
    if command.source == command.target or _conflict(db, command.target, ignoring=command.source):
        return Rejected(Reason.PATH_IN_USE)
    db.run("UPDATE mounts SET path = ? WHERE path = ?", (command.target, command.source))
    return Done()


def remove(db: Database, command: MountRemove) -> Outcome:
    row = db.one("SELECT mount_id FROM mounts WHERE path = ?", (command.path,))
    if row is not None:
        kv.remove_all(db, row[0])
        entries.remove_all(db, row[0])
        leases.remove_all(db, row[0])
        tokens.revoke_issued(db, row[0])
        db.run("DELETE FROM mounts WHERE path = ?", (command.path,))
    return Done()


def policy_put(db: Database, command: PolicyPut) -> Outcome:
    db.run("INSERT OR REPLACE INTO policies (name, text) VALUES (?, ?)", (command.name, command.text))
    return Done()


def policy_delete(db: Database, command: PolicyDelete) -> Outcome:
    db.run("DELETE FROM policies WHERE name = ?", (command.name,))
    return Done()


def _conflict(db: Database, path: str, *, ignoring: str | None) -> bool:
    """Paths end with "/", so that one lies under the other exactly if it starts with it."""
    taken = (row[0] for row in db.all("SELECT path FROM mounts"))
    return any(path.startswith(other) or other.startswith(path) for other in taken if other != ignoring)
