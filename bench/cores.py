"""Which processor runs what: servers on one, the load on another, so that neither takes time from the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SERVERS, LOAD = 0, 1  # positions among the processors that this process may use


@contextmanager
def on(position: int) -> Iterator[None]:
    """What is started within runs on one processor, for good; without a second processor, wherever it likes."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        os.sched_setaffinity(0, {sorted(allowed)[position]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def are_separate() -> bool:
    """Whether there are two processors to tell apart."""
    return len(os.sched_getaffinity(0)) > 1
