"""Drives wrk (https://github.com/wg/wrk) with a script and reads what it measured."""

import json
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import SystemFailedError

KEYS = 10_000
VALUE_BYTES = 256
TOKEN_NONE = "-"
MARK = "RESULT "
GRACE_S = 60

SCRIPT = Path(__file__).with_name("write.lua")
WRK_MISSING = "wrk, which makes the load, is not installed: apt-get install wrk"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a write looks to a system: @KEY@ (or @KEY64@) and @VALUE@ are filled in."""

    method: str
    path: str
    body: str
    token: str = TOKEN_NONE


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    run: str
    good: int  # answers of 200
    bad: int  # any other answer
    socket_errors: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    sample: tuple[str, ...]  # keys that were written, and answered unless there were errors

    @property
    def errors(self) -> int:
        return self.bad + self.socket_errors

    @property
    def writes_per_s(self) -> float:
        return self.good / self.duration_s


def value_of(run: str, key: str) -> str:
    """What write.lua wrote to `key` in this run."""
    return f"{run}-{key}-".ljust(VALUE_BYTES, "x")


def available() -> bool:
    return shutil.which("wrk") is not None


def run(address: str, recipe: Recipe, *, clients: int, seconds: int) -> Load:
    """Keep `clients` connections busy with writes for `seconds`. Raises SystemFailedError."""
    name = secrets.token_hex(4)
    script = [recipe.method, recipe.path, recipe.body, recipe.token, str(KEYS), name]
    seen = measure(SCRIPT, address, script, clients=clients, seconds=seconds)
    sample = dict.fromkeys(seen["sample"][: max(0, seen["good"] - clients)])  # the last are in flight
    return Load(
        run=name,
        good=seen["good"],
        bad=seen["bad"],
        socket_errors=seen["socket_errors"],
        duration_s=seen["duration_us"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        max_ms=seen["max_us"] / 1e3,
        sample=tuple(sample),
    )


def measure(
    script: Path, address: str, arguments: Sequence[str], *, clients: int, seconds: int
) -> dict[str, Any]:
    """What one run of wrk, with one thread, printed behind MARK. The last argument given to the script is a seed.

    Raises SystemFailedError.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    command += ["-s", str(script), address, "--", *arguments, str(secrets.randbelow(1 << 31))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise SystemFailedError(f"wrk ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    seen: dict[str, Any] = json.loads(line.removeprefix(MARK))
    return seen
