"""A node that sleeps while a right is taken: what it is asked meanwhile it looks at first when it goes on.

Requests wait in connections that were made before, so that nothing is between them and what the node knew.
"""

import asyncio
import random
import time

from chaos.faults import Struck, Victims, choose
from chaos.guards.asking import World
from chaos.guards.rights import KINDS
from chaos.machines import Machines

REQUESTS = 6  # of each kind
ON_THEIR_WAY_S = 0.1


class Sleepers:
    """A family of faults (chaos/faults.py)."""

    def __init__(self, machines: Machines, world: World) -> None:
        self._machines, self._world = machines, world

    async def strike(self, rng: random.Random) -> Struck:
        """Stop a node, take a right elsewhere, use it at the node, let the node go on."""
        world = self._world
        right = await rng.choice(KINDS)(world)
        (victim,) = await asyncio.to_thread(choose, self._machines, Victims.FOLLOWER, rng)
        node = next(each for each in world.endpoints if each.node == victim)

        def use() -> list["asyncio.Task[object]"]:
            return [
                asyncio.create_task(world.access(right.subject, node, *request, token=right.token))
                for request in right.uses
                for _ in range(REQUESTS)
            ]

        await asyncio.gather(*use())
        began = time.monotonic()
        await asyncio.to_thread(self._machines.pause, victim)
        try:
            with world.without(node):
                await right.taken(world)
            waiting = use()
            await asyncio.sleep(ON_THEIR_WAY_S)
        finally:
            await asyncio.to_thread(self._machines.resume, victim)
        await asyncio.gather(*waiting)
        world.ledger.played["asleep"] += 1
        return Struck("asleep", (victim,), time.monotonic() - began)
