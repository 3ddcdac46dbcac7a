"""sys/: the node itself. Health, leader, seal, init, step-down, metrics."""

import time
from http import HTTPStatus
from typing import Any

from consensus.api import Role
from node import VERSION
from node.auth.fields import boolean, integer
from node.core.core import Core
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest, NoQuorum

SHARES_MAX = 255
STARTED_NS = time.time_ns()


def routes() -> list[Route]:
    """The table of this module."""
    return [
        _open("sys/health", {Operation.READ: health}),
        _open("sys/leader", {Operation.READ: leader}),
        _open("sys/seal-status", {Operation.READ: seal_status}),
        _open("sys/init", {Operation.READ: init_status, Operation.UPDATE: init}, audited=True),
        _open("sys/unseal", {Operation.UPDATE: unseal}, audited=True),
        Route("sys/seal", {Operation.UPDATE: seal}, sudo=True, fresh=False),
        Route("sys/step-down", {Operation.UPDATE: step_down}, sudo=True),
        Route("sys/metrics", {Operation.READ: metrics}, fresh=False),
    ]


def open_metrics_route() -> Route:
    """sys/metrics without a token, for those who configured it so."""
    return _open("sys/metrics", {Operation.READ: metrics})


def _open(pattern: str, handlers: dict[Operation, Handler], *, audited: bool = False) -> Route:
    return Route(
        pattern, handlers, authenticated=False, sealed=True, fresh=False, audited=audited, shape=Shape.RAW
    )


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
        body |= _cluster(core)
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


def _cluster(core: Core) -> dict[str, Any]:
    cluster = core.unsealed.reads.cluster()
    return {"cluster_name": cluster[1], "cluster_id": cluster[0]} if cluster else {}


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


async def seal_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_seal_status(core))


def _seal_status(core: Core) -> dict[str, Any]:
    body = core.lifecycle.seal_status() | {
        "initialized": core.lifecycle.initialized,
        "sealed": core.store is None,
        "version": VERSION,
        "build_date": "",
        "migration": False,
        "storage_type": core.settings.storage,
        "ha_enabled": core.settings.storage == "raft",
    }
    return body | _cluster(core) if core.store is not None else body


async def init_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"initialized": core.lifecycle.initialized})


async def init(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Make a new store; the answer is the only time that its keys and root token are shown."""
    for unsupported in ("pgp_keys", "root_token_pgp_key", "recovery_pgp_keys"):
        if request.data.get(unsupported):
            raise InvalidRequest(f"{unsupported}: encrypting keys with PGP is not offered")
    shamir = core.settings.seal.kind == "shamir"
    shares = integer(request.data.get("secret_shares") or (5 if shamir else 1), "secret_shares")
    threshold = integer(request.data.get("secret_threshold") or (3 if shamir else 1), "secret_threshold")
    if not 1 <= shares <= SHARES_MAX or threshold < 1:
        raise InvalidRequest("invalid seal configuration: shares and threshold must be at least 1")
    if threshold > shares:
        raise InvalidRequest("invalid seal configuration: threshold cannot be larger than shares")
    if threshold == 1 < shares:
        raise InvalidRequest(
            "invalid seal configuration: threshold must be greater than one for multiple shares"
        )
    return Response(data=await core.lifecycle.initialize(shares=shares, threshold=threshold))


async def unseal(core: Core, request: Request, params: dict[str, str]) -> Response:
    """One share of the unseal key, base64 or hex."""
    if not core.lifecycle.initialized:
        raise InvalidRequest("Vault is not initialized")
    share, reset = request.data.get("key") or "", boolean(request.data.get("reset") or False, "reset")
    if not isinstance(share, str) or (not share and not reset):
        raise InvalidRequest("'key' must be specified in request body as JSON, or 'reset' set to true")
    if boolean(request.data.get("migrate") or False, "migrate"):
        raise InvalidRequest("seal migration is not offered")
    await core.lifecycle.unseal(share=share, reset=reset)
    return Response(data=_seal_status(core))


async def seal(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Seal this node only, leader or not."""
    await core.lifecycle.seal()
    return Response(status=NO_CONTENT)


async def step_down(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the leader can; a follower sends the client there, instead of a success that changed nothing."""
    store = core.unsealed
    status = store.status()
    if status.role is not Role.LEADER:
        leading = next((node for node in store.reads.nodes() if node.node_id == status.leader_id), None)
        if leading is None:
            raise NoQuorum("no leader is known; nothing happened")
        location = f"{leading.api_address}/v1/{request.path}"
        return Response(status=HTTPStatus.TEMPORARY_REDIRECT, body=b"", headers={"Location": location})
    await core.lifecycle.step_down()
    return Response(status=NO_CONTENT)


async def metrics(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Prometheus text, whatever `format` asks for."""
    return Response(
        body=core.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
