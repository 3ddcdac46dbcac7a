"""The loss of the primary region: all its nodes killed under load, another one promoted, the old one comes back.

Often the link is cut for a moment before, so that there is something to lose. As soon as the old nodes answer again
each is asked to write, over and over: whatever they acknowledge has to be in the new history.
"""

import asyncio
import time

from chaos.regions.rounds import rounds
from chaos.regions.run import Run
from chaos.regions.succession import account, probing, promote

CALM_S = (0.2, 1.5)
CUT_BEFORE = 0.5  # how often the link is cut before the kill
CUT_S = (0.1, 1.5)
OPERATOR_S = (0.0, 2.0)  # until somebody notices
ALONE_S = (0.2, 1.5)  # what the new primary has written alone before the old one returns


async def kills(run: Run) -> None:
    """As many as the plan says; whoever was promoted is the next to be killed."""
    await rounds(run, CALM_S, _lose)


async def _lose(run: Run, number: int, target: str) -> None:
    world, old, start_ns = run.world, run.primary, time.monotonic_ns()
    cut_s = run.rng.uniform(*CUT_S) if run.rng.random() < CUT_BEFORE else 0.0
    if cut_s:
        await asyncio.to_thread(world.network.cut, old, swallow=run.rng.random() < 0.5)
        await asyncio.sleep(cut_s)
    await asyncio.to_thread(world.kill, old)
    await asyncio.to_thread(world.network.heal)
    await asyncio.sleep(run.rng.uniform(*OPERATOR_S))
    promotion = await promote(run, old, target)
    run.primary = target
    await asyncio.sleep(run.rng.uniform(*ALONE_S))
    returned_ns = time.monotonic_ns()
    await asyncio.to_thread(world.start, old)
    async with probing(run, old):
        took_s = await run.in_step()
    run.findings.took("return of the old primary until it follows", took_s)
    count = await account(run, promotion)
    run.fault("loss of the primary", old, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  {old} lost, {target} promoted;"
        f" cut {cut_s:.1f} s before, {count} commands set aside ({promotion.lag_entries} known);"
        f" {(time.monotonic_ns() - returned_ns) / 1e9:.1f} s to return"
    )
