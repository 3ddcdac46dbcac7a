"""sys/remount: a mount under another path, with all that it holds.

A move is done when it is acknowledged; its "migration id" only spells out what moved, so that every node can
answer for it.
"""

import base64
import binascii
import json

from node.api.vault.mount_config import check_path, folder
from node.api.vault.mounts import AUTH, RESERVED, at, refusal
from node.auth.fields import text
from node.core import fields
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest, NotFound
from node.leases.manager import end_with_mount
from node.store import CommandRejected
from storage.command import MountMove

_MOVED = "The mount has moved. Its status can be asked for under the returned migration_id."

_ID = Field("migration_id", Kind.STRING, "To ask with what became of it.")


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/remount",
            {Operation.UPDATE: _move},
            sudo=True,
            shape=Shape.DOUBLE,
            summary="Moves a mount to another path.",
            fields=(
                Field("from", summary="Where it is.", required=True),
                Field("to", summary="Where it goes.", required=True),
            ),
            answers={Operation.UPDATE: (_ID,)},
        ),
        Route(
            "sys/remount/status/{id}",
            {Operation.READ: _status},
            summary="Tells what became of a move.",
            fields=(fields.in_path("id", "The migration_id of the move."),),
            answers={
                Operation.READ: (
                    _ID,
                    Field(
                        "migration_info",
                        Kind.OBJECT,
                        members=named(Kind.STRING, "source_mount target_mount status"),
                    ),
                )
            },
        ),
    ]


async def _move(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, data = core.unsealed, request.data
    source, target = (folder(text(data.get(name), name).strip("/")) for name in ("from", "to"))
    if "/" in (source, target):
        raise InvalidRequest("both 'from' and 'to' path must be specified as a string")
    _check(source, target)
    if at(store, source) is not None:
        if target.startswith(source) or source.startswith(target):
            raise InvalidRequest(
                f'path already in use at "{source}"'
            )  # a mount is in the way of its own move
        await end_with_mount(store, core.revokers, source)  # their names say where they came from
    command = MountMove(time_ns=store.now_ns(), source=source, target=target)
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise refusal(error, store, target, source=source) from None
    return Response(data={"migration_id": _migration_id(source, target)}, warnings=[_MOVED])


def _check(source: str, target: str) -> None:
    """An auth method stays one, and so does a secret engine; what is always there stays where it is."""
    auth = source.startswith(AUTH) and source != AUTH
    if source == f"{AUTH}token/" or (source.startswith(RESERVED) and not auth):
        raise InvalidRequest(f'cannot remount "{source}"')
    inside = target.removeprefix(AUTH) if auth else target
    if auth != target.startswith(AUTH) or not inside or (not auth and target.startswith(RESERVED)):
        raise InvalidRequest(f"cannot remount to destination {target}")
    check_path(target)


async def _status(core: Core, request: Request, params: dict[str, str]) -> Response:
    try:
        source, target = json.loads(base64.urlsafe_b64decode(params["id"]))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise NotFound from None
    if not isinstance(target, str) or at(core.unsealed, target) is None:
        raise NotFound
    info = {"source_mount": source, "target_mount": target, "status": "success"}
    return Response(data={"migration_id": params["id"], "migration_info": info})


def _migration_id(source: str, target: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([source, target]).encode()).decode()
