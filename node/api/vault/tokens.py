"""auth/token/: thin handlers over node/auth/token.py, and the list of auth methods (there is one)."""

import hashlib
import uuid
from typing import Any

from node.auth import fields
from node.auth.identity import live
from node.auth.token import (
    DEFAULT_TTL_NS,
    MAX_TTL_NS,
    auth_block,
    expire_tokens,
    lookup_data,
    renewal,
    wanted,
)
from node.core.core import Core
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route, payload
from node.errors import InvalidRequest, OutcomeUnknown, PermissionDenied
from node.store import CommandRejected
from storage.command import Reason, TokenRenew, TokenRevoke
from storage.rows import Token
from storage.secret import Secret

ACCEPTED = 202


def routes() -> list[Route]:
    """The table of this module."""
    both = {Operation.READ, Operation.UPDATE}
    return [
        _route("create", create),
        _route("create-orphan", create_orphan),
        _route("lookup", lookup, both),
        _route("lookup-self", lookup_self, both),
        _route("lookup-accessor", lookup_accessor),
        _route("renew", renew),
        _route("renew-self", renew_self),
        _route("renew-accessor", renew_accessor),
        _route("revoke", revoke),
        _route("revoke-self", revoke_self),
        _route("revoke-accessor", revoke_accessor),
        _route("revoke-orphan", revoke_orphan, sudo=True),
        _route("tidy", tidy),
        _route("accessors", accessors, {Operation.LIST}, sudo=True),
        _route("accessors/", accessors, {Operation.LIST}, sudo=True),
        Route("sys/auth", {Operation.READ: auth_methods}, shape=Shape.DOUBLE),
    ]


def _route(
    name: str,
    handler: Handler,
    operations: set[Operation] | frozenset[Operation] = frozenset({Operation.UPDATE}),
    *,
    sudo: bool = False,
) -> Route:
    return Route(f"auth/token/{name}", dict.fromkeys(operations, handler), sudo=sudo)


# --- create ------------------------------------------------------------------------------------------------


