"""What a configuration file may say, after node/config_vault.py has taken out what only Vault would act on."""

from typing import Annotated

import msgspec

Duration = int | float | str
Flag = bool | int | str  # Vault's users write true, 1 and "true"


class ConfigError(Exception):
    """The configuration cannot be used. The message is for the operator: where, what, and what to do."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """msgspec names the path of whatever else a file says."""


class ListenerTelemetry(_Strict):
    unauthenticated_metrics_access: Flag = False


class Tcp(_Strict):
    address: str = "127.0.0.1:8200"
    cluster_address: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_disable: Flag = False
    tls_min_version: str = "tls13"
    tls_max_version: str = "tls13"
    tls_client_ca_file: str = ""
    tls_require_and_verify_client_cert: Flag = False
    tls_disable_client_certs: Flag = False
    disable_unauthed_rekey_endpoints: Flag = False
    max_request_size: int | str = 0
    max_request_duration: Duration = 0
    telemetry: ListenerTelemetry = msgspec.field(default_factory=ListenerTelemetry)


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
    unauthenticated_metrics_access: Flag = False


class Raft(_Strict):
    heartbeat: Duration = "100ms"
    election_timeout: Duration = "1s"
    read_leases: bool = True


class _Inmem(_Strict):
    pass


class _RaftStorage(_Strict):
    path: str = ""
    node_id: str = ""


class StorageBlock(_Strict):
    inmem: _Inmem | None = None
    raft: _RaftStorage | None = None


_AT_MOST_ONE = msgspec.Meta(max_length=1)


class FileSettings(_Strict):
    node_id: str = ""
    region: str = "local"
    cluster_name: str = "strongroom"
    data_dir: str = ""
    api_addr: str = ""
    cluster_addr: str = ""
    cluster_source_addr: str = ""
    region_addr: str = ""
    region_bind_addr: str = ""
    region_source_addr: str = ""
    region_bandwidth: str = ""
    log_level: str = "info"
    log_format: str = "json"
    pid_file: str = ""
    snapshot_dir: str = ""
    value_cache_mib: int = 64
    packed_cache_mib: int = 512
    event_subscribers_max: int = 12_288
    read_lane: bool = True
    read_workers: int = 0
    default_lease_ttl: Duration = "768h"
    max_lease_ttl: Duration = "768h"
    listener: list[_ListenerBlock] = []
    storage: Annotated[list[StorageBlock], _AT_MOST_ONE] = []
    seal: Annotated[list[SealBlock], _AT_MOST_ONE] = []
    audit: list[AuditBlock] = []
    telemetry: Annotated[list[_Telemetry], _AT_MOST_ONE] = []
    raft: Annotated[list[Raft], _AT_MOST_ONE] = []


BLOCKS = ("listener", "storage", "seal", "audit", "telemetry", "raft")
