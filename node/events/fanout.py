"""From events to the connections of subscribers, so that many of them do not hold up the node.

An event is encoded once for each form of connection, decided upon once for each interest, and goes into the
connections of those who are level with the ring, a few in every turn of the loop. Whoever is not level - newly come
with a cursor, slow, with rights that have to be looked up again, or one of too many who are waited for - is *behind*:
its queue is a place in the ring, from which a task carries it forward, several events at once.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

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
UNDELIVERED_MAX = 20_000  # writes to those who are level; whoever has to wait for more is behind
WRITES_MAX = 250  # to connections, in one turn of the loop
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
class Delivery:
    """An event on its way to those who share an interest; `done` of them have it."""

    place: int
    event: Event
    interest: Interest
    members: tuple[Subscription, ...]
    done: int = 0


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
        self._deliveries: deque[Delivery] = deque()
        self._delivers = False
        self._undelivered = 0  # writes
        self._encoded: OrderedDict[tuple[int, Form], bytes] = OrderedDict()
        self._wants: OrderedDict[tuple[int, Interest], bool] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    @property
    def is_busy(self) -> bool:
        """Whether some of those who are level have not been told everything yet."""
        return bool(self._deliveries)

    def publish(self, event: Event) -> None:
        self.ring.append(event)
        self._counters.events += 1
        if not self._audience.all:
            return
        place = self.ring.end - 1
        for interest, members in self._audience.interested(event.type, encoding.facts(event)):
            if self._undelivered < UNDELIVERED_MAX:
                self._undelivered += len(members)
                self._deliveries.append(Delivery(place, event, interest, members))
                self._deliver_soon()
            else:
                oldest = (
                    self._deliveries[0].place if self._deliveries else place
                )  # whoever is level has all before
                for each in members:
                    if not each.behind:
                        self._fall_behind(each, max(each.place, oldest))

    def _deliver_soon(self) -> None:
        if not self._delivers:
            self._delivers = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Some of what is to be delivered; the loop is others' in between."""
        self._delivers, left = False, WRITES_MAX
        while self._deliveries and left > 0:
            delivery = self._deliveries[0]
            some = delivery.members[delivery.done : delivery.done + left]
            self._deliver_to(delivery, some)
            delivery.done += len(some)
            left -= len(some)
            self._undelivered -= len(some)
            if delivery.done == len(delivery.members):
                self._deliveries.popleft()
        if self._deliveries:
            self._deliver_soon()

    def _deliver_to(self, delivery: Delivery, members: tuple[Subscription, ...]) -> None:
        place, event = delivery.place, delivery.event
        allowed, frames = self._audience.may_hear(delivery.interest.acl, event), dict[Form, bytes]()
        for each in members:
            if each.behind or place < each.place:
                continue
            moved = each.interest is not delivery.interest  # its rights were looked at anew meanwhile
            if moved or each.checked != self._audience.rights or each.is_full:
                self._fall_behind(each, place)
            elif allowed:
                frame = frames.get(each.form) or self._frame(each, event, place)
                frames[each.form] = frame
                each.write(frame)
                each.place = place + 1
                self._counters.sent += 1

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
        self._deliveries.clear()
        self._undelivered = 0
        self.ring.forget(self._store.position, known_ns)
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
