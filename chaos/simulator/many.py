"""Many seeds on all processors, until one breaks a promise."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from chaos.simulator.play import Played, play

AHEAD_PER_WORKER = 16
LOOK_S = 0.5


@dataclass(slots=True)
class Summary:
    """What came of the seeds that were played. `failed` is the first of them, by number, that broke a promise."""

    seeds: int = 0
    simulated_s: float = 0.0
    elapsed_s: float = 0.0
    failed: Played | None = None
    diverged: list[int] = field(default_factory=list)  # seeds whose second run was another history
    stopped: bool = False  # not all that was asked for has been played
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return self.failed is None and not self.diverged


def simulate(
    seeds: Iterable[int],
    *,
    twice: bool = False,
    defect: str = "",
    workers: int | None = None,
    tell: Callable[[Summary], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Play `seeds`, each twice if asked, until one fails or `stop()`; `tell` hears of progress, twice a second or more.

    What has been begun is played to its end and counted.
    """
    summary, started = Summary(), time.monotonic()
    context = multiprocessing.get_context("spawn")  # a process of its own, with string hashes of its own
    workers = workers or len(os.sched_getaffinity(0))
    work = partial(_play_again, twice=twice, defect=defect)
    remaining = iter(seeds)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        waiting: list[Future[tuple[Played, bool]]] = []
        while True:
            if not summary.stopped and stop():
                summary.stopped = True
                waiting = [each for each in waiting if not each.cancel()]
            more = summary.good and not summary.stopped
            room = workers * AHEAD_PER_WORKER - len(waiting)
            waiting += [pool.submit(work, seed) for seed in islice(remaining, room)] if more else []
            if not waiting:
                break
            if wait(waiting[:1], timeout=LOOK_S).done:
                _count(summary, *waiting.pop(0).result())
            summary.elapsed_s = time.monotonic() - started
            tell(summary)
    return summary


def _begin_worker() -> None:
    """Signals of a terminal, and of `timeout`, go to the whole process group: the parent decides what they mean."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_again(seed: int, *, twice: bool, defect: str) -> tuple[Played, bool]:
    """The history of a seed, and whether a second run was the same."""
    played = play(seed, defect=defect)
    return played, not twice or play(seed, defect=defect).trace == played.trace


def _count(summary: Summary, played: Played, same: bool) -> None:
    summary.seeds += 1
    summary.simulated_s += played.simulated_s
    summary.seen.update(played.seen)
    if played.failure and summary.failed is None:
        summary.failed = played
    if not same:
        summary.diverged.append(played.seed)
