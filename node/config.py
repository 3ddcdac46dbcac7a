"""Files, environment and flags become one frozen Settings; every limit is named here, with its unit.

A later file wins over an earlier one key by key (its blocks replace all earlier blocks of that name), the
environment wins over files, flags win over both. Reading files: node/config_files.py.
"""

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from node.config_cluster import cluster_address, cluster_listen, cluster_source_address
from node.config_files import find, read
from node.config_listener import (
    Listener,
    flag,
    host_port,
    is_loopback,
    is_wildcard,
    join,
    listener,
    next_port,
)
from node.config_numbers import (
    cache_bytes,
    event_subscribers,
    lease_ttls,
    raft_timing,
    request_limits,
)
from node.config_regions import (
    region_address,
    region_bandwidth_bytes_per_s,
    region_bind_address,
    region_source_address,
)
from node.config_schema import (
    AuditBlock,
    ConfigError,
    FileSettings,
    Raft,
    SealBlock,
    StorageBlock,
    Tcp,
)

__all__ = ["ConfigError", "Listener", "SealSettings", "Settings", "dev_settings", "load"]

SealKind = Literal["static", "shamir"]
StorageKind = Literal["raft", "inmem"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DATA_DIR = "/var/lib/strongroom"
_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_LEVEL_NAMES = {"warn": "warning", "trace": "debug", "err": "error", "notice": "info"}
_LOG_FORMATS = ("json", "standard")
_ENVIRONMENT = {
    "STRONGROOM_NODE_ID": "node_id",
    "STRONGROOM_REGION": "region",
    "STRONGROOM_CLUSTER_NAME": "cluster_name",
    "STRONGROOM_DATA_DIR": "data_dir",
    "STRONGROOM_API_ADDR": "api_addr",
    "STRONGROOM_CLUSTER_ADDR": "cluster_addr",
    "STRONGROOM_REGION_ADDR": "region_addr",
    "STRONGROOM_REGION_BIND_ADDR": "region_bind_addr",
    "STRONGROOM_SEAL_KEY_FILE": "seal_key_file",
    "STRONGROOM_LOG_LEVEL": "log_level",
    "STRONGROOM_LOG_FORMAT": "log_format",
}
OTHER_CONNECTIONS_MAX = 4096  # than those of subscribers
READ_WORKERS_MAX = 64
_OVERRIDABLE = frozenset(_ENVIRONMENT.values())
DEV_CA_FILE = "strongroom-ca.pem"  # what `-dev-tls` leaves in its directory for clients
_DEV_KEYS = ("node_id", "region", "cluster_name", "log_level", "log_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSettings:
    """What opens the store: a key file ("static") or people ("shamir")."""

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
    cluster_address: str  # host:port at which other nodes reach this one
    cluster_listen: str  # host:port that is bound for them
    listeners: tuple[Listener, ...]
    seal: SealSettings
    storage: StorageKind = "raft"
    cluster_source: str = ""  # an address of this machine from which other nodes are called; "": any
    link_address: str = ""  # host:port for nodes of other regions; "" takes no part in regions
    link_bind_address: str = ""  # host:port that is bound for them
    link_source: str = ""  # the address of this machine from which links to other regions leave; "": any
    link_bytes_per_s: float = 0.0  # of the history and of copies, sent to other regions; 0.0: no limit
    audit_files: tuple[Path, ...] = ()
    metrics_unauthenticated: bool = False
    unauthenticated_rekey: bool = True  # sys/rekey and sys/generate-root without a token, as in Vault
    default_lease_ttl_s: int = 2_764_800
    max_lease_ttl_s: int = 2_764_800
    pid_file: Path | None = None
    snapshot_dir: Path | None = None  # where snapshots that are taken by themselves go
    notices: tuple[str, ...] = ()  # what the configuration says in vain: for the log
    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
    read_leases: bool = True
    log_level: str = "info"
    log_format: str = "json"
    dev: bool = False
    dev_tls_names: tuple[str, ...] = ()  # besides the listener's own: what its certificate is good for

    body_bytes_max: int = 32 * 1024 * 1024
    value_bytes_max: int = 1_000_000
    json_depth_max: int = 32
    header_bytes_max: int = 16 * 1024
    connections_max: int = 16_384
    event_subscribers_max: int = 12_288
    request_timeout_s: float = 90.0
    drain_timeout_s: float = 10.0
    index_wait_s: float = 2.0
    list_keys_max: int = 100_000
    value_cache_bytes_max: int = 64 * 1024 * 1024  # decrypted values kept in memory; 0 keeps none
    packed_cache_bytes_max: int = 512 * 1024 * 1024  # ... and values that stay encrypted
    read_lane: bool = True  # plain reads and writes take short ways (node/api/lane.py, write_lane.py)
    read_workers: int = 0  # processes beside this one that answer plain reads (node/workers/)


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
    notices: list[str] = []
    for path in files:
        said, in_vain = read(path)
        merged.update(said)
        notices += in_vain
    overlay = _overlay(environ, overrides)
    if (key_file := overlay.pop("seal_key_file", None)) is not None:
        if any("static" not in block for block in merged.get("seal", ())):
            raise ConfigError(
                'A seal key file is given from outside, but the configured seal is not "static".'
            )
        merged["seal"] = [{"static": {"key_file": key_file}}]
    merged.update(overlay)
    return _settings(msgspec.convert(merged, FileSettings), notices)


def dev_settings(
    *,
    data_dir: Path,
    listen: str = "127.0.0.1:8200",
    tls: bool = False,
    tls_names: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str | None] | None = None,
) -> Settings:
    """One node to try things out: plain HTTP on a loopback address, or TLS, open at start, no audit file.

    `data_dir` is the caller's to make and to remove. Of the environment only names and log settings count.
    Raises ConfigError.
    """
    told = _overlay(environ or {}, overrides)
    kept = {key: told[key] for key in _DEV_KEYS if key in told}
    file = msgspec.convert({"node_id": "dev", "log_format": "standard"} | kept, FileSettings)
    host_port(listen, where="-dev-listen-address")
    only = listener(Tcp(address=listen, tls_disable=not tls), where="-dev-listen-address")
    _check_names(file)
    return Settings(
        node_id=file.node_id,
        region=file.region,
        cluster_name=file.cluster_name,
        data_dir=data_dir.absolute(),
        api_address=f"{'https' if tls else 'http'}://{join(only.host, only.port)}",
        cluster_address=join(only.host, next_port(only)),
        cluster_listen=join(only.host, next_port(only)),
        listeners=(only,),
        seal=SealSettings(kind="shamir"),
        storage="inmem",
        log_level=_log_level(file.log_level),
        log_format=file.log_format,
        dev=True,
        dev_tls_names=tls_names,
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


def _settings(file: FileSettings, notices: list[str]) -> Settings:
    storage = file.storage[0] if file.storage else StorageBlock()
    _place_storage(file, storage)
    _check_names(file)
    blocks = [block.tcp for block in file.listener] or [Tcp()]
    listeners = tuple(listener(tcp, where=f"listener[{i}]") for i, tcp in enumerate(blocks))
    raft = file.raft[0] if file.raft else Raft()
    heartbeat_s, election_timeout_s = raft_timing(raft)
    default_ttl_s, max_ttl_s = lease_ttls(file)
    settings = Settings(
        node_id=file.node_id or _host_name(),
        region=file.region,
        cluster_name=file.cluster_name,
        data_dir=Path(file.data_dir or _DATA_DIR).absolute(),
        api_address=_api_address(file.api_addr, listeners[0]),
        cluster_address=cluster_address(file, listeners),
        cluster_listen=cluster_listen(file, listeners),
        cluster_source=cluster_source_address(file),
        link_address=region_address(file),
        link_bind_address=region_bind_address(file),
        link_source=region_source_address(file),
        link_bytes_per_s=region_bandwidth_bytes_per_s(file),
        listeners=listeners,
        seal=_seal(file.seal, listeners, assumed=bool(file.storage)),
        storage="inmem" if storage.inmem is not None else "raft",
        audit_files=_audit_files(file.audit, assumed_none=bool(file.storage)),
        metrics_unauthenticated=_metrics_unauthenticated(file, blocks),
        unauthenticated_rekey=not any(
            flag(tcp.disable_unauthed_rekey_endpoints, "disable_unauthed_rekey_endpoints") for tcp in blocks
        ),
        default_lease_ttl_s=default_ttl_s,
        max_lease_ttl_s=max_ttl_s,
        pid_file=Path(file.pid_file).absolute() if file.pid_file else None,
        snapshot_dir=Path(file.snapshot_dir).absolute() if file.snapshot_dir else None,
        notices=tuple(notices),
        heartbeat_s=heartbeat_s,
        election_timeout_s=election_timeout_s,
        read_leases=raft.read_leases,
        log_level=_log_level(file.log_level),
        log_format=file.log_format,
        value_cache_bytes_max=cache_bytes(file.value_cache_mib, "value_cache_mib"),
        packed_cache_bytes_max=cache_bytes(file.packed_cache_mib, "packed_cache_mib"),
        event_subscribers_max=event_subscribers(file.event_subscribers_max),
        connections_max=file.event_subscribers_max + OTHER_CONNECTIONS_MAX,
        read_lane=file.read_lane,
        read_workers=file.read_workers,
    )
    _check_workers(settings)
    return replace(settings, **request_limits(blocks))


def _place_storage(file: FileSettings, storage: StorageBlock) -> None:
    """Vault's storage stanza names the directory and the node; so do keys of ours."""
    if storage.inmem is not None:
        if file.data_dir or any(block.static is not None for block in file.seal):
            raise ConfigError('storage "inmem" keeps nothing: it has no data_dir, and its seal is "shamir".')
        return
    if storage.raft is None:
        return
    for key, told in (("data_dir", storage.raft.path), ("node_id", storage.raft.node_id)):
        if told and getattr(file, key) not in ("", told):
            raise ConfigError(f'{key} is "{getattr(file, key)}", but storage "raft" says "{told}".')
        setattr(file, key, told or getattr(file, key))
    if not file.data_dir:
        raise ConfigError('storage "raft" needs a path.')


def _metrics_unauthenticated(file: FileSettings, blocks: list[Tcp]) -> bool:
    key = "unauthenticated_metrics_access"
    if file.telemetry and flag(file.telemetry[0].unauthenticated_metrics_access, f"telemetry.{key}"):
        return True
    said = {flag(tcp.telemetry.unauthenticated_metrics_access, f"telemetry.{key}") for tcp in blocks}
    if len(said) > 1:
        raise ConfigError(f"{key} must be the same in every listener: the listeners serve the same paths.")
    return said.pop()


def _check_workers(settings: Settings) -> None:
    """Whether there can be read workers, if any are wanted."""
    count = settings.read_workers
    if not 0 <= count <= READ_WORKERS_MAX:
        raise ConfigError(f"read_workers is {count}; it must be 0 (none) to {READ_WORKERS_MAX}.")
    if not count:
        return
    if settings.storage != "raft":
        raise ConfigError('read_workers is for stores on disk: storage "inmem" has none.')
    if not settings.read_lane or not settings.read_leases:
        raise ConfigError(
            "read_workers needs read_lane and raft.read_leases: workers read under a node's lease."
        )
    if not settings.value_cache_bytes_max:
        raise ConfigError("read_workers needs value_cache_mib: a worker answers from what it keeps.")
    for path in settings.audit_files:
        if path.exists() and not path.is_file():
            raise ConfigError(
                f'audit "file" is {path}, which is no regular file: with read_workers it must be one,'
                " because each worker keeps its own records beside it."
            )


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
    level = _LOG_LEVEL_NAMES.get(told.lower(), told.lower())
    if level not in _LOG_LEVELS:
        raise ConfigError(f'log_level is "{told}"; it must be one of {", ".join(_LOG_LEVELS)}.')
    return level


def _api_address(told: str, first: Listener) -> str:
    if not told:
        if is_wildcard(first.host):
            raise ConfigError(
                f"api_addr must be given: the listener's {first.host} is no address to reach it by."
            )
        return f"{'http' if first.tls_disable else 'https'}://{join(first.host, first.port)}"
    url = urlsplit(told)
    superfluous = url.path.strip("/") or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in ("http", "https") or superfluous:
        raise ConfigError(f'api_addr is "{told}"; it must look like https://host:port.')
    host, port = host_port(url.netloc, where="api_addr")
    if url.scheme == "http" and not is_loopback(host):
        raise ConfigError(f'api_addr is "{told}"; http:// is allowed for a loopback address only.')
    return f"{url.scheme}://{join(host, port)}"


def _seal(blocks: list[SealBlock], listeners: tuple[Listener, ...], *, assumed: bool) -> SealSettings:
    """`assumed`: without a block it is "shamir", as in Vault."""
    said = [kind for block in blocks for kind in ("static", "shamir") if getattr(block, kind) is not None]
    if not blocks and assumed:
        said = ["shamir"]
    if len(said) != 1:
        raise ConfigError(
            'Exactly one seal is needed: seal "static" { key_file = "..." } or seal "shamir" {}.'
        )
    if blocks and blocks[0].static is not None:
        return SealSettings(kind="static", key_file=Path(blocks[0].static.key_file).absolute())
    if any(not x.tls_disable and x.tls_cert_file is None for x in listeners):
        raise ConfigError(
            'seal "shamir" needs tls_cert_file and tls_key_file in every listener: '
            "a sealed node has no key to protect its own TLS key."
        )
    return SealSettings(kind="shamir")


def _audit_files(blocks: list[AuditBlock], *, assumed_none: bool) -> tuple[Path, ...]:
    """`assumed_none`: a configuration in Vault's form that names no device has none."""
    files = tuple(Path(block.file.path).absolute() for block in blocks if block.file is not None)
    none = any(block.none is not None for block in blocks)
    if none and files:
        raise ConfigError('audit "none" and audit "file" exclude each other.')
    if not none and not files and not assumed_none:
        raise ConfigError(
            'No audit log: say audit "file" { path = "..." }, '
            'or audit "none" {} to keep no record of who did what.'
        )
    if len(set(files)) < len(files):
        raise ConfigError('Two audit "file" blocks name the same path.')
    return files
