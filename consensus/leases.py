"""Read leases of followers: a follower that holds one answers reads from its own state, without a message.

The field knows them as quorum or roster leases (Moraru, Andersen, Kaminsky: Paxos Quorum Leases, 2014). Four rules
carry them; each has a test that fails without it:

1. The leader calls an entry committed (and so applies, shows or acknowledges it) only when every follower whose
   lease may still be running has it in its log. A holder with entries that it has not applied lets a read wait.
2. A lease counts from the *asking*, on the asker's own boot-time clock, less a margin for drift. The leader counts
   the same seconds from the later moment at which it answers.
3. It is granted inside the leader's own lease, to voters that hold all that is committed, and ends no later than
   that lease. So nobody can have been elected by promise-keeping voters before it ends. A leader that steps down
   keeps what it granted: until then it neither votes nor campaigns.
4. A transfer asks for an election that ignores promises: it stops granting and waits until every lease was given
   back or has run out.

All is bookkeeping on one node: times (boot time, seconds) come in as arguments.
"""

from collections import OrderedDict, deque
from collections.abc import Callable

CLOCK_MARGIN = 0.9  # of a lease is used by its holder: two clocks may drift apart by a tenth
GRANT_FRACTION_MIN = 0.25  # of a full lease: a shorter one is not worth its renewal
ASKS_MAX = 8
PROOFS_MAX = 32
DENIAL_S = 5.0
WINDOW_S = 1.0
LATE_SHARE_MAX = 0.5  # of a window: who alone holds back commits for more of it is too slow for a lease
WANTED_S = 10.0


class Grants:
    """The leader's side: whose lease may still be running, and how far commits may go meanwhile."""

    def __init__(self, lease_s: float, patience_s: float) -> None:
        """`patience_s`: who alone holds back commits for so long at once, or for much of a second, gets no lease
        for DENIAL_S: reads there ask the leader, and writes are quick.
        """
        self._lease_s, self._patience_s = lease_s, patience_s
        self._ends: dict[str, float] = {}
        self._late_since: dict[str, float] = {}
        self._late_s: dict[str, float] = {}  # in the present window
        self._window_began = self._looked = 0.0
        self._denied_until: dict[str, float] = {}
        self._recalled: dict[str, int] = {}
        self._recalls = 0
        self.denials = 0

    def grant(self, peer: str, *, now: float, limit: float) -> float:
        """How many seconds `peer` may read alone, 0.0 for none; `limit` is the end of the leader's own lease."""
        seconds = min(self._lease_s, limit - now)
        if seconds < self._lease_s * GRANT_FRACTION_MIN or now < self._denied_until.get(peer, 0.0):
            return 0.0
        self._ends[peer] = max(self._ends.get(peer, 0.0), now + seconds)
        self._recalled.pop(peer, None)
        return seconds

    def end(self, now: float) -> float:
        """When the last lease has certainly run out; `now` if none is running."""
        return max(now, *self._ends.values()) if self._ends else now

    def ceiling(self, now: float, match: Callable[[str], int], majority: Callable[[], int]) -> int | None:
        """The highest index that every holder has in its log; None when nobody holds a lease.

        `match(peer)` is what a peer acknowledged, `majority()` what would be committed without leases.
        """
        if not self._ends:
            return None
        for peer in [peer for peer, end in self._ends.items() if end <= now]:
            self._forget(peer)
        if not self._ends:
            return None
        held = {peer: match(peer) for peer in self._ends}
        self._note_late(now, held, majority())
        return min(held.values())

    def _note_late(self, now: float, held: dict[str, int], majority: int) -> None:
        for peer in self._late_since:
            self._late_s[peer] = self._late_s.get(peer, 0.0) + now - self._looked
        self._looked = now
        for peer, index in held.items():
            if index >= majority:
                self._late_since.pop(peer, None)
            elif now - self._late_since.setdefault(peer, now) > self._patience_s:
                self._deny(peer, now)
        if now - self._window_began >= WINDOW_S:
            for peer, late_s in self._late_s.items():
                if late_s > LATE_SHARE_MAX * WINDOW_S:
                    self._deny(peer, now)
            self._window_began, self._late_s = now, {}

    def _deny(self, peer: str, now: float) -> None:
        self.denials += self._denied_until.get(peer, 0.0) <= now
        self._denied_until[peer] = now + DENIAL_S

    def recall(self) -> list[tuple[str, int]]:
        """Whom to ask, once each, to give its lease back: (peer, number of the recall)."""
        self._recalls += 1
        news = [peer for peer in self._ends if peer not in self._recalled]
        self._recalled |= dict.fromkeys(news, self._recalls)
        return [(peer, self._recalls) for peer in news]

    def returned(self, peer: str, number: int) -> None:
        """`peer` obeyed that recall, unless it was granted another lease since."""
        if self._recalled.get(peer) == number:
            self._forget(peer)

    def _forget(self, peer: str) -> None:
        self._ends.pop(peer, None)
        self._late_since.pop(peer, None)
        self._recalled.pop(peer, None)


class Lease:
    """The follower's side: what it asked, what it was granted, and as of when its state is complete."""

    def __init__(self, renew_s: float) -> None:
        self._renew_s = renew_s
        self._number = 0
        self._asks: OrderedDict[int, float] = OrderedDict()
        self._asked_at = float("-inf")
        self._end = 0.0
        self._wanted_until = 0.0
        self._proofs: deque[tuple[int, float]] = deque(maxlen=PROOFS_MAX)
        self._as_of: float | None = None

    def want(self, now: float) -> None:
        """Somebody reads here: ask for leases for a while. Nobody's writes wait for a node that nobody reads."""
        self._wanted_until = now + WANTED_S

    def ask(self, now: float) -> tuple[int, bool] | None:
        """(number of the question, whether a lease is wanted), or None: it is too early to ask again."""
        if now - self._asked_at < self._renew_s:
            return None
        self._asked_at = now
        self._number += 1
        self._asks[self._number] = now
        if len(self._asks) > ASKS_MAX:
            self._asks.popitem(last=False)
        return self._number, now < self._wanted_until

    def answered(self, number: int, *, seconds: float, commit: int) -> None:
        """The leader, sure to lead, had committed up to `commit` after the question, and grants `seconds`."""
        asked = self._asks.pop(number, None)
        if asked is None:
            return
        self._proofs.append((commit, asked))
        if seconds > 0:
            self._end = max(self._end, asked + seconds * CLOCK_MARGIN)

    def drop(self) -> None:
        """Another term or leader, or a recall: what was asked before is void."""
        self._asks.clear()
        self._end = 0.0

    def holds(self, now: float) -> bool:
        return now < self._end

    @property
    def end(self) -> float:
        return self._end

    def as_of(self, applied_index: int) -> float | None:
        """A time at which all that was acknowledged anywhere is in the state here; None: not known."""
        while self._proofs and self._proofs[0][0] <= applied_index:
            _, self._as_of = self._proofs.popleft()
        return self._as_of
