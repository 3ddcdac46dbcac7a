"""Key-value engine, version 2, as replicated commands: HashiCorp Vault's semantics.

Writing a version is recent.py's. Each function here takes the database and a decoded command, checks first and
writes then.
"""

from dataclasses import dataclass

import msgspec

from storage import data_keys
from storage.command import (
    KvConfigPut,
    KvDelete,
    KvDestroy,
    KvMetadataDelete,
    KvMetadataPut,
    KvUndelete,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

_OF_MOUNT = "key_id IN (SELECT id FROM kv_keys WHERE mount_id = ?)"

_map_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_map_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


@dataclass(slots=True)
class _Key:
    id: int
    current_version: int
    custom_metadata: dict[str, str] | None


def delete(db: Database, command: KvDelete) -> Outcome:
    key = _key(db, command.mount_id, command.path)
    if key is None:
        return Done()
    for version in command.versions or (key.current_version,):
        db.run(
            "UPDATE kv_versions SET deletion_ns = ? WHERE key_id = ? AND version = ? AND destroyed = 0"
            " AND (deletion_ns = 0 OR deletion_ns > ?)",
            (command.time_ns, key.id, version, command.time_ns),
        )
    return Done()


def undelete(db: Database, command: KvUndelete) -> Outcome:
    key = _key(db, command.mount_id, command.path)
    if key is None:
        return Done()
    for version in command.versions:
        db.run(
            "UPDATE kv_versions SET deletion_ns = 0 WHERE key_id = ? AND version = ? AND destroyed = 0",
            (key.id, version),
        )
    return Done()


def destroy(db: Database, command: KvDestroy) -> Outcome:
    key = _key(db, command.mount_id, command.path)
    if key is None:
        return Done()
    for version in command.versions:
        data_keys.erase(db, "kv_versions", "key_id = ? AND version = ?", (key.id, version))
        db.run(
            "UPDATE kv_versions SET destroyed = 1, term = NULL, slot = NULL, ciphertext = NULL"
            " WHERE key_id = ? AND version = ? AND destroyed = 0",
            (key.id, version),
        )
    return Done()


def metadata_put(db: Database, command: KvMetadataPut) -> Outcome:
    if not db.one("SELECT 1 FROM mounts WHERE mount_id = ?", (command.mount_id,)):
        return Rejected(Reason.NO_SUCH_MOUNT)
    key = _key(db, command.mount_id, command.path)
    if key is None and command.patch:
        return Rejected(Reason.NO_SUCH_KEY)
    if key is None:
        key_id = _create_key(db, command.mount_id, command.path, command.time_ns)
        custom = None
    else:
        key_id, custom = key.id, key.custom_metadata
    custom = _merge(custom, command)
    db.run(
        "UPDATE kv_keys SET max_versions = coalesce(?, max_versions),"
        " cas_required = coalesce(?, cas_required),"
        " delete_version_after_ns = coalesce(?, delete_version_after_ns), custom_metadata = ? WHERE id = ?",
        (
            command.max_versions,
            command.cas_required,
            command.delete_version_after_ns,
            _map_encode(custom) if custom else None,
            key_id,
        ),
    )
    return Done()


def metadata_delete(db: Database, command: KvMetadataDelete) -> Outcome:
    key = _key(db, command.mount_id, command.path)
    if key is None:
        return Done()
    data_keys.erase(db, "kv_versions", "key_id = ?", (key.id,))
    db.run("DELETE FROM kv_versions WHERE key_id = ?", (key.id,))
    db.run("DELETE FROM kv_keys WHERE id = ?", (key.id,))
    return Done()


def config_put(db: Database, command: KvConfigPut) -> Outcome:
    changed = db.run(
        "UPDATE mounts SET max_versions = coalesce(?, max_versions),"
        " cas_required = coalesce(?, cas_required),"
        " delete_version_after_ns = coalesce(?, delete_version_after_ns) WHERE mount_id = ?",
        (command.max_versions, command.cas_required, command.delete_version_after_ns, command.mount_id),
    )
    return Done() if changed else Rejected(Reason.NO_SUCH_MOUNT)


def remove_all(db: Database, mount_id: str) -> None:
    """Everything that a mount holds."""
    data_keys.erase(db, "kv_versions", _OF_MOUNT, (mount_id,))
    db.run(f"DELETE FROM kv_versions WHERE {_OF_MOUNT}", (mount_id,))  # noqa: S608 - a constant
    db.run("DELETE FROM kv_keys WHERE mount_id = ?", (mount_id,))


def _key(db: Database, mount_id: str, path: str) -> _Key | None:
    row = db.one(
        "SELECT id, current_version, custom_metadata FROM kv_keys WHERE mount_id = ? AND path = ?",
        (mount_id, path),
    )
    if row is None:
        return None
    return _Key(row[0], row[1], None if row[2] is None else _map_decode(row[2]))


def _create_key(db: Database, mount_id: str, path: str, time_ns: int) -> int:
    return db.insert(
        "INSERT INTO kv_keys (mount_id, path, created_ns, updated_ns) VALUES (?, ?, ?, ?)",
        (mount_id, path, time_ns, time_ns),
    )


def _merge(old: dict[str, str] | None, command: KvMetadataPut) -> dict[str, str] | None:
    if command.custom_metadata is None:
        return old
    merged: dict[str, str | None] = {**(old or {})} if command.patch else {}
    merged.update(command.custom_metadata)
    return {name: value for name, value in merged.items() if value is not None}
