"""Files, environment and flags become one frozen Settings; every limit is named here, with its unit.

A later file wins over an earlier one key by key (its blocks replace all earlier blocks of that name), the
environment wins over files, flags win over both. Reading files: node/config_files.py.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from node.config_files import (
    AuditBlock,
    ConfigError,
    Duration,
    FileSettings,
    Raft,
    SealBlock,
    Tcp,
    find,
    read,
)

__all__ = ["ConfigError", "Listener", "SealSettings", "Settings", "dev_settings", "load", "seconds"]

SealKind = Literal["static", "shamir", "dev"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMATS = ("json", "standard")
_ENVIRONMENT = {
    "STRONGROOM_NODE_ID": "node_id",
    "STRONGROOM_REGION": "region",
    "STRONGROOM_CLUSTER_NAME": "cluster_name",
    "STRONGROOM_DATA_DIR": "data_dir",
    "STRONGROOM_API_ADDR": "api_addr",
    "STRONGROOM_CLUSTER_ADDR": "cluster_addr",
    "STRONGROOM_SEAL_KEY_FILE": "seal_key_file",
    "STRONGROOM_LOG_LEVEL": "log_level",
    "STRONGROOM_LOG_FORMAT": "log_format",
}
_OVERRIDABLE = frozenset(_ENVIRONMENT.values())
_DEV_KEYS = ("node_id", "region", "cluster_name", "log_level", "log_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where clients are served. No files and no tls_disable: a certificate of the cluster's own CA."""

    host: str
    port: int
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_disable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSettings:
    """What opens the store: a key file ("static"), people ("shamir"), or nothing worth protecting ("dev")."""

    kind: SealKind
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a node is told from outside, checked. Suffixes are units: _s seconds, _bytes bytes."""

    node_id: str
    region: str
    cluster_name: str
    data_dir: Path
    api_address: str
    cluster_address: str
    listeners: tuple[Listener, ...]
    seal: SealSettings
    audit_files: tuple[Path, ...] = ()
    metrics_unauthenticated: bool = False
    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
    log_level: str = "info"
    log_format: str = "json"
    dev: bool = False

    body_bytes_max: int = 32 * 1024 * 1024
    value_bytes_max: int = 1_000_000
    json_depth_max: int = 32
    header_bytes_max: int = 16 * 1024
    connections_max: int = 16_384
    request_timeout_s: float = 90.0
    drain_timeout_s: float = 10.0
    index_wait_s: float = 2.0
    list_keys_max: int = 100_000


def load(
    paths: Iterable[Path], *, environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None
) -> Settings:
    """Read files and directories of files, in the order given, and check everything.

    `overrides` are the flags, under the file's names (None: not given). Raises ConfigError.
    """
    files = list(find(paths))
    if not files:
        raise ConfigError("No configuration: name a file with -config, or use -dev to try things out.")
    merged: dict[str, Any] = {}
    for path in files:
        merged.update(read(path))
    overlay = _overlay(environ, overrides)
    if (key_file := overlay.pop("seal_key_file", None)) is not None:
        if any("static" not in block for block in merged.get("seal", ())):
            raise ConfigError(
                'A seal key file is given from outside, but the configured seal is not "static".'
            )
        merged["seal"] = [{"static": {"key_file": key_file}}]
    merged.update(overlay)
    return _settings(msgspec.convert(merged, FileSettings))


def dev_settings(
    *,
    data_dir: Path,
    listen: str = "127.0.0.1:8200",
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str | None] | None = None,
) -> Settings:
    """One node to try things out: plain HTTP on a loopback address, open at start, no audit file.

    `data_dir` is the caller's to make and to remove. Of the environment only names and log settings count.
    Raises ConfigError.
    """
    told = _overlay(environ or {}, overrides)
    kept = {key: told[key] for key in _DEV_KEYS if key in told}
    file = msgspec.convert({"node_id": "dev", "log_format": "standard"} | kept, FileSettings)
    listener = _listener(Tcp(address=listen, tls_disable=True), where="-dev-listen-address")
    _check_names(file)
    return Settings(
        node_id=file.node_id,
        region=file.region,
        cluster_name=file.cluster_name,
        data_dir=data_dir.absolute(),
        api_address=f"http://{_join(listener.host, listener.port)}",
        cluster_address=_join(listener.host, _next_port(listener)),
        listeners=(listener,),
        seal=SealSettings(kind="dev"),
        log_level=_log_level(file.log_level),
        log_format=file.log_format,
        dev=True,
    )


# --- environment and flags ---------------------------------------------------------------------------------


def _overlay(environ: Mapping[str, str], overrides: Mapping[str, str | None] | None) -> dict[str, str]:
    told = {key: environ[name] for name, key in _ENVIRONMENT.items() if environ.get(name)}
    for key, value in (overrides or {}).items():
        if key not in _OVERRIDABLE:
            raise KeyError(f"{key} cannot be overridden; one of {sorted(_OVERRIDABLE)} can")
        if value is not None:
            told[key] = value
    return told


# --- from what was said to what is meant -------------------------------------------------------------------


def _settings(file: FileSettings) -> Settings:
    _check_names(file)
    blocks = [block.tcp for block in file.listener] or [Tcp(address="127.0.0.1:8200")]
    listeners = tuple(_listener(tcp, where=f"listener[{i}]") for i, tcp in enumerate(blocks))
    api_address = _api_address(file.api_addr, listeners[0])
    cluster_address = _cluster_address(file.cluster_addr, listeners)
    raft = file.raft[0] if file.raft else Raft()
    heartbeat_s = seconds(raft.heartbeat, where="raft.heartbeat")
    election_timeout_s = seconds(raft.election_timeout, where="raft.election_timeout")
    if not 0 < heartbeat_s * 3 <= election_timeout_s:
        raise ConfigError(
            "raft.election_timeout must be at least three heartbeats, and both more than zero: a follower "
            "that gives up after one lost heartbeat never lets a leader work."
        )
    return Settings(
        node_id=file.node_id or _host_name(),
        region=file.region,
        cluster_name=file.cluster_name,
        data_dir=Path(file.data_dir).absolute(),
        api_address=api_address,
        cluster_address=cluster_address,
        listeners=listeners,
        seal=_seal(file.seal, listeners),
        audit_files=_audit_files(file.audit),
        metrics_unauthenticated=bool(file.telemetry) and file.telemetry[0].unauthenticated_metrics_access,
        heartbeat_s=heartbeat_s,
        election_timeout_s=election_timeout_s,
        log_level=_log_level(file.log_level),
        log_format=file.log_format,
    )


def seconds(value: Duration, *, where: str) -> float:
    """A duration in seconds: a number, or text such as "100ms", "30s", "1h30m". Raises ConfigError."""
    if isinstance(value, str):
        parts = _DURATION_PART.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return sum(float(number) * _DURATION_S[unit] for number, unit in parts)
        raise ConfigError(f'{where} is "{value}"; a duration is written "100ms", "30s" or "1h30m".')
    if value < 0:
        raise ConfigError(f"{where} is {value}, but a duration cannot be negative.")
    return float(value)


def _check_names(file: FileSettings) -> None:
    for key in ("node_id", "region", "cluster_name"):
        value = getattr(file, key)
        if not _NAME.fullmatch(value) and not (key == "node_id" and not value):
            raise ConfigError(
                f'{key} is "{value}"; it must be 1 to 63 of a-z, 0-9 and "-", with no "-" at either end.'
            )
    if file.log_format not in _LOG_FORMATS:
        raise ConfigError(f'log_format is "{file.log_format}"; it must be one of {", ".join(_LOG_FORMATS)}.')


def _host_name() -> str:
    name = socket.gethostname().partition(".")[0].lower()
    if not _NAME.fullmatch(name):
        raise ConfigError(f'node_id is not given, and the host name "{name}" cannot be one; set node_id.')
    return name


def _log_level(told: str) -> str:
    level = {"warn": "warning"}.get(told.lower(), told.lower())
    if level not in _LOG_LEVELS:
        raise ConfigError(f'log_level is "{told}"; it must be one of {", ".join(_LOG_LEVELS)}.')
    return level


def _listener(tcp: Tcp, *, where: str) -> Listener:
    host, port = _host_port(tcp.address, where=f"{where} address")
    if bool(tcp.tls_cert_file) != bool(tcp.tls_key_file):
        raise ConfigError(f"{where} has one of tls_cert_file and tls_key_file; it needs both or neither.")
    if tcp.tls_disable and tcp.tls_cert_file:
        raise ConfigError(f"{where} has tls_disable and certificate files; remove one of them.")
    if tcp.tls_disable and not _is_loopback(host):
        raise ConfigError(
            f"{where} has tls_disable on {tcp.address}; plain HTTP is served on a loopback address only, "
            "because tokens and secrets travel in it."
        )
    return Listener(
        host=host,
        port=port,
        tls_cert_file=Path(tcp.tls_cert_file).absolute() if tcp.tls_cert_file else None,
        tls_key_file=Path(tcp.tls_key_file).absolute() if tcp.tls_key_file else None,
        tls_disable=tcp.tls_disable,
    )


def _api_address(told: str, first: Listener) -> str:
    if not told:
        if _is_wildcard(first.host):
            raise ConfigError(
                f"api_addr must be given: the listener's {first.host} is no address to reach it by."
            )
        return f"{'http' if first.tls_disable else 'https'}://{_join(first.host, first.port)}"
    url = urlsplit(told)
    superfluous = url.path.strip("/") or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in ("http", "https") or superfluous:
        raise ConfigError(f'api_addr is "{told}"; it must look like https://host:port.')
    host, port = _host_port(url.netloc, where="api_addr")
    if url.scheme == "http" and not _is_loopback(host):
        raise ConfigError(f'api_addr is "{told}"; http:// is allowed for a loopback address only.')
    return f"{url.scheme}://{_join(host, port)}"


def _cluster_address(told: str, listeners: tuple[Listener, ...]) -> str:
    first = listeners[0]
    host, port = _host_port(told, where="cluster_addr") if told else (first.host, _next_port(first))
    if _is_wildcard(host):
        raise ConfigError(
            f"cluster_addr must be an address that other nodes can reach; {host} is only one to bind."
        )
    if any(port == other.port and (host == other.host or _is_wildcard(other.host)) for other in listeners):
        raise ConfigError(f"cluster_addr is {_join(host, port)}, which a listener for clients uses already.")
    return _join(host, port)


def _seal(blocks: list[SealBlock], listeners: tuple[Listener, ...]) -> SealSettings:
    said = [kind for block in blocks for kind in ("static", "shamir") if getattr(block, kind) is not None]
    if len(said) != 1:
        raise ConfigError(
            'Exactly one seal is needed: seal "static" { key_file = "..." } or seal "shamir" {}.'
        )
    if blocks[0].static is not None:
        return SealSettings(kind="static", key_file=Path(blocks[0].static.key_file).absolute())
    if any(not x.tls_disable and x.tls_cert_file is None for x in listeners):
        raise ConfigError(
            'seal "shamir" needs tls_cert_file and tls_key_file in every listener: '
            "a sealed node has no key to protect its own TLS key."
        )
    return SealSettings(kind="shamir")


def _audit_files(blocks: list[AuditBlock]) -> tuple[Path, ...]:
    files = tuple(Path(block.file.path).absolute() for block in blocks if block.file is not None)
    none = any(block.none is not None for block in blocks)
    if none and files:
        raise ConfigError('audit "none" and audit "file" exclude each other.')
    if not none and not files:
        raise ConfigError(
            'No audit log: say audit "file" { path = "..." }, '
            'or audit "none" {} to keep no record of who did what.'
        )
    if len(set(files)) < len(files):
        raise ConfigError('Two audit "file" blocks name the same path.')
    return files


# --- addresses ---------------------------------------------------------------------------------------------


def _host_port(text: str, *, where: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets: which part is the port?
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f'{where} is "{text}"; it must be host:port (an IPv6 host in [brackets]).')
    return host, int(port)


def _next_port(listener: Listener) -> int:
    return listener.port + 1 if listener.port < 65535 else listener.port - 1


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "*")  # noqa: S104 - recognised in order to be refused
