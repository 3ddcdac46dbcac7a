"""sys/leases: look at, renew and revoke what engines handed out; the names of before 2017 still work."""

from typing import Any

from node.auth.fields import SECOND_NS, boolean, duration_ns, rfc3339, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, in_query, named, of_any_name
from node.core.paging import page
from node.core.request import NO_CONTENT, Lease, Operation, Request, Response
from node.core.router import Handler, Route
from node.errors import InvalidRequest
from node.leases import manager
from storage import rows

ACCEPTED = 202
IRREVOCABLE = "irrevocable"

_ID = Field("lease_id", summary="The lease, as the answer named it that handed it out.")
_INCREMENT = Field("increment", Kind.DURATION, "How much longer it is wanted, from now.")
_SYNC = Field("sync", Kind.BOOLEAN, "Wait until it is taken back (the default), or only let it end.")
_TYPE = in_query("type", Kind.STRING, "irrevocable: those that could not be revoked.")

_LEASE = (
    *named(Kind.STRING, "id path issue_time expire_time last_renewal"),
    Field("renewable", Kind.BOOLEAN, "Whether it can be prolonged."),
    Field("ttl", Kind.INTEGER, "Seconds that are left."),
)
_COUNTS = (
    Field("counts", Kind.OBJECT, "By mount.", members=(of_any_name(Kind.INTEGER),)),
    Field("lease_count", Kind.INTEGER, "All of them."),
)
_IRREVOCABLE = (
    Field("lease_count", Kind.INTEGER),
    Field("leases", Kind.OBJECTS, members=named(Kind.STRING, "lease_id mount_id error expire_time")),
)


def routes() -> list[Route]:
    """The table of this module."""
    lists = {Operation.LIST: _list}
    prefix = in_path("prefix", "Where the leases were handed out; all below it are meant.")
    return [
        _route("leases/lookup", _lookup, "Tells how long a lease lasts.", _ID, local=True, answers=_LEASE),
        Route("sys/leases/lookup/", lists, sudo=True, summary="Lists the folders of leases."),
        Route("sys/leases/lookup/{prefix...}", lists, sudo=True, summary="Lists leases.", fields=(prefix,)),
        *_both("renew", _renew, "Prolongs a lease.", _ID, _INCREMENT),
        *_both(
            "renew/{lease_id...}", _renew, "Prolongs a lease.", in_path("lease_id", "The lease."), _INCREMENT
        ),
        *_both("revoke", _revoke, "Ends a lease.", _ID, _SYNC),
        *_both("revoke/{lease_id...}", _revoke, "Ends a lease.", in_path("lease_id", "The lease."), _SYNC),
        *_both(
            "revoke-prefix/{prefix...}",
            _revoke_prefix,
            "Ends all leases below a path.",
            prefix,
            _SYNC,
            sudo=True,
        ),
        *_both(
            "revoke-force/{prefix...}", _revoke_force, "Forgets leases, revoked or not.", prefix, sudo=True
        ),
        _route("leases/tidy", _tidy, "Takes back what is due now. It happens by itself anyway."),
        Route(
            "sys/leases/count",
            {Operation.READ: _count},
            summary="Counts leases by mount.",
            fields=(_TYPE,),
            answers={Operation.READ: _COUNTS},
        ),
        Route(
            "sys/leases",
            {Operation.READ: _show},
            sudo=True,
            summary="Shows irrevocable leases.",
            fields=(_TYPE,),
            answers={Operation.READ: _IRREVOCABLE},
        ),
    ]


def _route(
    name: str,
    handler: Handler,
    summary: str,
    *fields: Field,
    sudo: bool = False,
    local: bool = False,
    answers: tuple[Field, ...] = (),
) -> Route:
    return Route(
        f"sys/{name}",
        {Operation.UPDATE: handler},
        sudo=sudo,
        local=local,
        summary=summary,
        fields=fields,
        answers={Operation.UPDATE: answers},
    )


def _both(name: str, handler: Handler, summary: str, *fields: Field, sudo: bool = False) -> list[Route]:
    return [_route(each, handler, summary, *fields, sudo=sudo) for each in (f"leases/{name}", name)]


