"""Replacing the state of the whole group by a file: spread it first, then let one entry of the log restore it.

The member that is asked copies the file to every member that it reaches. Only then is an entry with the file's
digest appended, and a follower takes that entry into its log only with the file on its disk: so whoever commits
it holds what it names, and it survives any minority like every other entry. Applying it pauses until the
state is laid ready beside the loop; then the state is swapped. A member without the file stays before the entry: the
leader offers it the file until the entry is applied, and from then on a snapshot, since its log is compacted up to
the entry, at once or at its next start. Applied twice it restores once: the state machine remembers the request id.
Whether its state is still to be replaced when the entry's turn comes, the state machine says; all say the same.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgpack

from consensus import wire
from consensus.api import REQUEST_ID_BYTES
from consensus.errors import Corrupt, OutcomeUnknown, RestoreRefused
from consensus.intake import Pull, Silence, Staging
from consensus.membership import RESTORE
from consensus.records import Entry, unpack_strict
from consensus.replica import Replica
from consensus.shipping import HeldFile
from consensus.snapshot import SnapshotRefused

STRAGGLERS_S = 10.0  # how long a connected member may take to get going before the others go on without it
DISK_RETRY_S = 5.0
ASK_AGAIN_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a RESTORE entry says."""

    request_id: bytes
    sha256: bytes
    size_bytes: int

    def payload(self) -> bytes:
        packed: bytes = msgpack.packb([self.sha256, self.size_bytes])
        return bytes([RESTORE]) + self.request_id + packed

    @classmethod
    def of(cls, entry: Entry) -> "Order":
        """Raises Corrupt: only this module writes them."""
        payload, index, _ = entry
        try:
            match unpack_strict(payload[1 + REQUEST_ID_BYTES :]):
                case [bytes(sha256), int(size_bytes)]:
                    return cls(payload[1 : 1 + REQUEST_ID_BYTES], sha256, size_bytes)
        except ValueError:
            pass
        raise Corrupt(f"entry {index} restores no file")


@dataclass(slots=True)
class _Spread:
    """A file on its way from here to everybody."""

    order: Order
    held_by: set[str]
    readers: set[str] = field(default_factory=set)  # who has asked for a piece


class Local(Protocol):
    """The member."""

    replica: Replica

    @property
    def term(self) -> int: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def leader_elsewhere(self) -> str | None: ...
    def send(self, peer: str, body: bytes) -> bool: ...
    def connected(self) -> set[str]: ...
    def kick(self) -> None: ...
    def close_batch(self) -> None: ...
    def fatal(self, reason: str) -> None: ...
    def state_replaced(self, index: int) -> None:
        """The machine holds another state: forget what was known of the old one, and compact up to `index`."""
        ...

    async def until(self, predicate: Callable[[], bool]) -> None: ...
    async def ask_restore(self, order: "Order") -> None:
        """Have the leader append it; whether it did is seen by the entry being applied. Raises RestoreRefused."""
        ...


