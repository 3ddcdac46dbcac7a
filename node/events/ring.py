"""The events that a node still knows, oldest first: what a subscriber who comes back has missed.

Bounded in number and bytes; the oldest go. Places in it are numbers that only grow, so that a subscriber's queue is
one number.
"""

from bisect import bisect_right
from collections import deque
from operator import attrgetter

from node.events.cursor import MS_NS, Cursor
from node.events.happened import EXPIRED, Event

EVENTS_KEPT_MAX = 65_536
BYTES_KEPT_MAX = 32 << 20

_position = attrgetter("position")


class Ring:
    """Everything after `position`, and every expiry after `since_ns`."""

    def __init__(
        self,
        position: int,
        now_ns: int,
        *,
        events_max: int = EVENTS_KEPT_MAX,
        bytes_max: int = BYTES_KEPT_MAX,
    ) -> None:
        self._events: list[Event] = []  # those before _gone are dropped, and cleared away many at once
        self._gone = 0
        self._expiries: deque[tuple[int, Event]] = deque()  # with their places
        self._events_max, self._bytes_max = events_max, bytes_max
        self._bytes = 0
        self.end = 0  # the place that the next event will have
        self.position, self.since_ns = position, to_ms(now_ns)

    @property
    def first(self) -> int:
        """The place of the oldest event."""
        return self.end - len(self._events) + self._gone

    def append(self, event: Event) -> None:
        """The newest."""
        self._events.append(event)
        if event.operation == EXPIRED:
            self._expiries.append((self.end, event))
        self.end += 1
        self._bytes += event.size_bytes
        while len(self._events) - self._gone > self._events_max or self._bytes > self._bytes_max:
            self._drop()
        if self._gone > len(self._events) // 2:
            del self._events[: self._gone]
            self._gone = 0

    def _drop(self) -> None:
        event = self._events[self._gone]
        self._gone += 1
        self._bytes -= event.size_bytes
        if event.operation == EXPIRED:
            self._expiries.popleft()
            self.since_ns = max(self.since_ns, to_ms(event.time_ns))
        else:
            self.position = max(self.position, event.position)

    def forget(self, position: int, now_ns: int) -> None:
        """There is another history now, or a gap in this one: nothing before this is known."""
        self._events.clear()
        self._expiries.clear()
        self._gone = self._bytes = 0
        self.position, self.since_ns = position, to_ms(now_ns)

    def after(self, cursor: Cursor) -> int | None:
        """The first place with something that the cursor's holder was not told; None: that may be gone."""
        if cursor.position < self.position or (
            cursor.until_ns is not None and cursor.until_ns < self.since_ns
        ):
            return None
        index = bisect_right(self._events, cursor.position, lo=self._gone, key=_position)
        found = self.end - len(self._events) + index
        for place, event in reversed(self._expiries):
            if not is_new(event, cursor):
                break
            found = min(found, place)
        return found

    def read(self, place: int, count: int) -> list[Event]:
        """At most `count` events from a place on that is not before `first`."""
        index = place - self.end + len(self._events)
        return self._events[index : index + count]


def is_new(event: Event, cursor: Cursor) -> bool:
    """Whether the cursor's holder was not told of it."""
    if event.operation != EXPIRED:
        return event.position > cursor.position
    if cursor.until_ns is None:
        return event.position >= cursor.position
    return to_ms(event.time_ns) > cursor.until_ns


def to_ms(nanoseconds: int) -> int:
    """What a cursor keeps of a time."""
    return nanoseconds // MS_NS * MS_NS
