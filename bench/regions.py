"""What regions cost that are far apart: `python -m bench.regions` (four minutes), `--quick` (one).

Two and three regions of three nodes each, with a network between them (node/wan) on which a round trip takes 70 ms
(eu-us), 90 ms (us-ap) and 150 ms (eu-ap); 200 writes/s in the primary and 2,000 reads/s. Printed, each beside what it
should be: how long after its acknowledgement a write shows in a secondary; how reads in a secondary compare with those
in the primary; what a write costs that a secondary carries over, beyond the round trip. Ends with 1 if one of them is
missed. docs/bench.md says how it is measured.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench import vault
from bench.distance import PATH, VALUE, Region, Writers, echo, lag, paced_writes, region, round_trips
from bench.processes import SystemFailedError, free_ports
from bench.web import Web
from node.cli.local_cluster import ClusterError
from node.cli.local_regions import NODES, REGIONS, ROUND_TRIPS_S, LocalRegions
from node.wan.orders import Door

WRITES_PER_S, READS_PER_S = 200.0, 2000.0
KEYS = 500
PROBES = 3  # that look at each secondary at once
NOT_BEFORE = 0.4  # of the round trip: half of it is the least that a write can take
READERS = 512  # connections: a pause of a quarter of a second leaves no request without one
ECHOES = 50
WRITES_MIN = 10  # of a client that waits for each, in each round
SPARE_S = 60.0  # for a load generator to start and to end

LAG_P99_S_MAX = 1.0
# For two more nodes that read, authorise and record a carried write, and a link's encryption.
HANDLING_S = 0.005
READS_RATIO_MIN = 0.9  # of rates, and of medians the other way round


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    regions: int
    nodes: int = NODES
    round_trip_s: float | None = None  # between all of them; None: as usual between continents
    writes_per_s: float = WRITES_PER_S
    reads_per_s: float = READS_PER_S  # of all regions together, or of one at a time
    seconds: float = 20.0  # for each part
    rounds: int = 4
    seed: int = 1

    def trip_s(self, name: str) -> float:
        """Between the primary and another region."""
        return self.round_trip_s or ROUND_TRIPS_S[REGIONS[0].name, name]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a fixed rate of reads saw in one region."""

    per_s: float
    p50_ms: float
    p99_ms: float
    bad: int


@dataclass(frozen=True, slots=True)
class Found:
    """One measurement; seconds."""

    regions: int
    round_trip: list[float]  # of the network to the first secondary, by an echo
    lags: Mapping[str, list[float]]  # by secondary
    primary: Reads
    secondary: Reads
    local: list[float]
    forwarded: list[float]
    writes_per_s: float
    write_failures: int

    @property
    def lag(self) -> list[float]:
        """Of all secondaries together."""
        return [each for one in self.lags.values() for each in one]

    @property
    def lag_p99_s(self) -> float:
        """Of the secondary where it is longest."""
        return max(quantile(each, 0.99) for each in self.lags.values())

    @property
    def forwarding_s(self) -> float:
        """What a forwarded write takes beyond a local one and the round trip: medians."""
        local, forwarded = statistics.median(self.local), statistics.median(self.forwarded)
        return forwarded - local - statistics.median(self.round_trip)

    def verdicts(self) -> list[tuple[str, bool]]:
        """(sentence, whether the promise is kept)."""
        ends = self.lag_p99_s
        local = statistics.median(self.local)
        rate = self.secondary.per_s / self.primary.per_s
        median = self.primary.p50_ms / self.secondary.p50_ms
        bad = self.primary.bad + self.secondary.bad + self.write_failures
        return [
            (f"lag p99 {ends * 1e3:.0f} ms, at most {LAG_P99_S_MAX * 1e3:.0f} ms", ends <= LAG_P99_S_MAX),
            (
                (
                    f"a forwarded write takes {self.forwarding_s * 1e3:.1f} ms more than a local one and the round"
                    f" trip, at most another local one ({local * 1e3:.1f} ms) and {HANDLING_S * 1e3:.0f} ms"
                ),
                self.forwarding_s <= local + HANDLING_S,
            ),
            (
                (
                    f"reads in the secondary, divided by the primary's: rate {rate:.2f}, speed (p50) {median:.2f},"
                    f" at least {READS_RATIO_MIN:g}"
                ),
                min(rate, median) >= READS_RATIO_MIN,
            ),
            (f"{bad} requests failed, at most 0", bad == 0),
        ]


