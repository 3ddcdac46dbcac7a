"""Reads and membership changes that start on a node that does not lead: one question, one answer.

Read requests are batched: one question is under way at a time, whoever comes meanwhile shares the next. A
lost question is asked again at the next news (leader, link) or after a while; it changes nothing, so that is
safe.

Questions are numbered from somewhere at random: a leader may answer a question only once it is led by a quorum again,
and a node that was started again meanwhile must not take that for an answer to its own.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from consensus import wire
from consensus.api import Member
from consensus.errors import MembershipRefused

READERS_MAX = 50_000
NUMBER_BITS = 62
_T = TypeVar("_T")


class Way(Protocol):
    """Where the leader is, from here."""

    @property
    def leader_elsewhere(self) -> str | None: ...
    @property
    def term(self) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...


class ReadQuestions:
    """The asking side of read index."""

    def __init__(
        self, way: Way, clock: Callable[[], float], patience_s: float, *, rng: random.Random
    ) -> None:
        self._way, self._clock, self._patience_s = way, clock, patience_s
        self._next: list[asyncio.Future[int | None]] = []
        self._confirm = False  # somebody in _next does not trust leases
        self._asked: list[asyncio.Future[int | None]] = []
        self._number = rng.getrandbits(NUMBER_BITS)
        self._asked_at = 0.0

    def ask(self, *, confirm: bool) -> "asyncio.Future[int | None]":
        """The leader's read index as of now or later; None: look again who leads."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if len(self._next) >= READERS_MAX:
            future.set_result(None)
            return future
        self._next.append(future)
        self._confirm = self._confirm or confirm
        if not self._asked:
            self._send()
        return future

    def answered(self, number: int, index: int) -> None:
        if number != self._number or not self._asked:
            return
        self._settle(index if index >= 0 else None)
        self._send()

    def news(self) -> None:
        """Another leader, term or link: nobody may answer any more."""
        self._settle(None)
        waiting, self._next = self._next, []
        _resolve(waiting, None)

    def look(self) -> None:
        """From time to time: a question that is too old was lost."""
        if self._asked and self._clock() - self._asked_at > self._patience_s:
            self.news()

    def _send(self) -> None:
        self._next = [future for future in self._next if not future.done()]
        leader = self._way.leader_elsewhere
        if not self._next or leader is None:
            return
        self._number += 1
        question = wire.ReadIndex(self._way.term, self._number, self._confirm)
        if self._way.send(leader, wire.encode(question)):
            self._asked, self._next, self._confirm = self._next, [], False
            self._asked_at = self._clock()

    def _settle(self, index: int | None) -> None:
        asked, self._asked = self._asked, []
        _resolve(asked, index)


class ChangeQuestions:
    """The asking side of what the leader alone can do: membership changes, and restoring a file."""

    def __init__(self, way: Way, *, rng: random.Random) -> None:
        self._way = way
        self._number = rng.getrandbits(NUMBER_BITS)
        self._asked: dict[int, asyncio.Future[bool]] = {}

    async def ask(self, member: Member, *, adding: bool, timeout: float) -> bool:
        """True when the leader has done it; False: look again who leads. Raises MembershipRefused."""
        timeout_ms = max(1, int(timeout * 1000))
        return await self._ask(
            lambda term, number: wire.Change(term, number, adding, member.id, member.address, timeout_ms)
        )

    async def ask_restore(self, request_id: bytes, sha256: bytes, size_bytes: int) -> bool:
        """True when the leader's log holds it; False: look again who leads. Raises MembershipRefused."""
        return await self._ask(
            lambda term, number: wire.RestoreAsk(term, number, request_id, sha256, size_bytes)
        )

    async def ask_removal(self, node_id: str) -> bool:
        """True when the leader has no objection; False: look again who leads. Raises MembershipRefused."""
        return await self._ask(lambda term, number: wire.RemovalAsk(term, number, node_id))

    async def _ask(self, frame: Callable[[int, int], wire.Frame]) -> bool:
        leader = self._way.leader_elsewhere
        if leader is None:
            return False
        self._number += 1
        number = self._number
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            if not self._way.send(leader, wire.encode(frame(self._way.term, number))):
                return False
            return await future
        finally:
            del self._asked[number]

    def answered(self, frame: wire.ChangeReply) -> None:
        future = self._asked.get(frame.number)
        if future is None or future.done():
            return
        if frame.code == wire.REFUSED:
            future.set_exception(MembershipRefused(frame.text))
        else:
            future.set_result(frame.code == wire.DONE)

    def news(self) -> None:
        _resolve(list(self._asked.values()), False)


def _resolve(futures: "Sequence[asyncio.Future[_T]]", value: _T) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)
