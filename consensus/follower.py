"""What a member does with a leader's frames: narrow them until pysyncobj's handler can do no harm.

Its handler truncates even identical entries, commits up to its own last index, and never answers a stale
leader. So it gets only what is new and verified, and the answers are ours (P9, P12, P14, P18).
"""

from collections.abc import Callable

from consensus import membership, wire
from consensus.elections import Elections
from consensus.host import Host
from consensus.outbox import Durability, Outbox
from consensus.pysyncobj_log import Log
from consensus.raft import Core
from consensus.records import Base, Entry


class Follower:
    """The receiving end of replication, also of a learner and of a candidate that finds it has lost."""

    def __init__(
        self,
        *,
        host: Host,
        core: Core,
        log: Log,
        durability: Durability,
        outbox: Outbox,
        elections: Elections,
        reconfigure: Callable[[], None],
    ) -> None:
        self._host, self._core, self._log = host, core, log
        self._durability, self._outbox, self._elections = durability, outbox, elections
        self._reconfigure = reconfigure
        # The most that a leader has called committed and that agreed with its log. Committed stays committed.
        self._verified_commit = core.commit_index
        self._accepted = False
        self.truncations = 0
        self.installing = False  # the log begins at a snapshot that the state machine does not hold yet

    def durable(self) -> None:
        """More of the log is on disk: what is committed and durable here may be applied."""
        self._core.raise_commit(min(self._verified_commit, self._durability.index))

    def on_append(self, peer: str, frame: wire.Append) -> None:
        if not self._heard(peer, frame.term, frame.seq):
            return
        log, prev, prev_term = self._log, frame.prev_index, frame.prev_term
        entries = self._takeable(frame.entries)
        if prev < log.base.index:
            # Everything up to the base is committed, so the leader of this term holds the same.
            entries = entries[log.base.index - prev :]
            prev, prev_term = log.base.index, log.base.term
        if log.term_at(prev) != prev_term:
            self._take(peer, frame.term, log.last_index, log.last_term, [], commit=0)
            self._outbox.send(peer, wire.Reject(frame.term, frame.seq, self._hint(prev)))
            return
        verified = prev + len(entries)
        kept = self._matching(entries)
        if kept:
            prev, prev_term, entries = prev + kept, entries[kept - 1][2], entries[kept:]
        if not entries:
            # All known already. What follows may be newer, and acknowledged: leave it (P12).
            prev, prev_term = log.last_index, log.last_term
        elif prev < log.last_index:
            self._truncate(peer, prev)
        self._verified_commit = max(self._verified_commit, min(frame.commit, verified))
        commit = min(self._verified_commit, self._durability.index)
        before = len(log.changes)
        self._take(peer, frame.term, prev, prev_term, entries, commit=commit)
        if entries and (before != len(log.changes) or any(e[0][0] == membership.MEMBER for e in entries)):
            self._reconfigure()
        self._answer(peer, frame.term, frame.seq, verified, news=bool(entries))

    def _takeable(self, entries: list[Entry]) -> list[Entry]:
        """The entries before the first one that names a file which is not here (restoring.py)."""
        for count, entry in enumerate(entries):
            if entry[0][0] == membership.RESTORE and not self._host.takes(entry):
                return entries[:count]
        return entries

    def on_offer(self, peer: str, frame: wire.SnapshotOffer) -> None:
        """The log here ends before the leader's begins."""
        if not self._heard(peer, frame.term, frame.seq):
            return
        log = self._log
        # An offer verifies nothing of the log: it only says who leads, and commits nothing (P14).
        self._take(peer, frame.term, log.last_index, log.last_term, [], commit=0)
        match = 0
        if self._holds(frame.index, frame.index_term):
            # The log has it, and entries after it may count for a commit: they stay. It is committed, though.
            match = frame.index
            self._verified_commit = max(self._verified_commit, frame.index)
        elif not self.installing:
            self._host.offered(peer, frame)
        self._answer(peer, frame.term, frame.seq, match, news=False)

    def _holds(self, index: int, term: int) -> bool:
        return self._log.term_at(index) == term or index <= self._core.applied_index

    def begin_install(self, base: Base) -> bool:
        """A verified snapshot is about to take the place of log and state: the log begins anew at it.

        From now on until installed() nothing is applied. False, and nothing has changed, if the log has
        grown beyond it or this member leads or campaigns by now.
        """
        if self.installing or not self._core.following or self._holds(base.index, base.term):
            return False
        self.installing = True
        self._log.reset(base)
        self._durability.truncated(0)  # until the journal has the new beginning, nothing here is durable
        self._verified_commit = base.index
        self._reconfigure()
        return True

    def installed(self, index: int) -> None:
        """The state machine holds the snapshot at `index`: go on from there."""
        self.installing = False
        self._core.restored(index)

    def _heard(self, peer: str, term: int, seq: int) -> bool:
        """A frame from a leader: is it today's? A stale one is told the newer term (P9).

        Between its order to campaign and the next tick it gets no answer: one would say that the order came to nothing.
        """
        if term == self._core.term and self._core.told_to_campaign:
            return False
        if term < self._core.term:
            self._outbox.send(peer, wire.Reject(self._core.term, seq, 0))
            return False
        if term == self._core.term and self._core.leading:
            self._host.fatal(f"two leaders in term {term}: {peer} and this node")
        if term > self._core.term:
            self._outbox.drop()
        self._elections.heard_leader(self._host.boottime())
        return True

    def _take(
        self, peer: str, term: int, prev: int, prev_term: int, entries: list[Entry], *, commit: int
    ) -> None:
        """pysyncobj's handler, which cannot but succeed now: it takes term, leader, deadline and entries."""
        before, self._accepted = self._core.term, False
        self._core.step(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "entries": entries,
                "prevLogIdx": prev,
                "prevLogTerm": prev_term,
            },
        )
        if not self._was_accepted():
            self._host.fatal("pysyncobj refused entries that were checked")
        if self._core.term != before:
            self._outbox.hard_state_changed()

    def verdict(self, accepted: bool) -> None:
        """What pysyncobj would answer to the message that it is being given."""
        self._accepted = accepted

    def _was_accepted(self) -> bool:
        return self._accepted

    def _matching(self, entries: list[Entry]) -> int:
        """How many of `entries` the log holds already (same index and term: the same entry)."""
        kept = 0
        for _, index, term in entries:
            if self._log.term_at(index) != term:
                break
            kept += 1
        return kept

    def _truncate(self, peer: str, prev: int) -> None:
        """A true conflict: what follows `prev` was never committed, or the cluster is broken."""
        if prev < max(self._core.commit_index, self._verified_commit):
            self._host.fatal(f"leader {peer} would overwrite the committed entry {prev + 1}")
        self.truncations += 1
        self._durability.truncated(prev)

    def _hint(self, prev: int) -> int:
        """Where the leader should try next: past a whole conflicting term in one round trip."""
        log = self._log
        if prev > log.last_index:
            return log.last_index + 1
        term, index = log.term_at(prev), prev
        while index - 1 > self._core.commit_index and log.term_at(index - 1) == term:
            index -= 1
        return max(index, 1)

    def _answer(self, peer: str, term: int, seq: int, verified: int, *, news: bool) -> None:
        """With entries: once they are durable. Without: at once, and no more than what is durable now."""
        if news:
            self._outbox.acknowledge(peer, wire.Ack(term, seq, verified))
        else:
            self._outbox.send(peer, wire.Ack(term, seq, min(verified, self._durability.index)))
