"""A request's way: gate, authenticate, authorise, record, act, record. The order is the security argument.

1. route: which table answers; a path nobody answers is still authenticated and authorised first, so that
   it tells a stranger nothing. Again behind the gate, if mounts have changed there
2. gate: the view of tokens and policies that decides is as fresh as the answer (a revoked token is refused
   on every node as soon as its revocation was acknowledged). Only reads may ask for less, and what concerns this one
   node (`fresh=False`) is done without a quorum, by what the node knows, if there is none
3. authenticate, authorise
4. the audit record of the request, before anything happens; then the handler; then the record of the
   answer, before it leaves. Either record failing withholds the answer.

The lanes (node/api/lane.py, write_lane.py) take the same steps through the same functions. Whoever adds a step that
depends on more than state, token, policies, mount and path adds it there too, or keeps its requests out of them.
"""

import contextlib
import math
import time

from node.core import fields, help, wrapping  # noqa: A004 - what it is called
from node.core.core import Core
from node.core.request import OF_THE_PROTOCOL, Consistency, Operation, Request, Response, Shape
from node.core.router import Match, Route
from node.errors import (
    AuditFailed,
    NodeError,
    NoQuorum,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    TooOld,
    Unsupported,
)
from node.policy.acl import ACL
from node.regions.placing import belongs_to_the_primary

OK = 200
WRITES = frozenset({Operation.CREATE, Operation.UPDATE, Operation.PATCH, Operation.DELETE})
_WITH_BODY = WRITES - {Operation.DELETE}
_SYSTEM = ("sys/", "auth/token/", "identity/")  # what answers below these, whatever is mounted
_OF_LISTINGS = frozenset({"after", "limit"})  # node/core/paging.py


async def handle(core: Core, request: Request) -> tuple[Response, Match | None]:
    """Answer one request. Raises NodeError; every other exception is a bug."""
    match, mounts = route(core, request), _mounts(core)
    audited = match is None or match.route.audited
    recorded = False
    try:
        await _gate(core, request, match)
        if _mounts(core) != mounts:  # the state caught up with what was mounted, or moved, elsewhere
            match = route(core, request)
            audited = match is None or match.route.audited
        await _authorise(core, request, match)
        if audited:
            core.audit.request(request)
            recorded = True
        response = await _act(core, request, match)
        if request.wrap_ttl_ns and response.status == OK:
            response = await _wrap(core, request, response, match)
    except AuditFailed:
        raise
    except NodeError as error:
        if audited:
            if not recorded:
                core.audit.request(request, error=error.message)
            core.audit.response(request, None, error=error.message)
        raise
    if audited:
        core.audit.response(request, response)
    return response, match


def _mounts(core: Core) -> int:
    """Changes whenever paths may lead elsewhere."""
    return -1 if core.store is None else core.store.generation("mounts")


def route(core: Core, request: Request) -> Match | None:
    """What answers a path, with its mount noted in the request; None if nothing does."""
    match = core.system.match(request.path)
    if match is not None and match.route.link and not request.link:
        return None
    if match is not None or core.store is None:
        return match
    request.mount = core.store.mount_for(request.path)
    if request.mount is None:
        return None
    table = core.engines[request.mount.engine]
    return table.match(request.path[len(request.mount.path) :])


async def readmit(core: Core, request: Request, match: Match) -> None:
    """Ask again, of a state that is confirmed to be current, whether the request may pass. Raises NodeError."""
    await _gate(core, request, match)
    if request.operation is Operation.CREATE:
        request.operation = Operation.UPDATE  # what was not there may be there by now
    await _authorise(core, request, match)


async def _gate(core: Core, request: Request, match: Match | None) -> None:
    if match is not None and match.route.sealed:
        return
    store = core.unsealed
    if match is not None and not match.route.fresh:
        if not _open(request, match.route):
            with contextlib.suppress(
                NoQuorum
            ):  # then whoever may look at, or seal, this one node is known well enough
                await store.fresh()
        return
    wanted = Consistency.FRESH if request.operation in WRITES else request.consistency
    began = time.monotonic()
    if wanted in (Consistency.STALE_OK, Consistency.BOUNDED):
        age_s = store.age_s()
        request.as_of = _as_of(core, None if age_s is None else began - age_s)
        if wanted is Consistency.STALE_OK or _is_within(request, began):
            return
    await store.fresh(confirm=wanted is Consistency.LINEARIZABLE)
    if wanted is Consistency.BOUNDED:
        request.as_of = _as_of(core, began)
        if not _is_within(request, began):
            known = "" if request.as_of is None else f": it was level {began - request.as_of:.1f} s ago"
            raise TooOld(f"this region may be further behind than max-staleness allows{known}")


