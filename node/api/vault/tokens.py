"""auth/token/: thin handlers over node/auth/token.py."""

import msgspec

from node.api.vault import token_create
from node.auth import batch, fields, token_roles
from node.auth.identity import live
from node.auth.methods.method import refused
from node.auth.token import Renewal, expire_tokens, renewal
from node.auth.token_shown import LOOKUP, auth_block, lookup_data
from node.core.core import Core
from node.core.fields import AUTH, LISTED, Field, Kind, in_path, named, told
from node.core.paging import children, page
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Handler, Route, payload
from node.errors import InvalidRequest, NotFound, PermissionDenied
from node.store import CommandRejected
from storage.command import TokenRenew, TokenRevoke
from storage.outcome import Reason
from storage.rows import Token
from storage.secret import Secret

ACCEPTED = 202


_WRITE = {Operation.UPDATE}
_TOKEN = Field("token", Kind.STRING, "The token.")
_ACCESSOR = Field("accessor", Kind.STRING, "Its accessor.", required=True)
_INCREMENT = Field("increment", Kind.DURATION, "For how long from now.")
_ALL_ACCESSORS = "Lists the accessors of all service tokens."


def routes() -> list[Route]:
    """The table of this module."""
    both = {Operation.READ, Operation.UPDATE}
    return [
        *token_create.routes(),
        *_roles(),
        _route("lookup", lookup, both, "What a token is and may do.", _TOKEN, local=True, answers=LOOKUP),
        _route(
            "lookup-self",
            lookup_self,
            both,
            "What the caller's token is and may do.",
            local=True,
            answers=LOOKUP,
        ),
        _route(
            "lookup-accessor",
            lookup_accessor,
            _WRITE,
            "What the token of an accessor is.",
            _ACCESSOR,
            local=True,
            answers=LOOKUP,
        ),
        _route("renew", renew, _WRITE, "Makes a token live longer.", _TOKEN, _INCREMENT, answers=(AUTH,)),
        _route(
            "renew-self",
            renew_self,
            _WRITE,
            "Makes the caller's token live longer.",
            _INCREMENT,
            answers=(AUTH,),
        ),
        _route(
            "renew-accessor",
            renew_accessor,
            _WRITE,
            "Makes an accessor's token live longer.",
            _ACCESSOR,
            _INCREMENT,
            answers=(AUTH,),
        ),
        _route("revoke", revoke, _WRITE, "Ends a token and all that it made.", _TOKEN),
        _route("revoke-self", revoke_self, _WRITE, "Ends the caller's token and all that it made."),
        _route("revoke-accessor", revoke_accessor, _WRITE, "Ends the token of an accessor.", _ACCESSOR),
        _route("revoke-orphan", revoke_orphan, _WRITE, "Ends a token, not those it made.", _TOKEN, sudo=True),
        _route("tidy", tidy, _WRITE, "Sweeps expired tokens now; it happens by itself anyway."),
        _route("accessors", accessors, {Operation.LIST}, _ALL_ACCESSORS, answers=(LISTED,), sudo=True),
        _route("accessors/", accessors, {Operation.LIST}, _ALL_ACCESSORS, answers=(LISTED,), sudo=True),
    ]


def _route(
    name: str,
    handler: Handler,
    operations: set[Operation],
    summary: str,
    *takes: Field,
    answers: tuple[Field, ...] = (),
    sudo: bool = False,
    local: bool = False,
) -> Route:
    return Route(
        f"auth/token/{name}",
        dict.fromkeys(operations, handler),
        sudo=sudo,
        local=local,
        summary=summary,
        fields=takes,
        answers=dict.fromkeys(operations, answers),
    )


# --- look up -----------------------------------------------------------------------------------------------


