"""KV v2 writes of three-node clusters, side by side: `python -m bench.writes`.

All systems run at the same time on this machine and take turns (A B C, A B C, ...), so that what disturbs one
disturbs all. Every run's answers are counted, and keys that it wrote are read back. Read the ratios: absolute figures
of a small shared machine mean little. docs/bench.md says what is compared with what.
"""

import argparse
import itertools
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import load
from bench.environment import facts
from bench.etcd import Etcd
from bench.load import Load, Recipe
from bench.openbao import OpenBao
from bench.processes import SystemFailedError, cpu_seconds
from bench.strongroom import Strongroom

OPENBAO_GOGC = 400
THROUGH = ("leader", "follower", "all")
SPREAD_CLIENTS_MIN = 3  # fewer cannot be spread over three nodes
CHECKED_KEYS_MAX = 32
OURS = "strongroom"
RIVALS = {f"openbao-gogc{OPENBAO_GOGC}": "write_vs_openbao", "etcd": "write_vs_etcd"}
DEFAULT_SYSTEMS = "strongroom,openbao,openbao-gogc400,etcd"


class System(Protocol):
    """Three nodes of something that stores values; leader() and follower() are their addresses."""

    @property
    def name(self) -> str: ...
    @property
    def pids(self) -> list[int]: ...
    def missing(self) -> str | None: ...
    def start(self, directory: Path) -> None: ...
    def stop(self) -> None: ...
    def leader(self) -> str: ...
    def follower(self) -> str: ...
    def all(self) -> list[str]: ...
    def recipe(self) -> Recipe: ...
    def read(self, key: str) -> str | None: ...


