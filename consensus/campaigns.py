"""Campaigns of one member, and its votes in those of others: pre-vote, stickiness, when to begin.

pysyncobj campaigns when its deadline has passed and counts messages: here it campaigns only after a pre-vote or on
TimeoutNow, and is given each member's vote once (P10, P11). A member that loses its link to the leader does not
wait for the whole election timeout: a dead process closes its connections at once, a busy or cut one does not. It
still waits until its own promise to that leader has run out, and the others' promises must have run out too.
"""

from typing import Protocol

from consensus import wire
from consensus.elections import Elections
from consensus.host import Host
from consensus.options import RaftOptions
from consensus.outbox import Outbox
from consensus.pysyncobj_log import Log
from consensus.raft import CANDIDATE, Core
from consensus.reads import ReadGate


class View(Protocol):
    """The member whose campaigns these are."""

    @property
    def voter(self) -> bool: ...
    @property
    def able(self) -> bool:
        """It could lead: its log is whole, and its disk answers."""
        ...

    @property
    def leading(self) -> bool: ...
    @property
    def others(self) -> list[str]: ...
    def newer_term(self, term: int) -> None:
        """A higher term exists."""
        ...


class Campaigns:
    """See the module. No I/O of its own: frames come in, frames go out through the outbox."""

    def __init__(
        self,
        view: View,
        *,
        host: Host,
        core: Core,
        log: Log,
        options: RaftOptions,
        gate: ReadGate,
        elections: Elections,
        outbox: Outbox,
    ) -> None:
        self._view, self._host, self._core, self._log, self._options = view, host, core, log, options
        self._gate, self._elections, self._outbox = gate, elections, outbox
        self.count = self.dropped = 0

    # ---- when

    def link_lost(self, peer: str) -> None:
        """If it was the leader's, begin as soon as promises allow."""
        core = self._core
        if peer != core.leader_id or self._view.leading or not self._view.voter:
            return
        wait_s = self._elections.leader_lost(self._host.boottime())
        core.deadline = min(core.deadline, self._host.clock() + wait_s)

    def before_tick(self) -> None:
        """Let pysyncobj campaign if it may; put its deadline off if it may not."""
        core, now, elections = self._core, self._host.clock(), self._elections
        if not self._view.voter or not self._view.able:
            core.told_to_campaign = False
            core.deadline = now + self._options.election_max_s
            return
        if core.deadline >= now and not elections.campaign_now:
            return
        if core.told_to_campaign or elections.campaign_now or not self._view.others:
            elections.start_campaign(transfer=core.told_to_campaign)
            self.count += 1
            core.deadline = now - 1.0
            return
        core.deadline = now + elections.timeout()
        elections.start_pre_vote(core.term + 1)
        _, index, term = self._log[-1]
        body = wire.encode(wire.PreVoteRequest(core.term + 1, index, term))
        for peer in self._view.others:
            self._host.send(peer, body)

    # ---- frames

    def on_pre_vote_request(self, peer: str, frame: wire.PreVoteRequest) -> None:
        free = not self._view.leading and not self._elections.promised(self._host.boottime())
        granted = (
            free
            and frame.term > self._core.term
            and (frame.last_term, frame.last_index) >= (self._log.last_term, self._log.last_index)
        )
        self._outbox.send(peer, wire.PreVote(self._core.term, frame.term, granted))

    def on_pre_vote(self, peer: str, frame: wire.PreVote) -> None:
        if frame.term > self._core.term:
            self._view.newer_term(frame.term)
            return
        if not frame.granted or self._view.leading or self._elections.promised(self._host.boottime()):
            return
        if self._elections.pre_vote(
            peer, asked_term=frame.asked_term, term=self._core.term, others=self._view.others
        ):
            self._elections.campaign_now = True

    def on_vote_request(self, peer: str, frame: wire.VoteRequest) -> None:
        """Who hears a leader ignores other candidates and their term, unless that leader sent them.

        Whoever is asked may vote, also a learner by its own log: the candidate's log may say that it is a member, and
        the votes of others not be enough (Raft thesis, section 4.1). It is the candidate who counts, by its own log.
        """
        now = self._host.boottime()
        loyal = self._gate.has_lease(now) if self._view.leading else self._elections.promised(now)
        if loyal and not frame.transfer:
            self.dropped += 1
            return
        if frame.term > self._core.term:
            self._outbox.drop()
            self._core.told_to_campaign = False  # that was another term's order
        self._core.step(
            peer,
            {
                "type": "request_vote",
                "term": frame.term,
                "last_log_index": frame.last_index,
                "last_log_term": frame.last_term,
            },
        )
        self._outbox.hard_state_changed()

    def on_vote(self, peer: str, frame: wire.Vote) -> None:
        campaigning = self._core.state == CANDIDATE and frame.term == self._core.term
        if campaigning and self._elections.vote(peer, self._view.others):
            self._core.step(peer, {"type": "response_vote", "term": frame.term})
        else:
            self.dropped += 1

    def on_timeout_now(self, peer: str, frame: wire.TimeoutNow) -> None:
        able = self._view.voter and self._view.able and not self._host.disk_full
        if able and frame.term == self._core.term and peer == self._core.leader_id:
            self._core.step(peer, {"type": "timeout_now", "term": frame.term})
