"""When the garbage collector runs: hardly ever by itself, and over everything in quiet moments.

A full collection looks at every object of every connection: with ten thousand of them it takes long enough to be
what the slowest requests wait for. Requests leave no cycles behind, connections that have ended do.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable

import structlog

THRESHOLDS = (50_000, 20, 1_000)  # full collections practically never
LOOK_EVERY_S = 2.0
QUIET_ACTIVITY_MAX = 10  # connections and answers between two looks
QUIET_AGE_S = 60.0  # of the last full collection, for another in a quiet moment
BUSY_AGE_S = 900.0  # ... and for one in any moment

_log = structlog.get_logger(__name__)


def collect() -> None:
    """A full collection; what is left lives on, and is not looked at again until the next one."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Schedule:
    """Decides when it is time. Pure: counts and times (seconds) come in."""

    def __init__(self, activity: int, now: float) -> None:
        self._looked = self._collected_activity = activity
        self._collected = now

    def is_due(self, activity: int, now: float) -> bool:
        """`activity` counts connections and answers so far. True means that a full collection follows."""
        quiet = activity - self._looked <= QUIET_ACTIVITY_MAX
        self._looked = activity
        age = now - self._collected
        if activity == self._collected_activity or age < (QUIET_AGE_S if quiet else BUSY_AGE_S):
            return False
        self._collected, self._collected_activity = now, activity
        return True


@contextlib.asynccontextmanager
async def tuned(activity: Callable[[], int]) -> AsyncIterator[None]:
    """For a process that is set up and serves: `activity` counts its connections and answers."""
    collect()
    gc.set_threshold(*THRESHOLDS)
    task = asyncio.create_task(_collect_in_quiet_moments(activity), name="collector")
    try:
        yield
    finally:
        task.cancel()


async def _collect_in_quiet_moments(activity: Callable[[], int]) -> None:
    schedule = Schedule(activity(), time.monotonic())
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if schedule.is_due(activity(), time.monotonic()):
            began = time.perf_counter()
            collect()
            _log.debug("collected", seconds=round(time.perf_counter() - began, 4))
