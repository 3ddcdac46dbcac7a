"""One seed, one history: a safety phase with faults anywhere, a liveness phase with a minority broken, convergence.

The same seed gives the same history, byte for byte, in any process: its hash says so.
"""

import asyncio
import gc
import logging
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.simulator.clients import Clients
from chaos.simulator.defects import DEFECTS
from chaos.simulator.faults import Faults
from chaos.simulator.loop import START_S, Violation, VirtualLoop
from chaos.simulator.machines import KEYS
from chaos.simulator.world import World
from consensus import raft

SAFETY_S = 10.0
CLIENTS = 5
LIVENESS_S = 15.0
CONVERGE_S = 20.0
COMPLETE_S = 60.0
LOOK_S = 0.1
MEMORY_DIRECTORY = Path("/dev/shm")
STORE_EVERY, FIVE_EVERY = 16, 5  # of so many seeds, one runs the store's machine, one has five nodes


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a seed. `failure` is empty if every promise was kept."""

    seed: int
    simulated_s: float
    trace: str
    failure: str = ""
    where: str = ""
    seen: Counter[str] = field(default_factory=Counter)


def play(seed: int, *, defect: str = "", seconds: float = SAFETY_S) -> Played:
    """Play one history. Never raises for a broken promise."""
    loop = VirtualLoop()
    root = MEMORY_DIRECTORY if MEMORY_DIRECTORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="strongroom-sim-", dir=root))
    with warnings.catch_warnings(), _quiet():
        try:
            with ExitStack() as stack:
                stack.enter_context(raft.clock(loop.time))
                if defect:
                    stack.enter_context(DEFECTS[defect].installed())
                return _play(loop, seed, directory, seconds, stack)
        finally:
            loop.close()
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nodes that are killed leave coroutines that never end: whatever those would say or do is nobody's.

    Garbage is collected between histories only: within one it costs half of the time.
    """
    warnings.simplefilter("ignore", RuntimeWarning)
    unraisable, collecting = sys.unraisablehook, gc.isenabled()
    sys.unraisablehook = _ignore
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if collecting:
            gc.enable()
        logging.disable(logging.NOTSET)
        sys.unraisablehook = unraisable


def _ignore(_: object) -> None:
    """What a killed node would still have done goes nowhere."""


def _play(loop: VirtualLoop, seed: int, directory: Path, seconds: float, stack: ExitStack) -> Played:
    rng = random.Random(seed)
    ids = [f"n{i}" for i in range(1, 6 if seed % FIVE_EVERY == 0 else 4)]
    world = World(loop, rng, directory, ids, store=seed % STORE_EVERY == 1)
    stack.enter_context(world.disk.installed())
    stack.callback(world.disk.close)
    failure, where = "", ""
    try:
        loop.run_until_complete(_run(world, seconds))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this seed has found
        failure = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        where = "".join(traceback.format_exception(error))
    return Played(seed, loop.now - START_S, world.trace_hash, failure, where, world.seen)


async def _run(world: World, seconds: float) -> None:
    for node_id in world.ids:
        world.create(node_id)
        world.boot(node_id)
    clients = Clients(world)
    faults = Faults(world, clients)
    end = world.loop.now + 1 + seconds
    working = [world.start(clients.live(end)) for _ in range(CLIENTS)]
    working += [world.start(faults.live(end)), world.start(clients.restore(end))]
    await _wait(world, end, lambda: False)
    faults.mend()
    await _wait(world, world.loop.now + CONVERGE_S, lambda: not faults.reshaping and _converged(world))
    completing = world.start(faults.complete())
    await _wait(world, world.loop.now + COMPLETE_S, completing.done)
    if not completing.done():
        raise world.fail("not everybody could be made a member again")
    await _liveness(world, clients, faults)
    faults.mend()
    await _wait(world, world.loop.now + CONVERGE_S, lambda: all(task.done() for task in working))
    await _wait(world, world.loop.now + CONVERGE_S, lambda: _converged(world))
    world.check_converged()


async def _liveness(world: World, clients: Clients, faults: Faults) -> None:
    """A majority can talk: each of its members gets a write done."""
    majority = faults.break_minority()
    until = world.loop.now + LIVENESS_S
    writes = [world.start(clients.write(KEYS[0], until, [node_id])) for node_id in majority]
    await _wait(world, until + 2, lambda: all(task.done() for task in writes))
    for node_id, write in zip(majority, writes, strict=True):
        if not world.store and not (write.done() and write.result()):
            raise world.fail(f"no progress through {node_id} with {majority} connected")


async def _wait(world: World, until: float, over: Callable[[], bool]) -> None:
    while world.loop.now < until and not over():
        await asyncio.sleep(LOOK_S)
        if world.failure is None and world.loop.errors:
            world.failure = world.loop.errors[0]
        if world.failure is not None:
            raise world.failure


def _converged(world: World) -> bool:
    nodes = [world.nodes[node_id] for node_id in world.ids if node_id in world.nodes]
    if len(nodes) != len(world.ids):
        return False
    states = [node.group.status() for node in nodes]
    ends = {state.last_index for state in states} | {state.applied_index for state in states}
    return len(ends) == 1 and len({state.leader_id for state in states} - {None}) == 1
