"""Breaks nodes at random moments: SIGKILL, and for some of the killed the loss of power.

The faults of a run follow from its seed; where in the cluster's work they land does not.
"""

import asyncio
import enum
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.history import Fault, Recorder
from chaos.machines import Machines
from chaos.power import Lost
from chaos.workload import Workload

PROGRESS_WRITES = 100  # acknowledged between two faults, so that there is something to lose
PROGRESS_TIMEOUT_S = 60.0
REVIVE_S = 2.0  # how often to look for nodes that died by themselves
RELAPSE = 0.2  # how often the next fault does not wait for recovery
LONG_OUTAGE = 0.5  # how often the victims stay away for long enough that the others must go on without them
OUTAGE_S = (0.0, 0.5)
LONG_OUTAGE_S = (1.5, 3.0)
DEATHS_MAX = 2  # of one node by itself, before a run is given up
CALM_S = (0.05, 0.8)


class Victims(enum.StrEnum):
    """Who dies."""

    LEADER = "leader"
    FOLLOWER = "follower"
    ANY = "any"
    TWO = "two"
    ALL = "all"


WEIGHTS = {Victims.LEADER: 4, Victims.FOLLOWER: 1, Victims.ANY: 1, Victims.TWO: 2, Victims.ALL: 2}


class NoProgressError(Exception):
    """The cluster was whole again and still acknowledged nothing: a promise is broken, and the run ends."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely a killed node loses its power too, and how likely that takes the tail of its database."""

    power_loss: float = 0.0
    database_loss: float = 0.0


@dataclass(slots=True)
class Tally:
    """What was broken."""

    kills: int = 0  # processes
    faults: int = 0
    died_alone: list[str] = field(default_factory=list)  # nodes found dead that nobody had killed
    losses: Counter[str] = field(default_factory=Counter)  # power losses by place and kind
    lost_bytes: Counter[str] = field(default_factory=Counter)  # by place


class Nemesis:
    """Kills and restarts the nodes of one cluster; it must be the only one that does."""

    def __init__(
        self,
        machines: Machines,
        *,
        recorder: Recorder,
        workload: Workload,
        rng: random.Random,
        odds: Odds,
        say: Callable[[str], None],
    ) -> None:
        self._machines = machines
        self._recorder = recorder
        self._workload = workload
        self._rng = rng
        self._odds = odds
        self._say = say
        self.tally = Tally()

    async def run(self, faults: int) -> None:
        """Break the cluster `faults` times and mend it each time. NoProgressError if it does not recover."""
        for number in range(1, faults + 1):
            if number == 1 or self._rng.random() >= RELAPSE:
                await self._await_progress()
            await asyncio.sleep(self._rng.uniform(*CALM_S))
            await self._strike(number, faults)
        await self._await_progress()

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

    async def _strike(self, number: int, faults: int) -> None:
        kind = self._rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        outage_s = self._rng.uniform(*(LONG_OUTAGE_S if self._rng.random() < LONG_OUTAGE else OUTAGE_S))
        victims = await asyncio.to_thread(self._choose, kind)
        start_ns = time.monotonic_ns()
        details = await asyncio.to_thread(self._break, victims)
        await asyncio.sleep(outage_s)
        await asyncio.to_thread(self._start, victims)
        detail = "; ".join(details)
        fault = Fault(f"kill {kind}", ",".join(victims), start_ns, time.monotonic_ns(), detail)
        self._recorder.fault(fault)
        self.tally.faults += 1
        acknowledged = self._workload.acknowledged
        what = f"killed {kind}: {', '.join(victims)} for {outage_s:.1f} s"
        self._say(
            f"{number:3d}/{faults} {acknowledged:7d} acknowledged  {what}{'  ' if detail else ''}{detail}"
        )

    def _choose(self, kind: Victims) -> list[str]:
        names = self._machines.names
        leader = self._machines.leader() or self._rng.choice(names)
        if kind is Victims.LEADER:
            return [leader]
        if kind is Victims.FOLLOWER:
            return [self._rng.choice([name for name in names if name != leader])]
        count = {Victims.ANY: 1, Victims.TWO: 2, Victims.ALL: len(names)}[kind]
        return self._rng.sample(names, min(count, len(names)))

    def _break(self, victims: list[str]) -> list[str]:
        """Kill all of them first: a cut of the power takes them at one moment."""
        powerless = [victim for victim in victims if self._rng.random() < self._odds.power_loss]
        if powerless:
            self._machines.kill_in_a_write(powerless[0])
        for victim in victims:
            self._machines.kill(victim)
            self.tally.kills += 1
        details = []
        for victim in powerless:
            with_database = self._rng.random() < self._odds.database_loss
            losses = self._machines.lose_power(victim, self._rng, with_database=with_database)
            details.append(f"{victim} lost {', '.join(map(str, losses)) or 'nothing'}")
            self._count(losses)
        return details

    def _count(self, losses: list[Lost]) -> None:
        for lost in losses:
            self.tally.losses[f"{lost.place} {lost.how}"] += 1
            self.tally.lost_bytes[lost.place] += lost.bytes

    def _start(self, victims: list[str]) -> None:
        for victim in victims:
            self._machines.start(victim)

    def _revive(self) -> None:
        for name in self._machines.dead():
            self.tally.died_alone.append(name)
            self._say(f"    {name} is dead and nobody killed it: {self._machines.last_words(name)}")
            if self.tally.died_alone.count(name) > DEATHS_MAX:
                raise NoProgressError(f"{name} dies again and again")
            self._machines.start(name)
