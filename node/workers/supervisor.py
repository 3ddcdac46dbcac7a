"""The one owner of the worker processes: they run while the store is open, and a dead one is replaced.

Sealing takes their answers from them: from then on the board says that nothing is fresh, and they are told to forget
what they know, to finish what they are doing, which may be the answer to the seal itself, and to end. They are killed
if they do not.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

import structlog

from node.api.answers import OK
from node.api.protocol import Server
from node.audit.log import AuditLog
from node.config import Settings
from node.listeners import Listeners
from node.pki import Credentials
from node.store import Store
from node.telemetry.metrics import Counts, Metrics
from node.workers import messages
from node.workers.board import Board
from node.workers.descriptors import Descriptors
from node.workers.desk import AclNumbers, Desk
from node.workers.worker import encode_settings

SEAL_S = 1.0  # for what is being answered, while the store is sealed: the answer to that, perhaps
KILL_AFTER_S = 2.0  # more
RESTART_FIRST_S, RESTART_MAX_S = 0.5, 30.0
STEADY_S = 60.0  # who has run for so long is replaced at once
LOOK_EVERY_S = 1.0
SILENT_LOOKS_MAX = 15  # a worker that has said nothing for so many looks is hung, and killed
STARTING_LOOKS_MAX = 120  # ... and so many for one that is still loading

_log = structlog.get_logger("workers")


class Workers:
    """Starts and ends the workers of a node; open() and close() follow its store."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        metrics: Metrics,
        audit: AuditLog,
        *,
        own: Callable[[], Credentials | None],
        kept: Sequence[int] = (),
    ) -> None:
        """`own`: what listeners without files show now; `kept`: descriptors that must stay open as long as a worker
        runs, among them the lock of the data directory.
        """
        self._settings, self._listeners = settings, listeners
        self._own, self._kept = own, tuple(kept)
        self._crew: _Crew | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._before: dict[int, Counts] = {}  # what crews of before answered, by status
        metrics.count_elsewhere(self.answered)
        audit.refused_elsewhere = self._withheld
        metrics.count_connections(lambda: 0 if self._crew is None else self._crew.connections())

    def open(self, store: Store, cluster_id: str) -> None:
        """The store answers from now on, and so do workers. Inside the running loop."""
        self._crew = _Crew(self._settings, self._listeners, store, cluster_id, self._own, self._kept)
        self._crew.start()

    def close(self, seconds: float = SEAL_S) -> None:
        """The store is about to be sealed: nobody answers by himself any more when this returns.

        What is being answered has so many seconds, then the connections at workers are cut.
        """
        crew, self._crew = self._crew, None
        if crew is None:
            return
        crew.hide(seconds)
        for status, counts in crew.counts():
            self._before[status] = _sum(self._before.get(status), counts)
        task = asyncio.create_task(crew.leave(), name="workers-leave")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def drain(self) -> None:
        """close(), at the end of the process: returns when all are gone."""
        self.close(self._settings.drain_timeout_s)
        await asyncio.gather(*self._leaving)

    def hang_up(self) -> None:
        """As SIGHUP."""
        if self._crew is not None:
            self._crew.tell(messages.HangUp())

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [] if self._crew is None else list(self._crew.pids.values())

    def _withheld(self) -> int:
        """A worker answers by itself, or has no record of it: it knows no other failure."""
        return sum(sum(buckets) for _, status, (buckets, _) in self.answered() if status != OK)

    @property
    def serving(self) -> list[int]:
        """Numbers of those who accept clients."""
        return [] if self._crew is None else self._crew.serving()

    def answered(self) -> Iterable[tuple[str, int, Counts]]:
        """What workers have answered by themselves since the start: operation, status, how long it took."""
        found = dict(self._before)
        for status, counts in self._crew.counts() if self._crew is not None else ():
            found[status] = _sum(found.get(status), counts)
        return [("read", status, counts) for status, counts in found.items()]


def _sum(one: Counts | None, other: Counts) -> Counts:
    if one is None:
        return other
    return [a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]


