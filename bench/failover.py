"""How long three nodes go without a write when their leader dies: `python -m bench.failover --kills 30`.

Beside OpenBao, turn by turn: the leader is killed (SIGKILL); what counts is the time until a write that began after
that was acknowledged over the API of one of the two others. Then the dead one comes back, everybody catches up, and
so on. With `--hand-over` the leader is asked to step down instead, while clients write through every node; what
counts then is the longest time between two acknowledged writes. Ends with 1 if ours takes longer than is promised.
"""

import argparse
import itertools
import json
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from bench.openbao import OpenBao
from bench.processes import SystemFailedError
from bench.strongroom import Strongroom

OURS, RIVAL = "strongroom", "openbao"
KILLS, MINUTES = 30, 35
RIVAL_TURNS = 3  # one of OpenBao's for so many of ours: each of its failovers takes about ten seconds
KILL_P50_S_MAX, KILL_S_MAX = 1.5, 5.0  # promised
HAND_OVER_P99_S_MAX = 0.5
GIVE_UP_S = 60.0
REQUEST_TIMEOUT_S = 20.0
CALM_S = 1.0
PAUSE_S = 0.01
PATH = "/v1/secret/data/bench/failover"


class System(Protocol):
    """What takes part: three servers that can be killed one by one."""

    @property
    def name(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def ca_path(self) -> Path: ...
    def start(self, directory: Path) -> None: ...
    def stop(self) -> None: ...
    def leader(self) -> str: ...
    def all(self) -> list[str]: ...
    def kill(self, address: str) -> None: ...
    def revive(self, address: str) -> None: ...
    def step_down(self, address: str) -> None: ...
    def wait_whole(self) -> None: ...


class Writer:
    """Writes to one server without a pause until told to stop; `acknowledged` has (began, ended) of each write."""

    def __init__(self, system: System, address: str) -> None:
        self._place = urlsplit(address).netloc
        self._token = system.token
        self._context = ssl.create_default_context(cafile=str(system.ca_path))
        self._stop = threading.Event()
        self.acknowledged: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection: HTTPSConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = HTTPSConnection(
                        self._place, context=self._context, timeout=REQUEST_TIMEOUT_S
                    )
                began = time.monotonic()
                body = json.dumps({"data": {"value": str(began)}})
                connection.request("POST", PATH, body, {"X-Vault-Token": self._token})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.acknowledged.append((began, time.monotonic()))
                    continue
            except (OSError, HTTPException):
                connection = None
            self._stop.wait(PAUSE_S)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(REQUEST_TIMEOUT_S)


def killed(system: System) -> float:
    """Seconds from the death of the leader to the first acknowledged write that began after it."""
    leader = system.leader()
    time.sleep(CALM_S)
    system.kill(leader)
    started = time.monotonic()
    writers = [Writer(system, address) for address in system.all() if address != leader]
    try:
        _wait_for_writes(writers, since=started)
    finally:
        for writer in writers:
            writer.stop()
    gap = min(ended for writer in writers for _, ended in writer.acknowledged) - started
    system.revive(leader)
    system.wait_whole()
    return gap


def handed_over(system: System) -> float:
    """The longest time in seconds without an acknowledged write while the leader hands over."""
    leader = system.leader()
    writers = [Writer(system, address) for address in system.all()]
    try:
        time.sleep(CALM_S)
        ordered = time.monotonic()
        system.step_down(leader)
        while _leads(system, leader):
            _give_up(ordered)
        _wait_for_writes(writers, since=time.monotonic())
        time.sleep(CALM_S)
    finally:
        for writer in writers:
            writer.stop()
    ends = sorted(ended for writer in writers for _, ended in writer.acknowledged)
    system.wait_whole()
    return max(after - before for before, after in itertools.pairwise(ends) if after > ordered)


def _leads(system: System, address: str) -> bool:
    """Whether it leads still, or nobody does."""
    try:
        return system.leader() == address
    except SystemFailedError:
        return True


def _wait_for_writes(writers: Sequence[Writer], *, since: float) -> None:
    """Until one that began after `since` is acknowledged."""
    while not any(began > since for writer in writers for began, _ in writer.acknowledged[-1:]):
        _give_up(since)


def _give_up(since: float) -> None:
    if time.monotonic() - since > GIVE_UP_S:
        raise SystemExit(f"no write was acknowledged in {GIVE_UP_S:.0f} s")
    time.sleep(0.001)


class Budget:
    """What is left of a run's time, and what a turn of each system takes."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.monotonic()
        self._took: dict[str, list[float]] = {}

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._began

    def has_room(self, name: str, *, ours_to_come: int) -> bool:
        """Whether a turn of `name` fits in, and as many of ours after it."""
        ours = self._took.get(OURS, [0.0])
        needed_s = max(self._took.get(name, [0.0])) + ours_to_come * statistics.mean(ours)
        return self.spent_s + needed_s <= self._seconds

    def took(self, name: str, seconds: float) -> None:
        self._took.setdefault(name, []).append(seconds)


def compare(
    systems: Sequence[System], *, turns: int, hand_over: bool, budget: Budget
) -> dict[str, list[float]]:
    """Ours `turns` times, the others once every RIVAL_TURNS of these; every gap as it comes, in seconds.

    Time that runs short is kept for ours.
    """
    gaps: dict[str, list[float]] = {system.name: [] for system in systems}
    measure = handed_over if hand_over else killed
    for turn in range(turns):
        for system in systems:
            ours = system.name == OURS or len(systems) == 1
            due = ours or turn % RIVAL_TURNS == 0
            if not due or not budget.has_room(system.name, ours_to_come=0 if ours else turns - turn - 1):
                continue
            began = budget.spent_s
            gaps[system.name].append(measure(system))
            budget.took(system.name, budget.spent_s - began)
            line = f"{turn + 1:4} of {turns}  {system.name:11} {gaps[system.name][-1]:7.3f} s"
            print(f"{line}   ({budget.spent_s / 60:.1f} min)", flush=True)
    return gaps


def p99(gaps: Sequence[float]) -> float:
    """The smallest that is not exceeded by more than one in a hundred."""
    return sorted(gaps)[min(len(gaps) - 1, round(0.99 * len(gaps)))]


def table(gaps: dict[str, list[float]]) -> list[str]:
    """A line for each system, and one that compares."""
    lines = [
        f"{name:11} n {len(found):4}  p50 {statistics.median(found):7.3f} s  p99 {p99(found):7.3f} s  "
        f"max {max(found):7.3f} s"
        for name, found in gaps.items()
        if found
    ]
    if gaps.get(OURS) and gaps.get(RIVAL):
        ratio = statistics.median(gaps[OURS]) / statistics.median(gaps[RIVAL])
        lines.append(f"ratio of the medians ({OURS} / {RIVAL}): {ratio:.3f}")
    return lines


def broken(found: Sequence[float], *, hand_over: bool) -> list[str]:
    """Which promises of ours these gaps break."""
    limits = (
        [("p99", p99(found), HAND_OVER_P99_S_MAX)]
        if hand_over
        else [("p50", statistics.median(found), KILL_P50_S_MAX), ("max", max(found), KILL_S_MAX)]
    )
    return [f"{what} {value:.3f} s is over {limit} s" for what, value, limit in limits if value > limit]


def main() -> int:
    """Print every gap, and what they come to; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="how often ours, and how often it hands over"
    )
    parser.add_argument("--hand-over", action="store_true")
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help="no turn begins that does not fit in (default %(default)s)",
    )
    parser.add_argument("--systems", default=f"{OURS},{RIVAL}", help="separated by commas")
    options = parser.parse_args()
    known: dict[str, System] = {OURS: Strongroom(), RIVAL: OpenBao(RIVAL)}
    systems = [known[name] for name in options.systems.split(",")]
    if known[RIVAL] in systems and (missing := OpenBao.missing()) is not None:
        raise SystemExit(missing)
    with tempfile.TemporaryDirectory(prefix="strongroom-failover-") as directory:
        try:
            for system in systems:
                system.start(Path(directory) / system.name)
            budget = Budget(60 * options.minutes)
            gaps = compare(systems, turns=options.kills, hand_over=options.hand_over, budget=budget)
        finally:
            for system in systems:
                system.stop()
    print("\n".join(["", *table(gaps)]))
    wrong = broken(gaps[OURS], hand_over=options.hand_over) if gaps.get(OURS) else []
    wrong += [
        f"{name}: only {len(found)} of {options.kills} turns fit into {options.minutes:g} minutes"
        for name, found in gaps.items()
        if len(found) < options.kills and (name == OURS or len(gaps) == 1)
    ]
    print("\n".join(wrong) or "as promised")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