def figures(found: Found) -> dict[str, float]:
    """For bench/report.py."""
    return {
        "region_lag_p99_ms": found.lag_p99_s * 1e3,
        "region_read_p50_ratio": found.primary.p50_ms / found.secondary.p50_ms,
        "region_forward_extra_ms": (found.forwarding_s - statistics.median(found.local)) * 1e3,
    }


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class Scene:
    """Regions that run, with clients in each."""

    def __init__(
        self, everything: LocalRegions, clients: list[Region], door: str, token: str, plan: Plan
    ) -> None:
        self._everything, self._door, self._token, self._plan = everything, door, token, plan
        self.primary, *self.secondaries = clients

    async def measure(self) -> Found:
        """Everything, one after the other, under the same load of writes."""
        writers = Writers(self.primary, self._plan.writes_per_s, KEYS, random.Random(self._plan.seed))
        load = asyncio.create_task(writers.run())
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            trips = await round_trips(self._door, REGIONS[1].host, ECHOES)
            lags = await self._lags()
            primary, secondary = await self._reads()
            local, forwarded = await self._writes()
            rate = len(writers.latencies) / (loop.time() - began)
        finally:
            load.cancel()
            await writers.settle()
        seen = (primary, secondary, local, forwarded, rate, writers.failures)
        return Found(1 + len(self.secondaries), trips, lags, *seen)

    async def _lags(self) -> dict[str, list[float]]:
        """With reads in every region meanwhile."""
        everywhere, seconds = [self.primary, *self.secondaries], self._plan.seconds
        probes = [self._lag(there, number) for there in self.secondaries for number in range(PROBES)]
        reads = [self._read(each, self._plan.reads_per_s / len(everywhere), seconds) for each in everywhere]
        found, _ = await asyncio.gather(asyncio.gather(*probes), asyncio.gather(*reads))
        lags: dict[str, list[float]] = {}
        for name, seen in found:
            lags.setdefault(name, []).extend(seen)
        return lags

    async def _lag(self, there: Region, number: int) -> tuple[str, list[float]]:
        plan = self._plan
        not_before_s = NOT_BEFORE * plan.trip_s(there.name)
        return there.name, await lag(
            self.primary, there, str(number), seconds=plan.seconds, not_before_s=not_before_s
        )

    async def _reads(self) -> tuple[Reads, Reads]:
        """In turns, so that whatever else the machine does hits both."""
        seen: tuple[list[Reads], list[Reads]] = ([], [])
        seconds = self._plan.seconds / self._plan.rounds
        for number in range(self._plan.rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for which in order:
                where = (self.primary, self.secondaries[0])[which]
                seen[which].append(await self._read(where, self._plan.reads_per_s, seconds))
        return _typical(seen[0]), _typical(seen[1])

    async def _read(self, where: Region, rate: float, seconds: float) -> Reads:
        """A fixed rate of reads of one node, by a process of its own (bench/swarm.py)."""
        ca = self._everything.clusters[where.name].ca_path
        command = ["-m", "bench.swarm", where.addresses[0] + PATH, str(ca), self._token, f"--keys={KEYS}"]
        command += [f"--clients={READERS}", f"--rate={rate}", f"--seconds={seconds}"]
        command.append(f"--seed={self._plan.seed}")  # the same requests at the same times in every region
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(seconds + SPARE_S):
                out, problem = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise SystemFailedError(f"reads of {where.name} ended: {problem.decode()[-500:]}")
        seen = json.loads(out)
        return Reads(seen["answered"] / seconds, seen["p50_ms"], seen["p99_ms"], seen["bad"])

    async def _writes(self) -> tuple[list[float], list[float]]:
        """One client's writes, in the primary and in a secondary in turn."""
        local: list[float] = []
        forwarded: list[float] = []
        count = max(WRITES_MIN, int(self._plan.seconds))
        for _ in range(self._plan.rounds):
            local += await paced_writes(self.primary, "local", count)
            forwarded += await paced_writes(self.secondaries[0], "forwarded", count)
        return local, forwarded


def _typical(seen: Sequence[Reads]) -> Reads:
    """Medians, and everything that went wrong."""
    return Reads(
        statistics.median(each.per_s for each in seen),
        statistics.median(each.p50_ms for each in seen),
        statistics.median(each.p99_ms for each in seen),
        sum(each.bad for each in seen),
    )


def measure(directory: Path, plan: Plan) -> Found:
    """Start regions, measure, stop them. Raises SystemFailedError."""
    try:
        return asyncio.run(_run(directory, plan))
    except (ClusterError, aiohttp.ClientError, TimeoutError) as error:
        raise SystemFailedError(f"{type(error).__name__}: {error}") from error


async def _run(directory: Path, plan: Plan) -> Found:
    everything = LocalRegions(
        directory, regions=plan.regions, nodes=plan.nodes, round_trip_s=plan.round_trip_s
    )
    async with AsyncExitStack() as stack:
        everything.create()
        stack.callback(everything.stop_all)
        door = f"127.0.0.1:{free_ports(1)[0]}"
        target = await stack.enter_async_context(echo())
        await asyncio.to_thread(_start, everything, Door(REGIONS[0].name, door, target))
        token = await asyncio.to_thread(_prepare, everything)
        clients = [
            await stack.enter_async_context(
                region(name, [node.api_address for node in cluster.nodes], cluster.ca_path, token)
            )
            for name, cluster in everything.clusters.items()
        ]
        for number in range(KEYS):
            await clients[0].write(f"{number:07d}", VALUE)
        for name in list(everything.clusters)[1:]:
            await asyncio.to_thread(everything.wait_following, name, clients[0].name)
        return await Scene(everything, clients, door, token, plan).measure()


def _start(everything: LocalRegions, door: Door) -> None:
    everything.start_network(door)
    everything.start_all()
    everything.found()
    for name in list(everything.clusters)[1:]:
        everything.follow(name)
    everything.wait_ready()


def _prepare(everything: LocalRegions) -> str:
    """A token that may do what is measured."""
    first = next(iter(everything.clusters.values()))
    return vault.writer_token(Web(first.ca_path), first.nodes[0].api_address, everything.token)


def table(rows: Sequence[Found]) -> list[str]:
    """As Markdown; milliseconds."""
    lines = [
        (
            "| regions | round trip | writes/s | lag p50 | p99 | max | n | reads/s primary | p50 | p99"
            " | reads/s secondary | p50 | p99 | local write p50 | forwarded p50 | beyond |"
        ),
        "| ---: |" + " ---: |" * 15,
    ]
    for row in rows:
        reads = [
            f"{each.per_s:.0f} | {each.p50_ms:.2f} | {each.p99_ms:.2f}"
            for each in (row.primary, row.secondary)
        ]
        lines.append(
            f"| {row.regions} | {_ms(statistics.median(row.round_trip))} | {row.writes_per_s:.0f}"
            f" | {_ms(statistics.median(row.lag))} | {_ms(quantile(row.lag, 0.99))} | {_ms(max(row.lag))}"
            f" | {len(row.lag)} | {' | '.join(reads)} | {_ms(statistics.median(row.local))}"
            f" | {_ms(statistics.median(row.forwarded))} | {_ms(row.forwarding_s)} |"
        )
    return lines


def lag_lines(found: Found) -> list[str]:
    """How long each secondary took to show a write."""
    return [
        f"  lag {name}: p50 {_ms(statistics.median(seen))} ms, p99 {_ms(quantile(seen, 0.99))} ms,"
        f" max {_ms(max(seen))} ms, n {len(seen)}"
        for name, seen in found.lags.items()
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if something is not as promised."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.regions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--regions", default="2,3", help="how many, one run each (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=NODES, help="of each region (default %(default)s)")
    parser.add_argument(
        "--round-trip-ms", type=float, help="between all of them (default: 70 to 150, as between continents)"
    )
    parser.add_argument("--writes", type=float, default=WRITES_PER_S, help="a second (default %(default)s)")
    parser.add_argument("--reads", type=float, default=READS_PER_S, help="a second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the times at which writes leave")
    parser.add_argument("--quick", action="store_true", help="two regions, 6 seconds each")
    options = parser.parse_args(arguments)
    counts = [2] if options.quick else [int(count) for count in options.regions.split(",")]
    seconds, rounds = (6.0, 2) if options.quick else (options.seconds, 4)
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    rows = []
    try:
        for count in counts:
            print(f"{count} regions of {options.nodes} nodes", flush=True)
            plan = Plan(
                regions=count,
                nodes=options.nodes,
                round_trip_s=options.round_trip_ms and options.round_trip_ms / 1e3,
                writes_per_s=options.writes,
                reads_per_s=options.reads,
                seconds=seconds,
                rounds=rounds,
                seed=options.seed,
            )
            rows.append(measure(directory / str(count), plan))
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print("\n".join(table(rows)))
    kept = True
    for row in rows:
        print("\n".join([f"\n{row.regions} regions:", *lag_lines(row)]))
        for sentence, good in row.verdicts():
            print(f"  {'yes' if good else 'NO '}  {sentence}")
            kept = kept and good
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
