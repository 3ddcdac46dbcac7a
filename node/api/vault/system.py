"""sys/: the node itself. Health, leader, seal, init, step-down, metrics."""

import time
from typing import Any

from consensus.api import Role
from node import VERSION
from node.api.vault.leader import elsewhere
from node.api.vault.seal import cluster_names, open_route
from node.core.core import Core
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest

STARTED_NS = time.time_ns()


def routes() -> list[Route]:
    """The table of this module."""
    return [
        open_route("sys/health", {Operation.READ: health}),
        open_route("sys/leader", {Operation.READ: leader}),
        Route("sys/step-down", {Operation.UPDATE: step_down}, sudo=True),
        Route("sys/metrics", {Operation.READ: metrics}, fresh=False),
    ]


def open_metrics_route() -> Route:
    """sys/metrics without a token, for those who configured it so."""
    return open_route("sys/metrics", {Operation.READ: metrics})


async def health(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Vault's status codes: 200 active, 429 standby, 501 uninitialised, 503 sealed; each can be overridden."""
    status = core.store.status() if core.store else None
    standby = status is None or status.role is not Role.LEADER
    body: dict[str, Any] = {
        "initialized": core.lifecycle.initialized,
        "sealed": core.store is None,
        "standby": standby,
        "performance_standby": False,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": int(time.time()),
        "version": VERSION,
    }
    if core.store is not None:
        body |= cluster_names(core)
    if not core.lifecycle.initialized:
        code = _code(request, "uninitcode", 501)
    elif core.store is None:
        code = _code(request, "sealedcode", 503)
    elif standby and not any(_flag(request, name) for name in ("standbyok", "perfstandbyok")):
        code = _code(request, "standbycode", 429)
    else:
        code = _code(request, "activecode", 200)
    return Response(status=code, data=body)


def _code(request: Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 100 <= int(text[:4]) <= 599:
        raise InvalidRequest
    return int(text)


def _flag(request: Request, name: str) -> bool:
    return name in request.query and request.query[name].lower() not in {"false", "0", "f"}


async def leader(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Who leads, as far as this node knows."""
    store = core.unsealed
    status = store.status()
    body: dict[str, Any] = {
        "ha_enabled": core.settings.storage == "raft",
        "is_self": status.role is Role.LEADER,
    }
    body["active_time"] = "0001-01-01T00:00:00Z"
    known = {node.node_id: node for node in store.reads.nodes()}
    node = known.get(status.leader_id or "")
    if node is not None:
        body["leader_address"] = node.api_address
        body["leader_cluster_address"] = f"https://{node.cluster_address}"
    body["performance_standby"] = False
    body["performance_standby_last_remote_wal"] = 0
    body["raft_committed_index"] = status.commit_index
    body["raft_applied_index"] = status.applied_index
    return Response(data=body)


async def step_down(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the leader can; a follower sends the client there, instead of a success that changed nothing."""
    if (response := elsewhere(core, request)) is not None:
        return response
    await core.lifecycle.step_down()
    return Response(status=NO_CONTENT)


async def metrics(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Prometheus text, whatever `format` asks for."""
    return Response(
        body=core.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
