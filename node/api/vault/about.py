"""sys/: what a server tells of itself. Host, configuration, versions, plugins, counters, loggers.

What Vault lets one configure here and this server does not have is told as it is (off, empty), and switching it on is
refused with the reason.
"""

import logging
from typing import Any

from node import API_VERSION, host
from node.auth.fields import boolean, rfc3339, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest, NotFound
from node.telemetry import logs
from node.view import View
from storage.entries import IDENTITY

LEVEL_NAMES = {10: "debug", 20: "info", 30: "warn", 40: "error"}
LOGGERS = (
    *("autopilot", "backup", "consensus", "housekeeping", "keys", "leases", "lifecycle", "node"),
    *("regions", "renewal", "server"),
)

_ENABLED = (Field("enabled", Kind.BOOLEAN, "Always false."),)
_LEVEL = (Field("level", Kind.STRING, "debug, info, warn or error.", required=True),)
_NAME = in_path("name", "The name of a logger.")
_COUNTERS = (Field("counters", Kind.ANY, "What was counted."),)
_HOST = (
    Field("timestamp", Kind.STRING, "When it was looked at."),
    *named(Kind.OBJECT, "host memory"),
    *named(Kind.OBJECTS, "cpu disk"),
)
_SANITIZED = (
    *named(Kind.STRING, "api_addr cluster_addr cluster_name node_id region"),
    *named(Kind.STRING, "log_format log_level pid_file plugin_directory"),
    *named(Kind.INTEGER, "default_lease_ttl max_lease_ttl default_max_request_duration"),
    *named(Kind.BOOLEAN, "disable_mlock enable_ui introspection_endpoint raw_storage_endpoint"),
    *named(Kind.OBJECTS, "listeners seals"),
    *named(Kind.OBJECT, "storage telemetry"),
)
_LEVELS = (of_any_name(Kind.STRING, "The level of a logger."),)


def routes() -> list[Route]:
    """The table of this module."""
    return [*_state_routes(), *_header_routes(), *_counter_routes(), *_absent_routes(), *_logger_routes()]


def _state_routes() -> list[Route]:
    read, listing = Operation.READ, Operation.LIST
    versions = (
        Field("keys", Kind.STRINGS, "Versions."),
        Field("key_info", Kind.OBJECT, "When each was first run."),
    )
    return [
        Route(
            "sys/host-info",
            {read: _host_info},
            sudo=True,
            fresh=False,
            summary="The machine, as it sees itself.",
            answers={read: _HOST},
        ),
        Route(
            "sys/config/state/sanitized",
            {read: _configuration},
            sudo=True,
            fresh=False,
            summary="The configuration of this node, without anything secret.",
            answers={read: _SANITIZED},
        ),
        *_both("sys/version-history", _versions, summary="Which versions ran.", answers={listing: versions}),
    ]


def _header_routes() -> list[Route]:
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    return [
        Route(
            "sys/config/cors",
            {read: _cors, update: _refuse_cors, delete: _nothing},
            sudo=True,
            shape=Shape.DOUBLE,
            summary="Cross-origin requests: never allowed.",
            fields=(Field("enable", Kind.BOOLEAN, "Refused if true."),),
            answers={read: _ENABLED},
        ),
        *_both(
            "sys/config/ui/headers", _empty, sudo=True, summary="Headers of a user interface: there is none."
        ),
        Route(
            "sys/config/ui/headers/{name}",
            {read: _absent, update: _refuse_ui, delete: _nothing},
            sudo=True,
            summary="Headers of a user interface: there is none.",
            fields=(in_path("name", "A header."),),
        ),
        Route(
            "sys/config/auditing/request-headers",
            {read: _no_headers},
            sudo=True,
            shape=Shape.DOUBLE,
            summary="Request headers that are recorded: none.",
            answers={read: (Field("headers", Kind.OBJECT, "Empty."),)},
        ),
        Route(
            "sys/config/auditing/request-headers/{name}",
            {read: _unrecorded, update: _refuse_headers, delete: _nothing},
            sudo=True,
            summary="Request headers that are recorded: none.",
            fields=(in_path("name", "A header."),),
        ),
    ]


