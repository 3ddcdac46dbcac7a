"""The whole state from one region to another: a copy of the database, in pieces, checked by its digest.

The file is encrypted under a key that the root key gives, which all regions share.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from node.errors import InvalidRequest, NoQuorum, TooBusy
from node.regions.links import Interrupted, Links, Unreachable

SNAPSHOT = "/v1/sys/regions/link/snapshot"
SCRATCH = "region-scratch.db"
PIECE_BYTES = 1 << 20
COPIES_MAX = 2  # copies of the state that wait to be fetched
COPY_LIFETIME_S = 1800.0  # since a piece was asked for
PIECE_TIMEOUT_S = 30.0
PIECE_ATTEMPTS_MAX = 20
PIECE_PAUSE_S = 0.5
COPY_TIMEOUT_S = 3600.0  # for the copy to be made
ASK_TIMEOUT_S = 60.0
COPY_WAIT_S = 30.0  # how long one question waits for that


@dataclass(slots=True)
class _Copy:
    path: Path
    bytes: int
    sha256: str
    used_at: float  # monotonic


@dataclass(slots=True)
class Copies:
    """Copies of the state that a joining region fetches in pieces."""

    directory: Path
    take: Callable[[Path], Awaitable[int]]  # StateCopies.take
    _copies: dict[str, _Copy] = field(default_factory=dict)
    _making: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _scratch: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        for left in self.directory.glob("region-*.db*"):
            left.unlink()

    def begin(self) -> str:
        """The id of a copy of what is applied now, which is being made. Raises NoQuorum if there are too many."""
        self.expire(time.monotonic() - COPY_LIFETIME_S)
        if len(self._copies) + len(self._making) >= COPIES_MAX:
            raise NoQuorum("too many copies of the state wait to be fetched; try again later")
        identity = secrets.token_hex(8)
        self._making[identity] = asyncio.create_task(self._make(identity), name="copy for a region")
        return identity

    async def _make(self, identity: str) -> None:
        path = self.directory / f"region-{identity}.db"
        try:
            await self.take(path)
            self._copies[identity] = await asyncio.to_thread(_described, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def described(self, identity: str) -> dict[str, Any]:
        """{"id", "bytes", "sha256"} of a copy; the id alone if it is not made within COPY_WAIT_S: ask again.

        Raises InvalidRequest for a copy that is not there, NoQuorum for one that could not be made.
        """
        making = self._making.get(identity)
        if making is not None:
            await asyncio.wait({making}, timeout=COPY_WAIT_S)
            if not making.done():
                return {"id": identity}
            self._making.pop(identity, None)
            if making.cancelled() or (error := making.exception()) is not None:
                reason = "cancelled" if making.cancelled() else type(error).__name__
                raise NoQuorum(f"the copy of the state could not be made: {reason}")
        copy = self._found(identity)
        return {"id": identity, "bytes": copy.bytes, "sha256": copy.sha256}

    def _found(self, identity: str) -> _Copy:
        copy = self._copies.get(identity)
        if copy is None:
            raise InvalidRequest("there is no such copy; begin again")
        return copy

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Where one copy may lie for a moment: a path at which nothing is, before and after. Raises TooBusy."""
        if self._scratch.locked():
            raise TooBusy("another copy of the state is being read at this node")
        path = self.directory / SCRATCH
        async with self._scratch:
            try:
                yield path
            finally:
                for left in self.directory.glob(f"{SCRATCH}*"):
                    left.unlink()

    def piece(self, identity: str, offset: int, size_bytes_max: int = PIECE_BYTES) -> bytes:
        """Blocking. Raises InvalidRequest for a copy that is not there any more."""
        copy = self._found(identity)
        if not 0 <= offset <= copy.bytes:
            raise InvalidRequest("the copy has no such piece; begin again")
        copy.used_at = time.monotonic()
        with copy.path.open("rb") as file:
            file.seek(offset)
            return file.read(min(size_bytes_max, PIECE_BYTES))

    def forget(self, identity: str) -> None:
        copy = self._copies.pop(identity, None)
        if copy is not None:
            copy.path.unlink(missing_ok=True)

    async def close(self) -> None:
        """The store is sealed: nobody waits any more for what is being made."""
        making = list(self._making.values())
        self._making.clear()
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)

    def expire(self, used_before: float) -> None:
        for identity in [key for key, task in self._making.items() if task.done()]:
            del self._making[identity]  # nobody asked again: its copy, if there is one, has its own time
        for identity in [key for key, copy in self._copies.items() if copy.used_at < used_before]:
            self.forget(identity)


def _described(path: Path) -> _Copy:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Copy(path, path.stat().st_size, digest, time.monotonic())


async def fetch(links: Links, region: str, addresses: tuple[str, ...], target: Path) -> None:
    """The whole state of a region into `target`, verified and durable. Raises Interrupted if it cannot be had."""
    source, described = await _begin(links, region, addresses)
    identity = described["id"]
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    digest, size = hashlib.sha256(), 0
    try:
        with os.fdopen(fd, "wb") as file:
            while size < described["bytes"]:
                piece = await _patiently(links, source, {"id": identity, "offset": size}, PIECE_TIMEOUT_S)
                if not piece:
                    raise Interrupted("the copy of the state ended early")
                await asyncio.to_thread(file.write, piece)
                digest.update(piece)
                size += len(piece)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    finally:  # few copies wait at a time: one that nobody fetches keeps others from being made
        with contextlib.suppress(Unreachable, Interrupted):
            await _ask(links, source, {"id": identity, "done": True}, PIECE_TIMEOUT_S)
    if digest.hexdigest() != described["sha256"]:
        raise Interrupted("the copy of the state arrived damaged")


async def _begin(
    links: Links, region: str, addresses: tuple[str, ...]
) -> tuple[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """Have a copy made: it lies on the one node that answers, so the pieces are asked of that one."""
    problem = f"{region} has no address"
    for address in addresses:
        source = (region, (address,))
        try:
            told = msgspec.json.decode(await _ask(links, source, {}, ASK_TIMEOUT_S))
            ends = time.monotonic() + COPY_TIMEOUT_S
            while "sha256" not in told and time.monotonic() < ends:
                told = msgspec.json.decode(await _patiently(links, source, {"id": told["id"]}, ASK_TIMEOUT_S))
            if "sha256" not in told:
                raise Interrupted(f"no copy within {COPY_TIMEOUT_S:.0f} s")
            return source, told
        except (Unreachable, Interrupted) as error:
            problem = str(error)
    raise Interrupted(f"the state could not be fetched: {problem}")


async def _patiently(
    links: Links, source: tuple[str, tuple[str, ...]], asked: dict[str, Any], timeout_s: float
) -> bytes:
    """What may be asked several times is."""
    for _ in range(PIECE_ATTEMPTS_MAX - 1):
        try:
            return await _ask(links, source, asked, timeout_s)
        except (Unreachable, Interrupted):
            await asyncio.sleep(PIECE_PAUSE_S)
    return await _ask(links, source, asked, timeout_s)


async def _ask(
    links: Links, source: tuple[str, tuple[str, ...]], asked: dict[str, Any], timeout_s: float
) -> bytes:
    """Raises Unreachable or Interrupted."""
    answer = await links.ask(*source, SNAPSHOT, body=msgspec.json.encode(asked), timeout_s=timeout_s)
    if answer.status != 200:
        raise Interrupted(f"the state could not be fetched: {source[0]} answered HTTP {answer.status}")
    return answer.body
