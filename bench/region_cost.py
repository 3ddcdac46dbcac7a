"""What a region costs a write where writes are ordered: `python -m bench.region_cost` (a minute; needs wrk).

Three nodes take plain writes in turns: one that is a cluster of its own, one that is a primary region without others
(it keeps the history), and one that another region follows (it sends the history too). Printed is the processor time
of the node for each write, which other load on the machine does not change much. Ends with 1 if a write of the last
one costs more than RATIO_MAX times one of the first. docs/bench.md says more.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import load, vault
from bench.load import Recipe
from bench.processes import SystemFailedError, cpu_seconds
from bench.web import Web
from node.cli.local_cluster import ClusterError, LocalCluster
from node.cli.local_regions import LocalRegions

WRITERS = 32
RATIO_MAX = 1.25
ROUND_TRIP_S = 0.002


@dataclass(slots=True)
class Node:
    """One that is written to."""

    name: str
    cluster: LocalCluster
    recipe: Recipe
    cpu_us: list[float] = field(default_factory=list)  # for one write, a value a round
    per_s: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        """One round. Raises SystemFailedError."""
        node = self.cluster.nodes[0]
        pid = self.cluster.pid(node.id)
        if pid is None:
            raise SystemFailedError(f"the node of {self.name} has ended")
        before = cpu_seconds([pid])
        seen = load.run(node.api_address, self.recipe, clients=WRITERS, seconds=seconds)
        if seen.errors:
            raise SystemFailedError(f"{self.name}: {seen.errors} writes failed")
        self.cpu_us.append((cpu_seconds([pid]) - before) / seen.good * 1e6)
        self.per_s.append(seen.writes_per_s)


@contextmanager
def alone(directory: Path) -> Iterator[Node]:
    """A cluster of its own."""
    cluster = LocalCluster(directory, nodes=1)
    cluster.create()
    try:
        cluster.start_all()
        cluster.bootstrap()
        yield _node("alone", cluster, cluster.token)
    finally:
        cluster.stop_all()


@contextmanager
def primary(directory: Path, name: str, *, regions: int) -> Iterator[Node]:
    """The primary of so many regions of one node each."""
    everything = LocalRegions(directory, regions=regions, nodes=1, round_trip_s=ROUND_TRIP_S)
    everything.create()
    try:
        everything.start_network()
        everything.start_all()
        everything.found()
        first, *others = everything.clusters
        for other in others:
            everything.follow(other)
        everything.wait_ready()
        for other in others:
            everything.wait_following(other, first)
        yield _node(name, everything.clusters[first], everything.token)
    finally:
        everything.stop_all()


def _node(name: str, cluster: LocalCluster, root_token: str) -> Node:
    address = cluster.nodes[0].api_address
    return Node(name, cluster, vault.recipe(vault.writer_token(Web(cluster.ca_path), address, root_token)))


def table(nodes: Sequence[Node]) -> list[str]:
    """Medians."""
    lines = ["| node | CPU us/write | beside alone | writes/s |", "| --- | ---: | ---: | ---: |"]
    least = median(nodes[0].cpu_us)
    for node in nodes:
        cpu_us = median(node.cpu_us)
        lines.append(f"| {node.name} | {cpu_us:.0f} | {cpu_us / least:.2f} | {median(node.per_s):.0f} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if a region costs too much."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.region_cost", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=int, default=3, help="of each node in a round (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not load.available():
        print(load.WRK_MISSING)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    try:
        with (
            alone(directory / "alone") as first,
            primary(directory / "primary", "primary", regions=1) as second,
            primary(directory / "followed", "primary, followed", regions=2) as third,
        ):
            nodes = [first, second, third]
            for _ in range(options.rounds):
                for node in nodes:
                    node.measure(options.seconds)
    except (SystemFailedError, ClusterError) as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print("\n".join(table(nodes)))
    ratio = median(third.cpu_us) / median(first.cpu_us)
    if ratio > RATIO_MAX:
        print(f"a write costs {ratio:.2f} times as much in a region that is followed, more than {RATIO_MAX}")
    return int(ratio > RATIO_MAX)


if __name__ == "__main__":
    sys.exit(main())
