"""From a caller's command to its outcome, on any node: hand it to the leader until it is applied here.

A request id names one command for ever. Whoever leads appends it unless the id is known already, and the
state machine remembers outcomes by id, so handing it over twice is harmless, and losing an answer costs only
time. The future of a proposal is its entry being applied on *this* node; the leader answers nothing but
refusals.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from consensus import wire
from consensus.api import COMMAND_BYTES_MAX, PENDING_PROPOSALS_MAX, REQUEST_ID_BYTES, Applied
from consensus.errors import NoLeader, NotProposed, OutcomeUnknown, Overloaded, Shutdown, TooLarge
from consensus.membership import REGULAR
from consensus.options import RaftOptions
from consensus.records import Entry

REFUSED_BACKOFF_S = 0.02
REFUSED_BACKOFF_MAX_S = 0.5
NO_LEADER_RETRY_S = 0.5

_REGULAR = bytes([REGULAR])


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

    def append(self, payload: bytes) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...

    @property
    def term(self) -> int: ...
    def outcome(self, request_id: bytes) -> Applied | None: ...


@dataclass(slots=True)
class _Waiter:
    command: bytes
    applied: Applied | None = None
    event: asyncio.Event = field(default_factory=asyncio.Event)
    users: int = 0
    open_attempts: int = 0  # handed to a leader, and not refused: each of them may be in a log
    refused: int = 0  # the code of the last refusal
    refusals: int = 0
    last_refusal: int = 0


class Proposals:
    """All proposals that wait on this node and, while it leads, the ids in its log that are not applied yet."""

    def __init__(self, way: Way, options: RaftOptions) -> None:
        self._way, self._options = way, options
        self._waiting: dict[bytes, _Waiter] = {}
        self._bytes = 0
        self._in_flight: set[bytes] = set()
        self._in_flight_bytes = 0
        self._stopped = False
        self.count = 0

    async def propose(self, command: bytes, *, request_id: bytes, timeout: float) -> Applied:
        """See api.Group.propose()."""
        if len(request_id) != REQUEST_ID_BYTES:
            raise ValueError(f"a request id has {REQUEST_ID_BYTES} bytes")
        if len(command) > COMMAND_BYTES_MAX:
            raise TooLarge(f"a command has at most {COMMAND_BYTES_MAX} bytes")
        if (known := self._way.outcome(request_id)) is not None:
            return known
        waiter = self._join(request_id, command)
        try:
            return await self._pursue(request_id, waiter, asyncio.get_running_loop().time() + timeout)
        finally:
            self._leave(request_id, waiter)

    async def _pursue(self, request_id: bytes, waiter: _Waiter, deadline: float) -> Applied:
        loop = asyncio.get_running_loop()
        while waiter.applied is None:
            if self._stopped:
                if waiter.open_attempts:
                    raise OutcomeUnknown("this node is stopping")
                raise Shutdown("this node is stopping")
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise self._given_up(waiter)
            waiter.event.clear()
            wait_s = self._attempt(request_id, waiter)
            if waiter.applied is None:
                await _wait(waiter.event, min(wait_s, left_s))
        return waiter.applied

    def _attempt(self, request_id: bytes, waiter: _Waiter) -> float:
        """Hand the command to whoever leads. Returns how long to wait for news before trying again."""
        if waiter.refused:
            waiter.refused = 0
            return min(REFUSED_BACKOFF_S * waiter.refusals, REFUSED_BACKOFF_MAX_S)
        if self._way.accepting:
            code = self.take(request_id, waiter.command)
            if code == wire.DONE:
                waiter.open_attempts += 1
                return self._options.propose_retry_s
            waiter.last_refusal = code
            waiter.refusals += 1
            return min(REFUSED_BACKOFF_S * waiter.refusals, REFUSED_BACKOFF_MAX_S)
        leader = self._way.leader_elsewhere
        if leader is None:
            return NO_LEADER_RETRY_S
        body = wire.encode(wire.Propose(self._way.term, request_id, waiter.command))
        if not self._way.send(leader, body):
            return NO_LEADER_RETRY_S
        waiter.open_attempts += 1
        return self._options.propose_retry_s

    def _given_up(self, waiter: _Waiter) -> OutcomeUnknown | NotProposed:
        if waiter.open_attempts:
            return OutcomeUnknown("not applied here within the deadline; it may be in the log")
        if waiter.last_refusal == wire.OVERLOADED:
            return Overloaded("the leader refused it until the deadline")
        return NoLeader("nobody led, or could be reached, within the deadline")

    def _join(self, request_id: bytes, command: bytes) -> _Waiter:
        if self._stopped:
            raise Shutdown("this node is stopping")
        waiter = self._waiting.get(request_id)
        if waiter is None:
            full = len(self._waiting) >= PENDING_PROPOSALS_MAX
            if full or self._bytes + len(command) > self._options.pending_bytes_max:
                raise Overloaded("too many proposals wait on this node")
            waiter = self._waiting[request_id] = _Waiter(command)
            self._bytes += len(command)
            self.count += 1
        waiter.users += 1
        return waiter

    def _leave(self, request_id: bytes, waiter: _Waiter) -> None:
        waiter.users -= 1
        if not waiter.users and self._waiting.get(request_id) is waiter:
            del self._waiting[request_id]
            self._bytes -= len(waiter.command)

    # ---- news ----

    def applied(self, index: int, request_id: bytes, result: object, size: int) -> None:
        """The entry of `request_id` was applied here."""
        if request_id in self._in_flight:
            self._in_flight.discard(request_id)
            self._in_flight_bytes -= size
        waiter = self._waiting.get(request_id)
        if waiter is not None and waiter.applied is None:
            waiter.applied = Applied(index, result)
            waiter.event.set()

    def restored(self) -> None:
        """A snapshot replaced the state: what it holds the outcome of is done."""
        for request_id, waiter in self._waiting.items():
            if waiter.applied is None and (known := self._way.outcome(request_id)) is not None:
                waiter.applied = known
                waiter.event.set()

    def try_again(self) -> None:
        """Another leader, a new link, a new term: what was handed over may be lost."""
        for waiter in self._waiting.values():
            waiter.refused = 0
            waiter.event.set()

    def refused(self, request_id: bytes, code: int) -> None:
        """The leader did not append that attempt."""
        waiter = self._waiting.get(request_id)
        if waiter is not None and waiter.applied is None and waiter.open_attempts:
            waiter.open_attempts -= 1
            waiter.refused = waiter.last_refusal = code
            waiter.refusals += 1
            waiter.event.set()

    def stop(self) -> None:
        """End every wait: what was handed over is unknown, the rest was never proposed."""
        self._stopped = True
        self.try_again()

    # ---- as the leader ----

    def begin_term(self, unapplied: Iterable[Entry]) -> None:
        """This node leads now: remember which ids its log holds beyond what is applied."""
        self._in_flight.clear()
        self._in_flight_bytes = 0
        for payload, _, _ in unapplied:
            if payload[:1] == _REGULAR:
                self._in_flight.add(payload[1 : 1 + REQUEST_ID_BYTES])
                self._in_flight_bytes += len(payload)

    def end_term(self) -> None:
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def take(self, request_id: bytes, command: bytes) -> int:
        """Append the command unless it is there already. Returns wire.DONE or why not."""
        if not self._way.accepting:
            return wire.NOT_LEADER
        if len(command) > COMMAND_BYTES_MAX:
            return wire.TOO_LARGE
        if request_id in self._in_flight or self._way.outcome(request_id) is not None:
            return wire.DONE
        size = 1 + REQUEST_ID_BYTES + len(command)
        if (
            len(self._in_flight) >= PENDING_PROPOSALS_MAX
            or self._in_flight_bytes + size > self._options.pending_bytes_max
        ):
            return wire.OVERLOADED
        self._in_flight.add(request_id)
        self._in_flight_bytes += size
        self._way.append(b"".join((_REGULAR, request_id, command)))
        return wire.DONE


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until `event`, at most `seconds`. One timer handle, no task: this is the way of every write."""
    loop = asyncio.get_running_loop()
    alarm: Callable[[], None] = event.set
    handle = loop.call_later(seconds, alarm)
    try:
        await event.wait()
    finally:
        handle.cancel()
