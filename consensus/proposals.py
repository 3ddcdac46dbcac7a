"""From a caller's command to its outcome, on any node: hand it to the leader until it is applied here.

A request id names one command for ever. Whoever leads appends it unless the id is known already, and the
state machine remembers outcomes by id, so handing it over twice is harmless, and losing an answer costs only
time. The future of a proposal is its entry being applied on *this* node; the leader answers nothing but
refusals.

Concurrent writers share their costs: what is proposed in one turn of the loop leaves in one frame, and while many
entries are on their way a leader gathers the next ones (batching.py).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from consensus import wire
from consensus.api import COMMAND_BYTES_MAX, PENDING_PROPOSALS_MAX, REQUEST_ID_BYTES, Applied
from consensus.batching import Batcher
from consensus.errors import (
    ConsensusError,
    DiskFull,
    NoLeader,
    NotProposed,
    OutcomeUnknown,
    Overloaded,
    Shutdown,
    TooLarge,
)
from consensus.options import RaftOptions

REFUSED_BACKOFF_S = 0.02
REFUSED_BACKOFF_MAX_S = 0.5
NO_LEADER_RETRY_S = 0.5
FRAME_COMMANDS_BYTES_MAX = 1 << 20  # one frame holds more only if a single command does


class Way(Protocol):
    """How a proposal leaves: into the local log, or to the leader."""

    @property
    def accepting(self) -> bool:
        """This node leads and is not handing over."""
        ...

    @property
    def leader_elsewhere(self) -> str | None:
        """Another node that leads, as far as known."""
        ...

    @property
    def disk_full(self) -> bool: ...
    def append(self, payload: bytes) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...

    @property
    def term(self) -> int: ...
    def outcome(self, request_id: bytes) -> Applied | None: ...


@dataclass(slots=True)
class _Waiter:
    """One command, and who waits for its outcome. Times are the loop's, in seconds."""

    request_id: bytes
    command: bytes
    due: float = 0.0  # when to try again unless there is news
    queued: bool = False  # for the next _hand_over()
    callers: list[tuple["asyncio.Future[Applied]", float]] = field(default_factory=list)  # with deadlines
    open_attempts: int = 0  # handed to a leader, and not refused: each of them may be in a log
    refusals: int = 0
    last_refusal: int = 0


