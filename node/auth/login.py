"""From a proof of who somebody is to a token: what every auth method does at the end of a login.

The token, a new entity if there was none, and what the proof used up (a secret id, a count of failures) are one
atomic write: a one-time proof cannot give two tokens, and a lost race costs nothing.

In a region that follows, a log-in that gives a batch token and writes nothing is answered from local state. Whatever
has to be written, and whatever local state would refuse (the proof may be newer), is decided by the region that
orders writes. Where that cannot be asked (Request.alone), only what is certain without it is granted.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from node.auth import batch
from node.auth.cidr import inside
from node.auth.identity import ROOT, live
from node.auth.params import TokenParams
from node.auth.token_shown import auth_block
from node.auth.ttl import grant, limits
from node.core.core import Core
from node.core.request import Request, Response
from node.core.router import Handler
from node.draft import attempt_id
from node.entities import changes, directory
from node.entities.directory import Identity
from node.entities.draft import Draft
from node.errors import InvalidRequest, NodeError, NotPrimary, OutcomeUnknown, PermissionDenied, TooBusy
from node.store import CommandRejected
from node.view import write
from storage.command import AnyCommand
from storage.outcome import Reason
from storage.rows import Mount, Token
from storage.secret import Secret

TRIES_MAX = 64
REPEATED_ATTEMPTS_MAX = 8  # of a log-in that is repeated: whoever raced more often is refused
_NO_ENTITY = "the region that orders writes cannot be reached: this token belongs to no entity"


@dataclass(frozen=True, slots=True)
class Login:
    """A proof that was accepted."""

    alias: str  # what the method calls the caller: the entity's alias
    params: TokenParams
    role: str  # whose rules renewals follow: Method.terms()
    metadata: dict[str, str]
    display_name: str = ""
    alias_metadata: dict[str, str] | None = None  # what the method says of the alias
    groups: Sequence[str] | None = (
        None  # names of external groups: all that he is in by now; None: nothing is said
    )
    commands: tuple[
        AnyCommand, ...
    ] = ()  # made with the token or not at all; each with the revision it expects
    courtesies: tuple[AnyCommand, ...] = ()  # the same, but without them nobody gets more than is his
    proof: bytes = b""  # what tells a proof that is used up from every other one, and is no secret


class UsedUp(Exception):
    """A proof that is none, or none any more: what its log-in would have been, and the refusal unless it has been."""

    def __init__(self, login: Login, refusal: NodeError) -> None:
        super().__init__()
        self.login, self.refusal = login, refusal


async def log_in(core: Core, request: Request, prove: Callable[[], Awaitable[Login]]) -> Response:
    """The answer to a login. `prove` is asked again when what it read has changed meanwhile.

    A proof that the first attempt under one request id has used up is good for the same answer under that id again.
    Raises what `prove` does, PermissionDenied for a disabled entity or a foreign network, InvalidRequest.
    """
    mount = request.served_by
    for attempt in range(TRIES_MAX):
        try:
            login = await prove()
        except UsedUp as used:
            return _repeated(core, request, mount, used)
        if login.params.bound_cidrs and not inside(request.remote, login.params.bound_cidrs):
            raise PermissionDenied("permission denied")
        draft = Draft(core.unsealed)
        identity = _identity(draft, mount, login, alone=request.alone)
        if request.alone:
            _check_needs_no_write(login, draft, mount)
        try:
            return await _issue(core, request, mount, login, draft, identity, attempt)
        except CommandRejected as error:
            if error.reason == Reason.NO_SUCH_MOUNT:
                raise PermissionDenied("permission denied") from None
            if error.reason != Reason.REVISION_MISMATCH:
                raise
    raise TooBusy("too many others log in in the same way at the same time")


async def _issue(
    core: Core,
    request: Request,
    mount: Mount,
    login: Login,
    draft: Draft,
    identity: Identity | None,
    attempt: int,
) -> Response:
    """`identity` None: nobody knows the caller yet, and nobody can be told."""
    params = login.params
    if ROOT in params.granted:
        raise InvalidRequest("auth methods cannot create root tokens")
    ttl_ns, warnings = grant(
        limits(core.settings, mount),
        asked_ns=params.ttl_ns,
        period_ns=params.period_ns,
        explicit_max_ns=params.explicit_max_ttl_ns,
        created_ns=draft.now_ns,
        now_ns=draft.now_ns,
        role_max_ns=params.max_ttl_ns,
    )
    terms: dict[str, Any] = {
        "policies": params.granted,
        "path": request.path,
        "display_name": "-".join(part for part in (_source(mount), login.display_name) if part),
        "metadata": login.metadata,
        "ttl_ns": ttl_ns,
        "entity_id": "" if identity is None else identity.entity.id,
        "role": login.role,
        "bound_cidrs": (request.remote,) if params.strictly_bind_ip else params.bound_cidrs,
        "issuer": mount.mount_id,
    }
    commands = [*login.commands, *(() if request.alone else login.courtesies), *draft.commands()]
    issue = _batch if is_batch(params, mount) else _service
    token, row = await issue(core, attempt_id(request.request_id, attempt), login, commands, terms)
    extra = () if identity is None else identity.policies
    auth = auth_block(row, client_token=token.reveal().decode(), ttl_ns=ttl_ns, extra=extra)
    return Response(auth=auth, warnings=warnings + ([] if identity is not None else [_NO_ENTITY]) or None)


async def _batch(
    core: Core, request_id: bytes, login: Login, commands: list[AnyCommand], terms: dict[str, Any]
) -> tuple[Secret, Token]:
    """A batch token; nothing is written for its own sake."""
    now_ns = core.unsealed.now_ns()
    row = batch.row(b"", created_ns=now_ns, expires_ns=now_ns + terms["ttl_ns"], parent=None, **terms)
    token = core.tokens.seal_batch(core.unsealed, row)
    if commands:
        await write(core.unsealed, *commands, request_id=request_id)
    return token, row


async def _service(
    core: Core, request_id: bytes, login: Login, commands: list[AnyCommand], terms: dict[str, Any]
) -> tuple[Secret, Token]:
    """A service token. A retry under one request id finds the token of the first attempt, if it is the same login."""
    store, params = core.unsealed, login.params
    minted = core.tokens.mint(
        store,
        seed=_seed(login, terms["issuer"], request_id) if request_id else b"",
        num_uses=params.num_uses,
        explicit_max_ttl_ns=params.explicit_max_ttl_ns,
        period_ns=params.period_ns,
        renewable=True,
        **terms,
    )
    await write(store, *commands, minted.command, request_id=request_id)
    row = store.reads.token(minted.command.digest)
    if row is None:
        raise OutcomeUnknown("this request id belongs to another request, or the token is gone already")
    return minted.token, row


def _seed(login: Login, issuer: str, request_id: bytes) -> bytes:
    """What the token of a log-in is drawn from if it can be repeated."""
    said = (issuer.encode(), login.role.encode(), login.alias.encode(), request_id)
    return b"\x00".join((*said, login.proof) if login.proof else said)


def _repeated(core: Core, request: Request, mount: Mount, used: UsedUp) -> Response:
    """The answer to an earlier attempt at the same log-in under the same request id, whose token lives."""
    store = core.unsealed
    for attempt in range(REPEATED_ATTEMPTS_MAX if request.request_id else 0):
        seed = _seed(used.login, mount.mount_id, attempt_id(request.request_id, attempt))
        minted = core.tokens.mint(store, seed=seed, policies=(), path=request.path)
        row = live(store.reads.token(minted.command.digest), store.now_ns())
        if row is not None:
            identity = core.directory.find(store, row.entity_id) if row.entity_id else None
            extra = () if identity is None else identity.policies
            token = minted.token.reveal().decode()
            return Response(auth=auth_block(row, client_token=token, ttl_ns=row.ttl_ns, extra=extra))
    raise used.refusal


# --- regions that follow ---


def first_here(handler: Handler) -> Handler:
    """What this region, if it follows, would refuse is decided by the one that orders writes: it knows more."""

    @functools.wraps(handler)
    async def handle(core: Core, request: Request, params: dict[str, str]) -> Response:
        try:
            return await handler(core, request, params)
        except (InvalidRequest, PermissionDenied) as error:
            if request.alone or core.unsealed.orders:
                raise
            raise NotPrimary(f"not granted here: {error.message}") from None

    return handle


def spare(core: Core, request: Request, params: TokenParams | None) -> None:
    """Raise NotPrimary where a proof need not be checked here, because its token has to be written elsewhere.

    `params` None: the caller is not known, which must look the same.
    """
    if core.unsealed.orders or request.alone:
        return
    if params is None or not is_batch(params, request.served_by):
        raise NotPrimary("a service token is kept where writes are ordered")


def _identity(draft: Draft, mount: Mount, login: Login, *, alone: bool) -> Identity | None:
    """Who logs in; what is new about him goes into the draft. None: nobody has seen him, and no entity can be made.

    Raises PermissionDenied for a disabled entity.
    """
    if alone and directory.known(draft, mount, login.alias) is None:
        if login.groups is not None and changes.external_groups(draft, mount.accessor, login.groups):
            raise NotPrimary("this log-in would make its caller a member of groups, which is a write")
        return None
    entity = directory.login(draft, mount, login.alias, login.alias_metadata)
    if entity.disabled:
        raise PermissionDenied("permission denied")
    if login.groups is not None:
        changes.refresh_groups(draft, mount.accessor, entity.id, login.groups)
    return directory.identity(draft, entity)


def _check_needs_no_write(login: Login, draft: Draft, mount: Mount) -> None:
    """Raises NotPrimary, with what a log-in would have to write.

    A caller of whom a method says something new is not let in under what it said before: policies may build on it.
    """
    if not is_batch(login.params, mount):
        raise NotPrimary(
            "this log-in gives a service token, which has to be written (token_type=batch has not)"
        )
    if login.commands:
        raise NotPrimary("this log-in has to be counted, which is a write")
    if draft.commands():
        raise NotPrimary("what is said of the caller has changed since his last log-in, which is a write")


def is_batch(params: TokenParams, mount: Mount) -> bool:
    """Whether tokens are batch tokens: the mount may insist; else the role says, or else the mount."""
    of_mount = str(mount.details.get("config", {}).get("token_type", "default-service"))
    decided = of_mount if not of_mount.startswith("default") or params.type == "default" else params.type
    if decided.endswith("batch") and (params.num_uses or params.period_ns):
        raise InvalidRequest("batch tokens cannot be periodic or have a limited use count")
    return decided.endswith("batch")


def _source(mount: Mount) -> str:
    """What display names begin with: the mount's path, slashes as dashes."""
    return mount.path.removeprefix("auth/").removesuffix("/").replace("/", "-")
