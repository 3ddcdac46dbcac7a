"""Planned switchovers there and back, under load: nothing is lost, and nobody waits long."""

import asyncio
import time

from chaos.regions.rounds import rounds
from chaos.regions.run import Run
from chaos.regions.world import NotInTimeError

CALM_S = (0.2, 1.0)


async def switchovers(run: Run) -> None:
    """As many as the plan says, each to another region than the one that orders writes."""
    await rounds(run, CALM_S, _switch)


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
