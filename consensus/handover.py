"""How a leader hands over: on demand, or because its disk does not answer or has no room."""

from typing import Protocol

from consensus import wire
from consensus.host import Host
from consensus.leasing import Leasing
from consensus.options import RaftOptions
from consensus.pysyncobj_log import Log
from consensus.raft import Core
from consensus.reads import ReadGate
from consensus.replication import Replicator

FULL_RETRY_S = 10.0  # from the time when nobody would lead instead of one whose disk is full
SILENCE_ELECTIONS = 2.0  # election timeouts, after which one who was told to campaign is waited for no longer


class View(Protocol):
    """The member that may lead."""

    @property
    def leading(self) -> bool: ...
    @property
    def others(self) -> list[str]: ...


class HandOver:
    """`transferring` while a transfer is being tried: no proposals are taken, and no read leases granted."""

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
        leasing: Leasing,
    ) -> None:
        self._view, self._host, self._core, self._log, self._options = view, host, core, log, options
        self._gate, self._replicator, self._leasing = gate, replicator, leasing
        self.transferring = False
        self._abdicating: float | None = None  # since when
        self._told: float | None = None  # when somebody was told to campaign for the last time
        self._unwilling: set[str] = (
            set()
        )  # they were told, because the disk here is full, and did not campaign
        self._not_before = float("-inf")  # the next attempt on that account

    def reset(self) -> None:
        """Another leader, or a new term of this one."""
        self.transferring, self._abdicating, self._told = False, None, None
        self._unwilling.clear()
        self._not_before = float("-inf")

    def to(self, peer: str) -> bool:
        """Leader: tell `peer`, which must hold the whole log, to campaign. No lease until it is known not to.

        False if that cannot be now: it lacks something, or followers still read alone.
        """
        progress = self._replicator.progress.get(peer)
        if not self._view.leading or progress is None or progress.match < self._log.last_index:
            return False
        if not self._leasing.recalled():
            return False
        self._gate.transfer_to(peer)
        self._told = self._host.clock()
        return self._host.send(peer, wire.encode(wire.TimeoutNow(self._core.term)))

    def look(self) -> None:
        """Leader, from time to time: hand over if the disk hangs or is full; settle a transfer that came to nothing."""
        now = self._host.clock()
        if self._host.stalled:
            self._abdicate(now)
        elif self._host.disk_full:
            self._make_way(now)
        elif self._abdicating is not None:
            self.transferring, self._abdicating = False, None
        self._renew_term(now)

    def _abdicate(self, now: float) -> None:
        """The disk hangs: hand over, and if nobody takes it, lead no longer."""
        if self._abdicating is None:
            self.transferring, self._abdicating = True, now
        for peer in self._view.others:
            if peer in self._replicator.connected and self.to(peer):
                return
        if now - self._abdicating > self._options.election_min_s:
            self._core.resign()
            self._host.role_changed()

    def _make_way(self, now: float) -> None:
        """The disk is full: one after another is told to campaign, and who has no room himself does not. This node
        leads on if nobody else can: reads need a leader.
        """
        if self._abdicating is None:
            if now < self._not_before or not self._willing():
                return
            self.transferring, self._abdicating = True, now
        told = self._told is not None and self._told >= self._abdicating
        if now - self._abdicating <= self._options.election_max_s:
            if not told and (peer := next(filter(self.to, self._willing()), None)) is not None:
                self._unwilling.add(peer)
            return
        self.transferring, self._abdicating = False, None
        if not told or not self._willing():
            self._unwilling.clear()
            self._not_before = now + FULL_RETRY_S

    def _willing(self) -> list[str]:
        connected = self._replicator.connected
        return [peer for peer in self._view.others if peer in connected and peer not in self._unwilling]

    def _renew_term(self, now: float) -> None:
        """Who was told to campaign has been silent for long, and may still do it: an election of our own, in which
        voters need not mind their promises either, makes the order void.
        """
        if not self._gate.transfer_open or self._told is None or self.transferring:
            return
        if now - self._told > SILENCE_ELECTIONS * self._options.election_max_s and self._leasing.recalled():
            self._core.resign()
            self._core.told_to_campaign = True
            self._core.deadline = now - 1.0
            self._host.role_changed()
