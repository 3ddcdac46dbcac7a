"""Where the fsync of a lone write runs: on the loop while the disk is fast, in its thread once it is not.

A hop to a thread and back costs two context switches, which is about as much as an fsync of a good disk and most
of the latency of a lone write. A slow disk must stop neither heartbeats nor clients, so after one slow sync
the loop is not trusted with the next SLOW_SYNCS: it stalls at most once in so many, for one sync.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

INLINE_SYNC_S_MAX = 0.002
SLOW_SYNCS = 256

Run = Callable[..., Awaitable[Any]]


class DiskRunner:
    """Awaitable calls of one blocking function after another."""

    def __init__(self, thread: Run, clock: Callable[[], float] = time.perf_counter) -> None:
        """`thread(function, *args)` awaits a call in the disk's own thread."""
        self._thread, self._clock = thread, clock
        self._distrusted = SLOW_SYNCS  # the first ones prove themselves in the thread

    async def __call__(self, function: Callable[..., None], *args: Any) -> None:
        """Run `function(*args)`; raises what it raises."""
        if self._distrusted:
            took = await self._thread(self._timed, function, *args)
            self._distrusted -= 1
        else:
            took = self._timed(function, *args)
        if took > INLINE_SYNC_S_MAX:
            self._distrusted = SLOW_SYNCS

    def _timed(self, function: Callable[..., None], *args: Any) -> float:
        started = self._clock()
        function(*args)
        return self._clock() - started