def _raise(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error  # a bug: the loop's handler stops the node


class _Crew:
    """The workers of one time that the store is open."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        store: Store,
        cluster_id: str,
        own: Callable[[], Credentials | None],
        kept: tuple[int, ...],
    ) -> None:
        self._settings, self._store, self._cluster_id, self._own, self._kept = (
            settings,
            store,
            cluster_id,
            own,
            kept,
        )
        shared = listeners.share()
        self._sockets: list[tuple[socket.socket, ...]] = [sockets for sockets, _ in shared]
        self._servers: list[Server] = [server for _, server in shared]
        self._board = Board.create()
        self._acls = AclNumbers()
        self._desks: dict[int, Desk] = {}
        self._closing = asyncio.Event()
        self._patience_s = KILL_AFTER_S
        self._tasks: list[asyncio.Task[None]] = []
        self.pids: dict[int, int] = {}

    def start(self) -> None:
        self._store.show(self._board, self._board.show)
        works = [self._keep(number) for number in range(1, self._settings.read_workers + 1)]
        self._tasks = [asyncio.create_task(work, name="worker") for work in [*works, self._look()]]
        for task in self._tasks:
            task.add_done_callback(_raise)

    def hide(self, seconds: float) -> None:
        """From now on nothing is fresh, and nobody is told of changes."""
        self._store.show(None, None)
        self._board.show(0.0)
        self._patience_s = seconds + KILL_AFTER_S
        self._closing.set()
        self.tell(messages.Drain(seconds))

    async def leave(self) -> None:
        await asyncio.gather(*self._tasks)
        self._board.close()

    def tell(self, frame: messages.ToWorker) -> None:
        for desk in self._desks.values():
            desk.channel.send(frame)

    def counts(self) -> list[tuple[int, Counts]]:
        return list(self._board.counts(self._settings.read_workers))

    def connections(self) -> int:
        return self._board.connections(self._settings.read_workers)

    def serving(self) -> list[int]:
        return [number for number, desk in self._desks.items() if desk.serving]

    async def _keep(self, number: int) -> None:
        """One worker after another, until the store is closed."""
        loop, pause_s = asyncio.get_running_loop(), RESTART_FIRST_S
        while not self._closing.is_set():
            began = loop.time()
            try:
                code = await self._run(number)
            except OSError as error:
                code = -1
                _log.error("read worker cannot be started", worker=number, error=type(error).__name__)
            if self._closing.is_set():
                return
            pause_s = RESTART_FIRST_S if loop.time() - began >= STEADY_S else min(2 * pause_s, RESTART_MAX_S)
            _log.warning("read worker ended", worker=number, code=code, next_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()

    async def _run(self, number: int) -> int:
        """One worker from beginning to end; its exit code."""
        ours, theirs = socket.socketpair()
        passing, passing_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (ours, passing):
            each.setblocking(False)
        silent = asyncio.Event()
        desk = Desk(self._board, self._acls, self._servers, passing, silent.set)
        try:
            with theirs, passing_theirs:
                inherited = Descriptors(self._board.descriptor, theirs, passing_theirs, tuple(self._sockets))
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "node.workers", str(os.getpid()), inherited.text()),
                    pass_fds=[*inherited.numbers, *self._kept],
                    stdin=asyncio.subprocess.DEVNULL,
                )
            if self._closing.is_set():  # it would begin to accept clients of a sealed store
                process.kill()
                return await process.wait()
            self.pids[number] = process.pid
            await asyncio.get_running_loop().create_unix_connection(lambda: desk.channel, sock=ours)
            desk.shown = self._own()
            desk.channel.send(self._setup(number, desk.shown))
            self._desks[number] = desk
            watch = asyncio.create_task(self._watch(number, desk, process), name="worker-watch")
            try:
                return await self._until_ended(process, silent)
            finally:
                watch.cancel()
        finally:
            self._desks.pop(number, None)
            self.pids.pop(number, None)
            desk.close()

    async def _watch(self, number: int, desk: Desk, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs: it holds connections, and the listeners give it more.

        Counted in looks, not seconds: if this process was stopped, what workers said meanwhile is read first.
        """
        heard, silent = desk.heard, 0
        while silent < (SILENT_LOOKS_MAX if desk.serving else STARTING_LOOKS_MAX):
            await asyncio.sleep(LOOK_EVERY_S)
            silent = silent + 1 if desk.heard == heard else 0
            heard = desk.heard
        _log.error("read worker hangs", worker=number)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _until_ended(self, process: asyncio.subprocess.Process, silent: asyncio.Event) -> int:
        """It may end by itself; when the store closes it has a while; one that does not speak is killed."""
        ended = asyncio.create_task(process.wait())
        told = [asyncio.create_task(self._closing.wait()), asyncio.create_task(silent.wait())]
        try:
            await asyncio.wait([ended, *told], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([ended], timeout=self._patience_s)
            if not ended.done():
                process.kill()
            return await ended
        finally:
            for task in told:
                task.cancel()

    def _setup(self, number: int, own: Credentials | None) -> messages.Setup:
        certificate, key = (b"", b"") if own is None else (own.certificate, own.key.reveal())
        return messages.Setup(number, encode_settings(self._settings), self._cluster_id, certificate, key)

    async def _look(self) -> None:
        """Ask for leases as long as workers answer; hand on a certificate that was renewed."""
        seen = 0
        while not self._closing.is_set():
            answered = sum(sum(buckets) for _, (buckets, _) in self.counts())
            if answered != seen:
                seen = answered
                self._store.fresh_now()
            own = self._own()
            for desk in self._desks.values():  # one that has been replaced meanwhile began with it
                if own is not None and desk.shown is not own:
                    desk.shown = own
                    desk.channel.send(messages.Certificate(own.certificate, own.key.reveal()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._closing.wait()
