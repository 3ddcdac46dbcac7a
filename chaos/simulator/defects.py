"""Mistakes put into the real code on purpose: what the simulator cannot find here, it would not find elsewhere.

Each is patched in for one simulated history; no product code knows of them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.simulator.machines import LightMachine
from consensus import opening, wire
from consensus.follower import Follower
from consensus.group import RaftGroup
from consensus.leases import Grants, Lease
from consensus.leasing import Leasing
from consensus.outbox import Outbox
from consensus.pysyncobj_log import Log
from consensus.reads import ReadGate
from consensus.records import HardState
from consensus.replica import Replica
from consensus.restoring import Restoring


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong, and the functions that stand in for the right ones: (owner, name, replacement)."""

    what: str
    patches: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in self.patches]
        try:
            for owner, name, replacement in self.patches:
                setattr(owner, name, replacement)
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)


def _acknowledge_at_once(self: Outbox, peer: str, ack: wire.Ack) -> None:
    self._disk.send(peer, wire.encode(ack))


def _forget_hard_state(self: Log, term: int, voted_for: str | None) -> None:
    self.hard = HardState(term, voted_for)


def _nothing_matches(self: Follower, entries: list[Any]) -> int:
    return 0


def _count_any_term(self: Replica, peer: str, term: int) -> bool:
    if term > self.core.term:
        self.newer_term(term)
    return self.leading and peer in self.replicator.progress


_finish_install = opening.finish_install


def _clear_behind_a_snapshot(journal: Any, found: Any, *more: Any) -> Any:
    found = _finish_install(journal, found, *more)
    if not found.base.index:
        return found
    journal.reset(found.base)
    journal.sync()
    return type(found)(found.base, [], found.hard, found.torn_bytes)


_apply = LightMachine.apply


def _apply_with_a_bug(self: LightMachine, index: int, request_id: bytes, command: bytes) -> Any:
    if index % 50 == 0:
        raise RuntimeError("a bug")
    return _apply(self, index, request_id, command)


def _always_fresh(self: RaftGroup) -> bool:
    return True


def _no_memory(self: LightMachine, request_id: bytes) -> None:
    return None


_answered = Lease.answered


def _count_from_receipt(self: Leasing, peer: str, frame: wire.LeaseAnswer) -> None:
    if self._place == (frame.term, peer) == (self._core.term, self._core.leader_id):
        if frame.number in self.lease._asks:
            self.lease._asks[frame.number] = self._host.boottime()
        _answered(self.lease, frame.number, seconds=frame.micros / 1e6, commit=frame.commit)


_grant = Grants.grant


def _grant_beyond_the_leaders(self: Grants, peer: str, *, now: float, limit: float) -> float:
    return _grant(self, peer, now=now, limit=now + 10 * self._lease_s)


def _hand_over_at_once(self: Leasing) -> bool:
    return True


def _forget_the_order(self: ReadGate, peer: str) -> None:
    """Nothing is remembered of it, and the lease goes on."""


def _ignore_what_waits(self: Leasing) -> bool:
    if self._core.leading:
        return self._view.leased and self._core.applied_index >= self._core.commit_index
    return self.holds()


def _show_what_waits_as_fresh(self: Leasing) -> float:
    return self._gate.lease_end if self._core.leading else self.lease.end


def _commit_without_holders(self: Leasing) -> None:
    self._ceiling = None


_stage_reset = LightMachine.stage_reset


def _forget_who_asked(self: LightMachine, path: Path, index: int, request_id: bytes) -> bool:
    wanted = _stage_reset(self, path, index, request_id)
    if self.reset is not None:
        self.reset["outcomes"] = {request_id.hex(): (index, None)}
    return wanted


def _never_declined(self: LightMachine, request_id: bytes) -> bool:
    return False


def _take_everything(self: Restoring, entry: Any) -> bool:
    return True


def _keep_the_state(self: LightMachine, path: Path) -> None:
    """A backup does not take the place of the state, only of its index."""
    if self.reset is not None:
        self.index = self.reset["index"]
        self.outcomes |= self.reset["outcomes"]
    else:
        self._take(json.loads(path.read_bytes()))
    self.checkpoint()


DEFECTS = {
    "ack-before-fsync": Defect(
        "a follower acknowledges entries that are not on its disk",
        ((Outbox, "acknowledge", _acknowledge_at_once),),
    ),
    "vote-not-persisted": Defect(
        "term and vote stay in memory", ((Log, "setCurrentTerm", _forget_hard_state),)
    ),
    "truncates-matching": Defect(
        "a follower cuts entries that it has, and takes them again",
        ((Follower, "_matching", _nothing_matches),),
    ),
    "stale-ack-counted": Defect(
        "acknowledgements of an earlier term count", ((Replica, "_is_for_leader", _count_any_term),)
    ),
    "snapshot-clears-journal": Defect(
        "a start behind a compaction forgets the entries that follow it",
        ((opening, "finish_install", _clear_behind_a_snapshot),),
    ),
    "apply-raises": Defect("applying some command raises", ((LightMachine, "apply", _apply_with_a_bug),)),
    "read-without-gate": Defect(
        "every node takes its state for fresh", ((RaftGroup, "fresh_now", _always_fresh),)
    ),
    "dedupe-lost": Defect("outcomes are not remembered", ((LightMachine, "outcome", _no_memory),)),
    "lease-from-receipt": Defect(
        "a follower's lease counts from the answer, not from the asking",
        ((Leasing, "on_answer", _count_from_receipt),),
    ),
    "lease-beyond-leader": Defect(
        "a follower's lease may end after the leader's own", ((Grants, "grant", _grant_beyond_the_leaders),)
    ),
    "transfer-without-waiting": Defect(
        "a transfer does not wait for leases to end", ((Leasing, "recalled", _hand_over_at_once),)
    ),
    "transfer-forgotten": Defect(
        "a leader that told somebody to campaign has its lease on",
        ((ReadGate, "transfer_to", _forget_the_order),),
    ),
    "pending-ignored": Defect(
        "a holder reads although it has entries that are not applied",
        ((Leasing, "fresh", property(_ignore_what_waits)),),
    ),
    "pending-not-shown": Defect(
        "a holder lets others read beside it although it has entries that are not applied",
        ((Leasing, "fresh_until", property(_show_what_waits_as_fresh)),),
    ),
    "restore-forgets-outcomes": Defect(
        "a restored state does not know which requests are in it",
        ((LightMachine, "stage_reset", _forget_who_asked),),
    ),
    "restore-without-file": Defect(
        "a follower takes an entry into its log that names a file which it lacks",
        ((Restoring, "takes", _take_everything),),
    ),
    "restore-declined-silently": Defect(
        "whoever asked for a restore that changed nothing is told that it was done",
        ((LightMachine, "declined", _never_declined),),
    ),
    "restore-keeps-state": Defect(
        "a restore is acknowledged and changes nothing", ((LightMachine, "restore", _keep_the_state),)
    ),
    "commit-without-holders": Defect(
        "the leader commits entries that a holder lacks",
        ((Leasing, "before_commit", _commit_without_holders),),
    ),
}
