"""The configuration files: which there are, what they may say, and where a mistake in one stands."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

FILE_BYTES_MAX = 64 * 1024
FILES_MAX = 64
NESTING_MAX = 16  # the parsers recurse; nothing here needs more than 3

Duration = int | float | str


class ConfigError(Exception):
    """The configuration cannot be used. The message is for the operator: where, what, and what to do."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """What a file may say; msgspec names the path of whatever else it says."""


class Tcp(_Strict):
    address: str
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_disable: bool = False


class _ListenerBlock(_Strict):
    tcp: Tcp


class _Static(_Strict):
    key_file: str


class SealBlock(_Strict):
    static: _Static | None = None
    shamir: _Strict | None = None


class _AuditFile(_Strict):
    path: str


class AuditBlock(_Strict):
    file: _AuditFile | None = None
    none: _Strict | None = None


class _Telemetry(_Strict):
    unauthenticated_metrics_access: bool = False


class Raft(_Strict):
    heartbeat: Duration = "100ms"
    election_timeout: Duration = "1s"


_AT_MOST_ONE = msgspec.Meta(max_length=1)


class FileSettings(_Strict):
    node_id: str = ""
    region: str = "local"
    cluster_name: str = "strongroom"
    data_dir: str = "/var/lib/strongroom"
    api_addr: str = ""
    cluster_addr: str = ""
    log_level: str = "info"
    log_format: str = "json"
    listener: list[_ListenerBlock] = []
    seal: Annotated[list[SealBlock], _AT_MOST_ONE] = []
    audit: list[AuditBlock] = []
    telemetry: Annotated[list[_Telemetry], _AT_MOST_ONE] = []
    raft: Annotated[list[Raft], _AT_MOST_ONE] = []


_BLOCKS = ("listener", "seal", "audit", "telemetry", "raft")


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


def read(path: Path) -> dict[str, Any]:
    """One file, checked by itself, so that a mistake is reported with the file that holds it."""
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
    parsed = _parse_json(path, text) if path.suffix == ".json" else _parse_hcl(path, text)
    for name in _BLOCKS:
        if isinstance(parsed.get(name), dict):  # JSON may leave out the list around a single block
            parsed[name] = [parsed[name]]
    try:
        msgspec.convert(parsed, FileSettings)
    except msgspec.ValidationError as e:
        raise ConfigError(_explained(path, str(e), parsed)) from e
    return parsed


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
    import hcl2  # 70 ms, which only a server start should pay
    from lark.exceptions import LarkError

    options = hcl2.SerializationOptions(strip_string_quotes=True, with_comments=False)
    try:
        parsed = hcl2.loads(text if text.endswith("\n") else text + "\n", serialization_options=options)
    except LarkError as e:
        place = f"{path}:{getattr(e, 'line', '?')}:{getattr(e, 'column', '?')}"
        raise ConfigError(f"{place} is not HCL: {str(e).splitlines()[0].strip()}") from e
    return {key: _plain(value, path=path, where=key) for key, value in parsed.items()}


def _plain(value: Any, *, path: Path, where: str) -> Any:
    """The parser's tree without its marks. An expression would be kept as text, unevaluated: refuse it."""
    if isinstance(value, dict):
        value.pop("__is_block__", None)
        return {k: _plain(v, path=path, where=f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, path=path, where=where) for v in value]
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{path}: {where} is an expression; only plain values are understood.")
    return value


def _explained(path: Path, message: str, parsed: Mapping[str, Any]) -> str:
    what, _, at = message.partition(" - at ")
    where = at.strip("`").removeprefix("$.") or "the top level"
    if what.startswith("Object contains unknown field"):
        return f"{path}: unknown key {what.removeprefix('Object contains unknown field ')} at {where}."
    if where in _BLOCKS and isinstance(parsed.get(where), list) and len(parsed[where]) > 1:
        return f"{path}: {where} is said {len(parsed[where])} times; once is allowed."
    return f"{path}: {where}: {what[:1].lower()}{what[1:]}."
