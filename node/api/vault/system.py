"""sys/: the node and its place in the cluster. Health, leader, who else there is, step-down, metrics."""

import socket
import time
from typing import Any

from consensus.api import Role
from node import API_VERSION, api_version
from node.api.vault.leader import elsewhere
from node.api.vault.seal import cluster_names, open_route
from node.auth.fields import SECOND_NS, rfc3339
from node.core.core import Core
from node.core.fields import Field, Kind, in_query, named
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest
from storage import regions as roles

_CODES = (
    "activecode",
    "standbycode",
    "sealedcode",
    "uninitcode",
    "performancestandbycode",
    "drsecondarycode",
)
_HEALTH_QUERY = (
    in_query("standbyok", Kind.BOOLEAN, "A standby answers like the active node."),
    in_query("perfstandbyok", Kind.BOOLEAN, "Accepted; there are no performance standbys."),
    *(in_query(name, Kind.INTEGER, "The status code of this case, in place of Vault's.") for name in _CODES),
)
_HEALTH = (
    Field("initialized", Kind.BOOLEAN, "Whether this node has a store."),
    Field("sealed", Kind.BOOLEAN, "Whether it is closed."),
    Field("standby", Kind.BOOLEAN, "Whether another node leads."),
    Field("replication_performance_mode", Kind.STRING, "disabled, or unknown while sealed."),
    Field(
        "replication_dr_mode",
        Kind.STRING,
        "Of the region: disabled, primary or secondary; unknown while sealed.",
    ),
    Field("server_time_utc", Kind.INTEGER, "Seconds since 1970."),
    Field("version", Kind.STRING, "Of the server."),
    Field("cluster_name", Kind.STRING, "Once the store is open."),
    Field("cluster_id", Kind.STRING, "Once the store is open."),
    Field("region_link_problem", Kind.STRING, "Why other regions cannot reach this node, if they cannot."),
)
_MODES = {
    roles.ALONE: "disabled",
    roles.PRIMARY: "primary",
    roles.LEAVING: "primary",
    roles.SECONDARY: "secondary",
    roles.CALLED: "secondary",
}
_LEADER = (
    Field("ha_enabled", Kind.BOOLEAN, "Whether there can be other nodes."),
    Field("is_self", Kind.BOOLEAN, "Whether this node leads."),
    Field("active_time", Kind.STRING, "Since when it leads, if it does."),
    Field("leader_address", Kind.STRING, "Where the leader serves clients."),
    Field("leader_cluster_address", Kind.STRING, "Where the leader replicates."),
    Field("raft_committed_index", Kind.INTEGER, "What a majority holds, as far as this node knows."),
    Field("raft_applied_index", Kind.INTEGER, "What this node has applied."),
)
_NODE = (
    *named(Kind.STRING, "hostname api_address cluster_address last_echo version upgrade_version"),
    Field("active_node", Kind.BOOLEAN, "Whether it leads."),
)
_NODES = (Field("nodes", Kind.OBJECTS, "Every registered node.", members=_NODE),)


def routes() -> list[Route]:
    """The table of this module."""
    read, update = Operation.READ, Operation.UPDATE
    return [
        open_route(
            "sys/health",
            {read: _health},
            summary="Whether this node can serve, told by its status code.",
            fields=_HEALTH_QUERY,
            answers={read: _HEALTH},
        ),
        open_route(
            "sys/leader",
            {read: _leader},
            summary="Who leads, as far as this node knows.",
            answers={read: _LEADER},
        ),
        Route(
            "sys/ha-status",
            {read: _ha_status},
            shape=Shape.DOUBLE,
            summary="Every node of the cluster.",
            answers={read: _NODES},
        ),
        Route(
            "sys/step-down",
            {update: _step_down},
            sudo=True,
            local=True,
            summary="Let another node lead, if this one does.",
        ),
        Route("sys/metrics", {read: _metrics}, fresh=False, **_METRICS),
    ]


