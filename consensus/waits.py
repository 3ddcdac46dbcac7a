"""Who waits for this member to get somewhere: to an applied index, or to anything that a tick can bring about."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

from consensus.errors import ConsensusError, MembershipRefused, ReadNotConfirmed


class Waits:
    """`settle()` after every tick."""

    def __init__(self, applied_index: Callable[[], int]) -> None:
        self._applied_index = applied_index
        self._appliers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._predicates: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def applied(self, index: int) -> None:
        """Return once this node has applied `index`."""
        if self._applied_index() < index:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._appliers, (index, next(self._number), future))
            await future

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate` holds after some tick."""
        if not predicate():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._predicates.append((predicate, future))
            await future

    def settle(self) -> None:
        """Let go whoever has got what he waits for."""
        applied = self._applied_index()
        while self._appliers and self._appliers[0][0] <= applied:
            _, _, future = heapq.heappop(self._appliers)
            if not future.done():
                future.set_result(None)
        if self._predicates:
            waiting, self._predicates = self._predicates, []
            for predicate, future in waiting:
                if future.done():
                    continue
                if predicate():
                    future.set_result(None)
                else:
                    self._predicates.append((predicate, future))

    def end(self) -> None:
        """This node is stopping."""
        for _, _, future in self._appliers:
            _fail(future, ReadNotConfirmed("this node is stopping"))
        for _, future in self._predicates:
            _fail(future, MembershipRefused("this node is stopping"))


def _fail(future: asyncio.Future[None], error: ConsensusError) -> None:
    if not future.done():
        future.set_exception(error)
