"""KV v2 reads of one node, side by side with OpenBao: `python -m bench.reads`.

Both systems run on the same processor at the same time, the load on another, and take turns (A B A B ...). TLS, a
token with one policy and without the default one, the audit file on. Read the ratios; docs/bench.md has the conditions.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from bench import cores, load
from bench.openbao import OpenBao
from bench.processes import SystemFailedError, cpu_seconds
from bench.strongroom import Strongroom

OURS, RIVAL = "strongroom", "openbao"
GOGC = 400
KEYS = 500
VALUE = "x" * 256
PATH = "/v1/secret/data/bench/"
WARM_S = 1
SCRIPT = Path(__file__).with_name("read.lua")


class Reader(Protocol):
    """A node that holds values; see OpenBao and Strongroom."""

    @property
    def name(self) -> str: ...
    @property
    def pids(self) -> list[int]: ...
    @property
    def token(self) -> str: ...
    def start(self, directory: Path) -> None: ...
    def stop(self) -> None: ...
    def leader(self) -> str: ...
    def put(self, key: str, value: str) -> None: ...
    def forget_audit(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    reads_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float  # of the server, for one read


Rows = dict[tuple[str, int], list[Row]]  # by system and clients


def measure(system: Reader, *, keys: int, clients: int, seconds: int) -> Row:
    """Reads of random keys out of the first `keys`. Raises SystemFailedError."""
    before = cpu_seconds(system.pids)
    with cores.on(cores.LOAD):
        seen = load.measure(
            SCRIPT, system.leader(), [PATH, system.token, str(keys)], clients=clients, seconds=seconds
        )
    used, good = cpu_seconds(system.pids) - before, max(1, seen["good"])
    system.forget_audit()
    return Row(
        reads_per_s=seen["good"] / (seen["duration_us"] / 1e6),
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        errors=seen["bad"] + seen["socket_errors"],
        cpu_us=used / good * 1e6,
    )


@contextlib.contextmanager
def started(directory: Path) -> Iterator[list[Reader]]:
    """Both systems with KEYS values each. Raises SystemFailedError."""
    systems: list[Reader] = [Strongroom(nodes=1), OpenBao(RIVAL, gogc=GOGC, nodes=1)]
    try:
        for system in systems:
            print(f"starting {system.name}", flush=True)
            with cores.on(cores.SERVERS):
                system.start(directory / system.name)
            for number in range(KEYS):
                system.put(f"{number:07d}", VALUE)
        yield systems
    finally:
        for system in systems:
            system.stop()


def compare(systems: Sequence[Reader], *, rounds: int, seconds: int, clients: Sequence[int]) -> Rows:
    """All rounds, the systems taking turns."""
    rows: Rows = {}
    for system in systems:
        measure(system, keys=KEYS, clients=max(clients), seconds=WARM_S)
    for number in range(1, rounds + 1):
        for count in clients:
            for system in systems:
                row = measure(system, keys=KEYS, clients=count, seconds=seconds)
                rows.setdefault((system.name, count), []).append(row)
                what = f"round {number}/{rounds}  {count:4} clients  {system.name:12}"
                print(f"{what} {row.reads_per_s:8.0f}/s  errors {row.errors}", flush=True)
    return rows


def typical(rows: Sequence[Row]) -> Row:
    """The median of each column; errors are summed up."""
    return Row(
        median(row.reads_per_s for row in rows),
        median(row.p50_ms for row in rows),
        median(row.p99_ms for row in rows),
        sum(row.errors for row in rows),
        median(row.cpu_us for row in rows),
    )


def table(rows: Rows) -> list[str]:
    """Medians as a Markdown table; `ratio` is our reads/s divided by that system's."""
    lines = [
        "| clients | system | reads/s | min to max | p50 ms | p99 ms | errors | CPU us/read | ratio |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, clients in sorted(rows, key=lambda cell: (cell[1], cell[0] != OURS)):
        found, ours = typical(rows[name, clients]), typical(rows[OURS, clients])
        rates = [row.reads_per_s for row in rows[name, clients]]
        lines.append(
            f"| {clients} | {name} | {found.reads_per_s:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} |"
            f" {found.p50_ms:.2f} | {found.p99_ms:.2f} | {found.errors} | {found.cpu_us:.0f} |"
            f" {ours.reads_per_s / max(found.reads_per_s, 1):.1f} |"
        )
    return lines


def missing() -> str | None:
    """What has to be installed first; None if all is here."""
    return OpenBao.missing() if load.available() else load.WRK_MISSING


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each run (default %(default)s)")
    parser.add_argument("--clients", default="1,64,256", help="connections (default %(default)s)")
    options = parser.parse_args(arguments)
    if (why := missing()) is not None:
        print(why)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    try:
        with started(directory) as systems:
            clients = [int(count) for count in options.clients.split(",")]
            rows = compare(systems, rounds=options.rounds, seconds=options.seconds, clients=clients)
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print("\n".join(["", *table(rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
