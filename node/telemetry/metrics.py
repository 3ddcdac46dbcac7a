"""Every metric of a node, in one place. Labels are bounded: never a path, a token or an address."""

import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from consensus.api import Role, Status
from node import VERSION
from node.audit.log import AuditLog
from node.events.hub import Measured

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


Counts = tuple[list[int], float]  # of a histogram: by bucket, and the sum of seconds
Elsewhere = Callable[[], Iterable[tuple[str, int, Counts]]]  # what others answered: operation, status


class RequestTimes(Collector):
    """A histogram of how long answers took: plain counts, for the thread of the loop, summed up when scraped."""

    def __init__(self) -> None:
        self.elsewhere: Elsewhere = tuple
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._sums: dict[tuple[str, int], float] = {}

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """One answered request."""
        key = (operation, status)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(LATENCY_BUCKETS_S) + 1)
            self._sums[key] = 0.0
        counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self._sums[key] += seconds

    def answered(self) -> int:
        """How many there were."""
        return sum(map(sum, self._counts.values()))

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "strongroom_http_request_duration_seconds",
            "Time to answer a request",
            labels=["operation", "code"],
        )
        bounds = [*map(str, LATENCY_BUCKETS_S), "+Inf"]
        for (operation, status), (counts, seconds) in self._together().items():
            buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
            family.add_metric([operation, str(status)], buckets, seconds)
        yield family

    def _together(self) -> dict[tuple[str, int], Counts]:
        found = {key: (counts, self._sums[key]) for key, counts in self._counts.items()}
        for operation, status, (counts, seconds) in self.elsewhere():
            own, own_s = found.get((operation, status), ([0] * len(counts), 0.0))
            added = [one + other for one, other in zip(own, counts, strict=True)]
            found[operation, status] = added, own_s + seconds
        return found


class Metrics:
    """The registry and the instruments that handlers touch."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = RequestTimes()
        self.observe = self._requests.observe
        self.registry.register(self._requests)
        self._in_flight = 0
        Gauge(
            "strongroom_http_requests_in_flight", "Requests being answered", registry=self.registry
        ).set_function(lambda: self._in_flight)
        self._fsync = Histogram(
            "strongroom_raft_journal_fsync_seconds",
            "Time of one journal write with its fdatasync",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._connections: list[Callable[[], int]] = []
        Gauge(
            "strongroom_http_connections", "Open connections of clients", registry=self.registry
        ).set_function(self.clients)
        self._loop_lag = Gauge(
            "strongroom_event_loop_lag_seconds", "How late the event loop ran its last timer",
            registry=self.registry,
        )  # fmt: skip
        Gauge("strongroom_build_info", "The running version", ["version"], registry=self.registry).labels(
            VERSION
        ).set(1)

    def request_started(self) -> None:
        self._in_flight += 1

    def request_finished(self) -> None:
        self._in_flight -= 1

    def count_connections(self, count: Callable[[], int]) -> None:
        """A listener of clients says how many are connected."""
        self._connections.append(count)

    def count_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Other processes answer, too: their counts since the start."""
        self._requests.elsewhere = elsewhere

    def clients(self) -> int:
        """Connections of clients that are open now."""
        return sum(count() for count in self._connections)

    def answered(self) -> int:
        """Requests answered since the start."""
        return self._requests.answered()

    def observe_fsync(self, seconds: float) -> None:
        self._fsync.observe(seconds)

    def observe_loop_lag(self, seconds: float) -> None:
        self._loop_lag.set(seconds)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class StatusSource(Protocol):
    """Where NodeState looks; the lifecycle is one."""

    @property
    def unsealed(self) -> bool: ...
    def raft_status(self) -> Status | None: ...
    def raft_counters(self) -> dict[str, float]: ...


class NodeState(Collector):
    """What is read at scrape time instead of being kept up to date: the seal and Raft's own view."""

    def __init__(self, status: StatusSource, audit: AuditLog) -> None:
        self._status, self._audit = status, audit

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "strongroom_unsealed", "1 when this node is unsealed", value=float(self._status.unsealed)
        )
        yield CounterMetricFamily(
            "strongroom_audit_failures",
            "Answers withheld: no sink took the record",
            value=self._audit.refused,
        )
        status = self._status.raft_status()
        if status is None:
            return
        yield GaugeMetricFamily(
            "strongroom_raft_is_leader", "1 on the leader", float(status.role is Role.LEADER)
        )
        yield GaugeMetricFamily(
            "strongroom_raft_has_leader", "1 when a leader is known", float(bool(status.leader_id))
        )
        yield GaugeMetricFamily("strongroom_raft_term", "The current term", status.term)
        yield GaugeMetricFamily(
            "strongroom_raft_commit_index", "The last committed index", status.commit_index
        )
        yield GaugeMetricFamily(
            "strongroom_raft_applied_index", "The last applied index", status.applied_index
        )
        yield GaugeMetricFamily("strongroom_raft_last_index", "The last index in the log", status.last_index)
        yield GaugeMetricFamily("strongroom_raft_members", "Voters in the configuration", len(status.members))
        peers = GaugeMetricFamily(
            "strongroom_raft_peer_match_index", "Leader: what each peer holds durably", labels=["peer"]
        )
        for peer in status.peers:
            peers.add_metric([peer.member.id], peer.match_index)
        yield peers
        for name, value in self._status.raft_counters().items():
            yield CounterMetricFamily(
                f"strongroom_raft_{name}", f"Raft: {name.replace('_', ' ')}", value=value
            )