def _counter_routes() -> list[Route]:
    read = Operation.READ
    return [
        Route(
            "sys/internal/counters/tokens",
            {read: _count_tokens},
            summary="How many service tokens there are.",
            answers={read: _COUNTERS},
        ),
        Route(
            "sys/internal/counters/entities",
            {read: _count_entities},
            summary="How many entities there are.",
            answers={read: _COUNTERS},
        ),
        Route(
            "sys/internal/counters/requests",
            {read: _count_requests},
            summary="Requests by month: not counted, sys/metrics has them.",
            answers={read: _COUNTERS},
        ),
    ]


def _absent_routes() -> list[Route]:
    """What there is none of."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    return [
        *_both("sys/quotas/rate-limit", _empty, summary="Rate limit quotas: there are none."),
        Route(
            "sys/quotas/rate-limit/{name}",
            {read: _absent, update: _refuse_quota, delete: _nothing},
            summary="Rate limit quotas: there are none.",
            fields=(in_path("name", "Of a quota."),),
        ),
        *_both("sys/namespaces", _empty, summary="Namespaces: there is one, the root."),
        Route(
            "sys/namespaces/{path...}",
            {read: _absent, update: _refuse_namespace, delete: _no_namespace},
            summary="Namespaces: there is one, the root.",
            fields=(in_path("path", "Of a namespace."),),
        ),
    ]


def _logger_routes() -> list[Route]:
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    return [
        Route(
            "sys/loggers",
            {read: _loggers, update: _set_all, delete: _reset_all},
            local=True,
            sudo=True,
            fresh=False,
            summary="All loggers and their levels, until the next start.",
            fields=_LEVEL,
            answers={read: _LEVELS},
        ),
        Route(
            "sys/loggers/{name}",
            {read: _logger, update: _set_level, delete: _reset_level},
            local=True,
            sudo=True,
            fresh=False,
            summary="The level of one logger, until the next start.",
            fields=(_NAME, *_LEVEL),
            answers={read: _LEVELS},
        ),
    ]


def _both(pattern: str, handler: Handler, **said: Any) -> list[Route]:
    """A listing is asked for with and without a slash at the end."""
    return [
        Route(pattern, {Operation.LIST: handler}, **said),
        Route(pattern + "/", {Operation.LIST: handler}, **said),
    ]


# --- this machine and its configuration ---------------------------------------------------------------------


async def _host_info(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(
        data={
            "timestamp": rfc3339(core.unsealed.now_ns()),
            "host": host.host(),
            "memory": host.memory(),
            "cpu": host.processors(),
            "disk": host.disk(core.settings.data_dir) if core.settings.storage == "raft" else [],
        }
    )


async def _configuration(core: Core, request: Request, params: dict[str, str]) -> Response:
    settings = core.settings
    listeners = [
        {
            "type": "tcp",
            "config": {
                "address": f"{each.host}:{each.port}",
                "tls_disable": each.tls_disable,
                "tls_min_version": each.tls_min_version,
                "tls_cert_file": str(each.tls_cert_file or ""),
                "tls_client_ca_file": str(each.tls_client_ca_file or ""),
                "tls_require_and_verify_client_cert": each.tls_client_required,
            },
        }
        for each in settings.listeners
    ]
    return Response(
        data={
            "api_addr": settings.api_address,
            "cluster_addr": settings.cluster_address,
            "cluster_name": settings.cluster_name,
            "node_id": settings.node_id,
            "region": settings.region,
            "default_lease_ttl": settings.default_lease_ttl_s,
            "max_lease_ttl": settings.max_lease_ttl_s,
            "default_max_request_duration": int(settings.request_timeout_s),
            "disable_mlock": True,
            "enable_ui": False,
            "introspection_endpoint": False,
            "raw_storage_endpoint": False,
            "listeners": listeners,
            "log_format": settings.log_format,
            "log_level": settings.log_level,
            "pid_file": str(settings.pid_file or ""),
            "plugin_directory": "",
            "seals": [{"type": settings.seal.kind, "disabled": False}],
            "storage": {"type": settings.storage, "cluster_addr": settings.cluster_address},
            "telemetry": {"unauthenticated_metrics_access": settings.metrics_unauthenticated},
        }
    )


async def _versions(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the running one is known; the store's first key term tells since when there is a store."""
    installed = rfc3339(core.unsealed.reads.key_terms()[0].created_ns)
    info = {"previous_version": None, "commit_date": "", "timestamp_installed": installed}
    return Response(data={"keys": [API_VERSION], "key_info": {API_VERSION: info}})