SYSTEMS: dict[str, Callable[[], System]] = {
    OURS: Strongroom,
    "openbao": lambda: OpenBao("openbao"),
    "openbao-gogc400": lambda: OpenBao("openbao-gogc400", gogc=OPENBAO_GOGC),
    "etcd": Etcd,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One system under one load."""

    system: str
    through: str  # leader, follower, or all: the clients are spread over the three nodes
    clients: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run in one cell."""

    writes_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s_per_1000: float


def measure(system: System, *, through: str, clients: int, seconds: int) -> Row:
    """One run. Raises SystemFailedError if an acknowledged write cannot be read back."""
    addresses = {
        "leader": lambda: [system.leader()],
        "follower": lambda: [system.follower()],
        "all": system.all,
    }
    targets = addresses[through]()
    shares = [clients // len(targets) + (number < clients % len(targets)) for number in range(len(targets))]
    before = cpu_seconds(system.pids)
    with ThreadPoolExecutor(len(targets)) as pool:
        loads = list(
            pool.map(
                lambda target, share: load.run(target, system.recipe(), clients=share, seconds=seconds),
                targets,
                shares,
            )
        )
    used = cpu_seconds(system.pids) - before
    for seen in loads:
        verify(system, seen, runs=[each.run for each in loads])
    good = max(1, sum(seen.good for seen in loads))
    return Row(
        sum(seen.writes_per_s for seen in loads),
        sum(seen.p50_ms * seen.good for seen in loads) / good,  # of several loads: their mean, by writes
        max(seen.p99_ms for seen in loads),
        sum(seen.errors for seen in loads),
        1000 * used / good,
    )


def verify(system: System, seen: Load, *, runs: Sequence[str]) -> None:
    """Read back some of the keys that the run wrote; each error it saw excuses one that is not there.

    `runs`: those that wrote at the same time, which may have overwritten each other's values.
    """
    keys = seen.sample[:CHECKED_KEYS_MAX]
    absent = [key for key in keys if system.read(key) not in {load.value_of(run, key) for run in runs}]
    if not keys or len(absent) > seen.errors:
        raise SystemFailedError(
            f"{system.name}: {len(absent)} of {len(keys)} checked writes do not read back"
        )


def compare(
    systems: Sequence[System], *, rounds: int, seconds: int, clients: Sequence[int]
) -> dict[Cell, list[Row]]:
    """All rounds of all cells, the systems taking turns."""
    rows: dict[Cell, list[Row]] = {}
    for number in range(1, rounds + 1):
        for through, count in itertools.product(THROUGH, clients):
            if through != "all" or count >= SPREAD_CLIENTS_MIN:
                for system in systems:
                    row = measure(system, through=through, clients=count, seconds=seconds)
                    rows.setdefault(Cell(system.name, through, count), []).append(row)
                    what = f"round {number}/{rounds}  {through:8} {count:4} clients  {system.name:16}"
                    print(f"{what} {row.writes_per_s:8.0f}/s  errors {row.errors}", flush=True)
    return rows


def median(rows: Sequence[Row]) -> Row:
    """The medians of each column; errors are summed up."""
    return Row(
        statistics.median(row.writes_per_s for row in rows),
        statistics.median(row.p50_ms for row in rows),
        statistics.median(row.p99_ms for row in rows),
        sum(row.errors for row in rows),
        statistics.median(row.cpu_s_per_1000 for row in rows),
    )


def table(rows: dict[Cell, list[Row]]) -> list[str]:
    """Medians as a Markdown table; `ratio` is our writes/s divided by that system's."""
    lines = [
        "| through | clients | system | writes/s | min to max | p50 ms | p99 ms | errors | CPU s/1,000 | ratio |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in sorted(rows, key=lambda cell: (THROUGH.index(cell.through), cell.clients)):
        found = median(rows[cell])
        ours = rows.get(Cell(OURS, cell.through, cell.clients))
        ratio = (
            f"{median(ours).writes_per_s / found.writes_per_s:.2f}" if ours and found.writes_per_s else "-"
        )
        rates = [row.writes_per_s for row in rows[cell]]
        lines.append(
            f"| {cell.through} | {cell.clients} | {cell.system} | {found.writes_per_s:,.0f} | "
            f"{min(rates):,.0f} to {max(rates):,.0f} | {found.p50_ms:.1f} | {found.p99_ms:.1f} | "
            f"{found.errors} | {found.cpu_s_per_1000:.2f} | {ratio} |"
        )
    return lines


def figures(rows: dict[Cell, list[Row]]) -> dict[str, float]:
    """Our writes per second, spread over all nodes, divided by the rivals': OpenBao's with GOGC raised, and etcd's."""
    clients = max((cell.clients for cell in rows if cell.through == "all"), default=0)
    ours = rows.get(Cell(OURS, "all", clients))
    found = {}
    for name, figure in RIVALS.items():
        theirs = rows.get(Cell(name, "all", clients))
        if ours and theirs:
            found[figure] = median(ours).writes_per_s / median(theirs).writes_per_s
    return found


def chosen(names: Sequence[str]) -> list[System]:
    """The systems that can run here; says which are left out, and how to get them."""
    found = []
    for name in names:
        system = SYSTEMS[name]()
        if (why := system.missing()) is None:
            found.append(system)
        else:
            print(f"{name} is left out: {why}", flush=True)
    return found


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.writes", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each run (default %(default)s)")
    parser.add_argument(
        "--clients", default="1,64", help="connections, comma separated (default %(default)s)"
    )
    parser.add_argument("--systems", default=DEFAULT_SYSTEMS, help="default %(default)s")
    parser.add_argument("--directory", type=Path, help="where the data goes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    options.systems = options.systems.split(",")
    options.clients = [int(count) for count in options.clients.split(",")]
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"unknown systems {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    if not load.available():
        print(load.WRK_MISSING)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-", dir=options.directory))
    for name, value in facts(directory).items():
        print(f"{name:20} {value}")
    systems = chosen(options.systems)
    try:
        for system in systems:
            print(f"starting {system.name}", flush=True)
            system.start(directory / system.name)
        rows = compare(systems, rounds=options.rounds, seconds=options.seconds, clients=options.clients)
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    finally:
        for system in systems:
            system.stop()
    shutil.rmtree(directory)
    print("\n".join(["", *table(rows)]))
    for figure, ratio in figures(rows).items():
        print(f"{figure} {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
