"""What is done to a cluster: kills (some with the loss of power), pauses, and links that are cut, flap or are slow.

Each family strikes once when asked and has mended what it broke when it returns. Which faults, whom and for how long
follows from the generator that a strike is given.
"""

import asyncio
import enum
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from chaos.machines import Machines
from chaos.network import WHOLE, Link, Network
from chaos.power import Lost

LONG_OUTAGE = 0.5  # how often killed nodes stay away for long enough that the others must go on without them
OUTAGE_S = (0.0, 0.5)
LONG_OUTAGE_S = (1.5, 3.0)
PAUSES_S = (
    (0.05, 0.4),
    (0.4, 2.5),
    (2.5, 6.0),
)  # within a lease, beyond it, beyond an election and its aftermath
CUTS_S = ((0.2, 1.5), (1.5, 6.0))
FLAP_S = (0.05, 0.5)
SLOW_S = (0.01, 0.3)
AT_THE_LEADER = 0.6  # of the cuts around one node

Chosen = TypeVar("Chosen")


class Victims(enum.StrEnum):
    """Who is struck."""

    LEADER = "leader"
    FOLLOWER = "follower"
    ANY = "any"
    TWO = "two"
    ALL = "all"


class Shape(enum.StrEnum):
    """Which links are broken, and how: of one node or between two, in both directions or in one."""

    ISOLATED = "isolated"
    LINK = "link"
    ONE_WAY = "one way"
    DEAF = "deaf"  # hears nobody, and is heard
    MUTE = "mute"  # hears everybody, and is heard by nobody
    FLAPPING = "flapping"
    SLOW = "slow"


KILLED = {Victims.LEADER: 4, Victims.FOLLOWER: 1, Victims.ANY: 1, Victims.TWO: 2, Victims.ALL: 2}
PAUSED = {Victims.LEADER: 4, Victims.FOLLOWER: 2, Victims.ANY: 1, Victims.TWO: 1, Victims.ALL: 1}
SHAPES = dict.fromkeys(Shape, 2) | {Shape.ISOLATED: 3}


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely a killed node loses its power too, and how likely that takes the tail of its database."""

    power_loss: float = 0.0
    database_loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Struck:
    """What was done, to whom, and what else is to be told of it."""

    kind: str
    targets: tuple[str, ...]
    outage_s: float
    detail: str = ""


class Family(Protocol):
    """One kind of faults."""

    async def strike(self, rng: random.Random) -> Struck:
        """Break something, wait, mend it."""
        ...


def choose(machines: Machines, kind: Victims, rng: random.Random) -> list[str]:
    """The nodes that are meant. Blocking: asks who leads."""
    names = machines.names
    leader = machines.leader() or rng.choice(names)
    if kind is Victims.LEADER:
        return [leader]
    if kind is Victims.FOLLOWER:
        return [rng.choice([name for name in names if name != leader])]
    count = {Victims.ANY: 1, Victims.TWO: 2, Victims.ALL: len(names)}[kind]
    return rng.sample(names, min(count, len(names)))


class Kills:
    """SIGKILL, and for some of the killed the loss of power. Two of these must never strike at once."""

    def __init__(self, machines: Machines, odds: Odds) -> None:
        self._machines, self._odds = machines, odds
        self.processes = 0
        self.losses: Counter[str] = Counter()  # power losses by place and kind
        self.lost_bytes: Counter[str] = Counter()  # by place

    async def strike(self, rng: random.Random) -> Struck:
        """Kill, wait, start again."""
        kind = _weighted(KILLED, rng)
        outage_s = rng.uniform(*(LONG_OUTAGE_S if rng.random() < LONG_OUTAGE else OUTAGE_S))
        victims = await asyncio.to_thread(choose, self._machines, kind, rng)
        details = await asyncio.to_thread(self._break, victims, rng)
        await asyncio.sleep(outage_s)
        for victim in victims:
            await asyncio.to_thread(self._machines.start, victim)
        return Struck(f"kill {kind}", tuple(victims), outage_s, "; ".join(details))

    def _break(self, victims: list[str], rng: random.Random) -> list[str]:
        """Kill all of them first: a cut of the power takes them at one moment."""
        powerless = [victim for victim in victims if rng.random() < self._odds.power_loss]
        if powerless:
            self._machines.kill_in_a_write(powerless[0])
        for victim in victims:
            self._machines.kill(victim)
            self.processes += 1
        details = []
        for victim in powerless:
            with_database = rng.random() < self._odds.database_loss
            losses = self._machines.lose_power(victim, rng, with_database=with_database)
            details.append(f"{victim} lost {', '.join(map(str, losses)) or 'nothing'}")
            self._count(losses)
        return details

    def _count(self, losses: list[Lost]) -> None:
        for lost in losses:
            self.losses[f"{lost.place} {lost.how}"] += 1
            self.lost_bytes[lost.place] += lost.bytes


class Pauses:
    """SIGSTOP and, after a while, SIGCONT: a node that believes that no time has passed."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    async def strike(self, rng: random.Random) -> Struck:
        """Stop, wait, go on."""
        kind = _weighted(PAUSED, rng)
        outage_s = rng.uniform(*rng.choice(PAUSES_S))
        victims = await asyncio.to_thread(choose, self._machines, kind, rng)
        for victim in victims:
            await asyncio.to_thread(self._machines.pause, victim)
        await asyncio.sleep(outage_s)
        for victim in victims:
            await asyncio.to_thread(self._machines.resume, victim)
        return Struck(f"pause {kind}", tuple(victims), outage_s)


