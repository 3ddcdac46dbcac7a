"""An event loop whose time jumps to the next timer, and in which a group of callbacks can be stopped or killed.

Every callback runs in a context; one that belongs to a process of the simulated world carries it in PROCESS. So a
stopped process runs nothing, whatever it waits for, and finds everything that came meanwhile when it goes on, in
order, as after SIGSTOP. A killed one runs nothing any more.
"""

import asyncio
import contextvars
import heapq
from collections.abc import Callable
from typing import Any

START_S = 1000.0


class Violation(AssertionError):
    """A promise was broken."""


class Process:
    """Who runs. `context` is what its callbacks and tasks are started in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.waiting: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return self.name


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("PROCESS", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """Nothing is waited for: there is no selector, and no thread may call in."""

    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S
        self._outside = contextvars.copy_context()
        self.errors: list[BaseException] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self.now

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Violation):
            self.errors.append(error)

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready:
            while scheduled and scheduled[0].cancelled():
                heapq.heappop(scheduled)
            if not scheduled:
                raise Violation("everybody waits for ever")
            self.now = max(self.now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self.now:
            handle = heapq.heappop(scheduled)
            if not handle.cancelled():
                ready.append(handle)
        for _ in range(len(ready)):
            self._run(ready.popleft())

    def _run(self, handle: Any) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None and (process.stopped or not process.alive):
            if process.alive:
                process.waiting.append(handle)
            return
        handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers stay in the heap until their time."""

    def resume(self, process: Process) -> None:
        """Let a stopped process go on."""
        process.stopped = False
        waiting, process.waiting = process.waiting, []
        self._ready.extend(waiting)

    def outside(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call something of the world after a delay: nobody's process, even if one is running now."""
        self.call_at(self.now + delay_s, call, *arguments, context=self._outside)

    def within(self, process: Process, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call something in a process's name after a delay."""
        self.call_at(self.now + delay_s, call, *arguments, context=process.context)
