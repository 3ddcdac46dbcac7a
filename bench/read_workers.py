"""KV v2 reads of one node alone, and with read workers beside it: `python -m bench.read_workers`.

The nodes are started one for each number of workers, and take turns (0 1 2 0 1 2 ...) on all processors, which the load
needs a part of, too: read the ratios, and beside them how many processors there are. TLS, a token with one policy, the
audit files on. Exits with 1 if any read was not answered with 200.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench import load
from bench.processes import SystemFailedError, cpu_seconds
from bench.reads import KEYS, PATH, SCRIPT, VALUE, WARM_S
from bench.strongroom import Strongroom

Rows = dict[int, list[tuple[float, float, float, int]]]  # by workers: reads/s, CPU us a read, p99 ms, errors


def measure(system: Strongroom, *, clients: int, seconds: int) -> tuple[float, float, float, int]:
    """One run: reads/s, CPU us of the server a read, p99 ms, errors. Raises SystemFailedError."""
    pids = [pid for main in system.pids for pid in (main, *children(main))]
    before = cpu_seconds(pids)
    seen = load.measure(
        SCRIPT, system.leader(), [PATH, system.token, str(KEYS)], clients=clients, seconds=seconds
    )
    used_us = (cpu_seconds(pids) - before) * 1e6
    system.forget_audit()
    good = max(1, seen["good"])
    errors = seen["bad"] + seen["socket_errors"]
    return seen["good"] / (seen["duration_us"] / 1e6), used_us / good, seen["p99_us"] / 1e3, errors


def children(pid: int) -> list[int]:
    """The processes that it has started: its workers."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run(directory: Path, counts: list[int], *, rounds: int, seconds: int, clients: int) -> Rows:
    """All rounds. Raises SystemFailedError."""
    systems = {
        count: Strongroom(nodes=1, extra_config=f"read_workers = {count}" if count else "")
        for count in counts
    }
    rows: Rows = {count: [] for count in counts}
    try:
        for count, system in systems.items():
            print(f"starting a node with {count} workers", flush=True)
            system.start(directory / f"with-{count}")
            for number in range(KEYS):
                system.put(f"{number:07d}", VALUE)
            measure(system, clients=clients, seconds=WARM_S)
        for number in range(1, rounds + 1):
            for count, system in systems.items():
                rows[count].append(measure(system, clients=clients, seconds=seconds))
                per_s, cpu_us, _, errors = rows[count][-1]
                what = f"round {number}/{rounds}  {count} workers"
                print(f"{what} {per_s:8,.0f}/s  {cpu_us:.0f} us CPU a read  errors {errors}", flush=True)
    finally:
        for system in systems.values():
            system.stop()
    return rows


def table(rows: Rows) -> list[str]:
    """Medians as a Markdown table; `ratio` is to the first row."""
    lines = [
        "| workers | reads/s | CPU us/read | p99 ms | errors | ratio |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    alone = median(row[0] for row in next(iter(rows.values())))
    for count, runs in rows.items():
        per_s, cpu_us, p99_ms = (median(row[column] for row in runs) for column in range(3))
        errors = sum(row[3] for row in runs)
        lines.append(
            f"| {count} | {per_s:,.0f} | {cpu_us:.0f} | {p99_ms:.1f} | {errors} | {per_s / max(alone, 1):.2f} |"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.read_workers", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each run (default %(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="connections (default %(default)s)")
    parser.add_argument(
        "--workers", default="0,1,2", help="how many, the first to compare with (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not load.available():
        print(load.WRK_MISSING)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    counts = [int(count) for count in options.workers.split(",")]
    try:
        rows = run(directory, counts, rounds=options.rounds, seconds=options.seconds, clients=options.clients)
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print(
        "\n".join(["", f"{len(os.sched_getaffinity(0))} processors, the load's part included", *table(rows)])
    )
    return 1 if any(row[3] for runs in rows.values() for row in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
