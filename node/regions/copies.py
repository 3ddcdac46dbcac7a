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
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import structlog

from node.errors import InvalidRequest, NoQuorum, TooBusy
from node.regions.links import Interrupted, Links, Unreachable
from node.telemetry.logs import name_of

SNAPSHOT = "/v1/sys/regions/link/snapshot"
SCRATCH = "region-scratch.db"
PIECE_BYTES = 1 << 20
COPIES_MAX = 2  # copies of the state that wait to be fetched
COPY_LIFETIME_S = 1800.0  # since a piece was asked for
PIECE_TIMEOUT_S = 30.0
PIECE_ATTEMPTS_MAX = 20
DONE_TIMEOUT_S = 5.0
PIECE_PAUSE_S = 0.5
COPY_TIMEOUT_S = 3600.0  # for the copy to be made
ASK_TIMEOUT_S = 60.0
COPY_WAIT_S = 30.0  # how long one question waits for that

_log = structlog.get_logger("regions")


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
    _begun_by: dict[str, str] = field(default_factory=dict)  # by askers: the id of the copy that each began
    _scratch: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        for left in self.directory.glob("region-*.db*"):
            left.unlink()

    def begin(self, asker: str = "") -> str:
        """The id of a copy of what is applied now, which is being made. Raises NoQuorum if there are too many.

        `asker`: who asks again by the same name, since the answer was lost, gets the same copy; "": nobody's.
        """
        self.expire(time.monotonic() - COPY_LIFETIME_S)
        if asker in self._begun_by:
            return self._begun_by[asker]
        if len(self._copies) + len(self._making) >= COPIES_MAX:
            raise NoQuorum("too many copies of the state wait to be fetched; try again later")
        identity = secrets.token_hex(8)
        task = self._making[identity] = asyncio.create_task(self._make(identity), name="copy for a region")
        task.add_done_callback(_note_failure)
        if asker:
            self._begun_by[asker] = identity
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
        there = self._making.keys() | self._copies.keys()
        self._begun_by = {asker: each for asker, each in self._begun_by.items() if each in there}


def _note_failure(making: "asyncio.Task[None]") -> None:
    """Whoever asked for the copy may be gone, and then nobody else looks."""
    if not making.cancelled() and (error := making.exception()) is not None:
        _log.warning("a copy of the state could not be made", error=name_of(error))


def _described(path: Path) -> _Copy:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Copy(path, path.stat().st_size, digest, time.monotonic())


class CopyGoneError(Interrupted):
    """The node that made the copy does not have it any more."""


Tell = Callable[[int, int], None]  # bytes that are here, of so many


class Arrival:
    """A copy on its way here: after an interruption it goes on where it was, while the source keeps the copy."""

    def __init__(self, target: Path) -> None:
        """`target`: the file that it becomes."""
        self._target = target
        self._asker = secrets.token_hex(8)  # so that a lost answer leaves no copy behind that nobody fetches
        self._source: tuple[str, tuple[str, ...]] = ("", ())
        self._identity = ""  # of the copy; "" until one is made
        self._bytes, self._sha256 = 0, ""
        self._size, self._digest = 0, hashlib.sha256()
        self.moved_at = time.monotonic()  # when anything arrived last

    @property
    def begun(self) -> bool:
        """Whether a part of it is here."""
        return self._size > 0

    async def fetch(self, links: Links, region: str, addresses: tuple[str, ...], tell: Tell) -> None:
        """The whole state of a region in the target, verified and durable. Raises Interrupted or Unreachable: call
        it again; what is here is kept, unless it turned out to be damaged or the source has forgotten its copy.
        """
        if self._identity and self._source[0] != region:
            await self.give_up(links)
        try:
            if not self._identity:
                await self._begin(links, region, addresses)
            await self._continue(links, tell)
            if self._digest.hexdigest() != self._sha256:
                await self.give_up(links)
                raise Interrupted("the copy of the state arrived damaged")
        except CopyGoneError:
            self._forget()
            raise
        await self._done(links)

    async def _begin(self, links: Links, region: str, addresses: tuple[str, ...]) -> None:
        self._source, described = await _begin(links, region, addresses, self._asker)
        self._bytes, self._sha256 = described["bytes"], described["sha256"]
        self._size, self._digest = 0, hashlib.sha256()
        self._identity, self.moved_at = described["id"], time.monotonic()

    async def _continue(self, links: Links, tell: Tell) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._target, flags, 0o600), "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            while self._size < self._bytes:
                asked = {"id": self._identity, "offset": self._size}
                piece = await _patiently(links, self._source, asked, PIECE_TIMEOUT_S)
                if not piece:
                    raise CopyGoneError("the copy of the state ended early")
                await asyncio.to_thread(file.write, piece)
                self._digest.update(piece)
                self._size += len(piece)
                self.moved_at = time.monotonic()
                tell(self._size, self._bytes)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())

    async def give_up(self, links: Links | None) -> None:
        """Nobody goes on with it: its file goes, and the source is told if it can be."""
        await self._done(links)
        self._target.unlink(missing_ok=True)

    async def _done(self, links: Links | None) -> None:
        """Few copies wait at a time: one that nobody fetches keeps others from being made."""
        source, identity = self._source, self._identity
        self._forget()
        if identity and links is not None:
            with contextlib.suppress(Unreachable, Interrupted):
                await _ask(links, source, {"id": identity, "done": True}, DONE_TIMEOUT_S)

    def _forget(self) -> None:
        self._identity = ""
        self._size = 0


async def _begin(
    links: Links, region: str, addresses: tuple[str, ...], asker: str
) -> tuple[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """Have a copy made: it lies on the one node that answers, so the pieces are asked of that one."""
    problem = f"{region} has no address"
    for address in addresses:
        source = (region, (address,))
        try:
            told = msgspec.json.decode(await _ask(links, source, {"asker": asker}, ASK_TIMEOUT_S))
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
        except (Unreachable, Interrupted) as error:
            if isinstance(error, CopyGoneError):
                raise
            await asyncio.sleep(PIECE_PAUSE_S)
    return await _ask(links, source, asked, timeout_s)


async def _ask(
    links: Links, source: tuple[str, tuple[str, ...]], asked: dict[str, Any], timeout_s: float
) -> bytes:
    """Raises Unreachable or Interrupted."""
    answer = await links.ask(*source, SNAPSHOT, body=msgspec.json.encode(asked), timeout_s=timeout_s)
    if answer.status == HTTPStatus.BAD_REQUEST:
        raise CopyGoneError(f"{source[0]} does not have the copy of its state any more")
    if answer.status != HTTPStatus.OK:
        raise Interrupted(f"the state could not be fetched: {source[0]} answered HTTP {answer.status}")
    return answer.body
