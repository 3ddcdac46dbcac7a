"""Planned switchovers there and back, under load: nothing is lost, and nobody waits long."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from chaos.regions.run import Run
from chaos.regions.world import NotInTimeError

CALM_S = (0.2, 1.0)
REFUSAL_EVERY = 10  # how often a promotion is tried while the primary is healthy


async def switchovers(run: Run) -> None:
    """As many as the plan says, each to another region than the one that orders writes."""
    for number in range(1, run.plan.count + 1):
        await run.progress()
        await run.in_step()
        await asyncio.sleep(run.rng.uniform(*CALM_S))
        target = run.rng.choice([name for name in run.world.names if name != run.primary])
        if number % REFUSAL_EVERY == 1:
            await refuse_promotion(run, target)
        await _switch(run, number, target)
    await run.progress()
    await run.in_step()


async def _switch(run: Run, number: int, target: str) -> None:
    start_ns = time.monotonic_ns()
    told = await asyncio.to_thread(run.world.operator, run.primary, "switchover", target)
    if told.code != 0:
        raise NotInTimeError(f"switchover {target} at {run.primary} was refused: {told.error}")
    left, run.primary = run.primary, target
    await run.progress(1)
    took_s = await run.in_step()
    run.fault("switchover", target, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  {left} to {target},"
        f" all in step {took_s:.1f} s later"
    )


async def refuse_promotion(run: Run, target: str) -> None:
    """Typed while the primary is healthy, though a node of it may hang: refused, and it says what to do instead."""
    async with _hanging(run):
        told = await asyncio.to_thread(run.world.operator, target, "promote", "-accept-loss")
    if told.code == 0 or f"region switchover {target}" not in told.error:
        run.findings.violate(
            "promoted", f"promote at {target} while {run.primary} was healthy: code {told.code}, {told.error}"
        )


@contextlib.asynccontextmanager
async def _hanging(run: Run) -> AsyncIterator[None]:
    """One node of the primary that does not lead hangs, where there are enough of them."""
    cluster = run.world.clusters[run.primary]
    leader = await asyncio.to_thread(cluster.leader)
    others = [node.id for node in cluster.nodes if node.id != leader]
    victim = others[0] if leader is not None and len(others) > 1 else None
    if victim is not None:
        await asyncio.to_thread(cluster.pause, victim)
    try:
        yield
    finally:
        if victim is not None:
            await asyncio.to_thread(cluster.resume, victim)
