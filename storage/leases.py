"""Leases as replicated commands: what engines handed out for a time, and must take back.

A lease is `live` until its revocation falls due: when it expires, when its token goes, when somebody asks. From then
on (due_ns) whoever leads lets the engine take back what it gave, and removes the lease; until that has worked the lease
stays, because forgetting it would leave a credential behind that nobody ends. After too many failures it is
irrevocable: no longer tried, and shown to the operator.
"""

from collections.abc import Sequence

from storage import data_keys
from storage.command import (
    LeaseFailed,
    LeasePut,
    LeaseRenew,
    LeasesEnd,
    LeasesRemove,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

LEASES_END_MAX = 1000  # by one LeasesEnd
PROBLEM_CHARACTERS_MAX = 512

_BELOW = "lease_id >= ? AND substr(lease_id, 1, ?) = ?"


def put(db: Database, command: LeasePut) -> Outcome:
    if len(command.value.wrapped_key) > data_keys.WRAPPED_KEY_BYTES_MAX:
        return Rejected(Reason.MALFORMED)
    if db.one("SELECT 1 FROM leases WHERE lease_id = ?", (command.lease_id,)):
        return Rejected(Reason.LEASE_EXISTS)
    if not db.one("SELECT 1 FROM mounts WHERE mount_id = ?", (command.mount_id,)):
        return Rejected(Reason.NO_SUCH_MOUNT)
    if command.owner is not None and not db.one("SELECT 1 FROM tokens WHERE digest = ?", (command.owner,)):
        return Rejected(Reason.NO_SUCH_TOKEN)
    db.run(
        "INSERT INTO leases (lease_id, mount_id, owner, issued_ns, ttl_ns, expires_ns, max_ns, renewable, due_ns,"
        " term, slot, ciphertext) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            command.lease_id,
            command.mount_id,
            command.owner,
            command.time_ns,
            command.ttl_ns,
            command.expires_ns,
            command.max_ns,
            command.renewable,
            command.expires_ns,
            command.value.term,
            data_keys.store(db, command.value.wrapped_key),
            command.value.ciphertext,
        ),
    )
    return Done()


def renew(db: Database, command: LeaseRenew) -> Outcome:
    changed = db.run(
        "UPDATE leases SET ttl_ns = ?, expires_ns = ?, due_ns = ?, renewed_ns = ?"
        " WHERE lease_id = ? AND ending = 0 AND expires_ns > ?",
        (
            command.ttl_ns,
            command.expires_ns,
            command.expires_ns,
            command.time_ns,
            command.lease_id,
            db.clock_ns,
        ),
    )
    return Done() if changed else Rejected(Reason.NO_SUCH_LEASE)


def end(db: Database, command: LeasesEnd) -> Outcome:
    """An irrevocable lease is tried again when somebody asks for its end."""
    prefix = command.prefix
    condition = "lease_id = ?" if command.exact else _BELOW
    place: Sequence[object] = (prefix,) if command.exact else (prefix, len(prefix), prefix)
    condition += " AND (ending = 0 OR irrevocable = 1)"
    ids = f"SELECT id FROM leases WHERE {condition} ORDER BY lease_id LIMIT ?"  # noqa: S608 - constants
    ended = db.run(
        f"UPDATE leases SET ending = 1, irrevocable = 0, attempts = 0, due_ns = ? WHERE id IN ({ids})",  # noqa: S608
        (command.time_ns, *place, min(command.limit, LEASES_END_MAX)),
    )
    return Done({"ended": ended})


def failed(db: Database, command: LeaseFailed) -> Outcome:
    changed = db.run(
        "UPDATE leases SET ending = 1, attempts = attempts + 1, problem = ?, irrevocable = ?, due_ns = ?"
        " WHERE lease_id = ? AND attempts = ?",
        (
            command.problem[:PROBLEM_CHARACTERS_MAX],
            command.irrevocable,
            command.retry_ns,
            command.lease_id,
            command.attempts,
        ),
    )
    return Done({"recorded": changed})


def remove(db: Database, command: LeasesRemove) -> Outcome:
    return Done({"removed": sum(_remove(db, "lease_id = ?", (each,)) for each in command.lease_ids)})


def remove_all(db: Database, mount_id: str) -> None:
    """Every lease of a mount that goes: its engine has taken back what it could."""
    _remove(db, "mount_id = ?", (mount_id,))


def end_owned(db: Database, owners: str, parameters: Sequence[object]) -> None:
    """The leases of the tokens whose digests `owners` (a constant: a query, or "?") gives fall due now."""
    db.run(
        f"UPDATE leases SET ending = 1, due_ns = ? WHERE ending = 0 AND owner IN ({owners})",  # noqa: S608
        (db.clock_ns, *parameters),
    )


def _remove(db: Database, condition: str, parameters: Sequence[object]) -> int:
    data_keys.erase(db, "leases", condition, parameters)
    return db.run(f"DELETE FROM leases WHERE {condition}", parameters)  # noqa: S608 - a constant