class Proposals:
    """All proposals that wait on this node."""

    def __init__(self, way: Way, options: RaftOptions) -> None:
        self._way, self._options = way, options
        self.batcher = Batcher(way, options)
        self._waiting: dict[bytes, _Waiter] = {}
        self._bytes = 0
        self._queue: list[_Waiter] = []
        self._flush_due: asyncio.Handle | None = None
        self._stopped = False
        self.count = 0

    def begin(self, command: bytes, *, request_id: bytes, timeout: float) -> "asyncio.Future[Applied]":
        """See api.Group.begin(). Raises at once TooLarge, Overloaded and Shutdown."""
        if len(request_id) != REQUEST_ID_BYTES:
            raise ValueError(f"a request id has {REQUEST_ID_BYTES} bytes")
        if len(command) > COMMAND_BYTES_MAX:
            raise TooLarge(f"a command has at most {COMMAND_BYTES_MAX} bytes")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Applied] = loop.create_future()
        if (known := self._way.outcome(request_id)) is not None:
            future.set_result(known)
            return future
        waiter = self._waiting.get(request_id)
        if waiter is None:
            waiter = self._admit(request_id, command)
            self._enqueue(waiter)
        waiter.callers.append((future, loop.time() + timeout))
        return future

    def _admit(self, request_id: bytes, command: bytes) -> _Waiter:
        if self._stopped:
            raise Shutdown("this node is stopping")
        if self._way.disk_full:
            raise DiskFull("this node's disk has no room for new writes")
        full = len(self._waiting) >= PENDING_PROPOSALS_MAX
        if full or self._bytes + len(command) > self._options.pending_bytes_max:
            raise Overloaded("too many proposals wait on this node")
        waiter = self._waiting[request_id] = _Waiter(request_id, command)
        self._bytes += len(command)
        self.count += 1
        return waiter

    # ---- handing over ----

    def _enqueue(self, waiter: _Waiter) -> None:
        if not waiter.queued:
            waiter.queued = True
            self._queue.append(waiter)
        if self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Give what is queued to whoever leads: all of one turn of the loop at once."""
        self._flush_due = None
        queue, self._queue = self._queue, []
        queue = [waiter for waiter in queue if self._waiting.get(waiter.request_id) is waiter]
        for waiter in queue:
            waiter.queued = False
        now = asyncio.get_running_loop().time()
        if self._way.accepting:
            for waiter in queue:
                self._take_own(waiter, now)
        elif (leader := self._way.leader_elsewhere) is not None:
            self._send(leader, queue, now)
        else:
            for waiter in queue:
                waiter.due = now + NO_LEADER_RETRY_S

    def _take_own(self, waiter: _Waiter, now: float) -> None:
        code = self.batcher.take(waiter.request_id, waiter.command)
        if code == wire.DONE:
            waiter.open_attempts += 1
            waiter.due = now + self._options.propose_retry_s
        else:
            self._back_off(waiter, code, now)

    def _send(self, leader: str, queue: list[_Waiter], now: float) -> None:
        first = 0
        while first < len(queue):
            size, after = 0, first
            while after < len(queue) and after - first < wire.PROPOSALS_MAX:
                size += len(queue[after].command)
                if size > FRAME_COMMANDS_BYTES_MAX and after > first:
                    break
                after += 1
            part = queue[first:after]
            frame = wire.Propose(self._way.term, [(waiter.request_id, waiter.command) for waiter in part])
            sent = self._way.send(leader, wire.encode(frame))
            for waiter in part:
                waiter.open_attempts += sent
                waiter.due = now + (self._options.propose_retry_s if sent else NO_LEADER_RETRY_S)
            first = after

    def _back_off(self, waiter: _Waiter, code: int, now: float) -> None:
        if code == wire.DISK_FULL and not waiter.open_attempts:  # it may last: the caller decides
            self._drop(waiter)
            for future, _ in waiter.callers:
                _fail(future, DiskFull("the leader's disk has no room for new writes"))
            return
        waiter.last_refusal = code
        waiter.refusals += 1
        waiter.due = now + min(REFUSED_BACKOFF_S * waiter.refusals, REFUSED_BACKOFF_MAX_S)

    # ---- news ----

    def applied(self, index: int, request_id: bytes, result: object, size: int) -> None:
        """The entry of `request_id` was applied here."""
        self.batcher.applied(request_id, size)
        waiter = self._waiting.get(request_id)
        if waiter is not None:
            self._settle(waiter, Applied(index, result))

    def restored(self) -> None:
        """A snapshot replaced the state: what it holds the outcome of is done."""
        for waiter in list(self._waiting.values()):
            if (known := self._way.outcome(waiter.request_id)) is not None:
                self._settle(waiter, known)

    def try_again(self) -> None:
        """Another leader, a new link, a new term: what was handed over may be lost."""
        for waiter in self._waiting.values():
            self._enqueue(waiter)

    def refused(self, request_id: bytes, code: int) -> None:
        """The leader did not append that attempt."""
        waiter = self._waiting.get(request_id)
        if waiter is not None and waiter.open_attempts:
            waiter.open_attempts -= 1
            self._back_off(waiter, code, asyncio.get_running_loop().time())

    def look(self) -> None:
        """From time to time: give up what is past its deadline, try again what is due."""
        now = asyncio.get_running_loop().time()
        for waiter in list(self._waiting.values()):
            late = [caller for caller in waiter.callers if caller[1] <= now or caller[0].done()]
            for caller in late:
                waiter.callers.remove(caller)
                _fail(caller[0], self._given_up(waiter))
            if not waiter.callers:
                self._drop(waiter)
            elif waiter.due <= now:
                self._enqueue(waiter)

    def stop(self) -> None:
        """End every wait: what was handed over is unknown, the rest was never proposed."""
        self._stopped = True
        self.batcher.end_term()
        for waiter in list(self._waiting.values()):
            kind = OutcomeUnknown if waiter.open_attempts else Shutdown
            for future, _ in waiter.callers:
                _fail(future, kind("this node is stopping"))
            self._drop(waiter)

    def _given_up(self, waiter: _Waiter) -> OutcomeUnknown | NotProposed:
        if waiter.open_attempts:
            return OutcomeUnknown("not applied here within the deadline; it may be in the log")
        if waiter.last_refusal == wire.OVERLOADED:
            return Overloaded("the leader refused it until the deadline")
        return NoLeader("nobody led, or could be reached, within the deadline")

    def _settle(self, waiter: _Waiter, applied: Applied) -> None:
        self._drop(waiter)
        for future, _ in waiter.callers:
            if not future.done():
                future.set_result(applied)

    def _drop(self, waiter: _Waiter) -> None:
        del self._waiting[waiter.request_id]
        self._bytes -= len(waiter.command)


def _fail(future: "asyncio.Future[Applied]", error: ConsensusError) -> None:
    if not future.done():
        future.set_exception(error)
