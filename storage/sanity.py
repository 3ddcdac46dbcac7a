"""Whether a command's numbers can be stored."""

from typing import Any

import msgspec

from storage import command as c

INTEGER_MAX = (1 << 62) - 1  # two of them add up within SQLite's 64 bits


def is_sane(value: msgspec.Struct | tuple[Any, ...]) -> bool:
    """Whether every integer can be stored and added up, and the stamp is a time (0 means none elsewhere).

    Negative numbers have one meaning only: at a mount, a delete_version_after that switches it off.
    """
    if type(value) is c.KvPut:  # most commands are
        return (
            0 < value.time_ns <= INTEGER_MAX
            and 0 <= value.version <= INTEGER_MAX
            and 0 <= value.decided <= INTEGER_MAX
            and 0 <= value.value.term <= INTEGER_MAX
            and (value.cas is None or 0 <= value.cas <= INTEGER_MAX)
        )
    if isinstance(value, c.KvConfigPut) and (value.delete_version_after_ns or 0) < 0:
        value = msgspec.structs.replace(value, delete_version_after_ns=0)
    if isinstance(value, c.Command) and value.time_ns <= 0:
        return False
    fields = value if isinstance(value, tuple) else msgspec.structs.astuple(value)
    for field in fields:
        kind = type(field)
        if kind is int:
            if not 0 <= field <= INTEGER_MAX:
                return False
        elif (kind is tuple or kind is c.Sealed) and not is_sane(field):
            return False
    return True
