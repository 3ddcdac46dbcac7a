"""Entries of views as replicated commands: what engines and auth methods keep by name, encrypted, with a revision.

A revision is the index of the log entry that wrote it, so it is never used twice, also not after a removal:
who read an entry and writes with `expect` cannot overwrite what came in between.
"""

from collections.abc import Sequence

from storage import data_keys
from storage.command import (
    OWN_VIEWS,
    EntriesDelete,
    EntriesExpire,
    EntryDelete,
    EntryPut,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

SYSTEM = "sys:"  # views of the store itself begin with this; all others are mounts
REGIONS = "sys:regions"  # what regions share besides the store: their authority
IDENTITY = "sys:identity"  # entities and groups: what every request's policies depend on
ENTRIES_EXPIRE_MAX = 1000  # by one EntriesExpire

_ONE = "view = ? AND path = ?"


def put(db: Database, command: EntryPut) -> Outcome:
    place = (command.view, command.path)
    row = db.one(f"SELECT revision FROM entries WHERE {_ONE}", place)  # noqa: S608 - a constant
    refusal = _refusal(db, command, row[0] if row else 0)
    if refusal is not None:
        return Rejected(refusal)
    if row is not None:
        data_keys.erase(db, "entries", _ONE, place)
    db.run(
        "INSERT INTO entries (view, path, revision, created_ns, updated_ns, expires_ns, owner, term, slot,"
        " ciphertext) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (view, path) DO UPDATE SET"
        " revision = excluded.revision, updated_ns = excluded.updated_ns, expires_ns = excluded.expires_ns,"
        " owner = excluded.owner, term = excluded.term, slot = excluded.slot,"
        " ciphertext = excluded.ciphertext",
        (
            *place,
            db.index,
            command.time_ns,
            command.time_ns,
            command.expires_ns,
            command.owner,
            command.value.term,
            data_keys.store(db, command.value.wrapped_key),
            command.value.ciphertext,
        ),
    )
    return Done({"revision": db.index})


def _refusal(db: Database, command: EntryPut, revision: int) -> str | None:
    if len(command.value.wrapped_key) > data_keys.WRAPPED_KEY_BYTES_MAX:
        return Reason.MALFORMED
    if not command.view.startswith((SYSTEM, OWN_VIEWS)) and not db.one(
        "SELECT 1 FROM mounts WHERE mount_id = ?", (command.view,)
    ):
        return Reason.NO_SUCH_MOUNT
    if command.owner is not None and not db.one("SELECT 1 FROM tokens WHERE digest = ?", (command.owner,)):
        return Reason.NO_SUCH_TOKEN
    if command.expect is not None and command.expect != revision:
        return Reason.REVISION_MISMATCH
    return None


def delete(db: Database, command: EntryDelete) -> Outcome:
    place = (command.view, command.path)
    row = db.one(f"SELECT revision FROM entries WHERE {_ONE}", place)  # noqa: S608 - a constant
    if command.expect is not None and command.expect != (row[0] if row else 0):
        return Rejected(Reason.REVISION_MISMATCH)
    return Done({"removed": _remove(db, _ONE, place) if row is not None else 0})


def delete_below(db: Database, command: EntriesDelete) -> Outcome:
    condition = "view = ? AND path >= ? AND substr(path, 1, ?) = ?"
    prefix = command.prefix
    return Done({"removed": _remove(db, condition, (command.view, prefix, len(prefix), prefix))})


def expire(db: Database, command: EntriesExpire) -> Outcome:
    condition = (
        "id IN (SELECT id FROM entries WHERE expires_ns > 0 AND expires_ns <= ?"
        " ORDER BY expires_ns, view, path LIMIT ?)"
    )
    limit = min(command.limit, ENTRIES_EXPIRE_MAX)
    return Done({"removed": _remove(db, condition, (command.time_ns, limit))})


def remove_all(db: Database, view: str) -> None:
    """Everything that a view holds."""
    _remove(db, "view = ?", (view,))


def remove_own(db: Database) -> None:
    """Everything in views that other regions do not share."""
    _remove(db, f"view >= '{OWN_VIEWS}' AND view < '{OWN_VIEWS[:-1]};'", ())


def remove_owned(db: Database, owners: str, parameters: Sequence[object]) -> None:
    """What the tokens own whose digests `owners` (a constant: a query, or "?") gives."""
    _remove(db, f"owner IN ({owners})", parameters)


def _remove(db: Database, condition: str, parameters: Sequence[object]) -> int:
    data_keys.erase(db, "entries", condition, parameters)
    return db.run(f"DELETE FROM entries WHERE {condition}", parameters)  # noqa: S608 - a constant
