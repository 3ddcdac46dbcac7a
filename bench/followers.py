"""What one slow or dead follower costs writes, and what reads on a follower cost: `python -m bench.followers`.

Three nodes, everything over the API. Writes: clients write through the leader for some seconds while somebody reads at
every node (so that followers hold read leases), with all nodes whole, with one follower's links 50 ms longer each way,
and with one follower killed; the fault strikes after the first second. Reads: the same load at the leader and at a
follower. Scenes take turns; medians are printed. Ends with 1 if a promise is broken (docs/bench.md).
"""

import argparse
import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from bench import load, reads
from bench.load import Load
from bench.processes import SystemFailedError, cpu_seconds
from bench.strongroom import Strongroom
from bench.web import Unreachable
from consensus.options import RaftOptions

WRITERS, READERS = 16, 64
DELAY_S = 0.05
STRIKES_AFTER_S = 1.0
READ_PAUSE_S = 0.05
SETTLE_S = 2.0
READ_RATIO_MIN = 0.9  # promised: of reads at a follower to reads at the leader

WHOLE, SLOWED, KILLED = "whole", "slowed", "killed"

# Promised: a slow follower does not set the pace, nor does a dead one. So the median is that of whole nodes. The
# tail is what read leases cost: a commit waits for every holder. A slow one acknowledges an entry later, by its
# way there and the way back, until it is found too slow and its lease has ended (consensus/leases.py). A dead one
# acknowledges nothing until its lease has ended, once, and the leader looks again with a heartbeat at the latest.
# wrk counts a wait for all that would have been asked meanwhile: so such a wait shows in the p99 of ten seconds.
OPTIONS = RaftOptions()
WAIT_MS_MAX = {SLOWED: 2e3 * DELAY_S, KILLED: 1e3 * (OPTIONS.read_lease_s + OPTIONS.heartbeat_s)}
# Beyond that: the greater of this and of so many times the value of whole nodes.
NOISE_MS, NOISE_RATIO = 50.0, 2.0


class Visitor:
    """Reads at one node now and then until told to stop; a node that is down is tried again."""

    def __init__(self, read: Callable[[], object]) -> None:
        self._read, self._stop = read, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(READ_PAUSE_S):
            with contextlib.suppress(Unreachable):
                self._read()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def visited(system: Strongroom) -> Iterator[None]:
    """Somebody reads at every node."""
    visitors = [Visitor(partial(system.read_at, address, "0000000")) for address in system.all()]
    try:
        yield
    finally:
        for visitor in visitors:
            visitor.stop()


def writes(system: Strongroom, scene: str, *, seconds: int) -> Load:
    """One scene; everything is whole again when it returns. Raises SystemFailedError."""
    leader, follower = system.leader(), system.follower()
    strike = {
        WHOLE: lambda: None,
        SLOWED: lambda: system.slow_down(follower, DELAY_S),
        KILLED: lambda: system.kill(follower),
    }[scene]
    timer = threading.Timer(STRIKES_AFTER_S, strike)
    with visited(system):
        timer.start()
        seen = load.run(leader, system.recipe(), clients=WRITERS, seconds=seconds)
        timer.join()
    if scene == SLOWED:
        system.slow_down(follower, 0.0)
    elif scene == KILLED:
        system.revive(follower)
    system.wait_whole()
    threading.Event().wait(SETTLE_S)
    system.forget_audit()
    return seen


def compare_writes(system: Strongroom, *, rounds: int, seconds: int) -> dict[str, list[Load]]:
    """All scenes, one after another, `rounds` times."""
    found: dict[str, list[Load]] = {WHOLE: [], SLOWED: [], KILLED: []}
    for number in range(1, rounds + 1):
        for scene, rows in found.items():
            rows.append(writes(system, scene, seconds=seconds))
            row = rows[-1]
            print(
                f"round {number}/{rounds}  {scene:7} {row.writes_per_s:7.0f} writes/s  errors {row.errors}",
                flush=True,
            )
    return found


