"""Key-value engine, version 2, as replicated commands: HashiCorp Vault's semantics.

Where the documentation of Vault is silent its source decides (vault-plugin-secrets-kv, path_data.go,
delete_version_after.go): how many versions are kept is the larger of the mount's and the key's number, the
lifetime of a version is the smaller of theirs, and the oldest version moves when a write fills the window.
Each function takes the database and a decoded command, checks first and writes then.
"""

from dataclasses import dataclass

import msgspec

from storage import data_keys
from storage.command import (
    Done,
    KvConfigPut,
    KvDelete,
    KvDestroy,
    KvMetadataDelete,
    KvMetadataPut,
    KvPut,
    KvUndelete,
    Outcome,
    Reason,
    Rejected,
)
from storage.database import Database, Row

VERSIONS_DEFAULT = 10  # what max_versions = 0 means

_OF_MOUNT = "key_id IN (SELECT id FROM kv_keys WHERE mount_id = ?)"

_map_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_map_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


@dataclass(slots=True)
class _Limits:
    """What a mount or a key asks for; 0 means nothing, a negative lifetime at a mount means never delete."""

    max_versions: int
    cas_required: bool
    delete_version_after_ns: int


@dataclass(slots=True)
class _Key:
    id: int
    current_version: int
    oldest_version: int
    limits: _Limits
    custom_metadata: dict[str, str] | None


def put(db: Database, command: KvPut) -> Outcome:
    mount, key = _mount_and_key(db, command.mount_id, command.path)
    if mount is None:
        return Rejected(Reason.NO_SUCH_MOUNT)
    limits = key.limits if key else _Limits(0, False, 0)
    current = key.current_version if key else 0
    if command.cas is None and (mount.cas_required or limits.cas_required):
        return Rejected(Reason.CAS_REQUIRED)
    if command.cas is not None and command.cas != current:
        return Rejected(Reason.CAS_MISMATCH)
    if command.version != current + 1:
        return Rejected(Reason.VERSION_RACED)
    if len(command.value.wrapped_key) > data_keys.WRAPPED_KEY_BYTES_MAX:
        return Rejected(Reason.MALFORMED)
    key_id = key.id if key else _create_key(db, command.mount_id, command.path, command.time_ns)
    deletion_ns = _deletion_ns(command.time_ns, mount, limits)
    db.run(
        "INSERT INTO kv_versions (key_id, version, created_ns, deletion_ns, term, slot, ciphertext)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key_id,
            command.version,
            command.time_ns,
            deletion_ns,
            command.value.term,
            data_keys.store(db, command.value.wrapped_key),
            command.value.ciphertext,
        ),
    )
    keep = max(mount.max_versions, limits.max_versions) or VERSIONS_DEFAULT
    oldest = _prune(db, key_id, command.version, key.oldest_version if key else 0, keep)
    db.run(
        "UPDATE kv_keys SET current_version = ?, oldest_version = ?, updated_ns = ? WHERE id = ?",
        (command.version, oldest, command.time_ns, key_id),
    )
    return Done(
        {
            "version": command.version,
            "created_ns": command.time_ns,
            "deletion_ns": deletion_ns,
            "destroyed": False,
            "custom_metadata": key.custom_metadata if key else None,
        }
    )


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
    if _mount_limits(db, command.mount_id) is None:
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


def _mount_limits(db: Database, mount_id: str) -> _Limits | None:
    row = db.one(
        "SELECT max_versions, cas_required, delete_version_after_ns FROM mounts WHERE mount_id = ?",
        (mount_id,),
    )
    return _Limits(row[0], bool(row[1]), row[2]) if row else None


def _mount_and_key(db: Database, mount_id: str, path: str) -> tuple[_Limits | None, _Key | None]:
    """Both in one look: this is the way of every write."""
    row = db.one(
        "SELECT m.max_versions, m.cas_required, m.delete_version_after_ns, k.id, k.current_version,"
        " k.oldest_version, k.max_versions, k.cas_required, k.delete_version_after_ns, k.custom_metadata"
        " FROM mounts m LEFT JOIN kv_keys k ON k.mount_id = m.mount_id AND k.path = ? WHERE m.mount_id = ?",
        (path, mount_id),
    )
    if row is None:
        return None, None
    return _Limits(row[0], bool(row[1]), row[2]), _as_key(row[3:]) if row[3] is not None else None


def _key(db: Database, mount_id: str, path: str) -> _Key | None:
    row = db.one(
        "SELECT id, current_version, oldest_version, max_versions, cas_required, delete_version_after_ns,"
        " custom_metadata FROM kv_keys WHERE mount_id = ? AND path = ?",
        (mount_id, path),
    )
    return None if row is None else _as_key(row)


def _as_key(row: Row) -> _Key:
    custom = None if row[6] is None else _map_decode(row[6])
    return _Key(row[0], row[1], row[2], _Limits(row[3], bool(row[4]), row[5]), custom)


def _create_key(db: Database, mount_id: str, path: str, time_ns: int) -> int:
    rows = db.all(
        "INSERT INTO kv_keys (mount_id, path, created_ns, updated_ns) VALUES (?, ?, ?, ?) RETURNING id",
        (mount_id, path, time_ns, time_ns),
    )
    return int(rows[0][0])


def _prune(db: Database, key_id: int, current: int, oldest: int, keep: int) -> int:
    """Drop what no longer fits the window; returns the oldest version now.

    When the window is full for the first time nothing goes, but the oldest version moves from 0 to 1.
    """
    if current - oldest < keep:
        return oldest
    last = current - keep
    data_keys.erase(db, "kv_versions", "key_id = ? AND version <= ?", (key_id, last))
    db.run("DELETE FROM kv_versions WHERE key_id = ? AND version <= ?", (key_id, last))
    return last + 1


def _deletion_ns(created_ns: int, mount: _Limits, key: _Limits) -> int:
    if mount.delete_version_after_ns < 0:
        return 0
    lifetimes = [ns for ns in (mount.delete_version_after_ns, key.delete_version_after_ns) if ns > 0]
    return created_ns + min(lifetimes) if lifetimes else 0


def _merge(old: dict[str, str] | None, command: KvMetadataPut) -> dict[str, str] | None:
    if command.custom_metadata is None:
        return old
    merged: dict[str, str | None] = {**(old or {})} if command.patch else {}
    merged.update(command.custom_metadata)
    return {name: value for name, value in merged.items() if value is not None}
