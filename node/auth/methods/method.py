"""What an auth method is: paths below its mount, and the terms of renewals of the tokens that it issued."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from node.auth.token import Renewal
from node.core.core import Core
from node.core.request import Request
from node.core.router import Table
from node.errors import InvalidRequest, NodeError, NotFound
from node.store import CommandRejected
from node.view import View
from storage.outcome import Reason
from storage.rows import Mount, Token


@dataclass(frozen=True, slots=True)
class Method:
    """One kind of auth method."""

    kind: str
    table: Table  # routes relative to the mount; that of a login is not authenticated
    terms: Callable[
        [Core, Mount, Token], Renewal
    ]  # raises InvalidRequest if the token may not be renewed any more
    check_renewal: Callable[[Core, Request, Mount, Token], None] | None = None  # who asks; raises the same


def no_renewals(core: Core, mount: Mount, row: Token) -> Renewal:
    """For a mount that issues nothing."""
    raise InvalidRequest("lease is not renewable")


async def keep(core: Core, request: Request, path: str, value: msgspec.Struct) -> None:
    """Write what a mount keeps at a path, over what is there now. Raises what refused() gives."""
    store = core.unsealed
    view = View(store, request.served_by.mount_id)
    command = view.put(path, msgspec.json.encode(value), expect=view.revision(path))
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise refused(error) from None


def refused(error: CommandRejected) -> NodeError | CommandRejected:
    """A refused change of what a method keeps, as the caller's error."""
    if error.reason == Reason.REVISION_MISMATCH:
        return InvalidRequest("somebody else changed this at the same time; nothing was written, try again")
    return NotFound() if error.reason == Reason.NO_SUCH_MOUNT else error
