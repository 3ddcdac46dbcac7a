"""sys/storage/raft/snapshot: the store as a file, and back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from node.backup import restore, take
from node.core.core import Core
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest, NotFound, TooBusy

GZIP = "application/gzip"


class Snapshots:
    """The handlers share what keeps two snapshots from being taken, or restored, at once."""

    def __init__(self, taking: take.Taking) -> None:
        self._taking = taking
        self._restoring = asyncio.Lock()

    def routes(self) -> list[Route]:
        """The table of this module."""
        return [
            Route(
                "sys/storage/raft/snapshot",
                {Operation.READ: self.save, Operation.UPDATE: self.restore},
                local=True,
                upload=True,
                summary="The whole store as a file: save it, or restore it on every node.",
                media_type=GZIP,
            ),
            Route(
                "sys/storage/raft/snapshot-force",
                {Operation.UPDATE: self.force},
                local=True,
                upload=True,
                summary="Restore a snapshot, even one with another root key, which brings its own seal.",
            ),
        ]

    async def save(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """The store as this node has it, at least as new as everything acknowledged before."""
        on_disk(core)
        stream = take.stream(core, self._taking)
        try:
            first = await anext(stream)  # what goes wrong on the way to it is still an error, not half a file
        except BaseException:
            await stream.aclose()
            raise
        headers = {"Content-Type": GZIP, "Content-Disposition": "attachment"}
        return Response(headers=headers, stream=_chained(first, stream))

    async def restore(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """A snapshot of this very store."""
        return await self._restore(core, request, force=False)

    async def force(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """A snapshot of any store."""
        return await self._restore(core, request, force=True)

    async def _restore(self, core: Core, request: Request, *, force: bool) -> Response:
        on_disk(core)
        if request.upload is None:
            raise InvalidRequest("a snapshot is expected as the body of the request")
        if self._restoring.locked():
            raise TooBusy("another snapshot is being restored at this node")
        async with self._restoring:
            await restore.restore(core, request.upload, force=force)
        return Response(status=NO_CONTENT)


async def _chained(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(rest) as pieces:
        yield first
        async for piece in pieces:
            yield piece


def on_disk(core: Core) -> None:
    """A store in memory has no Raft, and says so as Vault does."""
    if core.settings.storage != "raft":
        raise NotFound("1 error occurred:\n\t* unsupported path\n\n")