async def create(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A child of the asking token, unless it may ask for an orphan and does."""
    return await _create(core, request, orphan=False)


async def create_orphan(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Who is granted this path may make tokens that outlive it: no sudo on top, as in Vault."""
    return await _create(core, request, orphan=True)


async def _create(core: Core, request: Request, *, orphan: bool) -> Response:
    store, creator = core.unsealed, _caller(request)
    sudo = core.acl(creator).has_sudo(request.path)
    want = wanted(creator, request.data, sudo=sudo, orphan=orphan, now_ns=store.now_ns())
    minted = core.tokens.mint(
        store,
        policies=want.policies,
        path=request.path,
        token=want.token,
        # A retry under the same request id must find the token that the first attempt made.
        seed=creator.digest + request.request_id if request.request_id else b"",
        parent=want.parent,
        display_name=want.display_name,
        metadata=want.metadata,
        num_uses=want.num_uses,
        ttl_ns=want.ttl_ns,
        explicit_max_ttl_ns=want.explicit_max_ttl_ns,
        period_ns=want.period_ns,
        renewable=want.renewable,
    )
    try:
        await store.submit(minted.command, request_id=request.request_id)
    except CommandRejected as error:
        raise _refused(error) from None
    row = store.reads.token(minted.command.digest)
    if row is None:
        raise OutcomeUnknown("this request id belongs to another request, or the token is gone already")
    return Response(
        auth=auth_block(row, client_token=_shown(minted.token), ttl_ns=row.ttl_ns),
        warnings=[*want.warnings, *_missing_policies(core, row)] or None,
    )


def _refused(error: CommandRejected) -> Exception:
    if error.reason == Reason.TOKEN_EXISTS:
        return InvalidRequest("cannot create a token with a duplicate ID")
    if error.reason == Reason.PARENT_GONE:
        return PermissionDenied("permission denied")
    return error


def _missing_policies(core: Core, row: Token) -> list[str]:
    reads = core.unsealed.reads
    missing = (name for name in row.policies if name != "root" and reads.policy(name) is None)
    return [f'Policy "{name}" does not exist' for name in missing]


# --- look up -----------------------------------------------------------------------------------------------


async def lookup(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A token by itself; without one, the caller."""
    token = fields.text(request.data.get("token"), "token")
    if not token:
        return await lookup_self(core, request, params)
    row = core.tokens.find(core.unsealed, Secret(token.encode()))
    if row is None:
        raise PermissionDenied("bad token")
    return _described(core, row, token)


async def lookup_self(core: Core, request: Request, params: dict[str, str]) -> Response:
    assert request.token is not None
    return _described(core, _caller(request), _shown(request.token))


async def lookup_accessor(core: Core, request: Request, params: dict[str, str]) -> Response:
    return _described(core, _by_accessor(core, request), "")


def _described(core: Core, row: Token, token: str) -> Response:
    return Response(data=lookup_data(row, token=token, now_ns=core.unsealed.now_ns()))


# --- renew -------------------------------------------------------------------------------------------------


async def renew(core: Core, request: Request, params: dict[str, str]) -> Response:
    token = _token(request)
    row = core.tokens.find(core.unsealed, Secret(token.encode()))
    if row is None:
        raise InvalidRequest("token not found")
    return await _renew(core, request, row, token)


async def renew_self(core: Core, request: Request, params: dict[str, str]) -> Response:
    assert request.token is not None
    return await _renew(core, request, _caller(request), _shown(request.token))


async def renew_accessor(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _renew(core, request, _by_accessor(core, request), "")


async def _renew(core: Core, request: Request, row: Token, token: str) -> Response:
    store = core.unsealed
    increment_ns = fields.duration_ns(request.data.get("increment"), "increment")
    now_ns = store.now_ns()
    ttl_ns, warnings = renewal(row, increment_ns=increment_ns, now_ns=now_ns)
    command = TokenRenew(time_ns=now_ns, digest=row.digest, ttl_ns=ttl_ns, expires_ns=now_ns + ttl_ns)
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        if error.reason != Reason.NO_SUCH_TOKEN:
            raise
        raise InvalidRequest("token not found") from None
    return Response(auth=auth_block(row, client_token=token, ttl_ns=ttl_ns), warnings=warnings or None)


# --- revoke ------------------------------------------------------------------------------------------------


async def revoke(core: Core, request: Request, params: dict[str, str]) -> Response:
    """With all descendants; a token that is gone already is a success."""
    digest = core.tokens.digest(core.unsealed, Secret(_token(request).encode()))
    await _revoke(core, request, digest)
    return Response(NO_CONTENT)


async def revoke_self(core: Core, request: Request, params: dict[str, str]) -> Response:
    await _revoke(core, request, _caller(request).digest)
    return Response(NO_CONTENT)


async def revoke_accessor(core: Core, request: Request, params: dict[str, str]) -> Response:
    row = core.unsealed.reads.token_by_accessor(_accessor(request))
    if row is None:
        return Response(warnings=["No token found with this accessor"])
    await _revoke(core, request, row.digest)
    return Response(NO_CONTENT)


async def revoke_orphan(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The token alone: its children live on as orphans."""
    digest = core.tokens.digest(core.unsealed, Secret(_token(request).encode()))
    if not await _revoke(core, request, digest, orphan_children=True):
        raise InvalidRequest("token to revoke not found")
    return Response(NO_CONTENT)


async def _revoke(core: Core, request: Request, digest: bytes, *, orphan_children: bool = False) -> int:
    store = core.unsealed
    command = TokenRevoke(time_ns=store.now_ns(), digest=digest, orphan_children=orphan_children)
    _, value = await store.submit(command, request_id=request.request_id)
    return int(value["revoked"])


# --- the rest ----------------------------------------------------------------------------------------------


async def tidy(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Sweep now. It happens by itself anyway."""
    await expire_tokens(core.unsealed)
    return Response(ACCEPTED, warnings=["Tidy operation successfully finished: expired tokens are gone."])


async def accessors(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=core.unsealed.reads.accessors(core.settings.list_keys_max))


async def auth_methods(core: Core, request: Request, params: dict[str, str]) -> Response:
    """sys/auth."""
    return Response(data=auth_entries(core))


def auth_entries(core: Core) -> dict[str, Any]:
    """Every auth method by its path below auth/. Tokens are always there; their accessor and uuid are the cluster's."""
    cluster_id = core.lifecycle.cluster_id
    mark = hashlib.sha256(f"auth/token/{cluster_id}".encode()).digest()
    entry: dict[str, Any] = {
        "accessor": f"auth_token_{mark[:4].hex()}",
        "config": {
            "default_lease_ttl": DEFAULT_TTL_NS // fields.SECOND_NS,
            "force_no_cache": False,
            "max_lease_ttl": MAX_TTL_NS // fields.SECOND_NS,
            "token_type": "default-service",
        },
        "description": "token based credentials",
        "external_entropy_access": False,
        "local": False,
        "options": None,
        "plugin_version": "",
        "running_plugin_version": "",
        "running_sha256": "",
        "seal_wrap": False,
        "type": "token",
        "uuid": str(uuid.UUID(bytes=mark[4:20])),
    }
    return {"token/": entry}


def _caller(request: Request) -> Token:
    assert request.token_row is not None, "an authenticated route"
    return request.token_row


def _shown(token: Secret) -> str:
    return token.reveal().decode()


def _token(request: Request) -> str:
    token = fields.text(request.data.get("token"), "token")
    if not token:
        raise InvalidRequest("missing token ID")
    return token


def _accessor(request: Request) -> str:
    accessor = fields.text(request.data.get("accessor"), "accessor")
    if not accessor:
        raise InvalidRequest("1 error occurred:\n\t* missing accessor\n\n")
    return accessor


def _by_accessor(core: Core, request: Request) -> Token:
    store = core.unsealed
    row = live(store.reads.token_by_accessor(_accessor(request)), store.now_ns())
    if row is None:
        raise InvalidRequest("1 error occurred:\n\t* invalid accessor\n\n")
    return row