def _as_of(core: Core, own: float | None) -> float | None:
    """`own` is so in this region alone; this is so in all of them."""
    level = math.inf if core.regions is None else core.regions.level_at()
    return None if own is None or level is None else min(own, level)


def _is_within(request: Request, began: float) -> bool:
    return request.as_of is not None and began - request.as_of <= request.staleness_s


def _open(request: Request, route: Route) -> bool:
    """Whether this request needs no token."""
    return not route.authenticated or (route.anonymous is not None and route.anonymous(request))


async def _authorise(core: Core, request: Request, match: Match | None) -> None:
    if request.operation is Operation.HELP:  # for every token, and for nobody without one
        store = core.unsealed
        request.token_row = await core.tokens.authenticate(store, request.token, request.remote)
        return
    if match is not None and _open(request, match.route):
        return
    request.token_row = await core.tokens.authenticate(
        core.unsealed, request.token, request.remote, spends=match is None or match.route.spends
    )
    if match is not None and not match.route.acl:
        return
    if request.operation is Operation.UPDATE and match is not None:
        exists = match.route.exists
        if exists is not None and not exists(core, request, match.params):
            request.operation = Operation.CREATE
    acl = core.acl(request.token_row)
    if not permits(acl, request, None if match is None else match.route):
        raise PermissionDenied("1 error occurred:\n\t* permission denied\n\n")
    if match is not None and not permits_otherwise(acl, request, match):
        raise PermissionDenied("1 error occurred:\n\t* permission denied\n\n")


def permits_otherwise(acl: ACL, request: Request, match: Match) -> bool:
    """Whether policies let the request pass by the other names of what it is about.

    They were asked about the path as it was written. Where "ADMIN" means "admin", and where two paths lead to the
    same, a rule for the one must not be escaped through the other.
    """
    route = match.route
    if not route.folded and not route.twin:
        return True
    mount = "" if request.mount is None else request.mount.path
    if route.twin and acl.denies(mount + match.twin):
        return False
    meant = mount + match.folded
    return meant == request.path or acl.allows(request.operation, meant, request.parameters, sudo=route.sudo)


def permits(acl: ACL, request: Request, route: Route | None) -> bool:
    """Whether policies let the request pass: a function of nothing else, so that the answer may be remembered."""
    sudo = route is not None and route.sudo
    return acl.allows(request.operation, request.path, request.parameters, sudo=sudo) and acl.wraps(
        request.path, request.wrap_ttl_ns
    )


async def _wrap(core: Core, request: Request, response: Response, match: Match | None) -> Response:
    if match is not None and match.route.shape is Shape.RAW:
        return response  # no envelope, nothing to hide
    try:
        return await wrapping.wrap(core, request, response)
    except NodeError as error:
        if request.operation not in WRITES:
            raise
        raise OutcomeUnknown("the request was carried out, but its answer could not be wrapped") from error


async def _act(core: Core, request: Request, match: Match | None) -> Response:
    if request.operation is Operation.HELP:
        told = help.answer(core, request, match)
        if told is None:
            raise nobody(request)
        return told
    if match is None:
        core.unsealed  # noqa: B018 - a sealed node says so before it says that it knows no such path
        raise nobody(request)
    wanted = Operation.UPDATE if request.operation is Operation.CREATE else request.operation
    handler = match.route.handlers.get(wanted)
    if handler is None:
        raise Unsupported(
            "" if match.route.shape is Shape.RAW else "1 error occurred:\n\t* unsupported operation\n\n"
        )
    if core.store is not None and belongs_to_the_primary(request, match.route):
        await core.store.admit()
    if request.data and match.route.fields:
        fields.check(match.route.fields, request.data)
    response = await handler(core, request, match.params)
    if response.status == OK and (request.data or request.query):
        _remark(request, match, response)
    return response


def nobody(request: Request) -> NotFound:
    """Why a path has no answer: there is none of this name in its mount, or no mount."""
    if request.mount is not None or request.path.startswith(_SYSTEM):
        return NotFound("1 error occurred:\n\t* unsupported path\n\n")
    return NotFound(f'no handler for route "{request.path}". route entry not found.')


def _remark(request: Request, match: Match, response: Response) -> None:
    """Tell of what was given in vain, in an answer that has a place for it."""
    if (response.shape or match.route.shape) is Shape.RAW or response.body is not None or response.request_id:
        return  # no envelope, or that of an earlier answer
    given = request.data.keys() if request.operation in _WITH_BODY else request.query.keys() - OF_THE_PROTOCOL
    if request.paged:
        given = given - _OF_LISTINGS
    said = fields.remarks(match.route.fields, match.params, given)
    if said:
        response.warnings = [*(response.warnings or ()), *said]
