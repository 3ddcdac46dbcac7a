"""What a member does about read leases: asks, grants, obeys, and says how fresh its own state is. See leases.py."""

from typing import Protocol

from consensus import wire
from consensus.elections import Elections
from consensus.host import Host
from consensus.leases import Grants, Lease
from consensus.options import RaftOptions
from consensus.outbox import Durability, Outbox
from consensus.pysyncobj_log import Log
from consensus.raft import Core
from consensus.reads import ReadGate
from consensus.replication import Replicator

RENEW_FRACTION = 0.75  # of a heartbeat: every heartbeat asks, however it jitters
PATIENCE_FRACTION = 0.5  # of a heartbeat


class View(Protocol):
    """The member's place in its group."""

    @property
    def others(self) -> list[str]: ...
    @property
    def ready(self) -> bool: ...
    @property
    def leased(self) -> bool: ...
    @property
    def transferring(self) -> bool: ...


class Leasing:
    """Both sides of read leases on one member, and the freshness that follows from them."""

    def __init__(
        self,
        view: View,
        *,
        host: Host,
        core: Core,
        log: Log,
        options: RaftOptions,
        gate: ReadGate,
        replicator: Replicator,
        elections: Elections,
        durability: Durability,
        outbox: Outbox,
    ) -> None:
        self._view, self._host, self._core, self._log, self._options = view, host, core, log, options
        self._gate, self._replicator, self._elections = gate, replicator, elections
        self._durability, self._outbox = durability, outbox
        self.grants = Grants(options.read_lease_s, options.heartbeat_s * PATIENCE_FRACTION)
        self.lease = Lease(options.heartbeat_s * RENEW_FRACTION)
        self._place: tuple[int, str | None] = (0, None)  # term and leader that the lease is of
        self._ceiling: int | None = None

    # ---- what may be read ----

    @property
    def fresh(self) -> bool:
        """The state here holds, at this moment, everything that anybody was told is committed."""
        core = self._core
        if core.leading:
            return self._view.leased and core.applied_index >= core.commit_index
        return self.holds() and core.applied_index >= self._log.last_index

    @property
    def fresh_until(self) -> float:
        """When `fresh` ends by itself (boot time, seconds); 0.0: it does not hold. Asking this wants no lease."""
        core = self._core
        if core.leading:
            held = self._view.ready and self._options.read_leases and core.applied_index >= core.commit_index
            return self._gate.lease_end if held else 0.0
        held = self._place == (core.term, core.leader_id) and core.applied_index >= self._log.last_index
        return self.lease.end if held else 0.0

    def holds(self) -> bool:
        """This follower has a lease: with everything applied that is in its log now, it may answer reads."""
        now = self._host.boottime()
        self.lease.want(now)
        return self.lease.holds(now) and self._place == (self._core.term, self._core.leader_id)

    def age_s(self) -> float | None:
        """The state here holds all that was acknowledged anywhere so many seconds ago, or earlier."""
        if self.fresh:
            return 0.0
        core = self._core
        as_of = self.lease.as_of(core.applied_index)
        if self._view.ready and core.applied_index >= core.commit_index:
            as_of = self._gate.confirmed_sent or as_of
        return None if as_of is None else max(0.0, self._host.boottime() - as_of)

    # ---- follower ----

    def heard(self, peer: str) -> None:
        """The leader `peer` sent something: ask again, if it is time."""
        place = (self._core.term, self._core.leader_id)
        if place != self._place:
            self.lease.drop()
            self._place = place
        question = self.lease.ask(self._host.boottime())
        if question is not None:
            number, wanted = question
            wanted = wanted and self._options.read_leases
            promise = int(self._options.promise_s * 1e6)
            self._outbox.send(peer, wire.LeaseAsk(self._core.term, number, wanted, promise))

    def on_answer(self, peer: str, frame: wire.LeaseAnswer) -> None:
        if self._place == (frame.term, peer) == (self._core.term, self._core.leader_id):
            self.lease.answered(frame.number, seconds=frame.micros / 1e6, commit=frame.commit)

    def on_recall(self, peer: str, frame: wire.LeaseRecall) -> None:
        if frame.term == self._core.term:
            self.lease.drop()
            self._outbox.send(peer, wire.LeaseReturned(frame.term, frame.number))

    # ---- leader ----

    def on_ask(self, peer: str, frame: wire.LeaseAsk) -> None:
        """Nothing is answered outside the leader's own lease: it could not know what others commit."""
        self._gate.promised(peer, frame.promise_micros / 1e6)
        now, view = self._host.boottime(), self._view
        if not view.ready or not self._gate.has_lease(now):
            return
        seconds = 0.0
        if frame.wanted and self._options.read_leases and self._may_hold(peer):
            seconds = self.grants.grant(peer, now=now, limit=self._gate.lease_end)
        answer = wire.LeaseAnswer(self._core.term, frame.number, int(seconds * 1e6), self._core.commit_index)
        self._host.send(peer, wire.encode(answer))

    def _may_hold(self, peer: str) -> bool:
        if self._view.transferring or peer not in self._view.others:
            return False
        return self._replicator.progress[peer].match >= self._core.commit_index

    def on_returned(self, peer: str, frame: wire.LeaseReturned) -> None:
        self.grants.returned(peer, frame.number)

    def recalled(self) -> bool:
        """Nobody reads alone any more; otherwise the holders have been asked to stop (a transfer waits)."""
        for peer, number in self.grants.recall():
            self._host.send(peer, wire.encode(wire.LeaseRecall(self._core.term, number)))
        now = self._host.boottime()
        return self.grants.end(now) <= now

    def stepped_down(self) -> None:
        self._elections.owe(self.grants.end(self._host.boottime()))

    def before_commit(self) -> None:
        """Work out how far this leader's next tick may commit."""
        self._ceiling = self.grants.ceiling(self._host.boottime(), self._match, self._majority)

    @property
    def committable_index(self) -> int:
        durable = self._durability.index
        return durable if self._ceiling is None else min(durable, self._ceiling)

    def _match(self, peer: str) -> int:
        """What a holder has in its log; one that left the group gets nothing more: its lease must run out."""
        progress = self._replicator.progress.get(peer)
        return 0 if progress is None else progress.match

    def _majority(self) -> int:
        held = [self._durability.index, *(self._match(peer) for peer in self._view.others)]
        return sorted(held, reverse=True)[len(held) // 2]