class Cuts:
    """Links between nodes. Two of these must never strike at once."""

    def __init__(self, machines: Machines, network: Network) -> None:
        self._machines, self._network = machines, network

    async def strike(self, rng: random.Random) -> Struck:
        """Cut or slow down some links, wait, make them whole."""
        shape = _weighted(SHAPES, rng)
        outage_s = rng.uniform(*rng.choice(CUTS_S))
        kind = Victims.LEADER if rng.random() < AT_THE_LEADER else Victims.ANY
        (node,) = await asyncio.to_thread(choose, self._machines, kind, rng)
        other = rng.choice([name for name in self._network.names if name != node])
        links = self._links(shape, node, other, rng)
        how = "swallow" if _in_one_direction(links) else rng.choice(["reset", "swallow"])
        try:
            await self._break(shape, links, how, outage_s, rng)
        finally:
            await asyncio.to_thread(self._network.change, links, **WHOLE)
        detail = "slow" if shape is Shape.SLOW else how
        return Struck(f"cut {shape}", tuple(f"{here}>{there}" for here, there in links), outage_s, detail)

    def _links(self, shape: Shape, node: str, other: str, rng: random.Random) -> list[Link]:
        match shape:
            case Shape.LINK:
                return [(node, other), (other, node)]
            case Shape.ONE_WAY:
                return [rng.choice([(node, other), (other, node)])]
            case Shape.DEAF:
                return [link for link in self._network.around(node) if link[1] == node]
            case Shape.MUTE:
                return [link for link in self._network.around(node) if link[0] == node]
            case Shape.ISOLATED | Shape.SLOW:
                return self._network.around(node)
            case Shape.FLAPPING:
                return rng.choice([self._network.around(node), [(node, other), (other, node)]])

    async def _break(
        self, shape: Shape, links: list[Link], how: str, outage_s: float, rng: random.Random
    ) -> None:
        ends = asyncio.get_running_loop().time() + outage_s
        if shape is Shape.SLOW:
            delay_s = rng.uniform(*SLOW_S)
            await asyncio.to_thread(self._network.change, links, delay_s=delay_s, jitter_s=delay_s / 2)
        elif shape is not Shape.FLAPPING:
            await asyncio.to_thread(self._network.change, links, cut=how)
        else:
            while asyncio.get_running_loop().time() < ends:
                await asyncio.to_thread(self._network.change, links, cut=how)
                await asyncio.sleep(rng.uniform(*FLAP_S))
                await asyncio.to_thread(self._network.change, links, cut="")
                await asyncio.sleep(rng.uniform(*FLAP_S))
        await asyncio.sleep(max(0.0, ends - asyncio.get_running_loop().time()))


def _in_one_direction(links: list[Link]) -> bool:
    """Whether a reset, which ends a connection for both sides, would break more than these."""
    return any((there, here) not in links for here, there in links)


def _weighted(weights: Mapping[Chosen, int], rng: random.Random) -> Chosen:
    return rng.choices(list(weights), weights=list(weights.values()))[0]
