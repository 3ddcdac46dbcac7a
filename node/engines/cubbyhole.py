"""Cubbyhole: values that only one token can read, and that go when it does.

Always mounted, at cubbyhole/. The entries of a token lie under its digest and are its own in the store's sense, so
that whatever ends the token ends them in the same command.
"""

from node.core.core import Core
from node.core.fields import Kind, in_path, of_any_name
from node.core.paging import page
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.core.wrapping import envelope, find, is_wrapping, unwrap
from node.engines.kv_values import decode, encode
from node.errors import BodyTooLarge, InvalidRequest, NotFound, PermissionDenied
from node.store import CommandRejected
from node.view import View, write
from storage.outcome import Reason
from storage.rows import Token

VIEW = "sys:cubbyhole"
RESPONSE = "response"  # where a wrapping token finds what it wraps, in the old way

_DEPRECATED = (
    "Reading from 'cubbyhole/response' is deprecated. Please use sys/wrapping/unwrap to unwrap responses, as it"
    " provides additional security checks and other benefits."
)


def routes() -> list[Route]:
    """The paths of the system table."""
    lists = {Operation.LIST: _list}
    refused = dict.fromkeys((Operation.READ, Operation.UPDATE, Operation.DELETE), _no_path)
    return [
        Route(
            "cubbyhole/{path...}",
            {Operation.READ: _read, Operation.UPDATE: _put, Operation.DELETE: _delete, **lists},
            exists=_exists,
            summary="Reads, writes, deletes and lists what belongs to the token alone.",
            fields=(in_path("path", "Where it is, for this token."),),
            answers={Operation.READ: (of_any_name(Kind.ANY, "What was written."),)},
        ),
        Route("cubbyhole/", {**refused, **lists}, listed=False),
        Route("cubbyhole", {**refused, **lists}, listed=False),
    ]


def _exists(core: Core, request: Request, params: dict[str, str]) -> bool:
    return View(core.unsealed, VIEW).get(_place(request, params["path"])) is not None


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    owner = _owner(request)
    if is_wrapping(owner):
        return await _response(core, request, params["path"])
    item = View(core.unsealed, VIEW).get(_place(request, params["path"]))
    if item is None:
        raise NotFound
    return Response(data=decode(item.raw))


async def _response(core: Core, request: Request, path: str) -> Response:
    if path != RESPONSE:
        raise PermissionDenied
    wrapped = find(core, request.token)
    await unwrap(core, wrapped)
    return Response(data={"response": envelope(wrapped)}, warnings=[_DEPRECATED])


async def _put(core: Core, request: Request, params: dict[str, str]) -> Response:
    owner, store = _owner(request), core.unsealed
    if not request.data:
        raise InvalidRequest("missing data fields")
    value = encode(request.data)
    if len(value) > core.settings.value_bytes_max:
        raise BodyTooLarge(
            f"the value has {len(value)} bytes; at most {core.settings.value_bytes_max} are kept"
        )
    command = View(store, VIEW).put(_place(request, params["path"]), value, owner=owner.digest)
    try:
        await write(store, command, request_id=request.request_id)
    except CommandRejected as error:
        if error.reason != Reason.NO_SUCH_TOKEN:
            raise
        raise PermissionDenied("permission denied") from None  # it was revoked meanwhile
    return Response(status=NO_CONTENT)


async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    store = core.unsealed
    command = View(store, VIEW).delete(_place(request, params["path"]))
    await write(store, command, request_id=request.request_id)
    return Response(status=NO_CONTENT)


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, folder = View(core.unsealed, VIEW), _place(request, params.get("path", ""))
    names = page(core, request, lambda after, limit: view.children(folder, after, limit))
    return Response(data={"keys": names})


async def _no_path(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("missing path")


def _place(request: Request, path: str) -> str:
    return f"{_owner(request).digest.hex()}/{path}"


def _owner(request: Request) -> Token:
    row = request.token_row
    assert row is not None, "an authenticated route"
    if row.kind != "service":
        raise InvalidRequest("cubbyhole operations are only supported by 'service' type tokens")
    return row
