"""The whole state of another region on its way here (copies.py): fetched in pieces, checked by its digest.

What is here of it lies in a file that is named after the copy, so that a node which was killed meanwhile goes on where
it was, for as long as the other region has that copy. Over a link that carries a piece quickly several are on their way
at a time: one a round trip would leave it idle.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from node.regions.copies import PIECE_BYTES
from node.regions.links import Interrupted, Links, Unreachable
from storage.files import replace

SNAPSHOT = "/v1/sys/regions/link/snapshot"
PIECE_TIMEOUT_S = 30.0
PIECE_ATTEMPTS_MAX = 20
PIECES_ASKED_MAX = 8  # at a time
QUICK_PIECE_S = 1.0  # one that takes longer fills the link alone
DONE_TIMEOUT_S = 5.0
PIECE_PAUSE_S = 0.5
COPY_TIMEOUT_S = 3600.0  # for the copy to be made
ASK_TIMEOUT_S = 60.0
READ_BYTES = 1 << 20
_IDENTITY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is here of the state of region `source`; bytes_max 0: it is not known yet how much there is."""

    source: str
    bytes: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Asker:
    """Who fetches a state: a region, and the position that it has come to by itself."""

    region: str
    position: int = 0


class CopyGoneError(Interrupted):
    """The node that made the copy does not have it any more."""


