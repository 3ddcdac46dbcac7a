"""What clients send for a duration, a number, a flag or a list, made one thing.

Vault's clients are loose: an int may come as "3", a list as "a,b", a duration as 3600, "3600" or "1h0m0s".
None counts as the zero value, as in Vault. Everything else is InvalidRequest, with no value echoed: what was
sent may be a secret in the wrong field. Durations are nanoseconds.
"""

import base64
import binascii
import functools
import json
import math
import re
import time
from decimal import Decimal
from typing import Any

from node.errors import InvalidRequest
from storage.sanity import INTEGER_MAX

SECOND_NS = 1_000_000_000
DURATION_NS_MAX = MOMENT_NS_MAX = INTEGER_MAX  # 146 years, and early in 2116: what the store takes
DURATION_CHARACTERS_MAX = 64
LIST_ITEMS_MAX = 1024
SECONDS_CACHED_MAX = 1024

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
}
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


def duration_ns(value: Any, field: str) -> int:
    """A Go duration ("1h30m"), days ("2d") or whole seconds (3600, "3600") as nanoseconds, never negative.

    A JSON number with a fraction is none, as in Vault, which takes it for a text without its unit.
    """
    if value is None:
        return 0
    if isinstance(value, str):
        nanoseconds = _parse_duration(value.strip(), field) if value else 0
    elif isinstance(value, int) and not isinstance(value, bool):
        nanoseconds = value * SECOND_NS
    elif isinstance(value, float | Decimal):
        raise InvalidRequest(f'invalid duration for field "{field}": a number with a fraction needs a unit')
    else:
        raise InvalidRequest(f'error converting input for field "{field}": expected a duration')
    if nanoseconds < 0:
        raise InvalidRequest(f'cannot provide a negative duration for field "{field}"')
    if nanoseconds > DURATION_NS_MAX:
        raise InvalidRequest(f'duration out of range for field "{field}"')
    return nanoseconds


def ends_ns(now_ns: int, duration_ns: int) -> int:
    """When a duration from now is over, in nanoseconds since 1970; no later than the store can tell."""
    return min(now_ns + duration_ns, MOMENT_NS_MAX)


def _parse_duration(text: str, field: str) -> int:
    error = InvalidRequest(f'invalid duration for field "{field}"')
    if not text or len(text) > DURATION_CHARACTERS_MAX:
        raise error
    if _INTEGER.fullmatch(text):
        return int(text) * SECOND_NS
    sign = -1 if text[0] == "-" else 1
    text = text.lstrip("+-") if text[0] in "+-" else text
    if re.fullmatch(r"[0-9]{1,9}d", text):
        return sign * int(text[:-1]) * 24 * _UNITS_NS["h"]
    total, position = 0, 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise error
        total += int(Decimal(term[1]) * _UNITS_NS[term[2]])
        position = term.end()
    if position == 0:
        raise error
    return sign * total


def integer(value: Any, field: str) -> int:
    """An int, or a string of one."""
    if value is None or value == "":
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    raise InvalidRequest(f'error converting input for field "{field}": expected an integer')


def boolean(value: Any, field: str) -> bool:
    """A bool, 0 or 1, or a string that Go's ParseBool takes."""
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return value == 1
    if isinstance(value, str) and value in _TRUE:
        return True
    if isinstance(value, str) and value in _FALSE:
        return False
    raise InvalidRequest(f'error converting input for field "{field}": expected a boolean')


def text(value: Any, field: str) -> str:
    """A string; a number is spelled out."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise InvalidRequest(f'error converting input for field "{field}": expected a string')


def base64_or_text(value: Any, field: str) -> str:
    """A policy's text, as such or in base64: none is base64 by chance."""
    given = text(value, field)
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, ValueError):
        return given


def strings(value: Any, field: str) -> list[str]:
    """A JSON array of strings (numbers are spelled out), one number alone, or a comma list. Empty items go.

    Spaces are stripped in a comma list, where people put them, but never from the items of an array.
    """
    if value is None:
        return []
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = [value]
    items = [item.strip(" \t\r\n") for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise InvalidRequest(f'error converting input for field "{field}": expected a list of strings')
    if len(items) > LIST_ITEMS_MAX:
        raise InvalidRequest(f'field "{field}" has more than {LIST_ITEMS_MAX} items')
    return [item for item in (text(item, field) for item in items) if item]


def bounds(value: Any, field: str) -> list[str]:
    """strings() for a list that restricts, which no items lift: an empty item among them is InvalidRequest.

    Dropped like any other, the empty value of some template would make a restriction of nothing.
    """
    items = strings(value, field)
    given = value.split(",") if isinstance(value, str) and value else value or ()
    if len(items) < len(given):
        raise InvalidRequest(f'field "{field}" has an empty item; an empty list lifts the restriction')
    return items


def mapping(value: Any, field: str) -> dict[str, Any] | None:
    """An object, or None for null. An empty array is an empty object: some languages write it so."""
    if value is None or isinstance(value, dict):
        return value
    if value == []:
        return {}
    raise InvalidRequest(f'error converting input for field "{field}": expected a map')


def string_map(value: Any, field: str) -> dict[str, str]:
    """An object of strings, as JSON or as a string that holds one, or a list of "key=value"."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = _decoded(value, field)
    if isinstance(value, list):
        value = dict(_pair(item, field) for item in value)
    if not isinstance(value, dict):
        raise InvalidRequest(f'error converting input for field "{field}": expected a map of strings')
    if len(value) > LIST_ITEMS_MAX:
        raise InvalidRequest(f'field "{field}" has more than {LIST_ITEMS_MAX} items')
    return {str(key): text(item, field) for key, item in value.items()}


def _decoded(value: str, field: str) -> Any:
    if not value.lstrip().startswith("{"):
        return value.split(",")
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidRequest(f'error converting input for field "{field}": not valid JSON') from None


def _pair(item: Any, field: str) -> tuple[str, str]:
    key, separator, value = text(item, field).partition("=")
    if not separator:
        raise InvalidRequest(f'error converting input for field "{field}": expected key=value')
    return key.strip(), value.strip()


def go_duration(nanoseconds: int) -> str:
    """As Go prints a time.Duration: "3h0m0s", "1.5s", "250ms", "0s"."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return sign + _decimal(rest, size) + unit
    minutes, rest = divmod(rest, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, SECOND_NS) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def rfc3339(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, trailing zeros of the fraction trimmed (Go's RFC3339Nano)."""
    seconds, part = divmod(nanoseconds, SECOND_NS)
    fraction = f".{part:09d}".rstrip("0") if part else ""
    return f"{_to_the_second(seconds)}{fraction}Z"


@functools.lru_cache(maxsize=SECONDS_CACHED_MAX)
def _to_the_second(seconds: int) -> str:
    moment = time.gmtime(seconds)
    return (
        f"{moment.tm_year:04d}-{moment.tm_mon:02d}-{moment.tm_mday:02d}"
        f"T{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d}"
    )
