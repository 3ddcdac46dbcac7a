"""Which node of a region is asked first: of those that answer, the one with the shortest round trip."""

import math
from collections.abc import Sequence

# Of a longer round trip is believed at once, a shorter one altogether: handshakes are no distance.
SLOWER_SHARE = 1 / 8
# Another node is asked first if its round trip is at most so much of what the first one's is.
CHANGES_AT = 0.8
CHANGES_AT_S_MIN = 0.002  # and shorter by this, so that nobody changes sides with every breath of the network
ADDRESSES_MAX = 64
ROUND_TRIP_S_MAX = 4.0  # time-outs make room for no longer one


class Nearness:
    """What is known of the nodes of one region, by their addresses."""

    def __init__(self) -> None:
        self._round_trips_s: dict[str, float] = {}
        self._no_help: set[str] = set()
        self._first = ""

    def order(self, addresses: Sequence[str]) -> list[str]:
        """The nearest first, those that were no help last; as they were given where nothing is known."""
        ordered = sorted(addresses, key=self._distance)
        if len(ordered) > 1:
            self._first = ordered[0]
        return ordered

    def _distance(self, address: str) -> tuple[bool, float]:
        round_trip_s = self._round_trips_s.get(address, math.inf)
        if address == self._first:
            round_trip_s = min(round_trip_s * CHANGES_AT, round_trip_s - CHANGES_AT_S_MIN)
        return address in self._no_help, round_trip_s

    def round_trip_s(self, address: str) -> float | None:
        """As far as it was measured."""
        return self._round_trips_s.get(address)

    def allowed_s(self, address: str) -> float:
        """The round trip that a time-out has to make room for."""
        return min(ROUND_TRIP_S_MAX, self._round_trips_s.get(address, 0.0))

    def measured(self, address: str, round_trip_s: float) -> None:
        """A question that needs no work took so long."""
        known_s = self._round_trips_s.get(address, math.inf)
        if round_trip_s > known_s:
            round_trip_s = known_s + (round_trip_s - known_s) * SLOWER_SHARE
        self._round_trips_s[address] = round_trip_s
        if len(self._round_trips_s) > ADDRESSES_MAX:
            self.forget(next(iter(self._round_trips_s)))

    def helps(self, address: str) -> None:
        """It answers, and knows what its region knows."""
        self._no_help.discard(address)

    def no_help(self, address: str) -> None:
        """It did not answer, or is cut off from its own region: the others first, until it helps again."""
        self._no_help.add(address)
        if len(self._no_help) > ADDRESSES_MAX:
            self._no_help = {address}

    def forget(self, address: str) -> None:
        self._round_trips_s.pop(address, None)
        self._no_help.discard(address)
