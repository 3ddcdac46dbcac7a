"""How a leader hands over: on demand, or because its disk does not answer."""

from typing import Protocol

from consensus import wire
from consensus.host import Host
from consensus.leasing import Leasing
from consensus.options import RaftOptions
from consensus.pysyncobj_log import Log
from consensus.raft import Core
from consensus.reads import ReadGate
from consensus.replication import Replicator


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

    def reset(self) -> None:
        """Another leader, or a new term of this one."""
        self.transferring, self._abdicating = False, None

    def to(self, peer: str) -> bool:
        """Leader: tell `peer`, which must hold the whole log, to campaign. No lease until the next term.

        False if that cannot be now: it lacks something, or followers still read alone.
        """
        progress = self._replicator.progress.get(peer)
        if not self._view.leading or progress is None or progress.match < self._log.last_index:
            return False
        if not self._leasing.recalled():
            return False
        self._gate.forbid_lease()
        return self._host.send(peer, wire.encode(wire.TimeoutNow(self._core.term)))

    def look_at_disk(self) -> None:
        """Leader, from time to time: if the disk hangs, hand over; if nobody takes it, lead no longer."""
        now = self._host.clock()
        if not self._host.stalled:
            if self._abdicating is not None:
                self.reset()
            return
        if self._abdicating is None:
            self.transferring, self._abdicating = True, now
        for peer in self._view.others:
            if peer in self._replicator.connected and self.to(peer):
                return
        if now - self._abdicating > self._options.election_min_s:
            self._core.resign()
            self._host.role_changed()