async def lookup(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A token by itself; without one, the caller."""
    token = fields.text(request.data.get("token") or request.query.get("token"), "token")
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
    extra = _identity_policies(core, row)
    return Response(data=lookup_data(row, token=token, now_ns=core.unsealed.now_ns(), extra=extra))


def _identity_policies(core: Core, row: Token) -> tuple[str, ...]:
    identity = core.directory.find(core.unsealed, row.entity_id) if row.entity_id else None
    return identity.policies if identity else ()


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
    ttl_ns, warnings = renewal(row, _terms(core, request, row), increment_ns=increment_ns, now_ns=now_ns)
    command = TokenRenew(time_ns=now_ns, digest=row.digest, ttl_ns=row.ttl_ns, expires_ns=now_ns + ttl_ns)
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        if error.reason != Reason.NO_SUCH_TOKEN:
            raise
        raise InvalidRequest("token not found") from None
    extra = _identity_policies(core, row)
    auth = auth_block(row, client_token=token, ttl_ns=ttl_ns, extra=extra)
    return Response(auth=auth, warnings=warnings or None)


def _terms(core: Core, request: Request, row: Token) -> Renewal:
    """What holds for a token's renewals by now. Raises InvalidRequest if nothing does any more."""
    if row.issuer:
        mount = next((each for each in core.unsealed.mounts() if each.mount_id == row.issuer), None)
        if mount is None:
            raise InvalidRequest("token not found")
        method = core.methods[mount.kind]
        if method.check_renewal is not None:
            method.check_renewal(core, request, mount, row)
        return method.terms(core, mount, row)
    bounds, period_ns = token_create.bounds(core), row.period_ns
    if row.role:
        role = token_roles.find(core.unsealed, row.role)
        if role is None:
            raise InvalidRequest(f'original token role "{row.role}" could not be found, not renewing')
        period_ns = role.period_ns or (0 if "period" in role.old_names else row.period_ns)
        return Renewal(bounds, period_ns, explicit_max_ns=role.explicit_max_ttl_ns)
    return Renewal(bounds, period_ns)


# --- revoke ------------------------------------------------------------------------------------------------


async def revoke(core: Core, request: Request, params: dict[str, str]) -> Response:
    """With all descendants; a token that is gone already is a success."""
    digest = _revocable(core, Secret(_token(request).encode()))
    await _revoke(core, request, digest)
    return Response(NO_CONTENT)


async def revoke_self(core: Core, request: Request, params: dict[str, str]) -> Response:
    assert request.token is not None
    await _revoke(core, request, _revocable(core, request.token))
    return Response(NO_CONTENT)


def _revocable(core: Core, token: Secret) -> bytes:
    """The digest of a token that is not a batch token. Raises InvalidRequest."""
    if token.reveal().startswith(batch.PREFIX.encode()):
        raise InvalidRequest("batch tokens cannot be revoked")
    return core.tokens.digest(core.unsealed, token)


async def revoke_accessor(core: Core, request: Request, params: dict[str, str]) -> Response:
    row = core.unsealed.reads.token_by_accessor(_accessor(request))
    if row is None:
        return Response(warnings=["No token found with this accessor"])
    await _revoke(core, request, row.digest)
    return Response(NO_CONTENT)


async def revoke_orphan(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The token alone: its children live on as orphans."""
    digest = _revocable(core, Secret(_token(request).encode()))
    if not await _revoke(core, request, digest, orphan_children=True):
        raise InvalidRequest("token to revoke not found")
    return Response(NO_CONTENT)


async def _revoke(core: Core, request: Request, digest: bytes, *, orphan_children: bool = False) -> int:
    store = core.unsealed
    command = TokenRevoke(time_ns=store.now_ns(), digest=digest, orphan_children=orphan_children)
    _, value = await store.submit(command, request_id=request.request_id)
    return int(value["revoked"])


# --- roles ---


def _roles() -> list[Route]:
    listing = {Operation.LIST: _list_roles}
    one = {Operation.READ: _read_role, Operation.UPDATE: _write_role, Operation.DELETE: _delete_role}
    return [
        Route("auth/token/roles", listing, summary="Lists the roles of the token store."),
        Route("auth/token/roles/", listing, summary="Lists the roles of the token store."),
        Route(
            "auth/token/roles/{name}",
            one,
            exists=lambda core, request, params: token_roles.find(core.unsealed, params["name"]) is not None,
            summary="Creates, shows, changes and removes a role of the token store.",
            fields=(in_path("name", "Of the role."), *token_roles.FIELDS, *token_roles.FORMER_FIELDS),
            answers={
                Operation.READ: (
                    *told(token_roles.FIELDS),
                    Field("name"),
                    *named(Kind.INTEGER, "period explicit_max_ttl"),
                )
            },
        ),
    ]


async def _list_roles(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=children(core, request, token_roles.view(core.unsealed)))


async def _read_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = token_roles.find(core.unsealed, params["name"])
    if role is None:
        raise NotFound
    return Response(data=token_roles.data(role))


async def _write_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Create or change; what is not said stays."""
    store, name = core.unsealed, params["name"]
    view = token_roles.view(store)
    known = token_roles.find(store, name)
    role, warnings = token_roles.changed(known or token_roles.Role(name), request.data)
    longest_s = token_create.bounds(core).max_ns // fields.SECOND_NS
    if role.explicit_max_ttl_ns // fields.SECOND_NS > longest_s:
        warnings.append(
            f"Given explicit max TTL of {role.explicit_max_ttl_ns // fields.SECOND_NS} is greater than system/mount"
            f" allowed value of {longest_s} seconds; tokens of this role will live that long at most"
        )
    command = view.put(name, msgspec.json.encode(role), expect=view.revision(name))
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise refused(error) from None
    return Response(warnings=warnings) if warnings else Response(NO_CONTENT)


async def _delete_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    store = core.unsealed
    await store.submit(token_roles.view(store).delete(params["name"]), request_id=request.request_id)
    return Response(NO_CONTENT)


# --- the rest ----------------------------------------------------------------------------------------------


async def tidy(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Sweep now. It happens by itself anyway."""
    await expire_tokens(core.unsealed)
    return Response(ACCEPTED, warnings=["Tidy operation successfully finished: expired tokens are gone."])


async def accessors(core: Core, request: Request, params: dict[str, str]) -> Response:
    reads = core.unsealed.reads
    return payload(keys=page(core, request, lambda after, limit: reads.accessors(limit, after)))


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
