"""KEY=VALUE arguments: `key=text`, `key=@file`, `key=-`, `@file.json`, `-` (a JSON object on standard input)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.cli.output import LocalError
from node.cli.values import loads

INPUT_BYTES_MAX = 32 * 1024 * 1024


class _Bad(Exception):
    """An argument that cannot be used; says why."""


class Input:
    """Standard input, which can be read once."""

    def __init__(self) -> None:
        self._used = False

    def text(self) -> str:
        if self._used:
            raise _Bad("standard input can be read only once")
        self._used = True
        stream = getattr(sys.stdin, "buffer", None)
        raw = stream.read(INPUT_BYTES_MAX + 1) if stream is not None else sys.stdin.read().encode()
        return _decoded(raw)


def key_values(arguments: Sequence[str], *, doing: str = "Failed to parse K=V data") -> dict[str, Any]:
    """One map of all arguments. Values are strings, except those of JSON objects. Raises LocalError.

    A key=value whose key is there already makes a list of both; what a JSON object says goes before what was said.
    """
    source = Input()
    found: dict[str, Any] = {}
    for argument in arguments:
        try:
            parsed = _parsed(argument, source)
        except _Bad as e:
            raise LocalError(f'{doing}: invalid key/value pair "{argument}": {e}') from e
        if argument != "-" and not argument.startswith("@"):
            parsed = {
                key: _also(found[key], value) if key in found else value for key, value in parsed.items()
            }
        found |= parsed
    return found


def _also(known: Any, value: Any) -> list[Any]:
    return [*known, value] if isinstance(known, list) else [known, value]


def query_values(arguments: Sequence[str]) -> dict[str, Any]:
    """The same for a query: a key that comes twice has both values."""
    found: dict[str, Any] = {}
    for argument in arguments:
        for key, value in key_values([argument]).items():
            found.setdefault(key, []).append(value)
    return found


def _parsed(argument: str, source: Input) -> dict[str, Any]:
    if argument == "-":
        return _object(source.text())
    if argument.startswith("@"):
        return _object(_file(argument[1:]))
    key, separator, value = argument.partition("=")
    if not separator:
        raise _Bad("format must be key=value")
    if value == "-":
        value = source.text()
    elif value.startswith("\\@"):
        value = value[1:]
    elif value.startswith("@"):
        try:
            value = _file(value[1:])
        except _Bad as e:
            raise _Bad(f"error reading file: {e}") from e
    return {key: value}


def _object(text: str) -> dict[str, Any]:
    if not text.strip():
        raise _Bad("EOF")
    try:
        found = loads(text)
    except (ValueError, RecursionError) as e:
        raise _Bad(str(e)) from e
    if not isinstance(found, dict):
        raise _Bad("must be a JSON object")
    return found


def _file(name: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            return _decoded(file.read(INPUT_BYTES_MAX + 1))
    except OSError as e:
        raise _Bad(f"open {name}: {(e.strerror or str(e)).lower()}") from e


def _decoded(raw: bytes) -> str:
    if len(raw) > INPUT_BYTES_MAX:
        raise _Bad(f"longer than {INPUT_BYTES_MAX} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise _Bad("not UTF-8 text: encode bytes in base64 first") from e
