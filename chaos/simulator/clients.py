"""Writers and readers of registers, and what they must be told: never less than what anybody was told before."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from chaos.simulator.machines import KEYS, PIN, PINNED, Backup
from chaos.simulator.world import CLOCK_DRIFT, Node, World
from consensus.api import Applied
from consensus.errors import ConsensusError

WRITE_S, READ_S = 2.0, 1.5
THINK_S = 1 / 6
PATIENCE_S = 10.0
RESTORE_S = 8.0
RESTORING_SHARE = 0.4  # of all histories
PINNED_SHARE = 0.3  # of all restores: the state is pinned while the file is on its way


class Clients:
    """All clients of a world. The floor of a key is the highest log index that anybody was told of its value."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._floors: dict[str, list[tuple[float, int]]] = {key: [(0.0, 0)] for key in (*KEYS, PIN)}
        self._number = 0

    async def live(self, until: float) -> None:
        """Write, read, and write the same thing again after a doubt: the answer must be one."""
        rng, loop = self.world.rng, self.world.loop
        while loop.now < until:
            await asyncio.sleep(rng.expovariate(1 / THINK_S))
            if rng.random() < 0.4:
                await self.write(rng.choice(KEYS), until + PATIENCE_S)
            else:
                await self.read(rng.choice(KEYS))

    async def write(self, key: str, until: float, nodes: list[str] | None = None, ending: str = ".") -> bool:
        """Whether it was acknowledged before `until`."""
        world = self.world
        self._number += 1
        value, request = f"v{self._number}{ending}", world.rng.randbytes(16)
        command = b""

        async def act(node: Node) -> Applied:
            nonlocal command
            command = command or node.machine.command(key, value, world.wall_ns(node.process.name))
            return await node.group.propose(command, request_id=request, timeout=WRITE_S)

        while world.loop.now < until:
            applied = await self.at_some_node(act, nodes)
            if isinstance(applied, Applied):
                world.seen["writes"] += 1
                world.trace("wrote", key, value, applied.index)
                index = world.ledger.written.get(f"{key}={value}", 0)
                if not index:
                    return False  # the store refused it: its stamp was older than it remembers
                world.acknowledge(f"{key}={value}", index)
                self._told(key, index)
                return True
        return False

    async def read(self, key: str) -> None:
        """A fresh read, one that asks a quorum, one beside a node, or one that may be old and says how old."""
        dice = self.world.rng.random()
        if dice < 0.2:
            await self._read_stale(key)
            return
        if dice > 0.6:
            self._read_beside(key)
        began, floor = self.world.loop.now, self._floors[key][-1][1]
        value = await self.at_some_node(lambda node: _fresh(node, key, confirm=dice < 0.3))
        if isinstance(value, tuple):
            self._check(key, value[0], floor, f"a read that began at {began:.3f}")

    def _read_beside(self, key: str) -> None:
        """As another process of its machine that sees a node's state and how long that is fresh; it may be stopped."""
        world = self.world
        if not world.nodes:
            return
        node = world.nodes[world.rng.choice(list(world.nodes))]
        if node.boottime() < node.fresh_until:
            world.seen["reads beside"] += 1
            floor = self._floors[key][-1][1]
            self._check(key, node.machine.read(key), floor, f"a read beside {node.process.name}")

    async def _read_stale(self, key: str) -> None:
        answer = await self.at_some_node(lambda node: _aged(node, key))
        if answer is None or answer[1] is None:
            return
        value, age_s, at = answer
        since = at - age_s * (1 + 2 * CLOCK_DRIFT) - 1e-6
        floors = self._floors[key]
        floor = floors[bisect_right(floors, since, key=lambda pair: pair[0]) - 1][1]
        self._check(key, value, floor, f"a read {age_s:.3f} s old")

    def _check(self, key: str, value: str | None, floor: int, what: str) -> None:
        world = self.world
        world.seen["reads"] += 1
        positions = world.ledger.positions.get((key, value), [-1])
        index = next((index for index in positions if index >= floor), positions[-1])
        world.trace("read", key, value, index)
        if index < floor:
            raise world.fail(f"STALE: {what} of {key} shows index {index}, after {floor} had been shown")
        if what.startswith("a read that"):
            self._told(key, index)

    async def restore(self, until: float) -> None:
        """In some histories: back the state up, and some time later put that in its place while everybody works."""
        world, rng = self.world, self.world.rng
        if rng.random() > RESTORING_SHARE:
            return
        while world.loop.now < until:
            await asyncio.sleep(rng.uniform(0.5, 3))
            self._number += 1  # one that came to nothing may have left its file
            path = world.directory / f"backup-{self._number}"
            backup = await self.at_some_node(lambda node, path=path: _back_up(node, path))  # type: ignore[misc]
            if backup is None:
                continue
            world.ledger.backups.append(backup)
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 3)]))
            pinning = world.start(self._pin(until)) if rng.random() < PINNED_SHARE else None
            known = set(world.ledger.restored_at)
            if await self.at_some_node(lambda node, path=path: _restore(node, path)):  # type: ignore[misc]
                world.seen["restores"] += 1
                world.trace("restored", path.name)
                for key in KEYS:
                    self._told(key, self._first_since(known))
            if pinning is not None:
                await pinning
                await self.write(PIN, until + PATIENCE_S, ending=".no")

    async def _pin(self, until: float) -> None:
        """Others decide meanwhile that the state is to stay."""
        await asyncio.sleep(self.world.rng.uniform(0, 0.5))
        await self.write(PIN, until + PATIENCE_S, ending=PINNED)

    def _first_since(self, known: set[int]) -> int:
        """The earliest restore that is not among the `known` ones: that one at least has been."""
        new = self.world.ledger.restored_at.keys() - known
        if not new:
            raise self.world.fail("a restore was acknowledged, and no state was replaced")
        return min(new)

    def _told(self, key: str, index: int) -> None:
        if index > self._floors[key][-1][1]:
            self._floors[key].append((self.world.loop.now, index))

    async def at_some_node(
        self, act: Callable[[Node], Coroutine[Any, Any, Any]], nodes: list[str] | None = None
    ) -> Any:
        """As a client of one node: if that node dies, so does the request."""
        world = self.world
        wanted = [node_id for node_id in nodes or world.ids if node_id in world.nodes]
        if not wanted:
            await asyncio.sleep(0.05)
            return None
        node = world.nodes[world.rng.choice(wanted)]
        task = world.spawn(node.process, act(node))
        await asyncio.wait((task, node.ended), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or not node.process.alive:
            return None
        try:
            return task.result()
        except ConsensusError as error:
            world.seen[type(error).__name__] += 1
            return None


async def _fresh(node: Node, key: str, *, confirm: bool) -> tuple[str | None]:
    if confirm or not node.group.fresh_now():
        await node.group.read_index(READ_S, confirm=confirm)
    return (node.machine.read(key),)


async def _back_up(node: Node, path: Path) -> Backup | None:
    return None if node.machine.staged else node.machine.back_up(path)


async def _restore(node: Node, path: Path) -> bool:
    await node.group.restore(path, RESTORE_S)
    return True


async def _aged(node: Node, key: str) -> tuple[str | None, float | None, float]:
    return node.machine.read(key), node.group.age_s(), asyncio.get_running_loop().time()
