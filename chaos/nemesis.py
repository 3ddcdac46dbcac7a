"""Breaks a cluster at random moments, with the families of faults that it is given.

The faults of a run follow from its seed; where in the cluster's work they land does not.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chaos.faults import Family, Struck
from chaos.history import Fault, Recorder
from chaos.machines import Machines
from chaos.workload import Workload

PROGRESS_WRITES = 100  # acknowledged between two faults, so that there is something to lose
PROGRESS_TIMEOUT_S = 60.0
REVIVE_S = 2.0  # how often to look for nodes that died by themselves
RELAPSE = 0.2  # how often the next fault does not wait for recovery
OVERLAP = 0.2  # how often a fault of another family strikes at the same time
DEATHS_MAX = 2  # of one node by itself, before a run is given up
CALM_S = (0.05, 0.8)
SEED_BITS = 64


class NoProgressError(Exception):
    """The cluster was whole again and still acknowledged nothing: a promise is broken, and the run ends."""


@dataclass(slots=True)
class Tally:
    """What was broken."""

    faults: Counter[str] = field(default_factory=Counter)  # by kind
    died_alone: list[str] = field(default_factory=list)  # nodes found dead that nobody had killed


class Nemesis:
    """Strikes one cluster and mends it; it must be the only one that does.

    `families` are by name, each with its weight: how often it is chosen.
    """

    def __init__(
        self,
        machines: Machines,
        families: Mapping[str, tuple[int, Family]],
        *,
        recorder: Recorder,
        workload: Workload,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._machines = machines
        self._families = dict(families)
        self._recorder = recorder
        self._workload = workload
        self._rng = rng
        self._say = say
        self.tally = Tally()

    async def run(self, *, strikes: int | None, seconds: float | None) -> None:
        """Break the cluster so many times or for so long, and mend it each time.

        NoProgressError if it does not recover.
        """
        began = time.monotonic()
        number = 0
        while (strikes is None or number < strikes) and (
            seconds is None or time.monotonic() - began < seconds
        ):
            number += 1
            if number == 1 or self._rng.random() >= RELAPSE:
                await self._await_progress()
            await asyncio.sleep(self._rng.uniform(*CALM_S))
            names = self._draw()
            sources = [random.Random(self._rng.getrandbits(SEED_BITS)) for _ in names]
            async with asyncio.TaskGroup() as group:
                for name, source in zip(names, sources, strict=True):
                    group.create_task(self._strike(self._families[name][1], source))
        await self._await_progress()

    def _draw(self) -> list[str]:
        """One family, at times two: never one twice."""
        names = list(self._families)
        weights = [self._families[name][0] for name in names]
        first, second = self._rng.choices(names, weights=weights, k=2)
        return [first, second] if first != second and self._rng.random() < OVERLAP else [first]

    async def _strike(self, family: Family, rng: random.Random) -> None:
        start_ns = time.monotonic_ns()
        struck = await family.strike(rng)
        self._recorder.fault(
            Fault(struck.kind, ",".join(struck.targets), start_ns, time.monotonic_ns(), struck.detail)
        )
        self.tally.faults[struck.kind] += 1
        self._say(
            f"{self.tally.faults.total():4d} {self._workload.acknowledged:7d} acknowledged  {_told(struck)}"
        )

    async def _await_progress(self) -> None:
        goal = self._workload.acknowledged + PROGRESS_WRITES
        deadline = time.monotonic() + PROGRESS_TIMEOUT_S
        while self._workload.acknowledged < goal and time.monotonic() < deadline:
            await asyncio.to_thread(self._revive)
            await self._workload.wait_acknowledged(goal - self._workload.acknowledged, REVIVE_S)
        if self._workload.acknowledged < goal:
            raise NoProgressError(
                f"fewer than {PROGRESS_WRITES} writes in {PROGRESS_TIMEOUT_S:.0f} s with all nodes up"
            )

    def _revive(self) -> None:
        for name in self._machines.dead():
            self.tally.died_alone.append(name)
            self._say(f"    {name} is dead and nobody killed it: {self._machines.last_words(name)}")
            if self.tally.died_alone.count(name) > DEATHS_MAX:
                raise NoProgressError(f"{name} dies again and again")
            self._machines.start(name)


def _told(struck: Struck) -> str:
    detail = f"  {struck.detail}" if struck.detail else ""
    return f"{struck.kind}: {', '.join(struck.targets)} for {struck.outage_s:.1f} s{detail}"
