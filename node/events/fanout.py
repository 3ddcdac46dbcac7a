"""From events to the connections of subscribers, so that many of them do not hold up the node.

An event is encoded once for each form of connection, decided upon once for each interest, and goes into the
connections of those who are level with the ring, a few in every turn of the loop. Those who share an interest are
gone round one after the other; what happens meanwhile waits for the next round, and goes into each connection as one
write, so that many events cost little more than one. Whoever is not level - newly come with a cursor, slow, with
rights that have to be looked up again, or one of those for whom too much waits - is *behind*: its queue is a place in
the ring, from which a task carries it forward, several events at once.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from node.events import encoding
from node.events.audience import Audience
from node.events.cursor import Cursor
from node.events.happened import Event
from node.events.ring import Ring, is_new
from node.events.subscription import End, Form, Interest, Subscription
from node.store import Store

SLICE = 200  # subscribers looked at in one turn of the loop
CARRIED_MAX = 256  # events, at a time
CARRIED_BYTES_MAX = 64 * 1024
UNDELIVERED_MAX = 20_000  # events that wait for a round, of all interests; for whom more would wait is behind
WRITES_MAX = 100  # to connections, in one turn of the loop: about two milliseconds
COMPARED_MAX = 2000  # interests with events, in one turn of the loop; one event is compared with all of them
ENCODED_MAX = 1024
WANTS_MAX = 16_384
AGAIN_S = 0.05  # until a connection that is full is looked at again
WINDOW = "window"


class Counters:
    """What metrics show; they outlive a seal."""

    def __init__(self) -> None:
        self.events = self.sent = self.rereads = 0
        self.ended: dict[End, int] = dict.fromkeys(End, 0)


@dataclass(slots=True)
class Round:
    """What is on its way to those who share an interest: `batch` to one after the other, then what is `waiting`.

    The batch has the places from `first` to before `end`, without the events that they may not hear of.
    """

    interest: Interest
    waiting: deque[tuple[int, Event]] = field(default_factory=deque)
    batch: list[tuple[int, Event]] = field(default_factory=list)
    first: int = 0
    end: int = 0
    members: tuple[Subscription, ...] = ()
    done: int = 0  # of the members
    data: dict[Form, bytes] = field(default_factory=dict)  # the whole batch

    @property
    def is_over(self) -> bool:
        """Whether everybody has the batch."""
        return self.done == len(self.members)

    @property
    def oldest(self) -> int:
        """The place of the oldest event that may not have been told to all of them."""
        return self.waiting[0][0] if self.is_over else self.first


class Fanout:
    """See the module. `cursor` tells where somebody stands who was told everything, or everything up to a position."""

    def __init__(
        self,
        store: Store,
        audience: Audience,
        ring: Ring,
        counters: Counters,
        cursor: Callable[[int | None], Cursor],
    ) -> None:
        self._store, self._counters, self._cursor = store, counters, cursor
        self._audience, self.ring = audience, ring
        self._behind: set[Subscription] = set()
        self._wake = asyncio.Event()
        self._compared = ring.end  # the place of the first event that is in no round yet
        self._rounds: OrderedDict[Interest, Round] = OrderedDict()  # whose turn it is next comes first
        self._undelivered = 0  # events that wait, in all rounds
        self._delivers = False
        self._encoded: OrderedDict[tuple[int, Form], bytes] = OrderedDict()
        self._wants: OrderedDict[tuple[int, Interest], bool] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def publish(self, event: Event) -> None:
        self.ring.append(event)
        self._counters.events += 1
        if self._audience.all:
            self._deliver_soon()
        else:
            self._compared = self.ring.end

    # --- those who are level ---

    def has_told_all(self, subscription: Subscription) -> bool:
        """Whether there is nothing more to tell one of them."""
        up_to_date = not subscription.behind and subscription.interest not in self._rounds
        return up_to_date and self._compared == self.ring.end

    def _deliver_soon(self) -> None:
        if not self._delivers:
            self._delivers = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Some of what is to be delivered; the loop is others' in between."""
        self._delivers, left = False, WRITES_MAX
        self._compare()
        while self._rounds and left > 0:
            interest, turn = self._rounds.popitem(last=False)
            left -= self._go_on(turn, left)
            if turn.waiting or not turn.is_over:
                self._rounds[interest] = turn  # behind the others
        if self._rounds or self._compared < self.ring.end:
            self._deliver_soon()

    def _compare(self) -> None:
        """Bring some events to those who asked for such."""
        if self._compared < self.ring.first:  # too many came at once
            for each in tuple(self._audience.all):
                self.look_again(each)
            self._compared = self.ring.end
        left = COMPARED_MAX
        while self._compared < self.ring.end and left > 0:
            (event,) = self.ring.read(self._compared, 1)
            for interest in self._audience.interested(event.type, encoding.facts(event)):
                self._await_turn(interest, self._compared, event)
            self._compared += 1
            left -= 1 + self._audience.interests

    def _await_turn(self, interest: Interest, place: int, event: Event) -> None:
        turn = self._rounds.get(interest)
        if turn is None:
            turn = self._rounds[interest] = Round(interest)
        turn.waiting.append((place, event))
        self._undelivered += 1
        if self._undelivered > UNDELIVERED_MAX:
            for each in self._audience.members(interest):
                self.look_again(each)
            self._undelivered -= len(turn.waiting)
            del self._rounds[interest]

    def _go_on(self, turn: Round, most: int) -> int:
        """Tell some of those whose turn it is; how many were looked at, at least 1."""
        if turn.is_over:
            self._begin_round(turn)
        some = turn.members[turn.done : turn.done + most]
        turn.done += len(some)
        rights, first, end = self._audience.rights, turn.first, turn.end
        for each in some:
            if each.behind or each.place >= end:
                continue
            torn = each.place > first  # it came level in between: a part of the batch was told
            if torn or each.checked != rights or each.is_full:
                self._fall_behind(each, max(each.place, first))
            elif turn.batch:
                each.write(turn.data.get(each.form) or self._whole(turn, each), len(turn.batch))
                each.place = end
                self._counters.sent += len(turn.batch)
        return max(1, len(some))

    def _begin_round(self, turn: Round) -> None:
        """With as much of what waits as goes into a connection at once."""
        turn.members, turn.done = self._audience.members(turn.interest), 0
        turn.first, turn.batch, turn.data = turn.waiting[0][0], [], {}
        size_bytes = taken = 0
        while turn.waiting and taken < CARRIED_MAX and size_bytes < CARRIED_BYTES_MAX:
            place, event = turn.waiting.popleft()
            taken, turn.end = taken + 1, place + 1
            if turn.members and self._audience.may_hear(turn.interest.acl, event):
                turn.batch.append((place, event))
                size_bytes += len(self._frame(turn.members[0], event, place))
        self._undelivered -= taken

    def _whole(self, turn: Round, subscription: Subscription) -> bytes:
        """The batch as this form of connection carries it."""
        frames = [self._frame(subscription, event, place) for place, event in turn.batch]
        found = turn.data[subscription.form] = b"".join(frames)
        return found

    def _frame(self, subscription: Subscription, event: Event, place: int) -> bytes:
        """The event as this form of connection carries it, made once."""
        known = self._encoded.get((place, subscription.form))
        if known is None:
            key = self._store.reads.kv_key(event.mount.mount_id, event.name) if event.name else None
            oldest, current = (0, 0) if key is None else (key.oldest_version, key.current_version)
            cursor = self._cursor(event.reached)
            document = encoding.cloud_event(event, cursor, oldest, current)
            known = self._encoded[place, subscription.form] = subscription.frame(document, cursor)
            if len(self._encoded) > ENCODED_MAX:
                self._encoded.popitem(last=False)
        return known

    # --- subscribers ---

    def begin(self, subscription: Subscription, place: int) -> None:
        """Tell one more, from a place in the ring on; -1: from one that may be gone."""
        self._fall_behind(subscription, place)

    def finish(self, subscription: Subscription) -> None:
        """It is over."""
        subscription.behind = True
        self._behind.discard(subscription)
        self._counters.ended[subscription.ended.result()] += 1

    def all_read_again(self, reason: str, known_ns: int) -> None:
        """Now, or, those who are behind, when their turn comes: what was before is not in the ring any more.

        Of what expired after `known_ns` everything will be in it.
        """
        self._rounds.clear()
        self._undelivered = 0
        self.ring.forget(self._store.position, known_ns)
        self._compared = self.ring.end
        for each in tuple(self._audience.all):
            if each.behind or each.checked != self._audience.rights or each.is_full:
                self._fall_behind(each, -1)
                each.reason = reason
            else:
                self._tell_to_read_again(each, reason)

    def _tell_to_read_again(self, subscription: Subscription, reason: str) -> None:
        cursor = self._cursor(None)
        document = encoding.reread(cursor, self._store.now_ns(), reason)
        subscription.write(subscription.frame(document, cursor, "reread"))
        subscription.place, subscription.cursor = self.ring.end, None
        self._counters.rereads += 1

    # --- those who are behind ---

    def look_again(self, subscription: Subscription) -> None:
        """Its rights, or what is to be told to it, may be others: the task sees to it, from where it stands."""
        if not subscription.behind:
            turn = None if subscription.interest is None else self._rounds.get(subscription.interest)
            oldest = self._compared if turn is None else turn.oldest
            self._fall_behind(subscription, max(subscription.place, oldest))

    def _fall_behind(self, subscription: Subscription, place: int) -> None:
        subscription.behind, subscription.place = True, place
        self._behind.add(subscription)
        self._wake.set()

    async def carry(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            later = False
            for number, each in enumerate(tuple(self._behind), 1):
                if each in self._behind and not self._carry_forward(each):
                    later = True
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            if later:
                self._loop.call_later(AGAIN_S, self._wake.set)

    def _carry_forward(self, subscription: Subscription) -> bool:
        """Whether it can go on at once, if it has to; otherwise its connection takes nothing now."""
        if subscription.ended.done() or not self._audience.check(subscription):
            self._behind.discard(subscription)
            return True
        if subscription.is_full:
            subscription.stalled_at = subscription.stalled_at or self._loop.time()
            return False
        subscription.stalled_at = None
        if subscription.place < self.ring.first:
            self._tell_to_read_again(subscription, subscription.reason)
        wanted: list[bytes] = []
        size_bytes = 0
        for event in self.ring.read(subscription.place, CARRIED_MAX):
            if self._is_wanted(subscription, subscription.place, event):
                wanted.append(self._frame(subscription, event, subscription.place))
                size_bytes += len(wanted[-1])
            subscription.place += 1
            if size_bytes >= CARRIED_BYTES_MAX:
                break
        if wanted:
            subscription.write(b"".join(wanted), len(wanted))
            self._counters.sent += len(wanted)
        if subscription.place < self.ring.end:
            self._wake.set()
        else:
            subscription.behind, subscription.cursor, subscription.reason = False, None, WINDOW
            self._behind.discard(subscription)
        return True

    def _is_wanted(self, subscription: Subscription, place: int, event: Event) -> bool:
        if subscription.cursor is not None and not is_new(event, subscription.cursor):
            return False
        interest = subscription.interest
        assert interest is not None, "its rights have been looked at"
        wanted = self._wants.get((place, interest))
        if wanted is None:
            wanted = self._wants[place, interest] = (
                event.type in interest.types
                and interest.filter.lets(encoding.facts(event))
                and self._audience.may_hear(interest.acl, event)
            )
            if len(self._wants) > WANTS_MAX:
                self._wants.popitem(last=False)
        return wanted
