"""The whole state for other regions (arrival.py): a copy of the database, handed out in pieces, with its digest.

The file is encrypted under a key that the root key gives, which all regions share. A region has one copy at a time:
whichever of its nodes asks gets it, so that one that takes over, or comes back after a crash, leaves none behind.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from node.errors import InvalidRequest, NoQuorum, TooBusy
from node.telemetry.logs import name_of

SCRATCH = "region-scratch.db"
PIECE_BYTES = 1 << 20
COPIES_MAX = 2  # copies of the state that wait to be fetched
COPY_LIFETIME_S = 1800.0  # since a piece was asked for
COPY_WAIT_S = 30.0  # how long one question waits for that

_log = structlog.get_logger("regions")


class Kept(Protocol):
    """What the store holds of the history."""

    @property
    def position(self) -> int: ...
    def history_first(self) -> int: ...


@dataclass(slots=True)
class _Copy:
    path: Path
    bytes: int
    sha256: str
    used_at: float  # monotonic
    fetched: int = 0  # bytes, up to the last piece that was asked for


@dataclass(slots=True)
class Copies:
    """Copies of the state that a joining region fetches in pieces."""

    directory: Path
    take: Callable[[Path], Awaitable[int]]  # StateCopies.take
    kept: Kept
    _copies: dict[str, _Copy] = field(default_factory=dict)
    _making: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _begun_by: dict[str, tuple[str, int]] = field(
        default_factory=dict
    )  # by askers: its id, and where it reaches at least
    _scratch: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        for left in self.directory.glob("region-*.db*"):
            left.unlink()

    def begin(self, asker: str = "", position: int = 0) -> str:
        """The id of a copy of what is applied now, which is being made. Raises NoQuorum if there are too many.

        `asker`: the region that gets the copy which it has here already, unless that ends before `position`, where the
        region is itself, or before what is kept of the history; "": nobody's.
        """
        self.expire(time.monotonic() - COPY_LIFETIME_S)
        identity, reaches = self._begun_by.get(asker, ("", 0))
        if identity and reaches >= position and reaches + 1 >= self.kept.history_first():
            return identity
        self.forget(identity)
        if len(self._copies) + len(self._making) >= COPIES_MAX:
            raise NoQuorum("too many copies of the state wait to be fetched; try again later")
        identity, reaches = secrets.token_hex(8), self.kept.position
        task = self._making[identity] = asyncio.create_task(self._make(identity), name="copy for a region")
        task.add_done_callback(_note_failure)
        if asker:
            self._begun_by[asker] = identity, reaches
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
            piece = file.read(min(size_bytes_max, PIECE_BYTES))
        copy.fetched = offset + len(piece)
        return piece

    def progress(self, asker: str) -> tuple[int, int] | None:
        """(bytes, of so many) that a region has fetched of the copy that it has here; of 0 while it is being made."""
        identity, _ = self._begun_by.get(asker, ("", 0))
        if (copy := self._copies.get(identity)) is not None:
            return copy.fetched, copy.bytes
        return (0, 0) if identity in self._making else None

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
        self._begun_by = {asker: each for asker, each in self._begun_by.items() if each[0] in there}


def _note_failure(making: "asyncio.Task[None]") -> None:
    """Whoever asked for the copy may be gone, and then nobody else looks."""
    if not making.cancelled() and (error := making.exception()) is not None:
        _log.warning("a copy of the state could not be made", error=name_of(error))


def _described(path: Path) -> _Copy:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Copy(path, path.stat().st_size, digest, time.monotonic())