_METRICS: dict[str, Any] = {
    "summary": "Metrics in Prometheus' text format, whatever format asks for.",
    "fields": (in_query("format", Kind.STRING, "prometheus, which is what there is."),),
    "media_type": "text/plain",
}


def open_metrics_route() -> Route:
    """sys/metrics without a token, for those who configured it so."""
    return open_route("sys/metrics", {Operation.READ: _metrics}, **_METRICS)


async def _health(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Vault's status codes: 200 active, 429 standby, 501 uninitialised, 503 sealed; each can be overridden."""
    codes = {name: _code(request, name) for name in _CODES}
    status = core.store.status() if core.store else None
    standby = status is None or status.role is not Role.LEADER
    mode = "disabled" if core.store is not None else "unknown"
    problem = core.regions.link_problem if core.regions is not None else ""
    body: dict[str, Any] = {
        "initialized": core.lifecycle.initialized,
        "sealed": core.store is None,
        "standby": standby,
        "replication_performance_mode": mode,
        "replication_dr_mode": mode if core.store is None else _MODES[core.store.region_role()],
        "server_time_utc": int(time.time()),
        "version": API_VERSION,
    }
    if core.store is not None:
        body |= cluster_names(core)
    if problem:
        body["region_link_problem"] = problem
    if not core.lifecycle.initialized:
        code = codes["uninitcode"] or 501
    elif core.store is None:
        code = codes["sealedcode"] or 503
    elif standby and not _flag(request, "standbyok"):
        code = codes["standbycode"] or 429
    else:
        code = codes["activecode"] or 200
    return Response(status=code, data=body)


def _code(request: Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) != 3 or not 200 <= int(text) <= 599:
        raise InvalidRequest
    return int(text)


def _flag(request: Request, name: str) -> bool:
    return name in request.query and request.query[name].lower() not in {"false", "0", "f"}


async def _leader(core: Core, request: Request, params: dict[str, str]) -> Response:
    if core.settings.storage == "inmem":
        return Response(data={"ha_enabled": False})
    store = core.unsealed
    status = store.status()
    leads = status.role is Role.LEADER
    body: dict[str, Any] = {"ha_enabled": True, "is_self": leads}
    if leads:
        body["active_time"] = rfc3339(store.leading_since_ns or store.now_ns())
    node = next((node for node in store.reads.nodes() if node.node_id == status.leader_id), None)
    if node is not None:
        body["leader_address"] = node.api_address
        body["leader_cluster_address"] = f"https://{node.cluster_address}"
    return Response(
        data=body
        | {
            "raft_committed_index": status.commit_index,
            "raft_applied_index": status.applied_index,
        }
    )


async def _ha_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A node knows its own host name only; the others are called by their ids. The leader knows who is in touch."""
    store = core.unsealed
    status, now_ns = store.status(), time.time_ns()
    heard = {
        peer.member.id: rfc3339(now_ns - int(peer.last_contact_s * SECOND_NS))
        for peer in (*status.peers, *status.learners)
        if status.role is Role.LEADER and peer.last_contact_s is not None
    }
    nodes = [
        {
            "hostname": socket.gethostname() if row.node_id == core.settings.node_id else row.node_id,
            "api_address": row.api_address,
            "cluster_address": f"https://{row.cluster_address}",
            "active_node": row.node_id == status.leader_id,
            "last_echo": heard.get(row.node_id),
        }
        | _versions(core, row.software)
        for row in store.reads.nodes()
    ]
    return Response(data={"nodes": nodes})


def _versions(core: Core, software: str) -> dict[str, str]:
    version = api_version(software) if software else API_VERSION
    return {"version": version} | ({} if core.settings.storage == "inmem" else {"upgrade_version": version})


async def _step_down(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the leader can; a follower sends the client there, instead of a success that changed nothing."""
    if (response := elsewhere(core, request)) is not None:
        return response
    await core.lifecycle.step_down()
    return Response(status=NO_CONTENT)


async def _metrics(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(
        body=core.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
