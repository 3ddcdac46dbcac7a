"""What happens to the nodes of a world: drawn from its seed."""

import asyncio

from chaos.simulator.clients import Clients
from chaos.simulator.world import Node, World
from consensus.api import Member

MEMBERSHIP_S = 3.0
FOR_EVER_S = 1e6
JUMP_NS_MAX = 3600 * 10**9


class Faults:
    """Breaks things for a while, and mends them."""

    def __init__(self, world: World, clients: Clients) -> None:
        self.world, self.clients = world, clients
        self.reshaping = False

    async def live(self, until: float) -> None:
        world, rng = self.world, self.world.rng
        gap_s = rng.choice([0.2, 0.5, 1.2])
        while world.loop.now < until:
            await asyncio.sleep(rng.expovariate(1 / gap_s))
            self._one(self._victim(), rng.random())

    def mend(self) -> None:
        """Nothing new breaks, and what is broken now is whole again."""
        world = self.world
        world.calm = world.network.calm = True
        world.network.mend_all()
        world.disk.unfuse()
        world.down.clear()
        for node_id in world.ids:
            if node_id in world.nodes:
                world.go_on(world.nodes[node_id].process)
            else:
                world.boot(node_id)

    def break_minority(self) -> list[str]:
        """Some nodes are dead, deaf, dumb, alone or stopped from now on; returns the others, a majority."""
        world, rng = self.world, self.world.rng
        broken = rng.sample(world.ids, (len(world.ids) - 1) // 2)
        for node_id in broken:
            ways = rng.choice([(), ((0, 1),), ((1, 0),), ((0, 1), (1, 0))])
            if not ways and rng.random() < 0.5:
                world.down.add(node_id)
                world.crash(node_id, power_lost=True)
            elif not ways:
                world.stop(node_id, FOR_EVER_S)
            for other in world.ids:
                for way in ways if other != node_id else ():
                    world.network.cut((node_id, other)[way[0]], (node_id, other)[way[1]])
        return [node_id for node_id in world.ids if node_id not in broken]

    def _victim(self) -> str:
        rng = self.world.rng
        leaders = sorted(n for n, node in self.world.nodes.items() if node.group.role == "leader")
        return rng.choice(leaders) if leaders and rng.random() < 0.6 else rng.choice(self.world.ids)

    def _one(self, victim: str, dice: float) -> None:
        world, rng = self.world, self.world.rng
        if dice < 0.12:
            world.crash(victim, power_lost=rng.random() < 0.6)
        elif dice < 0.22:
            world.disk.fuse(victim, rng.randint(1, 8))
        elif dice < 0.28:
            for node_id in rng.sample(world.ids, rng.randint(2, len(world.ids))):
                world.crash(node_id, power_lost=True)
        elif dice < 0.44:
            world.stop(victim, rng.choice([0.1, 0.5, 2.0]) * rng.uniform(0.5, 1.5))
        elif dice < 0.54:
            world.network.lose(*rng.sample(world.ids, 2))
        elif dice < 0.76:
            self._partition(victim)
        elif dice < 0.82:
            self._flap(*rng.sample(world.ids, 2))
        elif dice < 0.86:
            world.clocks[victim].wall_jump_ns = rng.randint(-JUMP_NS_MAX, JUMP_NS_MAX)
        elif dice < 0.91 and not self.reshaping:
            self.reshaping = True
            _ = world.start(self._reshape(rng.choice(world.ids)))
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        """A leader is asked to, and perhaps somebody who holds a read lease does not hear of it."""
        world, rng = self.world, self.world.rng
        leaders = sorted(n for n, node in world.nodes.items() if node.group.role == "leader")
        if not leaders:
            return
        world.seen["handovers"] += 1
        node = world.nodes[leaders[-1]]
        if rng.random() < 0.6:
            deaf = rng.choice([n for n in world.ids if n != leaders[-1]])
            self._cut([(n, deaf) for n in world.ids if n != deaf], seconds=rng.uniform(0.2, 1.0))
        _ = world.spawn(node.process, node.group.step_down(2.0))

    def _cut(self, pairs: list[tuple[str, str]], *, seconds: float) -> None:
        network = self.world.network
        for pair in pairs:
            network.cut(*pair)
            self.world.loop.outside(seconds, network.mend, *pair, network.era)

    def _partition(self, victim: str) -> None:
        """From some or all others, in one direction or both."""
        world, rng = self.world, self.world.rng
        world.seen["partitions"] += 1
        others = [n for n in world.ids if n != victim]
        directions = rng.choice([(True, True), (True, True), (True, False), (False, True)])
        cuts = []
        for other in rng.sample(others, rng.randint(1, len(others))):
            cuts += [
                pair for pair, cut in zip(((victim, other), (other, victim)), directions, strict=True) if cut
            ]
        reset = rng.random() < 0.5  # both ends notice at once, and others campaign early
        for pair in cuts:
            self._cut([pair], seconds=rng.uniform(0.1, 4.0))
            if reset:
                world.network.lose(*pair)

    def _flap(self, one: str, two: str) -> None:
        """A link that comes and goes."""
        world = self.world
        world.seen["flapping links"] += 1
        for number in range(6):
            world.loop.outside(number * 0.2, world.network.lose, one, two)

    async def complete(self) -> None:
        """All are members: a removal whose caller had given up may happen after all, until its own deadline."""
        await asyncio.sleep(2 * MEMBERSHIP_S)  # and links are slow
        for member in self.world.members:
            await self._add(member)

    async def _reshape(self, victim: str) -> None:
        """Remove a member, and add it again later: one server at a time."""
        world = self.world
        member = next(m for m in world.members if m.id == victim)
        await self.clients.at_some_node(lambda node: node.group.remove_member(victim, MEMBERSHIP_S))
        await asyncio.sleep(world.rng.uniform(0, 2))
        await self._add(member)
        world.seen["reshaped"] += 1
        self.reshaping = False

    async def _add(self, member: Member) -> None:
        while not await self.clients.at_some_node(lambda node: _add(node, member)):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _add(node: Node, member: Member) -> bool:
    await node.group.add_member(member, MEMBERSHIP_S)
    return True
