"""Events on one node: who may subscribe while the store is open, and the end of it for all when it is not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import Sealed, TooBusy
from node.events.subscription import End

if TYPE_CHECKING:
    from node.core.core import Core
    from node.events.fanout import Counters
    from node.events.stream import Stream
    from node.store import Store


@dataclass(frozen=True, slots=True)
class Measured:
    """For metrics."""

    subscribers: int
    behind: int
    events: int
    sent: int
    rereads: int
    ended: dict[str, int]


class Hub:
    """The stream of the store, while that is open."""

    def __init__(self, subscribers_max: int = 0) -> None:
        self.subscribers_max = subscribers_max
        self._places = 0  # taken: whoever was admitted counts before its answer begins
        self._stream: Stream | None = None
        self._counters: Counters | None = None

    def open(self, core: "Core", store: "Store") -> None:
        """The store was opened; from here on nothing that happens is missed."""
        from node.events.fanout import Counters
        from node.events.stream import Stream  # the first answer of a process does not wait for it

        self._counters = self._counters or Counters()
        self._stream = Stream(core, store, self._counters)

    def close(self) -> None:
        """The store is being closed."""
        if self._stream is not None:
            self._stream.close(End.SEALED)
            self._stream = None

    def end_all(self, why: End) -> None:
        """Send everybody away who is here; others may come."""
        if self._stream is not None:
            self._stream.end_all(why)

    @property
    def stream(self) -> "Stream":
        """Raises Sealed."""
        if self._stream is None:
            raise Sealed("Vault is sealed")
        return self._stream

    def take_place(self) -> None:
        """Admit one subscriber, until give_back_place(). Raises TooBusy if there is no room for one more."""
        if self._places >= self.subscribers_max:
            raise TooBusy(f"this node has {self.subscribers_max} subscribers to events, which is the limit")
        self._places += 1

    def give_back_place(self) -> None:
        """One that was admitted is gone."""
        self._places -= 1

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return 0 if self._stream is None else len(self._stream.audience.all)

    def measured(self) -> Measured | None:
        """None before the store was open."""
        counters, stream = self._counters, self._stream
        if counters is None:
            return None
        everybody = () if stream is None else stream.audience.all
        return Measured(
            len(everybody),
            sum(each.behind for each in everybody),
            counters.events,
            counters.sent,
            counters.rereads,
            {why.name.lower(): count for why, count in counters.ended.items()},
        )
