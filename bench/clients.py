"""Ten thousand keep-alive clients on one node: `python -m bench.clients`.

TLS, policy, audit file, as in bench.reads; the requests leave at a fixed rate (bench/swarm.py).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import cores
from bench.processes import SystemFailedError, rss_mib
from bench.reads import KEYS, PATH, VALUE
from bench.strongroom import Strongroom

CLIENTS = 10_000
RATE = 2_500
DESCRIPTORS_SPARE = 256
TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Crowd:
    """What the clients saw, and what the server took."""

    clients: int
    connect_s: float
    answered: int
    bad: int
    dropped: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    rss_before_mib: float
    rss_after_mib: float


def measure(node: Strongroom, *, clients: int, rate: int, seconds: int) -> Crowd:
    """One run, of as many clients as descriptors allow. Raises SystemFailedError."""
    clients = min(clients, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - DESCRIPTORS_SPARE)
    before = rss_mib(node.pids)
    command = [sys.executable, "-m", "bench.swarm", node.leader() + PATH, str(node.ca_path), node.token]
    command += [f"--keys={KEYS}", f"--clients={clients}", f"--rate={rate}", f"--seconds={seconds}"]
    with cores.on(cores.LOAD):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, preexec_fn=_many_files
        )
    if done.returncode:
        raise SystemFailedError(f"the clients ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    seen = json.loads(done.stdout)
    return Crowd(clients=clients, rss_before_mib=before, rss_after_mib=rss_mib(node.pids), **seen)


def _many_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def table(crowd: Crowd) -> list[str]:
    """As Markdown."""
    row = (
        f"| {crowd.clients} | {crowd.connect_s:.1f} | {crowd.answered} | {crowd.bad} | {crowd.dropped} |"
        f" {crowd.p50_ms:.2f} | {crowd.p99_ms:.2f} | {crowd.max_ms:.1f} |"
        f" {crowd.rss_before_mib:.0f}, {crowd.rss_after_mib:.0f} |"
    )
    return [
        "| clients | connected after s | answered | bad | dropped | p50 ms | p99 ms | max ms | RSS MiB before, after |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        row,
    ]


def run(directory: Path, *, clients: int, rate: int, seconds: int) -> Crowd:
    """A node of its own, for one measurement. Raises SystemFailedError."""
    node = Strongroom(nodes=1)
    try:
        with cores.on(cores.SERVERS):
            node.start(directory)
        for number in range(KEYS):
            node.put(f"{number:07d}", VALUE)
        return measure(node, clients=clients, rate=rate, seconds=seconds)
    finally:
        node.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    try:
        crowd = run(directory / "n", clients=options.clients, rate=options.rate, seconds=options.seconds)
    except SystemFailedError as error:
        print(f"FAILED: {error}\nlogs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    print("\n".join(table(crowd)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
