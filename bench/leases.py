"""What read leases cost writes, and give reads: `python -m bench.leases`, on the simulator's virtual time.

Three members on links of 0.25 ms and disks whose sync takes 1 ms on the average; one writer on the leader, who never
pauses, and one reader on every member, with a millisecond between reads. One follower is then slow, or dies in the
middle. Latencies are those of writes; `alone` is the share of reads that were answered without a message or a wait.
"""

import asyncio
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from chaos.simulator.loop import VirtualLoop
from chaos.simulator.world import World
from consensus import raft
from consensus.group import RaftGroup, RaftOptions

SECONDS = 10.0
LINK_S, SYNC_S = 0.00025, 0.001
READ_PAUSE_S = 0.001
SCENES: dict[str, float | None] = {"all alike": SYNC_S, "a disk of 10 ms": 0.01, "a disk of 30 ms": 0.03,
                                   "a disk of 100 ms": 0.1, "one dies": None}  # fmt: skip


@dataclass
class Seen:
    """Latencies of writes in seconds, and how reads were answered."""

    writes: list[float] = field(default_factory=list)
    reads: int = 0
    alone: int = 0


async def _scene(world: World, slow: float | None, seen: Seen) -> None:
    for node_id in world.ids:
        world.create(node_id)
        world.boot(node_id)
    while (leader := _leader(world)) is None:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    victim = next(node_id for node_id in world.ids if node_id != leader)
    if slow is not None:
        world.slow_s[victim] = slow
    until = world.loop.now + SECONDS
    tasks = [world.spawn(world.nodes[leader].process, _writer(world, leader, until, seen))]
    tasks += [
        world.spawn(world.nodes[n].process, _reader(world.nodes[n].group, until, seen)) for n in world.ids
    ]
    if slow is None:
        await asyncio.sleep(SECONDS / 2)
        world.down.add(victim)
        world.crash(victim, power_lost=False)
    await asyncio.sleep(max(0.0, until - world.loop.now) + 2)
    del tasks


def _leader(world: World) -> str | None:
    return next((n for n, node in world.nodes.items() if node.group.role == "leader"), None)


async def _writer(world: World, leader: str, until: float, seen: Seen) -> None:
    number = 0
    while world.loop.now < until:
        number += 1
        began = world.loop.now
        command = f"k={number}".encode()
        await world.nodes[leader].group.propose(command, request_id=world.rng.randbytes(16), timeout=10)
        seen.writes.append(world.loop.now - began)


async def _reader(group: RaftGroup, until: float, seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        seen.reads += 1
        if group.fresh_now():
            seen.alone += 1
        else:
            await group.read_index(10)
        await asyncio.sleep(READ_PAUSE_S)


def measure(slow: float | None, *, leases: bool) -> Seen:
    """One scene."""
    loop, seen = VirtualLoop(), Seen()
    with tempfile.TemporaryDirectory() as directory, raft.clock(loop.time):
        options = RaftOptions(read_leases=leases)
        world = World(loop, random.Random(1), Path(directory), ["n1", "n2", "n3"], options=options)
        world.calm = world.network.calm = True
        world.fsync_s, world.network.delay_s = SYNC_S, LINK_S
        with world.disk.installed():
            loop.run_until_complete(_scene(world, slow, seen))
        world.disk.close()
    loop.close()
    return seen


def main() -> None:
    """Print the table of docs/bench.md."""
    sys.stdout.write("one follower      leases  writes/s  p50 ms  p99 ms  max ms  alone\n")
    for name, slow in SCENES.items():
        for leases in (True, False):
            seen = measure(slow, leases=leases)
            ms = [1000 * each for each in sorted(seen.writes)]
            sys.stdout.write(
                f"{name:16}  {'on' if leases else 'off':6}  {len(ms) / SECONDS:8.0f}  {statistics.median(ms):6.1f}  "
                f"{ms[round(0.99 * (len(ms) - 1))]:6.1f}  {ms[-1]:6.1f}  {100 * seen.alone / seen.reads:4.0f}%\n"
            )


if __name__ == "__main__":
    main()
