"""Restoring a snapshot: nothing is touched before it is known to be whole, ours, and openable with the keys at hand.

A snapshot of this store becomes the state of every node, as one entry of the log. A snapshot under another root
key takes the place of a store of one node only (`force`): with it come its root key, its seal and its authority.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from node.backup import archive
from node.backup.take import work_directory
from node.core.core import Core
from node.errors import BodyTooLarge, DiskFull, InvalidRequest
from storage.files import create_empty

ARCHIVE_BYTES_MAX = archive.STATE_BYTES_MAX + (64 << 20)
OTHER_KEYS = (
    "could not verify hash file, possibly the snapshot is using a different set of unseal keys;"
    " use the snapshot-force API to bypass this check"
)

log = structlog.get_logger("backup")


async def restore(core: Core, upload: AsyncIterator[bytes], *, force: bool) -> None:
    """Take in a snapshot and restore it. Raises InvalidRequest, BodyTooLarge, DiskFull, NoQuorum (nothing happened in
    any of these), OutcomeUnknown.
    """
    core.unsealed  # noqa: B018 - a sealed node does not even receive it
    with tempfile.TemporaryDirectory(dir=work_directory(core)) as directory:
        try:
            contents = await received(upload, Path(directory))
        except OSError as error:
            raise DiskFull(f"the snapshot cannot be kept here: {error.strerror or error}") from error
        if await asyncio.to_thread(contents.is_of, core.unsealed.root):
            await _replace(core, contents)
        elif force:
            await core.lifecycle.begin_anew(contents)
        else:
            raise InvalidRequest(OTHER_KEYS)


async def received(upload: AsyncIterator[bytes], directory: Path) -> archive.Contents:
    """What was sent, whole and unpacked. Raises InvalidRequest, BodyTooLarge."""
    packed = directory / "archive"
    create_empty(packed)
    size_bytes = 0
    with packed.open("r+b") as file:
        async for piece in upload:
            size_bytes += len(piece)
            if size_bytes > ARCHIVE_BYTES_MAX:
                raise BodyTooLarge("a snapshot of this size is not restored through the API")
            await asyncio.to_thread(file.write, piece)
    if not size_bytes:
        raise InvalidRequest("a snapshot is expected as the body of the request")
    try:
        return await asyncio.to_thread(archive.unpack, packed, directory)
    except archive.BadArchive as error:
        raise InvalidRequest(str(error)) from None


async def _replace(core: Core, contents: archive.Contents) -> None:
    store = core.unsealed
    if store.reads.region()[1] != "alone":
        raise InvalidRequest(
            "regions share this store: it can be restored once this one is alone (`region remove`, `region leave`)"
        )
    await store.copies.check(contents.state)
    log.info("restoring a snapshot", index=contents.meta.index, taken=contents.meta.taken)
    await store.copies.replace(contents.state)
    log.info("snapshot restored", index=contents.meta.index)
