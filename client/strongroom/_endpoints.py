"""Which node to ask: the nearest of those that work, by measured round trips. Pure; the caller brings the time.

An endpoint that fails is left alone for a while that doubles each time. Then it is measured, and used again if it
works and is nearer than the one in use; before that it is asked only if no other one works. To go back and forth
between two that are about as near is of no use: the one in use stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from strongroom._errors import ConfigurationError

AWAY_MIN_S = 0.5
AWAY_MAX_S = 30.0
DOUBLINGS_MAX = 16
MEASURE_EVERY_S = 30.0
NEARER = 0.7  # of the round trip of the one in use: worth a change
SMOOTHING = 0.3
ENDPOINTS_MAX = 64


@dataclass(slots=True)
class Endpoint:
    """One node's address, and what is known about it. Times in seconds of the caller's monotonic clock."""

    url: str
    round_trip_s: float | None = None
    failures: int = 0
    away_until: float = 0.0
    measured_at: float | None = None
    given: bool = True  # by the user; others were told of by a node

    def available(self, now: float) -> bool:
        return now >= self.away_until


class Endpoints:
    """All of them, and the one in use."""

    def __init__(self, urls: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(url.rstrip("/") for url in urls))
        if not 0 < len(distinct) <= ENDPOINTS_MAX:
            raise ConfigurationError(f"one to {ENDPOINTS_MAX} endpoints are needed")
        for url in distinct:
            if not _usable(url):
                shown = repr(url) if "@" not in url else "with a user in it"
                raise ConfigurationError(f"the endpoint {shown} must look like https://host:port")
        self.all = [Endpoint(url) for url in distinct]
        self._used: Endpoint | None = None

    @property
    def used(self) -> str | None:
        """The address of the endpoint that was chosen last."""
        return self._used.url if self._used else None

    def told(self, urls: Sequence[str]) -> None:
        """All endpoints that there are, as a node tells. What is none, too many, or would lead out of TLS is left out;
        what was told before, and is not any more, goes: a region that has left the others goes on answering, for
        itself.
        """
        there = {url.rstrip("/") for url in urls}
        self.all = [each for each in self.all if each.given or each.url in there]
        if self._used is not None and self._used not in self.all:
            self._used = None
        known = {each.url for each in self.all}
        in_the_open = any(url.startswith("http:") for url in known)
        for url in dict.fromkeys(url.rstrip("/") for url in urls):
            safe = in_the_open or url.startswith("https:")
            if url not in known and safe and _usable(url) and len(self.all) < ENDPOINTS_MAX:
                self.all.append(Endpoint(url, given=False))

    def due(self, now: float) -> list[Endpoint]:
        """Those that should be measured now: never measured or long ago, and not away. None if there is no choice."""
        if len(self.all) == 1:
            return []
        return [
            each
            for each in self.all
            if each.available(now) and (each.measured_at is None or now - each.measured_at >= MEASURE_EVERY_S)
        ]

    def measured(self, endpoint: Endpoint, round_trip_s: float | None, now: float) -> None:
        """The result of a measurement; None: it does not work."""
        if round_trip_s is None:
            self.failed(endpoint, now)
            return
        known = endpoint.round_trip_s
        recovered = endpoint.failures > 0 or known is None
        endpoint.round_trip_s = (
            round_trip_s if recovered or known is None else known + SMOOTHING * (round_trip_s - known)
        )
        endpoint.failures, endpoint.away_until, endpoint.measured_at = 0, 0.0, now

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """It did not serve: leave it alone for a while."""
        endpoint.failures += 1
        doublings = min(endpoint.failures - 1, DOUBLINGS_MAX)
        endpoint.away_until = now + min(AWAY_MIN_S * 2**doublings, AWAY_MAX_S)
        endpoint.measured_at = None  # before it is used again it is measured

    def worked(self, endpoint: Endpoint) -> None:
        """It served a request."""
        endpoint.failures, endpoint.away_until = 0, 0.0

    def choose(self, now: float, tried: Sequence[Endpoint] = ()) -> Endpoint:
        """The one to ask next: not yet tried before tried ones, available before others, those that worked last
        before those that failed, near before far ones.
        """
        best = min(self.all, key=lambda each: self._rank(each, now, tried))
        used = self._used
        if used is not None and used is not best and self._stays(used, best, now, tried):
            best = used
        self._used = best
        return best

    def _rank(
        self, each: Endpoint, now: float, tried: Sequence[Endpoint]
    ) -> tuple[int, bool, float, bool, float]:
        distance = each.round_trip_s if each.round_trip_s is not None else float("inf")
        return (
            tried.count(each),
            not each.available(now),
            each.away_until if not each.available(now) else 0,
            each.failures > 0,
            distance,
        )

    @staticmethod
    def _stays(used: Endpoint, best: Endpoint, now: float, tried: Sequence[Endpoint]) -> bool:
        if used in tried or not used.available(now) or used.failures or used.round_trip_s is None:
            return False
        return best.round_trip_s is None or best.round_trip_s > NEARER * used.round_trip_s


def _usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and parts.port != 0
    except ValueError:
        return False
