"""A node with many secrets: memory, restart, and what a read costs among them: `python -m bench.large`.

The secrets go in through the node's own log and state machine (bench/fill.py). "hot": random reads of the first
thousand; "uniform": of all of them, nearly all of which the cache of decrypted values has not seen lately.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import cores, load
from bench.processes import SystemFailedError, rss_mib, wait_until
from bench.reads import Row, measure, typical
from bench.strongroom import Strongroom
from bench.web import Unreachable

HOT = 1_000
CLIENTS = 64
POLL_S = 0.02
WARM_TIMEOUT_S = 300.0
WARM_POLL_S = 2.0
FILL_TIMEOUT_S = 900
RESTART_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Large:
    """What was found; hot_alone is the hot set on a node that holds nothing else."""

    secrets: int
    fill_s: float
    restart_s: float
    warm_s: float  # from there until what fits into memory is there
    rss_mib: float
    hot_alone: Row
    hot: Row
    uniform: Row

    @property
    def hot_ratio(self) -> float:
        """Reads/s of the hot set among all, divided by those of the hot set alone."""
        return self.hot.reads_per_s / max(1.0, self.hot_alone.reads_per_s)

    @property
    def uniform_ratio(self) -> float:
        """Reads/s of random secrets, divided by those of the hot set."""
        return self.uniform.reads_per_s / max(1.0, self.hot.reads_per_s)


def run(directory: Path, *, secrets: int, rounds: int, seconds: int) -> Large:
    """A node of its own, filled and measured. Raises SystemFailedError."""
    node = Strongroom(nodes=1)
    try:
        with cores.on(cores.SERVERS):
            node.start(directory)
        node.stop()
        _fill(node, 0, HOT)
        _start(node, HOT - 1)
        hot_alone = typical(_rounds(node, HOT, rounds=rounds, seconds=seconds))
        node.stop()
        fill_s = _fill(node, HOT, secrets - HOT)
        restart_s = _start(node, secrets - 1)
        warm_s = _wait_warm(node)
        hot, uniform = [], []
        for _ in range(rounds):  # taking turns, as what disturbs one disturbs the other
            hot += _rounds(node, HOT, rounds=1, seconds=seconds)
            uniform += _rounds(node, secrets, rounds=1, seconds=seconds)
        return Large(
            secrets=secrets,
            fill_s=fill_s,
            restart_s=restart_s,
            warm_s=warm_s,
            rss_mib=rss_mib(node.pids),
            hot_alone=hot_alone,
            hot=typical(hot),
            uniform=typical(uniform),
        )
    finally:
        node.stop()


def _fill(node: Strongroom, first: int, count: int) -> float:
    """Returns how long it took, in seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "bench.fill", str(node.config_path), str(count), f"--first={first}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FILL_TIMEOUT_S, check=False)
    if done.returncode:
        raise SystemFailedError(f"filling ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.monotonic() - began


def _start(node: Strongroom, last: int) -> float:
    """Start a stopped node; returns the seconds until it has answered a read of secret number `last`."""
    began = time.monotonic()
    with cores.on(cores.SERVERS):
        node.restart()

    def answers() -> bool:
        try:
            return node.read(f"{last:07d}") is not None
        except Unreachable:
            return False

    wait_until(answers, "answer after the restart", timeout=RESTART_TIMEOUT_S, poll_s=POLL_S)
    return time.monotonic() - began


def _wait_warm(node: Strongroom) -> float:
    """Until a node that has started has brought into memory what fits; returns the seconds."""
    began = time.monotonic()
    before = [-1.0]

    def is_warm() -> bool:
        now = node.metric("strongroom_cache_packed_values")
        done, before[0] = now == before[0], now
        return done

    wait_until(is_warm, "bring values into memory", timeout=WARM_TIMEOUT_S, poll_s=WARM_POLL_S)
    return time.monotonic() - began - WARM_POLL_S


def _rounds(node: Strongroom, keys: int, *, rounds: int, seconds: int) -> list[Row]:
    return [measure(node, keys=keys, clients=CLIENTS, seconds=seconds) for _ in range(rounds)]


def table(found: Large) -> list[str]:
    """As Markdown."""
    summary = (
        f"{found.secrets:,} secrets: filled in {found.fill_s:.0f} s, serving {found.restart_s:.1f} s after a restart,"
        f" in memory {found.warm_s:.0f} s later, {found.rss_mib:.0f} MiB resident"
    )
    lines = [
        summary,
        "",
        "| reads of | reads/s | p99 ms | CPU us/read |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in (
        (f"{HOT:,}, nothing else there", found.hot_alone),
        (f"{HOT:,} among them", found.hot),
        ("all of them", found.uniform),
    ):
        lines.append(f"| {name} | {row.reads_per_s:,.0f} | {row.p99_ms:.2f} | {row.cpu_us:.0f} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__.split("\n")[0])
    parser.add_argument("--secrets", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each run (default %(default)s)")
    options = parser.parse_args(arguments)
    if not load.available():
        print(load.WRK_MISSING)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    try:
        found = run(directory / "n", secrets=options.secrets, rounds=options.rounds, seconds=options.seconds)
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