class Restoring:
    """Both sides, and applying the entry. One file at a time."""

    def __init__(self, local: Local, staging: Staging, *, rng: random.Random) -> None:
        self._local, self._machine, self._snapshots = local, staging.machine, staging.snapshots
        self._run, self._spawn, self._clock = staging.run, staging.spawn, staging.clock
        self._lock, self._rng = staging.lock, rng
        self._holder = self._snapshots.holder()
        self._spread: _Spread | None = None
        self._pull: Pull | None = None
        self._offered: tuple[str, bytes, float] = ("", b"", 0.0)  # by whom, what, when
        self._ready = 0  # the index of the entry whose state is laid ready
        self._laying = 0  # ... or about to be
        self._wanted = False  # that state replaces the present one; else the entry changes nothing
        self._busy = asyncio.Lock()
        self.restored = 0
        self._looked = float("-inf")
        # What is held at a start stays until it is old (upkeep.py): this member has said that it holds it, so a leader
        # may be about to append the entry that names it.

    def held(self, but: "Order | None" = None) -> set[bytes]:
        """The digests of the files that must stay: in the log and not applied, or on their way. `but` is done with."""
        orders = list(self._in_log().values())
        if self._spread is not None:
            orders.append(self._spread.order)
        return {order.sha256 for order in orders if order != but}

    def _release(self, done: Order) -> None:
        """Others may be held for a restore that another member was asked for, and has not ordered yet: they stay."""
        if done.sha256 not in self.held(but=done):
            self._snapshots.release(done.sha256)

    def _in_log(self) -> dict[int, Order]:
        """The orders that the log holds beyond what is applied, by index."""
        replica = self._local.replica
        start = replica.core.applied_index - replica.log.base.index + 1
        return {entry[1]: Order.of(entry) for entry in replica.log[max(1, start) :] if entry[0][0] == RESTORE}

    def last_applied(self) -> int:
        """The index of the log's last order that is applied here, so that its file is gone; 0: there is none."""
        replica = self._local.replica
        end = replica.core.applied_index - replica.log.base.index + 1
        return max((entry[1] for entry in replica.log[1:end] if entry[0][0] == RESTORE), default=0)

    # ---- the member that is asked

    async def restore(self, path: Path, timeout: float) -> None:
        """See api.Group.restore()."""
        if self._busy.locked():
            raise RestoreRefused("another restore is going on at this node")
        asked = False
        async with self._busy:
            try:
                async with asyncio.timeout(timeout):
                    size_bytes, sha256 = await self._run(self._snapshots.hold_copy, path)
                    order = Order(self._rng.randbytes(REQUEST_ID_BYTES), sha256, size_bytes)
                    self._spread = _Spread(order, {self._local.replica.me})
                    await self._distribute(self._spread)
                    asked = True
                    await self._carry_out(order)
                if self._machine.declined(order.request_id):
                    raise RestoreRefused(
                        "what the state has become meanwhile is not to be replaced by this one"
                    )
            except TimeoutError:
                if asked:
                    raise OutcomeUnknown("the deadline passed while the group was restoring") from None
                raise RestoreRefused("the file did not reach a majority within the deadline") from None
            except SnapshotRefused as error:
                raise RestoreRefused(str(error)) from None
            finally:
                self._spread = None

    async def _distribute(self, spread: _Spread) -> None:
        """Until everybody who can be reached holds it, and a majority at least."""
        local, order = self._local, spread.order
        began = self._clock()
        while True:
            members = set(local.replica.members)
            missing = members - spread.held_by
            majority = len(members & spread.held_by) > len(members) // 2
            waited = self._clock() - began > STRAGGLERS_S
            reachable = missing & local.connected()
            if majority and (not reachable or (waited and not self._moving(spread, reachable))):
                return
            for peer in sorted(reachable):
                self._offer(peer, order)
            await asyncio.sleep(local.replica.options.heartbeat_s)

    @staticmethod
    def _moving(spread: _Spread, peers: set[str]) -> bool:
        """Whether any of them has asked for a piece at all."""
        return bool(peers & spread.readers)

    async def _carry_out(self, order: Order) -> None:
        while not self._is_applied(order):
            await self._local.ask_restore(order)
            try:
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._local.until(lambda: self._is_applied(order))
            except TimeoutError:
                pass

    def _is_applied(self, order: Order) -> bool:
        return self._machine.outcome(order.request_id) is not None

    def source_for(self, peer: str, sha256: bytes) -> HeldFile | None:
        """What this peer may ask for."""
        spread = self._spread
        if spread is not None and spread.order.sha256 == sha256:
            spread.readers.add(peer)
            return HeldFile(self._snapshots, sha256, spread.order.size_bytes)
        order = next((order for order in self._in_log().values() if order.sha256 == sha256), None)
        return None if order is None else HeldFile(self._snapshots, sha256, order.size_bytes)

    def on_held(self, peer: str, frame: wire.FileHeld) -> None:
        if self._spread is not None and self._spread.order.sha256 == frame.sha256:
            self._spread.held_by.add(peer)

    # ---- the leader

    def append(self, order: Order) -> str:
        """As the leader: append the entry, unless it is there. Returns why not, or ""."""
        if not self._snapshots.held(order.sha256):
            return "the leader could not be given the file"
        in_log = self._in_log().values()
        known = self._is_applied(order) or any(o.request_id == order.request_id for o in in_log)
        if not known:
            self._local.replica.append(order.payload())
        return ""

    def look(self) -> None:
        """As the leader, from time to time: whoever stays before an order that is not applied is offered its file.

        Its holders may be gone, or no members any more, and those who are left be needed for a majority.
        """
        local, replica = self._local, self._local.replica
        if self._clock() - self._looked < replica.options.heartbeat_s:
            return
        self._looked = self._clock()
        for index, order in self._in_log().items():
            for peer in sorted(local.connected()):
                progress = replica.replicator.progress.get(peer)
                if progress is not None and progress.match < index:
                    self._offer(peer, order)

    def _offer(self, peer: str, order: Order) -> None:
        frame = wire.FileOffer(self._local.term, order.sha256, order.size_bytes)
        self._local.send(peer, wire.encode(frame))

    # ---- the others

    def on_offer(self, peer: str, frame: wire.FileOffer) -> None:
        if self._snapshots.held(frame.sha256):
            self._snapshots.keep(frame.sha256)  # it may be old, and whoever is told counts on it
            self._say_held(peer, frame.sha256)
            return
        if self._pull is not None and (peer, frame.sha256) != self._offered[:2] and not self._is_silent():
            return  # one after the other, or two that are offered in turn would both begin again for ever
        self._offered = (peer, frame.sha256, self._clock())
        if self._pull is None:
            self._pull = self._pull_of(peer, frame)
            _ = self._spawn(self._fetch(peer, frame.sha256, self._pull))

    def on_piece(self, peer: str, frame: wire.FilePiece) -> None:
        if self._pull is not None and peer == self._offered[0]:
            self._pull.piece(frame)

    def _pull_of(self, peer: str, frame: wire.FileOffer) -> Pull:

        def ask(offset: int) -> None:
            wanted = wire.FileWanted(self._local.term, frame.sha256, offset)
            self._local.send(peer, wire.encode(wanted))

        def silent() -> bool:
            return (peer, frame.sha256) != self._offered[:2] or self._is_silent()

        return Pull(
            self._holder,
            size_bytes=frame.size_bytes,
            sha256=frame.sha256,
            ask=ask,
            run=self._run,
            patience_s=self._local.replica.options.election_max_s,
            silent=silent,
        )

    def _is_silent(self) -> bool:
        """The last offer was not made again."""
        return self._clock() - self._offered[2] > 2 * self._local.replica.options.election_max_s

    async def _fetch(self, peer: str, sha256: bytes, pull: Pull) -> None:
        try:
            part = await pull.fetch()
            await self._run(self._snapshots.hold, part, sha256)
            self._say_held(peer, sha256)
        except Silence:
            pass
        except (OSError, SnapshotRefused) as error:
            _log.warning("a file to restore is not taken in: %s", error)
            await asyncio.sleep(DISK_RETRY_S)
        finally:
            self._pull = None

    def _say_held(self, peer: str, sha256: bytes) -> None:
        self._local.send(peer, wire.encode(wire.FileHeld(self._local.term, sha256)))

    def takes(self, entry: Entry) -> bool:
        """Whether a follower may take this entry into its log: what it names is here."""
        return entry[0][0] != RESTORE or self._snapshots.held(Order.of(entry).sha256)

    # ---- applying

    def apply(self, entry: Entry) -> bool:
        """Apply a RESTORE entry. False: not yet; the engine is kicked when it can be."""
        order, index = Order.of(entry), entry[1]
        if self._is_applied(order):
            self._machine.skip(index)
            return True
        if self._ready == index:
            if self._wanted:
                self._machine.restore(self._snapshots.held_path(order.sha256))
                self.restored += 1
                self._release(order)
            else:
                # The file stays until it is old (upkeep.py): unlike a restored state this one is not durable yet, so
                # after a crash it may be asked once more.
                self._machine.decline(index, order.request_id)
            self._ready = self._laying = 0
            self._local.state_replaced(index)
            return True
        if self._laying != index:
            self._laying = index
            _ = self._spawn(self._lay_ready(index, order))
        return False

    async def _lay_ready(self, index: int, order: Order) -> None:
        async with self._lock:
            if not await self._stage(index, order):
                return
            try:
                self._ready = index
                self._local.kick()
                await self._local.until(lambda: self._ready != index)
            finally:
                self._machine.unstage()

    async def _stage(self, index: int, order: Order) -> bool:
        """False: a snapshot of a later state came in between."""
        self._local.close_batch()
        path = self._snapshots.held_path(order.sha256)
        while self._local.replica.core.applied_index < index:
            try:
                self._wanted = await self._run(self._machine.stage_reset, path, index, order.request_id)
                return True
            except OSError as error:  # a full disk: the entry is committed, so there is no way but to wait
                _log.error("the state to restore cannot be laid ready: %s", error)
                await asyncio.sleep(DISK_RETRY_S)
            except Exception as error:  # noqa: BLE001 - it was verified by its digest, and is no state
                self._local.fatal(f"entry {index} restores what is no state ({type(error).__name__})")
        return False
