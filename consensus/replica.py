"""One member: what it does with each frame, between the wire and pysyncobj's rules. No I/O, no tasks.

Everything that pysyncobj gets wrong about messages is put right here and in follower.py, before or instead of
its handler (DESIGN.md, P1 and P9 to P18). Time, disk, network and the state machine come in through `Host`,
so the same code runs in the simulator.
"""

import random
from collections.abc import Callable
from typing import Any

from consensus import membership, wire
from consensus.api import Member, Role
from consensus.campaigns import Campaigns
from consensus.elections import Elections
from consensus.follower import Follower
from consensus.handover import HandOver
from consensus.host import Host
from consensus.leasing import Leasing
from consensus.options import LEASE_FRACTION, RaftOptions
from consensus.outbox import Durability, Outbox
from consensus.pysyncobj_log import Log
from consensus.raft import CANDIDATE, FOLLOWER, LEADER, Core
from consensus.reads import Answer, ReadGate
from consensus.replication import Replicator

Handler = Callable[[str, Any], None]  # of a frame from a peer


class Replica:
    """Raft on one node. `tick()` and then `apply()` after every event; every frame goes through `on_frame()`."""

    def __init__(
        self, host: Host, *, me: str, log: Log, applied_index: int, options: RaftOptions, rng: random.Random
    ) -> None:
        self._host, self.me, self.log, self.options = host, me, log, options
        self._durability, self._outbox = Durability(log), Outbox(host)
        self.members = log.members()
        self.learners: dict[str, Member] = {}
        self.elections = Elections(options, rng, started=host.boottime())
        self.gate = ReadGate(options.promise_s, LEASE_FRACTION)
        self.replicator = Replicator(log, host, options, lambda: self.gate.start_round(host.boottime()))
        self.dropped = 0
        self.core = Core(
            self, me=me, log=log, applied_index=applied_index, others=self.others, options=options
        )
        self.follower = Follower(
            host=host,
            core=self.core,
            log=log,
            durability=self._durability,
            outbox=self._outbox,
            elections=self.elections,
            reconfigure=self._reconfigure,
        )
        self.leasing = Leasing(
            self,
            host=host,
            core=self.core,
            log=log,
            options=options,
            gate=self.gate,
            replicator=self.replicator,
            elections=self.elections,
            durability=self._durability,
            outbox=self._outbox,
        )
        self.handover = HandOver(
            self,
            host=host,
            core=self.core,
            log=log,
            options=options,
            gate=self.gate,
            replicator=self.replicator,
            leasing=self.leasing,
        )
        self.campaigns = Campaigns(
            self,
            host=host,
            core=self.core,
            log=log,
            options=options,
            gate=self.gate,
            elections=self.elections,
            outbox=self._outbox,
        )
        self._handlers = self._by_frame()
        if self.voter and not self.others:
            self.core.deadline = host.clock()  # nobody to wait for

    # ---- the view ----

    @property
    def others(self) -> list[str]:
        return [peer for peer in self.members if peer != self.me]

    @property
    def voter(self) -> bool:
        return self.me in self.members

    @property
    def removed(self) -> bool:
        """This node's removal is committed."""
        changes = self.log.changes
        return not self.voter and (not changes or changes[-1].index <= self.core.applied_index)

    @property
    def leading(self) -> bool:
        return self.core.leading

    @property
    def ready(self) -> bool:
        """The leader knows the commit index of its predecessors: an entry of its own term is applied."""
        noop = self.core.noop_index
        return self.leading and noop is not None and self.core.applied_index >= noop

    @property
    def transferring(self) -> bool:
        return self.handover.transferring

    @property
    def leased(self) -> bool:
        """A read at the commit index needs no confirmation now."""
        return self.ready and self.options.read_leases and self.gate.has_lease(self._host.boottime())

    @property
    def able(self) -> bool:
        """It could lead: its log is whole, and its disk answers."""
        return not self.follower.installing and not self._host.stalled

    @property
    def role(self) -> Role:
        if not self.voter:
            return Role.LEARNER
        return {FOLLOWER: Role.FOLLOWER, CANDIDATE: Role.CANDIDATE, LEADER: Role.LEADER}[self.core.state]

    @property
    def answering(self) -> set[str]:
        """The leader, and the voters that it has heard from lately."""
        now, progress = self._host.boottime(), self.replicator.progress
        lately = {
            peer
            for peer in self.others
            if peer in progress
            and (contact := progress[peer].contact) is not None
            and now - contact <= self.options.election_max_s
        }
        return lately & self.replicator.connected | {self.me}

    @property
    def orphaned(self) -> bool:
        """No leader heard for long: the configuration here may be so old that it lacks today's members."""
        silent = self.elections.silent_for(self._host.boottime())
        return not self.leading and silent > 2 * self.options.election_max_s

    # ---- Owner: what the core asks ----

    def election_timeout(self) -> float:
        return self.elections.timeout()

    def committable_index(self) -> int:
        return self.leasing.committable_index

    def heartbeat(self) -> None:
        self._replicate(heartbeat=True)

    def state_changed(self, old: int, new: int) -> None:
        if new == LEADER:
            self.core.forget_leadership()
            self.gate.begin_term()
            self.replicator.begin_term(self.others)
            self.handover.reset()
        elif old == LEADER:
            self.handover.reset()
            self.learners.clear()
            self.replicator.end_term()
            self.gate.end_term()
            self.leasing.stepped_down()
            self._host.members_changed()
        self._host.role_changed()

    def core_sends(self, peer: str, message: dict[str, Any]) -> None:
        """A message of pysyncobj's on its way out. Votes wait until they are durable (P1)."""
        kind = message["type"]
        if kind == "next_node_idx":
            self.follower.verdict(bool(message["success"]))
            return
        if kind == "request_vote":
            frame: wire.Frame = wire.VoteRequest(
                message["term"],
                message["last_log_index"],
                message["last_log_term"],
                self.elections.transfer_campaign,
            )
        elif kind == "response_vote":
            frame = wire.Vote(message["term"])
        else:
            raise AssertionError(f"pysyncobj sends {kind}")
        self._outbox.send_durably(peer, frame)

    # ---- events ----

    def tick(self) -> None:
        """Decide and send everything that is due now. Call after frames, proposals, durability, and from time to time.

        What is committed is told to others first and applied here after it, by apply(): a follower syncs the next
        entries while the leader applies the last ones.
        """
        term, leader = self.core.term, self.core.leader_id
        if self.leading:
            self.leasing.before_commit()
        else:
            self.campaigns.before_tick()
        self.core.tick()
        if self.leading:
            self._host.committed(self.core.commit_index)
            self._after_leader_tick()
        self._outbox.flush()
        if (self.core.term, self.core.leader_id) != (term, leader):
            self._host.role_changed()

    def apply(self) -> None:
        """What is committed, a bounded number of entries: a long replay stops neither heartbeats nor clients."""
        core, log = self.core, self.log
        if core.applied_index == core.commit_index or self.follower.installing or self._host.cramped:
            return
        last = min(core.commit_index, core.applied_index + self.options.apply_per_tick_max)
        for index in range(core.applied_index + 1, last + 1):
            entry = log[index - log.base.index]
            if entry[0][0] != membership.RESTORE:
                self._host.apply(entry)
            elif not self._host.restored(entry):
                return
            core.applied(index)
        if last < core.commit_index:
            self._host.kick()
        if self.leading:
            self.gate.settle(self.others, ready=self.ready)

    def append(self, payload: bytes) -> int:
        """Leader: put a payload at the end of the log; the next tick sends it. Returns its index."""
        if not self.leading:
            raise AssertionError("only a leader appends")
        index = self.log.last_index + 1
        self.log.add(payload, index, self.core.term)
        if payload[0] == membership.MEMBER:
            self._reconfigure()
        self._host.kick()
        return index

    def taken(self) -> None:
        """The journal's batch that is about to be written holds the log up to its present end."""
        self._durability.taken()

    def durable(self) -> None:
        """That batch is on disk; tick afterwards."""
        self._durability.written()
        if not self.leading:
            self.follower.durable()

    def link(self, peer: str, *, up: bool) -> None:
        self.core.link(peer, up=up)
        self.gate.promised(peer, None)
        if not up:
            self.campaigns.link_lost(peer)
        self.replicator.link(peer, up=up)
        if up and self.leading:
            self._replicate(heartbeat=True, only=peer)
        self._host.kick()

    def read(self, answer: Answer, *, confirm: bool = False) -> None:
        """Leader: `answer(True)` once a local read at the commit index is linearizable; `False`: ask elsewhere.

        With `confirm` a quorum is asked even inside the lease.
        """
        if not self.leading:
            answer(False)
        elif self.leased and not confirm:
            answer(True)
        else:
            self.gate.ask(answer)
            self._host.kick()

    def set_learners(self, learners: dict[str, Member]) -> None:
        self.learners = learners
        self._sync_peers()

    def on_frame(self, peer: str, frame: wire.Frame) -> bool:
        """Handle a Raft frame; False if it is of another kind."""
        handler = self._handlers.get(type(frame))
        if handler is None:
            return False
        handler(peer, frame)
        self._host.kick()
        return True

    def _by_frame(self) -> dict[type, Handler]:
        return {
            wire.Append: self._on_append,
            wire.Ack: self._on_ack,
            wire.Reject: self._on_reject,
            wire.SnapshotOffer: self.follower.on_offer,
            wire.VoteRequest: self.campaigns.on_vote_request,
            wire.Vote: self.campaigns.on_vote,
            wire.PreVoteRequest: self.campaigns.on_pre_vote_request,
            wire.PreVote: self.campaigns.on_pre_vote,
            wire.TimeoutNow: self.campaigns.on_timeout_now,
            wire.LeaseAsk: self._for_leader(self.leasing.on_ask),
            wire.LeaseAnswer: self.leasing.on_answer,
            wire.LeaseRecall: self.leasing.on_recall,
            wire.LeaseReturned: self._for_leader(self.leasing.on_returned),
        }

    # ---- leader ----

    def _replicate(self, *, heartbeat: bool, only: str | None = None) -> None:
        self.replicator.replicate(
            term=self.core.term, commit=self.core.commit_index, heartbeat=heartbeat, only=only
        )
        if heartbeat and only is None:
            self.gate.broadcast()

    def _after_leader_tick(self) -> None:
        """Send what is new: entries, else a commit index that followers wait for, else a round for reads."""
        behind = any(p.next <= self.log.last_index for p in self.replicator.progress.values())
        commit_news = self.replicator.commit_sent < self.core.commit_index
        if self.gate.round_wanted or commit_news:
            self._replicate(heartbeat=True)
        elif behind:
            self._replicate(heartbeat=False)
        self.gate.settle(self.others, ready=self.ready)

    def _on_ack(self, peer: str, frame: wire.Ack) -> None:
        if not self._is_for_leader(peer, frame.term):
            return
        if frame.match > self.log.last_index:
            self._host.fatal(f"{peer} acknowledges {frame.match}, beyond the log's end {self.log.last_index}")
        self.gate.echo(peer, frame.seq)
        self.core.acknowledged(peer, frame.match, self._host.clock())
        self.replicator.acknowledged(peer, frame.match, self._host.boottime())
        progress = self.replicator.progress.get(peer)
        if progress is not None and progress.next <= self.log.last_index:
            self._replicate(heartbeat=False, only=peer)

    def _on_reject(self, peer: str, frame: wire.Reject) -> None:
        if not self._is_for_leader(peer, frame.term):
            return
        self.gate.echo(peer, frame.seq)
        self.core.acknowledged(peer, 0, self._host.clock())
        if self.replicator.rejected(peer, seq=frame.seq, hint=frame.hint, now=self._host.boottime()):
            self._replicate(heartbeat=True, only=peer)

    def _is_for_leader(self, peer: str, term: int) -> bool:
        """An answer counts only in the term that asked (P11); a higher term ends this leadership."""
        if term > self.core.term:
            self.newer_term(term)
        if term != self.core.term or not self.leading or peer not in self.replicator.progress:
            self.dropped += 1
            return False
        return True

    def _for_leader(self, handler: Handler) -> Handler:
        def handle(peer: str, frame: Any) -> None:
            if self._is_for_leader(peer, frame.term):
                handler(peer, frame)

        return handle

    def newer_term(self, term: int) -> None:
        """A higher term exists: follow in it."""
        self.core.step_down(term)
        self._outbox.drop()
        self._outbox.hard_state_changed()
        self._host.role_changed()

    # ---- follower ----

    def _on_append(self, peer: str, frame: wire.Append) -> None:
        self.follower.on_append(peer, frame)
        if peer == self.core.leader_id:
            self.leasing.heard(peer)

    # ---- configuration ----

    def _reconfigure(self) -> None:
        """The configuration follows from the log; let everyone know if it is another one."""
        members = self.log.members()
        if members == self.members:
            return
        self.members = members
        for node_id in members:
            self.learners.pop(node_id, None)
        self.core.set_others(self.others, self._host.clock())
        self._sync_peers()
        self._host.role_changed()

    def _sync_peers(self) -> None:
        if self.leading:
            self.replicator.set_peers({*self.others, *self.learners})
            for peer, progress in self.replicator.progress.items():
                self.core.acknowledged(peer, progress.match, self._host.clock())
        self._host.members_changed()
