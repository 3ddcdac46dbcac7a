"""Configurations as users of Vault and OpenBao write them, turned into our own.

Three things happen to a key that we do not know: what means the same under another name is renamed; what makes no
difference here is left out, with a notice for the log; what would leave the operator believing something that is not
so is refused with the reason. Everything else stays, for node/config_schema.py to name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from node.config_schema import ConfigError

_STORAGE_REFUSED = (
    'storage "{kind}" is not offered. Strongroom keeps its data itself: storage "raft" {{ path = "..." }} on disk, '
    'replicated, or storage "inmem" {{}} in memory, which forgets everything at its end.'
)
_SEAL_REFUSED = (
    'seal "{kind}" is not offered: seal "static" {{ key_file = "..." }} opens a node by itself, '
    'seal "shamir" {{}} is opened by people.'
)
_WITHOUT_EFFECT: Mapping[str, str] = {
    "administrative_namespace_path": "there is one namespace",
    "allow_audit_log_prefixing": "audit records have no prefix",
    "cache_size": "caches have fixed limits",
    "detect_deadlocks": "nothing here can deadlock that way",
    "disable_cache": "nothing is cached that another node could change unseen",
    "disable_clustering": "a node without other nodes is a cluster of one",
    "disable_mlock": "memory is not locked; turn swap off or encrypt it",
    "disable_performance_standby": "every node serves reads",
    "disable_printable_check": "unprintable paths are always refused",
    "disable_sealwrap": "there is no seal wrapping",
    "disable_standby_reads": "every node serves reads, and they are never stale",
    "enable_response_header_hostname": "the header is not sent",
    "enable_response_header_raft_node_id": "the header is not sent",
    "enable_ui": "there is no user interface",
    "experiments": "there are none",
    "imprecise_lease_role_tracking": "nothing is counted by role",
    "introspection_endpoint": "the endpoint does not exist",
    "license_path": "no licence is needed",
    "log_requests_level": "requests are in the audit log",
    "plugin_auto_download": "there are no external plugins",
    "plugin_auto_register": "there are no external plugins",
    "plugin_directory": "there are no external plugins",
    "plugin_download_behavior": "there are no external plugins",
    "plugin_file_permissions": "there are no external plugins",
    "plugin_file_uid": "there are no external plugins",
    "plugin_tmpdir": "there are no external plugins",
    "reporting": "nothing is reported to anybody",
    "ui": "there is no user interface",
    "unsafe_allow_api_audit_creation": "audit files are named in the configuration only",
    "user_lockout": "lockout is configured by its fixed limits",
}
_REFUSED: Mapping[str, str] = {
    "entropy": "randomness comes from the operating system only",
    "ha_backend": "the store replicates itself",
    "ha_storage": "the store replicates itself",
    "initialize": "a store is initialised by `operator init`",
    "kms_library": "there are no key management libraries",
    "log_file": "logs go to standard error; send them where you like from there",
    "log_rotate_bytes": "logs go to standard error",
    "log_rotate_duration": "logs go to standard error",
    "log_rotate_max_files": "logs go to standard error",
    "plugin": "there are no external plugins",
    "raw_storage_endpoint": "the endpoint does not exist",
    "service_registration": "nodes are not registered with anybody; sys/health tells who leads",
}
_LISTENER_WITHOUT_EFFECT: Mapping[str, str] = {
    "chroot_namespace": "there is one namespace",
    "disable_replication_status_endpoints": "there are none",
    "disable_request_limiter": "limits are fixed",
    "http_idle_timeout": "timeouts are fixed",
    "http_read_header_timeout": "timeouts are fixed",
    "http_read_timeout": "timeouts are fixed",
    "http_write_timeout": "timeouts are fixed",
    "max_request_json_memory": "the shape of a body is bounded by fixed limits",
    "max_request_json_strings": "the shape of a body is bounded by fixed limits",
    "profiling": "there is no profiling endpoint",
    "tls_prefer_server_cipher_suites": "the server always chooses",
}
_LISTENER_REFUSED: Mapping[str, str] = {
    "custom_response_headers": "headers of answers are fixed",
    "proxy_protocol_authorized_addrs": "the PROXY protocol is not spoken",
    "proxy_protocol_behavior": "the PROXY protocol is not spoken",
    "redact_addresses": "answers are not redacted",
    "redact_cluster_name": "answers are not redacted",
    "redact_version": "answers are not redacted",
    "tls_acme_domains": "certificates come from files or from the cluster's own authority",
    "tls_cipher_suites": "the suites of TLS 1.3, and forward-secret AEAD suites of TLS 1.2, are fixed",
    "x_forwarded_for_authorized_addrs": "forwarded addresses are not believed",
    "x_forwarded_for_hop_skips": "forwarded addresses are not believed",
    "x_forwarded_for_reject_not_authorized": "forwarded addresses are not believed",
    "x_forwarded_for_reject_not_present": "forwarded addresses are not believed",
}
_RAFT_KEPT = frozenset({"path", "node_id"})
_RAFT_REFUSED: Mapping[str, str] = {
    "retry_join": "a node joins with a one-time token: `strongroom operator join`",
    "retry_join_as_non_voter": "every node votes once it has caught up",
}
_TELEMETRY_SINKS = ("circonus_", "dogstatsd_", "stackdriver_", "statsd_address", "statsite_address")

Body = dict[str, Any]


def translated(parsed: Body, *, where: str) -> tuple[Body, list[str]]:
    """The same in our own words, and what to tell the operator of keys without effect. Raises ConfigError."""
    notices: list[str] = []
    if "backend" in parsed:
        if "storage" in parsed:
            raise ConfigError(f"{where}: backend is the older name of storage; give one of them.")
        parsed["storage"] = parsed.pop("backend")
    _sift(parsed, where, _WITHOUT_EFFECT, _REFUSED, notices)
    _each(parsed, "storage", lambda kind, body: _storage(kind, body, where, notices))
    _each(parsed, "listener", lambda kind, body: _listener(kind, body, where, notices))
    _each(parsed, "seal", lambda kind, body: _seal(kind, body, where))
    _each(parsed, "audit", lambda kind, body: _audit(kind, body, where))
    for block in parsed.get("telemetry") or ():
        if isinstance(block, dict):
            _telemetry(block, f"{where}: telemetry", notices)
    return parsed, notices


def _each(parsed: Body, name: str, change: Callable[[str, Body], Body]) -> None:
    """Change the body of every labelled block; what is no block stays, for the schema to complain about."""
    blocks = parsed.get(name)
    if not isinstance(blocks, list):
        return
    parsed[name] = [
        {kind: change(kind, body) if isinstance(body, dict) else body for kind, body in block.items()}
        if isinstance(block, dict)
        else block
        for block in blocks
    ]


def _sift(
    body: Body, where: str, without_effect: Mapping[str, str], refused: Mapping[str, str], notices: list[str]
) -> None:
    for key in list(body):
        if (reason := refused.get(key)) is not None and body[key] not in (False, "false", 0, "", None, []):
            raise ConfigError(f"{where}: {key} is not offered: {reason}.")
        if key in refused or key in without_effect:
            del body[key]
            if key in without_effect:
                notices.append(f"{where}: {key} has no effect: {without_effect[key]}")


def _storage(kind: str, body: Body, where: str, notices: list[str]) -> Body:
    if kind not in ("inmem", "raft"):
        raise ConfigError(f"{where}: " + _STORAGE_REFUSED.format(kind=kind))
    if kind == "inmem":
        return {}
    place = f"{where}: storage.raft"
    _sift(body, place, {}, _RAFT_REFUSED, notices)
    notices += [
        f"{place}: {key} has no effect: Raft is tuned by the raft block" for key in body.keys() - _RAFT_KEPT
    ]
    return {key: value for key, value in body.items() if key in _RAFT_KEPT}


def _listener(kind: str, body: Body, where: str, notices: list[str]) -> Body:
    if kind == "unix":
        raise ConfigError(
            f'{where}: listener "unix" is not offered; listen on a loopback address with "tcp".'
        )
    place = f"{where}: listener.{kind}"
    _sift(body, place, _LISTENER_WITHOUT_EFFECT, _LISTENER_REFUSED, notices)
    telemetry = body.get("telemetry")
    if isinstance(telemetry, dict):
        _telemetry(telemetry, f"{place}.telemetry", notices)
    return body


def _telemetry(body: Body, where: str, notices: list[str]) -> None:
    for key in list(body):
        if key.startswith(_TELEMETRY_SINKS):
            raise ConfigError(f"{where}.{key} is not offered: metrics are scraped from sys/metrics.")
        if key != "unauthenticated_metrics_access":
            del body[key]
            notices.append(f"{where}.{key} has no effect: metrics keep their names and are never forgotten")


def _seal(kind: str, body: Body, where: str) -> Body:
    """OpenBao's static seal names its key by a URL; ours by a file."""
    if kind not in ("static", "shamir"):
        raise ConfigError(f"{where}: " + _SEAL_REFUSED.format(kind=kind))
    current = body.pop("current_key", None) if kind == "static" else None
    if current is None:
        return body
    if not isinstance(current, str) or not current.startswith("file://"):
        raise ConfigError(f"{where}: seal.static.current_key must be file:///path: a key is kept in a file.")
    body.pop("current_key_id", None)
    return body | {"key_file": current.removeprefix("file://")}


def _audit(kind: str, body: Body, where: str) -> Body:
    """OpenBao's declared devices have a name and options; ours have a path."""
    if kind != "file" or "path" in body:
        return body
    for name, device in body.items():
        device = device[0] if isinstance(device, list) and len(device) == 1 else device  # noqa: PLW2901
        if isinstance(device, dict) and isinstance(options := device.get("options"), dict):
            path = options.pop("file_path", None) or options.pop("path", None)
            unknown = sorted(options.keys() - {"mode"})
            if len(body) > 1 or not path or unknown:
                raise ConfigError(f'{where}: audit.file.{name} must have the one option "file_path".')
            return {"path": path}
    return body
