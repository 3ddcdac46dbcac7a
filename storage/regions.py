"""Regions as replicated commands: who follows, who orders writes, and since which position.

Every region applies the same history. `epochs` says which region ordered which part of it: two histories agree as far
as their epochs do. `region` is this region's own part and is not shared.
"""

from typing import Any

import msgspec

from storage import entries
from storage.command import (
    EpochBegin,
    RegionDemote,
    RegionFound,
    RegionHandover,
    RegionLeave,
    RegionPromote,
    RegionPut,
    RegionRemove,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

ALONE, PRIMARY, LEAVING, SECONDARY, CALLED = "alone", "primary", "leaving", "secondary", "called"
ARRIVING = "arriving"  # in a copy of another region's state, on its way to become this one's
FOLLOWS = frozenset({SECONDARY, CALLED})
REGIONS_MAX = 32
DECLINED = b"-"  # behind the request in settled_by: it changed nothing
# A new region's log begins behind its first state, so that nobody joins it without that state.
SETTLED_INDEX = 1

_encode = msgspec.msgpack.Encoder().encode


def own(db: Database) -> tuple[str, str]:
    """(name, role) of this region."""
    row = db.one("SELECT name, role FROM region")
    if row is None:
        raise AssertionError("the schema puts one row into region")
    return row[0], row[1]


def newest_epoch(db: Database) -> tuple[int, str, int]:
    """(epoch, region, first position); zeros while there are no regions."""
    row: Any = db.one("SELECT epoch, region, position FROM epochs ORDER BY epoch DESC LIMIT 1")
    return row or (0, "", 0)


def found(db: Database, command: RegionFound) -> Outcome:
    if own(db)[1] != ALONE:
        return Rejected(Reason.REGION_ROLE)
    _become(db, PRIMARY, command.name)
    _put(db, command)
    db.run("INSERT INTO epochs VALUES (1, ?, ?)", (command.name, db.index))
    return Done()


def put(db: Database, command: RegionPut) -> Outcome:
    count = db.one("SELECT count(*) FROM regions WHERE name != ?", (command.name,))
    if not newest_epoch(db)[0] or (count is not None and count[0] >= REGIONS_MAX):
        return Rejected(Reason.REGION_ROLE)
    _put(db, command)
    return Done()


def remove(db: Database, command: RegionRemove) -> Outcome:
    if command.name == newest_epoch(db)[1]:
        return Rejected(Reason.REGION_ROLE)
    return Done({"removed": db.run("DELETE FROM regions WHERE name = ?", (command.name,))})


def handover(db: Database, command: RegionHandover) -> Outcome:
    """In the region that orders writes it is the end of that; `target` is called to go on; to others it is news."""
    name, role = own(db)
    known = db.one("SELECT 1 FROM regions WHERE name = ?", (command.target,))
    if known is None or command.target == newest_epoch(db)[1]:
        return Rejected(Reason.NO_SUCH_REGION)
    if role == PRIMARY:
        _become(db, LEAVING, name)
    elif name == command.target:
        _become(db, CALLED, name)
    return Done()


def epoch_begin(db: Database, command: EpochBegin) -> Outcome:
    if command.epoch != newest_epoch(db)[0] + 1:
        return Rejected(Reason.POSITION_GAP)
    name, role = own(db)
    if role == CALLED and command.region != name:  # the handover was ended
        _become(db, SECONDARY, name)
    db.run("INSERT INTO epochs VALUES (?, ?, ?)", (command.epoch, command.region, db.index))
    return Done()


def promotion(db: Database, command: RegionPromote) -> EpochBegin | Rejected:
    """What a region that follows has to add to the history to order it from then on."""
    name, role = own(db)
    if role not in FOLLOWS:
        return Rejected(Reason.REGION_ROLE)
    if command.epoch != newest_epoch(db)[0] + 1 or command.at not in (None, db.index):
        return Rejected(Reason.POSITION_GAP)
    _become(db, PRIMARY, name)
    return EpochBegin(time_ns=command.time_ns, epoch=command.epoch, region=name)


def demote(db: Database, command: RegionDemote) -> Outcome:
    name, role = own(db)
    if role not in (PRIMARY, LEAVING, CALLED):
        return Rejected(Reason.REGION_ROLE)
    _become(db, SECONDARY, name)
    return Done()


def leave(db: Database, command: RegionLeave) -> Outcome:
    """What regions share of themselves goes, their authority too; the store stays."""
    name, role = own(db)
    others = db.one("SELECT 1 FROM regions WHERE name != ? LIMIT 1", (name,))
    if role != SECONDARY and (role != PRIMARY or others is not None):
        return Rejected(Reason.REGION_ROLE)
    for table in ("regions", "epochs"):
        db.run(f"DELETE FROM {table}")  # noqa: S608 - constants
    entries.remove_all(db, entries.REGIONS)
    _become(db, ALONE, "")
    return Done()


def settle(db: Database, name: str) -> None:
    """Make another region's state, whole, that of the region `name`, which follows and has no nodes yet."""
    _become(db, SECONDARY, name)
    for table in ("nodes", "join_tokens", "system_secrets"):
        db.run(f"DELETE FROM {table}")  # noqa: S608 - constants
    entries.remove_own(db)
    db.run("UPDATE state SET applied_index = ?", (SETTLED_INDEX,))


def arrive(db: Database) -> None:
    """Mark a copy of another region's state: it is to become that of a region that has nodes already."""
    _become(db, ARRIVING, own(db)[0])


def decline(db: Database, request_id: bytes) -> bytes:
    """Note that this request for another state changed nothing; returns what settled_by() is from now on."""
    noted = request_id + DECLINED
    db.run("UPDATE region SET settled_by = ?", (noted,))
    return noted


def settled_by(db: Database) -> bytes:
    row = db.one("SELECT settled_by FROM region")
    return bytes(row[0]) if row else b""


def _become(db: Database, role: str, name: str) -> None:
    db.run("UPDATE region SET role = ?, name = ?", (role, name))


def _put(db: Database, command: RegionFound | RegionPut) -> None:
    db.run(
        "INSERT INTO regions (name, endpoints, links, created_ns) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET endpoints = excluded.endpoints, links = excluded.links",
        (command.name, _encode(command.endpoints), _encode(command.links), command.time_ns),
    )