@dataclass(slots=True)
class Reads:
    """Of one node, a value a run: reads per second, and its processor time for one, in microseconds."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


def compare_reads(system: Strongroom, *, rounds: int, seconds: int) -> tuple[Reads, Reads]:
    """At the leader and at a follower, taking turns."""
    leader, follower = system.leader(), system.follower()
    found = {leader: Reads(), follower: Reads()}
    script = [reads.PATH, system.token, str(reads.KEYS)]
    for _ in range(rounds):
        for address, runs in found.items():
            before = cpu_seconds([system.pid(address)])
            seen = load.measure(reads.SCRIPT, address, script, clients=READERS, seconds=seconds)
            if seen["bad"] or seen["socket_errors"]:
                raise SystemFailedError(f"reads failed: {seen}")
            runs.cpu_us.append((cpu_seconds([system.pid(address)]) - before) / seen["good"] * 1e6)
            runs.per_s.append(seen["good"] / (seen["duration_us"] / 1e6))
        system.forget_audit()
    return found[leader], found[follower]


def write_lines(found: dict[str, list[Load]]) -> list[str]:
    """A table of medians."""
    lines = [
        "| one follower | writes/s | p50 ms | p99 ms | max ms | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scene, rows in found.items():
        p50, p99, worst = (
            median(getattr(row, name) for row in rows) for name in ("p50_ms", "p99_ms", "max_ms")
        )
        rate = median(row.writes_per_s for row in rows)
        errors = sum(row.errors for row in rows)
        lines.append(f"| {scene} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {worst:.0f} | {errors} |")
    return lines


def read_lines(leader: Reads, follower: Reads) -> list[str]:
    """A table, and the ratio."""
    lines = ["| reads at | reads/s | CPU us/read |", "| --- | ---: | ---: |"]
    for name, found in (("the leader", leader), ("a follower", follower)):
        lines.append(f"| {name} | {median(found.per_s):.0f} | {median(found.cpu_us):.0f} |")
    return [*lines, f"ratio {_ratio(leader, follower):.2f}"]


def _ratio(leader: Reads, follower: Reads) -> float:
    return median(follower.per_s) / median(leader.per_s)


def broken(found: dict[str, list[Load]], leader: Reads, follower: Reads) -> list[str]:
    """Which promises are broken."""
    wrong = []
    for scene, wait_ms in WAIT_MS_MAX.items():
        for name, implied_ms in (("p50_ms", 0.0), ("p99_ms", wait_ms)):
            whole, seen = (median(getattr(row, name) for row in found[each]) for each in (WHOLE, scene))
            limit = implied_ms + max(NOISE_MS, NOISE_RATIO * whole)
            if seen > limit:
                wrong.append(f"writes with a {scene} follower: {name} {seen:.1f} is over {limit:.1f}")
    if _ratio(leader, follower) < READ_RATIO_MIN:
        wrong.append(f"reads at a follower are under {READ_RATIO_MIN} of those at the leader")
    return wrong


def main() -> int:
    """Print both tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.followers", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of each scene (default %(default)s)")
    options = parser.parse_args()
    if not load.available():
        print(load.WRK_MISSING)
        return 2
    system = Strongroom(proxied=True)
    with tempfile.TemporaryDirectory(prefix="strongroom-followers-") as directory:
        try:
            system.start(Path(directory) / system.name)
            for number in range(reads.KEYS):
                system.put(f"{number:07d}", reads.VALUE)
            found = compare_writes(system, rounds=options.rounds, seconds=options.seconds)
            leader, follower = compare_reads(system, rounds=options.rounds, seconds=options.seconds)
        finally:
            system.stop()
    print("\n".join(["", *write_lines(found), "", *read_lines(leader, follower)]))
    wrong = broken(found, leader, follower)
    print("\n".join(wrong) or "as promised")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