class Arrival:
    """A copy on its way here: after an interruption it goes on where it was, while the source keeps the copy."""

    def __init__(self, target: Path) -> None:
        """`target`: the file that it becomes."""
        self._target = target
        self._source: tuple[str, tuple[str, ...]] = ("", ())
        self._identity = ""  # of the copy; "" until one is made
        self._bytes, self._sha256 = 0, ""
        self._size, self._digest = 0, hashlib.sha256()
        self.moved_at = time.monotonic()  # when anything arrived last

    @property
    def begun(self) -> bool:
        """Whether a part of it is here."""
        return self._size > 0

    @property
    def progress(self) -> Progress:
        return Progress(self._source[0], self._size, self._bytes if self._identity else 0)

    async def fetch(
        self,
        links: Links,
        region: str,
        addresses: tuple[str, ...],
        asker: Asker,
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """The whole state of a region in the target, verified and durable. Raises Interrupted or Unreachable: call
        it again; what is here is kept, unless it turned out to be damaged or the source has forgotten its copy.
        """
        if self._identity and self._source[0] != region:
            await self.give_up(links)
        try:
            if not self._identity:
                await self._begin(links, region, addresses, asker)
            await self._continue(links, tell)
            if self._digest.hexdigest() != self._sha256:
                await self.give_up(links)
                raise Interrupted("the copy of the state arrived damaged")
        except CopyGoneError:
            self._forget()
            raise
        await asyncio.to_thread(replace, self._part, self._target)
        await self._done(links)

    async def _begin(self, links: Links, region: str, addresses: tuple[str, ...], asker: Asker) -> None:
        self._source = region, ()
        self._source, described = await _begin(links, region, addresses, asker)
        if not _IDENTITY.fullmatch(described["id"]):
            raise Interrupted(f"{region} gave its copy no name that a file can have")
        self._identity, self.moved_at = described["id"], time.monotonic()
        self._bytes, self._sha256 = described["bytes"], described["sha256"]
        clear_parts(self._target, but=self._part)
        self._size, self._digest = await asyncio.to_thread(_hashed, self._part, self._bytes)

    @property
    def _part(self) -> Path:
        return self._target.with_name(f"{self._target.name}.{self._identity}.part")

    async def _continue(self, links: Links, tell: Callable[[Progress], None]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._part, flags, 0o600), "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            async with contextlib.aclosing(self._pieces(links)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(_append, file, piece)
                    self._digest.update(piece)
                    self._size += len(piece)
                    self.moved_at = time.monotonic()
                    tell(self.progress)
            await asyncio.to_thread(os.fsync, file.fileno())

    async def _pieces(self, links: Links) -> AsyncGenerator[bytes, None]:
        """What is missing, in order; whoever takes a piece counts it in `_size` before the next one.

        Raises Interrupted or Unreachable; what was asked for is let go.
        """
        source, identity, offset = self._source, self._identity, self._size
        asked: deque[asyncio.Task[tuple[bytes, float]]] = deque()
        asked_max = 1
        try:
            while self._size < self._bytes:
                while offset < self._bytes and len(asked) < asked_max:
                    asked.append(asyncio.create_task(_piece(links, source, identity, offset)))
                    offset += PIECE_BYTES
                piece, took_s = await asked[0]
                del asked[0]
                if not piece:
                    raise CopyGoneError("the copy of the state ended early")
                whole = len(piece) == min(PIECE_BYTES, self._bytes - self._size)
                if not whole:  # the source is told to spare the link: those behind it are not what follows
                    await _let_go(asked)
                    offset = self._size + len(piece)
                asked_max = min(asked_max + 1, PIECES_ASKED_MAX) if whole and took_s < QUICK_PIECE_S else 1
                yield piece
        finally:
            await _let_go(asked)

    async def give_up(self, links: Links | None) -> None:
        """Nobody goes on with it: its file goes, and the source is told if it can be."""
        await self._done(links)
        clear_parts(self._target)

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


def _append(file: BinaryIO, piece: bytes) -> None:
    """So that it counts although the process may be killed next."""
    file.write(piece)
    file.flush()


def parts(target: Path) -> list[Path]:
    """What is here of states that were to become `target`, from before a restart too."""
    return list(target.parent.glob(f"{target.name}.*.part"))


def clear_parts(target: Path, *, but: Path | None = None) -> None:
    """Remove what is here of copies, all `but` one."""
    for left in parts(target):
        if left != but:
            left.unlink()


def _hashed(part: Path, bytes_max: int) -> tuple[int, "hashlib._Hash"]:
    """Blocking: how much is here of a copy, and the digest so far; nothing if it is no beginning of that copy."""
    digest = hashlib.sha256()
    if not part.exists() or part.stat().st_size > bytes_max:
        return 0, digest
    with part.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
        return file.tell(), digest


async def _begin(
    links: Links, region: str, addresses: tuple[str, ...], asker: Asker
) -> tuple[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """Have a copy made: it lies on the one node that answers, so the pieces are asked of that one."""
    problem, asked = f"{region} has no address", {"asker": asker.region, "position": asker.position}
    for address in addresses:
        source = (region, (address,))
        try:
            told = msgspec.json.decode(await _ask(links, source, asked, ASK_TIMEOUT_S))
            ends = time.monotonic() + COPY_TIMEOUT_S
            while "sha256" not in told and time.monotonic() < ends:
                told = msgspec.json.decode(await _patiently(links, source, {"id": told["id"]}, ASK_TIMEOUT_S))
            if "sha256" not in told:
                raise Interrupted(f"no copy within {COPY_TIMEOUT_S:.0f} s")
            return source, told
        except (Unreachable, Interrupted) as error:
            problem = str(error)
    raise Interrupted(f"the state could not be fetched: {problem}")


async def _piece(
    links: Links, source: tuple[str, tuple[str, ...]], identity: str, offset: int
) -> tuple[bytes, float]:
    """The piece, and how many seconds it took."""
    began = time.monotonic()
    piece = await _patiently(links, source, {"id": identity, "offset": offset}, PIECE_TIMEOUT_S)
    return piece, time.monotonic() - began


async def _let_go(asked: "deque[asyncio.Task[tuple[bytes, float]]]") -> None:
    """What is under way is not wanted any more."""
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    asked.clear()


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
    body = msgspec.json.encode(asked)
    # the way may never have been measured: who joins asks nothing else
    answer = await links.ask(*source, SNAPSHOT, body=body, timeout_s=timeout_s, patient=True)
    if answer.status == HTTPStatus.BAD_REQUEST:
        raise CopyGoneError(f"{source[0]} does not have the copy of its state any more")
    if answer.status != HTTPStatus.OK:
        raise Interrupted(f"the state could not be fetched: {source[0]} answered HTTP {answer.status}")
    return answer.body
