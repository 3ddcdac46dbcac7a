"""Who may vote or campaign, and when: pre-vote, stickiness, one count per voter.

pysyncobj's vote rule stays; these are the filters before it (P10, P11). Raft thesis, sections 9.6 (pre-vote)
and 6.4.1 (a voter that hears a leader votes for nobody else). Promises are counted in boot time, which goes
on while a machine sleeps, so that a lease never outlives the promises that it leans on.
"""

import random
from collections.abc import Collection

from consensus.options import RaftOptions

EARLY_SPREAD_HEARTBEATS = 2.0  # members that lose the same leader begin apart
RETRY_HEARTBEATS = (2.0, 6.0)  # after a split vote, while the link to the last leader is known to be lost
RETRIES_MAX = 5


class Elections:
    """What this node promised, and whom it has collected in its own campaign. Pure: times come in."""

    def __init__(self, options: RaftOptions, rng: random.Random, *, started: float) -> None:
        self._options, self._rng, self._promise_s = options, rng, options.promise_s
        self._retries_left = 0
        # A restarted voter cannot know what it promised: it keeps the longest promise it can have made.
        self._heard = started
        self._owed_until = started
        self._pre_votes: set[str] = set()
        self._pre_vote_term = 0
        self._votes: set[str] = set()
        self.campaign_now = False
        self.transfer_campaign = False

    def heard_leader(self, now: float) -> None:
        self._heard = now
        self._retries_left = 0
        self.campaign_now = False

    def leader_lost(self, now: float) -> float:
        """The link to the leader has ended: how many seconds until a campaign makes sense."""
        self._retries_left = RETRIES_MAX
        promise_s = max(0.0, self._heard + self._promise_s - now, self._owed_until - now)
        return promise_s + self._rng.uniform(0, EARLY_SPREAD_HEARTBEATS) * self._options.heartbeat_s

    def timeout(self) -> float:
        """How long to wait for a leader, or for votes, in seconds."""
        if self._retries_left:
            self._retries_left -= 1
            return self._rng.uniform(*RETRY_HEARTBEATS) * self._options.heartbeat_s
        return self._rng.uniform(self._options.election_min_s, self._options.election_max_s)

    def owe(self, until: float) -> None:
        """This node leads no more, but read leases that it granted run until then: it votes for nobody before."""
        self._owed_until = max(self._owed_until, until)

    def promised(self, now: float) -> bool:
        """Some leader, or a follower with a lease, may count on this node's loyalty at this moment."""
        return now - self._heard < self._promise_s or now < self._owed_until

    def silent_for(self, now: float) -> float:
        """Seconds since a leader was last heard."""
        return now - self._heard

    def start_pre_vote(self, term: int) -> None:
        """Ask everyone about a campaign in `term`."""
        self._pre_votes.clear()
        self._pre_vote_term = term

    def pre_vote(self, voter: str, *, asked_term: int, term: int, others: Collection[str]) -> bool:
        """Count a granted pre-vote; True when it completes a majority for the campaign in `term` + 1."""
        if asked_term != self._pre_vote_term or asked_term != term + 1 or voter not in others:
            return False
        self._pre_votes.add(voter)
        return len(self._pre_votes) + 1 > (len(others) + 1) / 2

    def start_campaign(self, *, transfer: bool) -> None:
        self.campaign_now = False
        self.transfer_campaign = transfer
        self._votes.clear()

    def vote(self, voter: str, others: Collection[str]) -> bool:
        """Whether this vote counts: pysyncobj counts messages, we count members, each once (P11)."""
        if voter in self._votes or voter not in others:
            return False
        self._votes.add(voter)
        return True
