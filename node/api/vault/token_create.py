"""auth/token/create and its variants: thin handlers over node/auth/token.py."""

from typing import Any

from node.api.vault.auth_mounts import TOKEN_PATH, token_mount
from node.api.vault.mounts import at
from node.auth import batch, token_roles
from node.auth.identity import ROOT
from node.auth.login import first_here
from node.auth.token import Wanted, wanted
from node.auth.token_shown import auth_block
from node.auth.ttl import Limits, limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.draft import TRIES_MAX, attempt_id
from node.entities import directory
from node.entities.draft import Draft
from node.errors import InvalidRequest, OutcomeUnknown, PermissionDenied, TooBusy
from node.store import CommandRejected
from node.view import write
from storage.command import AnyCommand
from storage.outcome import Reason
from storage.rows import Token
from storage.secret import Secret

FIELDS = (
    Field("policies", Kind.STRINGS, "Of the new token; none given: those of the asking one."),
    Field("ttl", Kind.DURATION, "How long it lives at first."),
    Field("lease", Kind.DURATION, "ttl of former times."),
    Field("explicit_max_ttl", Kind.DURATION, "An end that no renewal moves."),
    Field("period", Kind.DURATION, "Makes it periodic: each renewal grants this much. Needs sudo."),
    Field("renewable", Kind.BOOLEAN, "Whether it can be renewed."),
    Field("num_uses", Kind.INTEGER, "How often it may be used; 0 without limit."),
    Field("display_name", Kind.STRING, "For people and the audit log."),
    Field("meta", Kind.STRING_MAP, "For people and the audit log."),
    Field("type", Kind.STRING, "service or batch."),
    Field("id", Kind.STRING, "The token itself, chosen by the caller. Needs sudo."),
    Field("no_parent", Kind.BOOLEAN, "Makes an orphan, which outlives the asking token. Needs sudo."),
    Field("no_default_policy", Kind.BOOLEAN, "Leaves the policy default out."),
    Field("entity_alias", Kind.STRING, "Whose token it shall be; only under a role that allows it."),
)


def routes() -> list[Route]:
    """The table of this module."""
    update = Operation.UPDATE
    made = {update: (AUTH,)}
    return [
        Route(
            "auth/token/create",
            {update: first_here(_create)},
            local=True,
            summary="Makes a token.",
            fields=FIELDS,
            answers=made,
        ),
        Route(
            "auth/token/create-orphan",
            {update: first_here(_orphan)},
            local=True,
            summary="Makes a token without parent.",
            fields=FIELDS,
            answers=made,
        ),
        Route(
            "auth/token/create/{role}",
            {update: first_here(_under_role)},
            local=True,
            summary="Makes a token under a role.",
            fields=(in_path("role", "Of the token store."), *FIELDS),
            answers=made,
        ),
    ]


async def _create(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A child of the asking token, unless it may ask for an orphan and does."""
    return await _make(core, request, _want(core, request))


async def _orphan(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Who is granted this path may make tokens that outlive it: no sudo on top, as in Vault."""
    return await _make(core, request, _want(core, request, without_parent=True))


async def _under_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    """What the role says goes before what is asked for."""
    role = token_roles.find(core.unsealed, params["role"])
    if role is None:
        raise InvalidRequest(f"unknown role {params['role']}")
    return await _make(core, request, _want(core, request, role=role))


def bounds(core: Core) -> Limits:
    """What the token store grants."""
    return limits(core.settings, at(core.unsealed, TOKEN_PATH))


def _want(
    core: Core, request: Request, *, without_parent: bool = False, role: token_roles.Role | None = None
) -> Wanted:
    creator = _caller(request)
    return wanted(
        creator,
        request.data,
        sudo=core.acl(creator).has_sudo(request.path),
        without_parent=without_parent,
        now_ns=core.unsealed.now_ns(),
        bounds=bounds(core),
        role=role,
    )


async def _make(core: Core, request: Request, want: Wanted) -> Response:
    for attempt in range(TRIES_MAX):
        draft = Draft(core.unsealed)
        entity_id = want.entity_id
        if want.entity_alias:
            mount = token_mount(core.unsealed, core.lifecycle.cluster_id)
            entity_id = directory.login(draft, mount, want.entity_alias).id
        try:
            token, row = await _issue(core, request, want, entity_id, draft.commands(), attempt)
        except CommandRejected as error:
            if error.reason != Reason.REVISION_MISMATCH:
                raise _refused(error) from None
        else:
            return _answer(core, want, token, row)
    raise TooBusy("others keep changing the same entity; nothing was written")


async def _issue(
    core: Core, request: Request, want: Wanted, entity_id: str, commands: list[AnyCommand], attempt: int
) -> tuple[Secret, Token]:
    store = core.unsealed
    terms: dict[str, Any] = {
        "policies": want.policies,
        "path": want.path,
        "display_name": want.display_name,
        "metadata": want.metadata,
        "ttl_ns": want.ttl_ns,
        "entity_id": entity_id,
        "role": want.role,
        "bound_cidrs": want.bound_cidrs,
        "issuer": "",
        "parent": want.parent,
    }
    request_id = attempt_id(request.request_id, attempt)
    if want.batch:
        now_ns = store.now_ns()
        row = batch.row(b"", created_ns=now_ns, expires_ns=now_ns + want.ttl_ns, **terms)
        token = core.tokens.seal_batch(store, row)
        if commands:
            await write(store, *commands, request_id=request_id)
        return token, row
    minted = core.tokens.mint(
        store,
        token=want.token,
        # A retry under the same request id must find the token that the first attempt made.
        seed=_caller(request).digest + request.request_id if request.request_id else b"",
        num_uses=want.num_uses,
        explicit_max_ttl_ns=want.explicit_max_ttl_ns,
        period_ns=want.period_ns,
        renewable=want.renewable,
        **terms,
    )
    await write(store, *commands, minted.command, request_id=request_id)
    found = store.reads.token(minted.command.digest)
    if found is None:
        raise OutcomeUnknown("this request id belongs to another request, or the token is gone already")
    return minted.token, found


def _answer(core: Core, want: Wanted, token: Secret, row: Token) -> Response:
    identity = core.directory.find(core.unsealed, row.entity_id) if row.entity_id else None
    auth = auth_block(
        row,
        client_token=token.reveal().decode(),
        ttl_ns=row.ttl_ns,
        extra=identity.policies if identity else (),
    )
    return Response(auth=auth, warnings=[*want.warnings, *_missing_policies(core, row)] or None)


def _refused(error: CommandRejected) -> Exception:
    if error.reason == Reason.TOKEN_EXISTS:
        return InvalidRequest("cannot create a token with a duplicate ID")
    return PermissionDenied("permission denied") if error.reason == Reason.PARENT_GONE else error


def _missing_policies(core: Core, row: Token) -> list[str]:
    reads = core.unsealed.reads
    missing = (name for name in row.policies if name != ROOT and reads.policy(name) is None)
    return [f'Policy "{name}" does not exist' for name in missing]


def _caller(request: Request) -> Token:
    assert request.token_row is not None, "an authenticated route"
    return request.token_row
