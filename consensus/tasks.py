"""What a member does beside its ticks: tasks of the loop, and threads for what blocks. All of them end with it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

Run = Callable[..., Awaitable[Any]]  # run(function, *args) awaits a blocking call
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

_log = logging.getLogger(__name__)


class Tasks:
    """The owner of a member's tasks and threads."""

    def __init__(self, fatal: Callable[[str], NoReturn]) -> None:
        self._fatal = fatal
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: list[ThreadPoolExecutor] = []

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "job") -> "asyncio.Task[None]":
        """A task that ends by itself, or in cancel()."""
        task = asyncio.create_task(self._guard(work), name=f"raft-{name}")
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of ours never fails but by cancellation: anything else is a bug or a lost disk."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - nothing may go on in this node's name after it
            _log.exception("a task of the group failed")
            self._fatal(f"{type(error).__name__} in a task")

    def thread(self, name: str) -> Run:
        """A thread of its own, for one blocking call after the other."""
        pool = ThreadPoolExecutor(1, thread_name_prefix=f"raft-{name}")
        self._threads.append(pool)

        async def run(function: Callable[..., Any], *args: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

        return run

    async def cancel(self) -> None:
        """End every task."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def join(self) -> None:
        """Blocking: let every thread end what it does."""
        for thread in self._threads:
            thread.shutdown(wait=True)
