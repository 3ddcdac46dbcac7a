"""What a leader takes into its log: each request id once, and many entries at a time when many writers wait.

A batch costs a frame to every peer, a write of the journal and an answer from every peer, however many entries it
has. So while BUSY_PROPOSALS or more are not applied yet, what comes is gathered until the last batch is committed, and
as many have come as that one had: whoever gets an answer now writes again soon. But for GATHER_S at most. What comes
in one turn of the loop to a leader that waits for nothing is one batch, however much it is. With fewer writers nobody
waits for anybody. (PostgreSQL knows the two numbers as commit_siblings and commit_delay.)
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from consensus import wire
from consensus.api import COMMAND_BYTES_MAX, PENDING_PROPOSALS_MAX, REQUEST_ID_BYTES, Applied
from consensus.membership import REGULAR
from consensus.options import RaftOptions
from consensus.records import Entry

BUSY_PROPOSALS = 8
GATHER_S = 0.003
GATHERED_ENTRIES_MAX = 1024

_REGULAR = bytes([REGULAR])


class Leader(Protocol):
    """The member that takes proposals."""

    @property
    def accepting(self) -> bool:
        """This node leads and is not handing over."""
        ...

    @property
    def disk_full(self) -> bool: ...
    def append(self, payload: bytes) -> int: ...
    def outcome(self, request_id: bytes) -> Applied | None: ...


class Batcher:
    """The ids in this leader's log, or on their way into it, that are not applied yet."""

    def __init__(self, leader: Leader, options: RaftOptions) -> None:
        self._leader, self._options = leader, options
        self._in_flight: set[bytes] = set()
        self._bytes = 0
        self._gathered: list[bytes] = []
        self._release_due: asyncio.TimerHandle | None = None
        self._last_index = 0  # of the last batch
        self._open = False  # in this turn of the loop: nothing was under way when it began

    def begin_term(self, unapplied: Iterable[Entry]) -> None:
        """This node leads now: remember which ids its log holds beyond what is applied."""
        self.end_term()
        for payload, _, _ in unapplied:
            if payload[:1] == _REGULAR:
                self._in_flight.add(payload[1 : 1 + REQUEST_ID_BYTES])
                self._bytes += len(payload)

    def end_term(self) -> None:
        """What was gathered never was in the log; whoever proposed it tries again at the news."""
        self._in_flight.clear()
        self._gathered.clear()
        self._bytes = self._last_index = 0
        self._stop_timer()

    def take(self, request_id: bytes, command: bytes) -> int:
        """Append the command, now or soon, unless it is there already. Returns wire.DONE or why not."""
        if not self._leader.accepting:
            return wire.NOT_LEADER
        if len(command) > COMMAND_BYTES_MAX:
            return wire.TOO_LARGE
        if request_id in self._in_flight or self._leader.outcome(request_id) is not None:
            return wire.DONE
        if self._leader.disk_full:
            return wire.DISK_FULL
        size = 1 + REQUEST_ID_BYTES + len(command)
        full = len(self._in_flight) >= PENDING_PROPOSALS_MAX
        if full or self._bytes + size > self._options.pending_bytes_max:
            return wire.OVERLOADED
        self._in_flight.add(request_id)
        self._bytes += size
        payload = b"".join((_REGULAR, request_id, command))
        if len(self._in_flight) == 1 and not self._open:
            self._open = True
            asyncio.get_running_loop().call_soon(self._close)
        if self._open or len(self._in_flight) <= BUSY_PROPOSALS:
            self._last_index = self._leader.append(payload)
            return wire.DONE
        self._gathered.append(payload)
        if len(self._gathered) >= GATHERED_ENTRIES_MAX:
            self._release()
        elif self._release_due is None:
            self._release_due = asyncio.get_running_loop().call_later(GATHER_S, self._release)
        return wire.DONE

    def applied(self, request_id: bytes, size: int) -> None:
        """That entry was applied on this node, which may or may not lead."""
        if request_id in self._in_flight:
            self._in_flight.discard(request_id)
            self._bytes -= size

    def committed(self, index: int) -> None:
        """This node leads, and all up to `index` is committed: a next batch of that size need not wait until it is
        applied.
        """
        as_large = 2 * len(self._gathered) >= len(self._in_flight)
        if self._gathered and as_large and index >= self._last_index:
            self._release()

    def _close(self) -> None:
        self._open = False

    def _release(self) -> None:
        self._stop_timer()
        gathered, self._gathered = self._gathered, []
        if not self._leader.accepting:  # handing over: the next leader will be told again
            for payload in gathered:
                self._in_flight.discard(payload[1 : 1 + REQUEST_ID_BYTES])
                self._bytes -= len(payload)
            return
        for payload in gathered:
            self._last_index = self._leader.append(payload)

    def _stop_timer(self) -> None:
        if self._release_due is not None:
            self._release_due.cancel()
            self._release_due = None