# --- what there is not --------------------------------------------------------------------------------------


async def _cors(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"enabled": False})


async def _refuse_cors(core: Core, request: Request, params: dict[str, str]) -> Response:
    if boolean(request.data.get("enable", True), "enable"):
        raise InvalidRequest("cross-origin requests are not allowed, and cannot be")
    return Response(NO_CONTENT)


async def _refuse_ui(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("there is no user interface whose headers could be set")


async def _refuse_headers(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("request headers are not recorded, and cannot be")


async def _no_headers(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"headers": {}})


async def _absent(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise NotFound


async def _unrecorded(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("Could not find header in config")


async def _refuse_quota(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("rate limit quotas are not offered: the limits of this server are fixed")


async def _refuse_namespace(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("namespaces are not offered: there is one, the root")


async def _no_namespace(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(warnings=["requested namespace does not exist"])


async def _empty(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise NotFound


async def _nothing(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Taking away what is not there succeeds."""
    return Response(NO_CONTENT)


# --- counters -----------------------------------------------------------------------------------------------


async def _count_tokens(core: Core, request: Request, params: dict[str, str]) -> Response:
    total = core.unsealed.reads.count_tokens()
    return Response(data={"counters": {"service_tokens": {"total": total}}})


async def _count_entities(core: Core, request: Request, params: dict[str, str]) -> Response:
    total = len(View(core.unsealed, IDENTITY).children("entity/", limit=core.settings.list_keys_max))
    return Response(data={"counters": {"entities": {"total": total}}})


async def _count_requests(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"counters": []})


# --- loggers ------------------------------------------------------------------------------------------------


async def _loggers(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={name: _level(name) for name in LOGGERS})


async def _logger(core: Core, request: Request, params: dict[str, str]) -> Response:
    name = _known(params)
    return Response(data={name: _level(name)})


async def _set_level(core: Core, request: Request, params: dict[str, str]) -> Response:
    name = _known(params)
    logs.set_level(_wanted_level(request), name)
    return Response(NO_CONTENT)


async def _set_all(core: Core, request: Request, params: dict[str, str]) -> Response:
    level = _wanted_level(request)
    for name in LOGGERS:
        logs.set_level(level, name)
    return Response(NO_CONTENT)


async def _reset_all(core: Core, request: Request, params: dict[str, str]) -> Response:
    for name in LOGGERS:
        logs.reset_level(name)
    return Response(NO_CONTENT)


def _wanted_level(request: Request) -> str:
    level = text(request.data.get("level"), "level").lower()
    if level not in logs.LEVELS:
        raise InvalidRequest("invalid level: it must be one of debug, info, warn, error")
    return level


async def _reset_level(core: Core, request: Request, params: dict[str, str]) -> Response:
    logs.reset_level(_known(params))
    return Response(NO_CONTENT)


def _level(name: str) -> str:
    return LEVEL_NAMES.get(logging.getLogger(name).getEffectiveLevel(), "error")


def _known(params: dict[str, str]) -> str:
    if params["name"] not in LOGGERS:
        raise InvalidRequest(f'logger "{params["name"]}" not found')
    return params["name"]
