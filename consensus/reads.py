"""When a leader may answer a read: after a quorum echoed a round that began later, or inside its lease.

Read index: Raft thesis, section 6.4. Lease: section 6.4.1, counted on CLOCK_BOOTTIME from the *sending* of a
round that a quorum has answered; it holds because a voter that heard a leader gives its vote to nobody for
promise_s, and a voter that restarts waits as long before it does anything else.
"""

from collections import deque
from collections.abc import Callable, Collection

ROUNDS_MAX = 4096
READS_MAX = 100_000

Answer = Callable[[bool], None]


class ReadGate:
    """Rounds in flight, what each voter echoed, who waits. Pure bookkeeping: times come in as arguments."""

    def __init__(self, promise_s: float, lease_share: float) -> None:
        """`promise_s`: for how long this member keeps promises; a lease is `lease_share` of the shortest one known."""
        self._promise_s, self._lease_share = promise_s, lease_share
        self._promises: dict[str, float] = {}
        self._lease_s = promise_s * lease_share
        self._rounds: deque[tuple[int, float]] = deque()
        self._echoed: dict[str, int] = {}
        self._waiting: list[tuple[int, Answer]] = []
        self._lease_end = 0.0
        self._lease_allowed = False
        self._told: dict[str, int] = {}  # whom a transfer was offered, and the round that was newest then
        self._asked_round = 0
        self.confirmed = 0
        self.confirmed_sent: float | None = None  # when the newest confirmed round left
        self.sequence = 0

    def begin_term(self) -> None:
        """This node has just become leader: nothing that it heard before counts."""
        self._rounds.clear()
        self._echoed.clear()
        self._lease_end = 0.0
        self._lease_allowed = True
        self._told.clear()
        self.confirmed_sent = None
        self.confirmed = self._asked_round = self.sequence

    def end_term(self) -> None:
        """Not the leader any more: every waiting read must ask elsewhere."""
        self._lease_end, self._lease_allowed = 0.0, False
        self._told.clear()
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            answer(False)

    def transfer_to(self, peer: str) -> None:
        """`peer` is about to be told to campaign: its election is exempt from promises, so there is no lease until
        it has answered a later round in this term. Then it has taken the order, and will not act on it any more.
        """
        self._lease_end = 0.0
        self._told[peer] = self.sequence

    @property
    def transfer_open(self) -> bool:
        """Somebody may still campaign because this leader told him to."""
        return bool(self._told)

    @property
    def lease_end(self) -> float:
        return self._lease_end

    def has_lease(self, now: float) -> bool:
        return now < self._lease_end

    def start_round(self, now: float) -> int:
        """Number the frames that are about to be sent at `now` (boot time, seconds)."""
        self.sequence += 1
        self._rounds.append((self.sequence, now))
        if len(self._rounds) > ROUNDS_MAX:
            self._rounds.popleft()
        return self.sequence

    def echo(self, peer: str, sequence: int) -> None:
        """`peer` answered the round `sequence` in this term."""
        if self._echoed.get(peer, 0) < sequence <= self.sequence:
            self._echoed[peer] = sequence
            if sequence > self._told.get(peer, sequence):
                del self._told[peer]
                self._rounds.clear()  # those that leave from now on count for a lease

    def promised(self, peer: str, seconds: float | None) -> None:
        """How long `peer` votes for nobody else after it heard a leader; None: its process may be another now.

        A lease leans on promises, so those who have not told theirs do not count for it.
        """
        if seconds is None:
            self._promises.pop(peer, None)
        else:
            self._promises[peer] = seconds
        self._lease_s = min([self._promise_s, *self._promises.values()]) * self._lease_share

    def ask(self, answer: Answer) -> None:
        """Call `answer` once: True when a round that begins from now on is confirmed, False if it cannot be."""
        if len(self._waiting) >= READS_MAX:
            answer(False)
        else:
            self._waiting.append((self.sequence + 1, answer))

    def broadcast(self) -> None:
        """The round that was just started went to every peer."""
        self._asked_round = self.sequence

    @property
    def round_wanted(self) -> bool:
        """Somebody waits for a round that has not gone to everyone, and none is under way: one at a time."""
        if not self._waiting or self._waiting[-1][0] <= self._asked_round:
            return False
        return self._asked_round <= self.confirmed

    def settle(self, others: Collection[str], *, ready: bool) -> None:
        """Work out what a majority of `others` and this node has echoed; if `ready`, answer those it covers."""
        self.confirmed = max(self.confirmed, self._majority(others, len(others)))
        promising = [peer for peer in others if peer in self._promises]
        promised = self.confirmed if len(promising) == len(others) else self._majority(promising, len(others))
        while self._rounds and self._rounds[0][0] <= promised:
            _, sent = self._rounds.popleft()
            self.confirmed_sent = sent
            if self._lease_allowed and not self._told:
                self._lease_end = max(self._lease_end, sent + self._lease_s)
        if not ready or not self._waiting or self._waiting[0][0] > self.confirmed:
            return
        waiting, self._waiting = self._waiting, []
        self._waiting = [entry for entry in waiting if entry[0] > self.confirmed]
        for sequence, answer in waiting:
            if sequence <= self.confirmed:
                answer(True)

    def _majority(self, peers: Collection[str], others: int) -> int:
        """The newest round that enough of `peers` echoed to be, with this node, more than half of `others` + 1."""
        needed = (others + 1) // 2
        if not needed:
            return self.sequence
        echoes = sorted((self._echoed.get(peer, 0) for peer in peers), reverse=True)
        return echoes[needed - 1] if len(echoes) >= needed else 0