class RegionState(Collector):
    """How far this region is behind, where there are regions: what an alert on lag is made of."""

    def __init__(self, measure: Callable[[], tuple[str, Mapping[str, float]]]) -> None:
        """`measure`: the region's name and what is known now, by the metric's name without its prefix; nothing
        where there are no regions.
        """
        self._measure = measure

    def collect(self) -> Iterator[Metric]:
        region, measured = self._measure()
        if measured:
            info = GaugeMetricFamily("strongroom_region_info", "Which region it is", labels=["region"])
            info.add_metric([region], 1)
            yield info
        for name, value in measured.items():
            yield GaugeMetricFamily(f"strongroom_region_{name}", f"Region: {name.replace('_', ' ')}", value)


class LeaseState(Collector):
    """What engines have not taken back: what an alert on credentials that outlive their lease is made of."""

    def __init__(self, measure: Callable[[], tuple[int, int] | None]) -> None:
        """`measure`: how many leases are overdue and how many irrevocable; None while sealed."""
        self._measure = measure

    def collect(self) -> Iterator[Metric]:
        counts = self._measure()
        if counts is not None:
            overdue, irrevocable = counts
            yield GaugeMetricFamily("strongroom_leases_overdue", "Ended, and to be taken back now", overdue)
            yield GaugeMetricFamily("strongroom_leases_irrevocable", "Given up after failures", irrevocable)


class CacheState(Collector):
    """How much of the store is in memory, for who sets value_cache_mib and packed_cache_mib."""

    def __init__(self, measure: Callable[[], Mapping[str, int] | None]) -> None:
        """`measure`: the figures by the metric's name without its prefix; None while sealed."""
        self._measure = measure

    def collect(self) -> Iterator[Metric]:
        for name, value in (self._measure() or {}).items():
            yield GaugeMetricFamily(f"strongroom_cache_{name}", f"Cache: {name.replace('_', ' ')}", value)


class EventState(Collector):
    """Who listens to events, and what they were told: what an alert on slow subscribers is made of."""

    def __init__(self, measure: Callable[[], Measured | None]) -> None:
        self._measure = measure

    def collect(self) -> Iterator[Metric]:
        now = self._measure()
        if now is None:
            return
        yield GaugeMetricFamily("strongroom_event_subscribers", "Subscriptions on this node", now.subscribers)
        yield GaugeMetricFamily(
            "strongroom_event_subscribers_behind", "Those that are not level with what happens", now.behind
        )
        yield CounterMetricFamily("strongroom_events", "Events that happened", value=now.events)
        yield CounterMetricFamily("strongroom_events_sent", "Events sent to subscribers", value=now.sent)
        yield CounterMetricFamily(
            "strongroom_event_rereads", "Times that a subscriber was told to read again", value=now.rereads
        )
        ended = CounterMetricFamily(
            "strongroom_event_subscriptions_ended", "Subscriptions that ended, by why", labels=["reason"]
        )
        for reason, count in now.ended.items():
            ended.add_metric([reason], count)
        yield ended


class SnapshotSource(Protocol):
    """Where SnapshotState looks; node/backup/automatic.py is one."""

    @property
    def failures(self) -> int: ...
    def newest_age_s(self) -> float | None: ...


class SnapshotState(Collector):
    """How old the newest snapshot in this node's directory is: what an alert on missing backups is made of."""

    def __init__(self, snapshots: SnapshotSource) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "strongroom_snapshot_failures",
            "Snapshots that were due and could not be taken",
            value=self._snapshots.failures,
        )
        age_s = self._snapshots.newest_age_s()
        if age_s is not None:
            yield GaugeMetricFamily(
                "strongroom_snapshot_age_seconds", "Age of the newest snapshot in snapshot_dir", value=age_s
            )


def now() -> float:
    """The clock of all durations, in seconds."""
    return time.perf_counter()
