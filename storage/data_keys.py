"""Where wrapped data keys live, so that forgetting one leaves no trace of it in any page of the database.

Slots have one size and are overwritten in place: see the table's comment in schema.sql.
"""

from collections.abc import Sequence

from storage.database import Database

SLOT_BYTES = 96
WRAPPED_KEY_BYTES_MAX = SLOT_BYTES - 1  # the first byte is the length

_EMPTY = bytes(SLOT_BYTES)


def store(db: Database, wrapped_key: bytes) -> int:
    """Put a wrapped key into the first free slot, or a new one; returns its number."""
    content = (bytes([len(wrapped_key)]) + wrapped_key).ljust(SLOT_BYTES, b"\0")
    if db.free_slots is None:
        row = db.one("SELECT count(*) FROM data_keys WHERE used = 0")
        db.free_slots = int(row[0]) if row else 0
    if db.free_slots:
        db.free_slots -= 1
        sql = (
            "UPDATE data_keys SET used = 1, wrapped_key = ?"
            " WHERE slot = (SELECT slot FROM data_keys WHERE used = 0 ORDER BY slot LIMIT 1) RETURNING slot"
        )
    else:
        sql = "INSERT INTO data_keys (used, wrapped_key) VALUES (1, ?) RETURNING slot"
    return int(db.all(sql, (content,))[0][0])


def erase(db: Database, table: str, condition: str, parameters: Sequence[object]) -> None:
    """Overwrite the keys of the rows of `table` (with a column slot) that match `condition`, both constants."""
    slots = f"SELECT slot FROM {table} WHERE {condition}"  # noqa: S608 - constants
    sql = f"UPDATE data_keys SET used = 0, wrapped_key = ? WHERE slot IN ({slots})"  # noqa: S608
    freed = db.run(sql, (_EMPTY, *parameters))
    if db.free_slots is not None:
        db.free_slots += freed


def content(slot: bytes) -> bytes:
    """The wrapped key in a slot's bytes."""
    return slot[1 : 1 + slot[0]]
