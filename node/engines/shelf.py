"""A mount's own entries, for its handlers: the view, and a write whose refusals are the caller's errors."""

from typing import Any

from node.core.core import Core
from node.core.paging import children
from node.core.request import Request
from node.errors import InvalidRequest, NotFound
from node.store import CommandRejected, Store
from node.view import View, write
from storage.command import AnyCommand
from storage.outcome import Reason


class Shelf(View):
    """The view of a mount."""

    def __init__(self, store: Store, mount_id: str) -> None:
        super().__init__(store, mount_id)
        self.store = store

    async def write(self, *commands: AnyCommand, request_id: bytes = b"") -> list[dict[str, Any]]:
        """Submit commands, all or none. Raises InvalidRequest if something changed meanwhile that they rely on."""
        try:
            return await write(self.store, *commands, request_id=request_id)
        except CommandRejected as error:
            if error.reason == Reason.NO_SUCH_MOUNT:
                raise NotFound from None
            if error.reason == Reason.REVISION_MISMATCH:
                raise InvalidRequest("somebody else changed this at the same time: try again") from None
            raise


def listed(core: Core, request: Request, folder: str) -> list[str]:
    """The names in a folder of the mount's entries, in pages. Raises NotFound if there are none."""
    return children(core, request, shelf(core, request), folder)


def shelf(core: Core, request: Request) -> Shelf:
    """The entries of the mount that a request goes to."""
    return Shelf(core.unsealed, request.served_by.mount_id)
