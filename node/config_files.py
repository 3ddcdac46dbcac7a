"""The configuration files: which there are, what is in them, and where a mistake in one stands."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from node import hcl
from node.config_schema import BLOCKS, ConfigError, FileSettings
from node.config_vault import translated

FILE_BYTES_MAX = 64 * 1024
FILES_MAX = 64
NESTING_MAX = 16  # the parsers recurse; nothing here needs more than 5


def find(paths: Iterable[Path]) -> Iterable[Path]:
    count = 0
    for given in paths:
        if not given.is_dir():
            found = [given]
        elif not (found := sorted(p for p in given.iterdir() if p.suffix in (".hcl", ".json"))):
            raise ConfigError(f"{given} holds no *.hcl and no *.json file.")
        for path in found:
            if (count := count + 1) > FILES_MAX:
                raise ConfigError(f"More than {FILES_MAX} configuration files; {given} has the last of them.")
            yield path


def read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """One file, checked by itself, so that a mistake is reported with the file that holds it; and notices for the log.

    HCL or JSON, whatever the name: JSON begins with a brace. Raises ConfigError.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror}.") from e
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text.") from e
    if _nesting(text) > NESTING_MAX:
        raise ConfigError(f"{path} nests brackets deeper than {NESTING_MAX}.")
    is_json = path.suffix == ".json" or text.lstrip()[:1] == "{"
    parsed = _parse_json(path, text) if is_json else _parse_hcl(path, text)
    for name in (*BLOCKS, "backend"):
        if name in parsed:
            parsed[name] = _blocks(parsed[name])
    parsed, notices = translated(parsed, where=str(path))
    try:
        msgspec.convert(parsed, FileSettings)
    except msgspec.ValidationError as e:
        raise ConfigError(_explained(path, str(e), parsed)) from e
    return parsed, notices


def _blocks(given: Any) -> Any:
    """A list of blocks with one label each: JSON may leave out the list around one, or repeat under a label."""
    blocks = []
    for block in given if isinstance(given, list) else [given]:
        if not isinstance(block, dict):
            return given
        if not block or any(not isinstance(body, dict | list) for body in block.values()):
            blocks.append(block)  # a block without a label
            continue
        for label, bodies in block.items():
            blocks += [{label: body} for body in (bodies if isinstance(bodies, list) else [bodies])]
    return blocks


def _nesting(text: str) -> int:
    """An upper bound of the nesting: brackets inside strings count too, which no honest file notices."""
    depth = deepest = 0
    for bracket in re.finditer(r"[\[({\])}]", text):
        depth += 1 if bracket.group() in "[({" else -1
        deepest = max(deepest, depth)
    return deepest


def _parse_json(path: Path, text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(keys := dict(pairs)) < len(pairs):
            raise ConfigError(f"{path} gives a key twice; its keys are {', '.join(sorted(keys))}.")
        return keys

    try:
        parsed = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}:{e.lineno}:{e.colno} is not JSON: {e.msg}.") from e
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path} must hold one JSON object.")
    return parsed


def _parse_hcl(path: Path, text: str) -> dict[str, Any]:
    try:
        return _plain(hcl.loads(text), path=path, where="")
    except hcl.HclError as e:
        raise ConfigError(f"{path}:{e.line}:{e.column} is not HCL: {e.what}.") from e


def _plain(body: hcl.Block, *, path: Path, where: str) -> dict[str, Any]:
    """Entries as a dictionary: a block that is repeated becomes a list."""
    plain: dict[str, Any] = {}
    for key, value in body:
        place = f"{where}.{key}".lstrip(".")
        found = _value(value, path=path, where=place)
        if key in plain:
            if not isinstance(value, hcl.Block):
                raise ConfigError(f"{path}: {place} is given twice.")
            before = plain[key] if isinstance(plain[key], list) else [plain[key]]
            found = [*before, found]
        plain[key] = found
    return plain


def _value(value: Any, *, path: Path, where: str) -> Any:
    if isinstance(value, hcl.Block):
        return _plain(value, path=path, where=where)
    if isinstance(value, list):
        return [_value(each, path=path, where=where) for each in value]
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{path}: {where} is an expression; only plain values are understood.")
    return value


def _explained(path: Path, message: str, parsed: Mapping[str, Any]) -> str:
    what, _, at = message.partition(" - at ")
    where = at.strip("`").removeprefix("$.") or "the top level"
    if what.startswith("Object contains unknown field"):
        return f"{path}: unknown key {what.removeprefix('Object contains unknown field ')} at {where}."
    if where in BLOCKS and isinstance(parsed.get(where), list) and len(parsed[where]) > 1:
        return f"{path}: {where} is said {len(parsed[where])} times; once is allowed."
    return f"{path}: {where}: {what[:1].lower()}{what[1:]}."
