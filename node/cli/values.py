"""How Go prints and reads values: scripts parse what Vault's tools print, so ours prints the same.

Numbers of an answer keep the text that they came with: 1.50 stays 1.50, and nothing is rounded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9
}  # fmt: skip
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_HTML = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
_DURATIONS = ("period", "ttl", "duration", "lease_max", "ttl_max")


class InvalidDuration(ValueError):
    """Not a duration; the message says why."""


class Duration(int):
    """A length of time in nanoseconds, printed as Go prints it (1h30m0s)."""

    def __str__(self) -> str:
        return _duration_text(self)

    @property
    def seconds(self) -> int:
        """Whole seconds, rounded down."""
        return int(self) // 10**9

    @classmethod
    def of_seconds(cls, seconds: int) -> "Duration":
        return cls(seconds * 10**9)


class Literal(float):
    """A number with a fraction or an exponent, with the text that it was written as."""

    text: str

    def __new__(cls, text: str) -> "Literal":
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_duration(text: str) -> Duration:
    """`90` (seconds), `1h30m`, `1.5s`, `-1ns`. Raises InvalidDuration."""
    if text.isascii() and text.isdigit():
        return Duration.of_seconds(int(text))
    unsigned = text.removeprefix("-")
    total, at = 0, 0
    for match in _PART.finditer(unsigned):
        number, unit = match.groups()
        if match.start() != at or unit not in _UNITS_NS:
            reason = (
                f'unknown unit "{unit}" in duration' if unit and match.start() == at else "invalid duration"
            )
            raise InvalidDuration(f'time: {reason} "{text}"')
        whole, _, fraction = number.partition(".")
        total += int(whole or 0) * _UNITS_NS[unit]
        total += int(fraction or 0) * _UNITS_NS[unit] // 10 ** len(fraction)
        at = match.end()
    if not at or at != len(unsigned):
        raise InvalidDuration(f'time: invalid duration "{text}"')
    return Duration(-total if text.startswith("-") else total)


def _duration_text(nanoseconds: int) -> str:
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if left < 10**9:
        unit, size = ("ns", 1) if left < 1000 else ("µs", 1000) if left < 10**6 else ("ms", 10**6)
        return f"{sign}{_decimal(left, size)}{unit}"
    hours, left = divmod(left, _UNITS_NS["h"])
    minutes, left = divmod(left, _UNITS_NS["m"])
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_decimal(left, 10**9)}s"


def _decimal(amount: int, size: int) -> str:
    whole, rest = divmod(amount, size)
    fraction = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)


def short_duration(seconds: int) -> str:
    """A table's form of whole seconds: 1h30m, 768h, 20m."""
    text = str(Duration.of_seconds(seconds))
    if text.endswith("m0s"):
        text = text[:-2]
    at = text.find("h0m")
    return text[: at + 1] + text[at + 3 :] if at > 0 else text


def is_duration(field: str) -> bool:
    """Whether a table shows a field of this name as a time."""
    return field in _DURATIONS or field.endswith(("_period", "_ttl", "_duration"))


def shown(value: Any) -> str:
    """Go's %v of a value that came as JSON."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, list | tuple):
        return f"[{' '.join(shown(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{shown(value[key])}' for key in sorted(value))}]"
    return str(value)


def quoted_list(values: Any) -> str:
    """Go's %q of a list of strings."""
    return f"[{' '.join(json.dumps(str(value), ensure_ascii=False) for value in values or ())}]"


def table_value(field: str, value: Any) -> str:
    """What a table shows for a field."""
    if is_duration(field) and isinstance(value, int) and not isinstance(value, bool):
        return short_duration(value)
    return shown(value)


def go_time(text: str) -> str:
    """An RFC 3339 time in UTC as Go's time.String() prints it."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d(?:\.\d+)?)Z", text)
    return f"{match[1]} {match[2]} +0000 UTC" if match else text


def rfc822(text: str) -> str:
    """An RFC 3339 time as "22 Nov 26 07:01 UTC"; what cannot be read stays as it is."""
    from datetime import datetime  # here, because it is slow to load and seldom wanted

    try:
        moment = datetime.fromisoformat(re.sub(r"\.\d+", "", text.replace("Z", "+00:00")))
    except ValueError:
        return text
    return moment.strftime("%d %b %y %H:%M UTC")


def loads(text: str | bytes) -> Any:
    """JSON with its numbers' texts kept. Raises ValueError."""
    return json.loads(text, parse_float=Literal)


def dumps(value: Any, *, indent: int | None = 2) -> str:
    """JSON as Go writes it: characters of HTML escaped, keys in the order given; a Duration is its text."""
    return _json(value, indent, "\n")


def _json(value: Any, indent: int | None, newline: str) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_HTML)
    if isinstance(value, Duration):
        return json.dumps(str(value))
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, Mapping):
        pairs = [
            _json(str(key), indent, newline)
            + (": " if indent else ":")
            + _json(each, indent, _deeper(newline, indent))
            for key, each in value.items()
        ]
        return _bracketed("{", pairs, "}", indent, newline)
    if isinstance(value, list | tuple):
        return _bracketed(
            "[", [_json(each, indent, _deeper(newline, indent)) for each in value], "]", indent, newline
        )
    return json.dumps(value)


def _deeper(newline: str, indent: int | None) -> str:
    return newline + " " * (indent or 0)


def _bracketed(opening: str, items: list[str], closing: str, indent: int | None, newline: str) -> str:
    if not items:
        return opening + closing
    if not indent:
        return opening + ",".join(items) + closing
    inner = _deeper(newline, indent)
    return f"{opening}{inner}{f',{inner}'.join(items)}{newline}{closing}"


def sorted_deeply(value: Any) -> Any:
    """Maps with their keys in order, as Go writes maps."""
    if isinstance(value, Mapping):
        return {key: sorted_deeply(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_deeply(item) for item in value]
    return value


def dump_yaml(value: Any) -> str:
    """YAML with sorted keys."""
    import yaml  # here, because it is slow to load and seldom wanted

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, data: str) -> Any:
        """Lines as a block; what could be read as something else than text in quotes."""
        plain = dumper.resolve(yaml.ScalarNode, data, (True, False)) == _TEXT and not _AMBIGUOUS.fullmatch(
            data
        )
        return dumper.represent_scalar(_TEXT, data, style="|" if "\n" in data else None if plain else '"')

    def number(dumper: Any, data: Literal) -> Any:
        """YAML has no exponent without a point."""
        mantissa, e, exponent = data.text.lower().partition("e")
        sign = "" if exponent.startswith(("+", "-")) else "+"
        written = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}" if e else mantissa
        return dumper.represent_scalar("tag:yaml.org,2002:float", written)

    Dumper.add_representer(str, text)
    Dumper.add_representer(Literal, number)
    printed: str = yaml.dump(
        value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=True
    )
    return printed.removesuffix("...\n")


_TEXT = "tag:yaml.org,2002:str"
_AMBIGUOUS = re.compile(r"[yYnN]|\d{4}-\d\d-\d\d.*")
