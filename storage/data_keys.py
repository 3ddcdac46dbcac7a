"""Where wrapped data keys live, so that forgetting one leaves no trace of it in any page of the database.

Slots have one size and are overwritten in place: see the table's comment in schema.sql. What write() was given waits
in memory until flush(); erase() and whatever reads the table come after that.
"""

from collections.abc import Sequence
from itertools import islice

from storage.database import Database, SlotMemory

SLOT_BYTES = 96
WRAPPED_KEY_BYTES_MAX = SLOT_BYTES - 1  # the first byte is the length
FREE_SLOTS_LOOKED_UP = 64  # at a time

_EMPTY = bytes(SLOT_BYTES)


def write(db: Database, slot: int | None, wrapped_key: bytes) -> int:
    """Put a wrapped key into `slot`, whose former content is forgotten; None: into a free one. Returns its number."""
    memory = db.slots
    if slot is None:
        slot = _free_slot(db, memory)
    content = (bytes([len(wrapped_key)]) + wrapped_key).ljust(SLOT_BYTES, b"\0")
    waiting = memory.rewritten
    if slot in memory.added:
        waiting = memory.added
    elif slot in memory.claimed:
        waiting = memory.claimed
    waiting[slot] = content
    return slot


def store(db: Database, wrapped_key: bytes) -> int:
    """write() into a free slot, at once."""
    slot = write(db, None, wrapped_key)
    flush(db)
    return slot


def flush(db: Database, rows_max: int | None = None) -> None:
    """What waits is in the table when this returns, or so many of each kind.

    Where some still wait, the rows that name their slots must not be looked at.
    """
    memory = db.slots
    # which is the cheapest of the three: the index of free slots has no part in it
    db.run_many("UPDATE data_keys SET wrapped_key = ?2 WHERE slot = ?1", _taken(memory.rewritten, rows_max))
    db.run_many(
        "UPDATE data_keys SET used = 1, wrapped_key = ?2 WHERE slot = ?1", _taken(memory.claimed, rows_max)
    )
    db.run_many(
        "INSERT INTO data_keys (used, slot, wrapped_key) VALUES (1, ?1, ?2)", _taken(memory.added, rows_max)
    )


def _taken(waiting: dict[int, bytes], rows_max: int | None) -> list[tuple[int, bytes]]:
    """Slots with their contents, which do not wait any more."""
    taken = list(islice(waiting.items(), rows_max))
    if len(taken) == len(waiting):
        waiting.clear()
    else:
        for slot, _ in taken:
            del waiting[slot]
    return taken


def erase(db: Database, table: str, condition: str, parameters: Sequence[object]) -> None:
    """Overwrite the keys of the rows of `table` (with a column slot) that match `condition`, both constants."""
    flush(db)
    slots = f"SELECT slot FROM {table} WHERE {condition}"  # noqa: S608 - constants
    sql = f"UPDATE data_keys SET used = 0, wrapped_key = ? WHERE slot IN ({slots})"  # noqa: S608
    if db.run(sql, (_EMPTY, *parameters)):
        db.slots.free = None


def content(slot: bytes) -> bytes:
    """The wrapped key in a slot's bytes."""
    return slot[1 : 1 + slot[0]]


def _free_slot(db: Database, memory: SlotMemory) -> int:
    if not memory.free:
        if memory.free is None:
            flush(db)  # else slots that were given away would look free
            db.settle()
            rows = db.all(
                "SELECT slot FROM data_keys WHERE used = 0 ORDER BY slot DESC LIMIT ?",
                (FREE_SLOTS_LOOKED_UP,),
            )
            memory.free = [slot for (slot,) in rows]
        if not memory.free:
            return _new_slot(db, memory)
    slot = memory.free.pop()
    if not memory.free:
        memory.free = None  # there may be more
    memory.claimed[slot] = _EMPTY
    return slot


def _new_slot(db: Database, memory: SlotMemory) -> int:
    if not memory.next:
        db.settle()
        row = db.one("SELECT coalesce(max(slot), 0) + 1 FROM data_keys")
        memory.next = int(row[0]) if row else 1
    slot, memory.next = memory.next, memory.next + 1
    memory.added[slot] = _EMPTY
    return slot