async def _lookup(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, lease_id = core.unsealed, _lease_id(request, params)
    lease = manager.find(store, lease_id)
    if lease is None:
        raise InvalidRequest("invalid lease")
    return Response(
        data={
            "expire_time": rfc3339(lease.expires_ns),
            "id": lease.lease_id,
            "issue_time": rfc3339(lease.issued_ns),
            "last_renewal": rfc3339(lease.renewed_ns) if lease.renewed_ns else None,
            "path": lease.lease_id.rpartition("/")[0],
            "renewable": lease.renewable,
            "ttl": (lease.expires_ns - store.now_ns()) // SECOND_NS,
        }
    )


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    reads, folder = core.unsealed.reads, params.get("prefix", "")
    names = page(core, request, lambda after, limit: reads.lease_list(folder, after, limit))
    return Response(data={"keys": names})


async def _renew(core: Core, request: Request, params: dict[str, str]) -> Response:
    lease_id = _lease_id(request, params)
    granted = await manager.renew(
        core.unsealed,
        lease_id,
        increment_ns=duration_ns(request.data.get("increment"), "increment"),
        request_id=request.request_id,
    )
    lease = Lease(granted.ttl_ns // SECOND_NS, lease_id, renewable=True)
    return Response(lease=lease, warnings=list(granted.warnings) or None)


async def _revoke(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _end_one(core, request, _lease_id(request, params))


async def _end_one(core: Core, request: Request, lease_id: str) -> Response:
    store = core.unsealed
    await manager.end(store, lease_id)
    if not _sync(request):
        return Response(status=ACCEPTED, body=b"")
    lease = store.reads.lease(lease_id)
    return _done(await manager.take_back(store, core.revokers, [lease]) if lease is not None else [])


async def _revoke_prefix(core: Core, request: Request, params: dict[str, str]) -> Response:
    """All in a folder, or the one lease that is named like this: "pki" is not "pki2"."""
    store, prefix = core.unsealed, params["prefix"]
    if store.reads.lease(prefix) is not None:
        return await _end_one(core, request, prefix)
    folder = prefix.removesuffix("/") + "/"
    await manager.end_below(store, folder)
    if not _sync(request):
        return Response(status=ACCEPTED, body=b"")
    return _done(await manager.take_back_below(store, core.revokers, folder))


async def _revoke_force(core: Core, request: Request, params: dict[str, str]) -> Response:
    """For leases whose other side is gone for good: what cannot be taken back is forgotten all the same."""
    store, folder = core.unsealed, params["prefix"].removesuffix("/") + "/"
    await manager.end_below(store, folder)
    await manager.take_back_below(store, core.revokers, folder)
    await manager.give_up_below(store, folder)
    return Response(status=NO_CONTENT)


def _done(failed: list[rows.Lease]) -> Response:
    if failed:
        raise InvalidRequest(f"failed to revoke {manager.describe(failed)}; it is tried again")
    return Response(status=NO_CONTENT)


async def _tidy(core: Core, request: Request, params: dict[str, str]) -> Response:
    await manager.sweep(core.unsealed, core.revokers)
    return Response(
        status=ACCEPTED, warnings=["Tidy operation finished: what was due has been taken back or put off."]
    )


async def _count(core: Core, request: Request, params: dict[str, str]) -> Response:
    reads = core.unsealed.reads
    counts = reads.lease_counts(irrevocable=_irrevocable(request))
    paths = {mount.mount_id: mount.path for mount in reads.mounts()}
    by_path = {paths[mount_id]: count for mount_id, count in counts.items() if mount_id in paths}
    return Response(data={"counts": by_path, "lease_count": sum(by_path.values())})


async def _show(core: Core, request: Request, params: dict[str, str]) -> Response:
    if not _irrevocable(request):
        raise InvalidRequest('ask for type "irrevocable"; others are listed below sys/leases/lookup/')
    found = core.unsealed.reads.leases_irrevocable(core.settings.list_keys_max)
    leases: list[dict[str, Any]] = [
        {
            "lease_id": lease.lease_id,
            "mount_id": lease.mount_id,
            "error": lease.problem,
            "expire_time": rfc3339(lease.expires_ns),
        }
        for lease in found
    ]
    return Response(data={"lease_count": len(leases), "leases": leases})


# --- what clients send ---


def _irrevocable(request: Request) -> bool:
    kind = request.query.get("type", "")
    if kind not in ("", IRREVOCABLE):
        raise InvalidRequest(f'unknown type of leases: there is only "{IRREVOCABLE}"')
    return kind == IRREVOCABLE


def _lease_id(request: Request, params: dict[str, str]) -> str:
    lease_id = params.get("lease_id") or text(request.data.get("lease_id"), "lease_id")
    if not lease_id:
        raise InvalidRequest("lease_id must be specified")
    return lease_id


def _sync(request: Request) -> bool:
    asked = request.data.get("sync")
    return True if asked is None else boolean(asked, "sync")
