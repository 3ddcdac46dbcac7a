"""Everything, beside OpenBao and etcd: `python -m bench` (about a quarter of an hour), `--quick` (under five minutes).

Writes bench/results.json and docs/bench.svg, and prints a table; ends with 1 if a figure is not what it should be.
A part that cannot run, or for which no time is left, is named with the reason, and the others go on. docs/bench.md
says what is compared with what.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import clients, cores, large, reads, regions, report, writes
from bench.environment import facts
from bench.processes import SystemFailedError
from bench.report import Results
from bench.web import Unreachable
from node.cli.local_cluster import ClusterError

WRITERS, READERS = 64, 64
SECRETS, SECRETS_MANY = 100_000, 1_000_000
MINUTES = 25.0


def read_part(results: Results, directory: Path) -> None:
    quick = results.quick
    with reads.started(directory) as systems:
        counts = [READERS] if quick else [1, READERS, 256]
        rows = reads.compare(systems, rounds=2 if quick else 5, seconds=3 if quick else 5, clients=counts)
    print("\n".join(["", *reads.table(rows)]))
    for (system, count), found in rows.items():
        row = reads.typical(found)
        results.medians[f"read/{count}/{system}"] = {
            "per_s": row.reads_per_s,
            "p50_ms": row.p50_ms,
            "p99_ms": row.p99_ms,
            "cpu_us": row.cpu_us,
            "errors": row.errors,
        }
    ours, theirs = (reads.typical(rows[name, READERS]) for name in (reads.OURS, reads.RIVAL))
    results.figures["read_vs_openbao"] = ours.reads_per_s / theirs.reads_per_s
    results.figures["read_p99_vs_openbao"] = ours.p99_ms / theirs.p99_ms


def write_part(results: Results, directory: Path) -> None:
    quick = results.quick
    systems = writes.chosen([writes.OURS, f"openbao-gogc{writes.OPENBAO_GOGC}", "etcd"])
    try:
        for system in systems:
            print(f"starting {system.name}", flush=True)
            system.start(directory / system.name)
        rows = writes.compare(systems, rounds=1 if quick else 5, seconds=3 if quick else 5, clients=[WRITERS])
    finally:
        for system in systems:
            system.stop()
    print("\n".join(["", *writes.table(rows)]))
    for cell, found in rows.items():
        if cell.through == "all":
            row = writes.median(found)
            results.medians[f"write/{cell.clients}/{cell.system}"] = {
                "per_s": row.writes_per_s,
                "p50_ms": row.p50_ms,
                "p99_ms": row.p99_ms,
                "errors": row.errors,
            }
    results.figures |= writes.figures(rows)


def clients_part(results: Results, directory: Path) -> None:
    seconds = 8 if results.quick else 20
    crowd = clients.run(directory, clients=clients.CLIENTS, rate=clients.RATE, seconds=seconds)
    print("\n".join(["", *clients.table(crowd)]))
    results.figures["clients_10k_p99_ms"] = crowd.p99_ms
    results.medians["clients"] = {
        "clients": crowd.clients,
        "connect_s": crowd.connect_s,
        "bad": crowd.bad,
        "dropped": crowd.dropped,
        "p50_ms": crowd.p50_ms,
        "p99_ms": crowd.p99_ms,
        "rss_before_mib": crowd.rss_before_mib,
        "rss_after_mib": crowd.rss_after_mib,
    }


def large_part(results: Results, directory: Path) -> None:
    directory.mkdir()
    found = large.run(directory / "100k", secrets=SECRETS, rounds=1, seconds=3)
    print("\n".join(["", *large.table(found)]))
    results.figures["rss_100k_mib"] = found.rss_mib
    results.figures["restart_100k_s"] = found.restart_s
    if results.quick:
        return
    shutil.rmtree(directory / "100k")
    found = large.run(directory / "1m", secrets=SECRETS_MANY, rounds=3, seconds=5)
    print("\n".join(["", *large.table(found)]))
    results.figures["rss_1m_mib"] = found.rss_mib
    results.figures["read_1m_vs_1k"] = found.hot_ratio
    results.figures["read_1m_uniform_vs_hot"] = found.uniform_ratio


def regions_part(results: Results, directory: Path) -> None:
    quick = results.quick
    directory.mkdir()
    plan = regions.Plan(regions=2, seconds=6 if quick else 20, rounds=2 if quick else 4)
    found = regions.measure(directory / "2", plan)
    print("\n".join(["", *regions.table([found])]))
    results.figures |= regions.figures(found)


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured on its own, and how long that takes on a quiet machine at most."""

    run: Callable[[Results, Path], None]
    minutes: float
    minutes_quick: float


PARTS = {
    "reads": Part(read_part, 4, 1),
    "writes": Part(write_part, 6, 1.5),
    "clients": Part(clients_part, 2, 1),
    "large": Part(large_part, 8, 2),
    "regions": Part(regions_part, 3, 1),
}
OPTIONAL = ("regions",)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs, 100,000 secrets at most"
    )
    usual = ",".join(part for part in PARTS if part not in OPTIONAL)
    parser.add_argument(
        "--only", default=usual, help=f"parts (default %(default)s; also {', '.join(OPTIONAL)})"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help="no part begins that would not fit (default %(default)s)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="figures of other parts stay in bench/results.json as they are"
    )
    parser.add_argument("--directory", type=Path, help="where the data goes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if a part failed, 2 if something is not installed."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    if (why := reads.missing()) is not None:
        print(why)
        return 2
    if not cores.are_separate():
        print("there is one processor only: servers and load share it, and no figure means much")
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-", dir=options.directory))
    results = Results(facts(directory), options.quick)
    for name, value in results.machine.items():
        print(f"{name:20} {value}")
    if options.keep:
        results.keep()
    began = time.monotonic()
    for name in options.only:
        left = options.minutes - (time.monotonic() - began) / 60
        _measure(name, results, directory / name, left)
        report.write(results)  # whatever becomes of the next one
    print("\n".join(["", *report.table(results), "", f"written: {report.RESULTS} and {report.PLOT}"]))
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    if not results.failures:
        shutil.rmtree(directory)
    return 1 if results.failures or report.missed(results) else 0


def _measure(name: str, results: Results, directory: Path, minutes_left: float) -> None:
    print(f"\n== {name}", flush=True)
    part = PARTS[name]
    needed = part.minutes_quick if results.quick else part.minutes
    if needed > minutes_left:
        results.failures[name] = f"left out: {needed:g} minutes do not fit into --minutes"
        return
    began = time.monotonic()
    try:
        part.run(results, directory)
    except (SystemFailedError, ClusterError, Unreachable, subprocess.TimeoutExpired, OSError) as error:
        print(f"FAILED: {error}; logs are kept in {directory}")
        results.failures[name] = str(error)
    else:
        shutil.rmtree(directory)
        print(f"{name} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
