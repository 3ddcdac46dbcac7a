"""Two primaries: one is alive, and cut off or only out of its clients' reach, while another is promoted by force.

Both acknowledge writes until the old one hears of its successor. From then on it acknowledges nothing, follows by
itself, and has set aside all that only it had.
"""

import asyncio
import time
from dataclasses import replace

from chaos.regions.checks import Promotion
from chaos.regions.rounds import rounds
from chaos.regions.run import IN_STEP_TIMEOUT_S, Run
from chaos.regions.succession import account, probing, promote
from chaos.regions.world import NotInTimeError
from chaos.workload import ATTEMPT_TIMEOUT_S

CALM_S = (0.2, 1.5)
REACHED = 0.25  # how often the links stay as they are: clients alone do not reach the primary
NEIGHBOURS = 0.5  # else how often only the link between the two is cut, where a third region reaches both
CUT_S = (0.5, 2.0)  # before an operator promotes
BOTH_S = (0.5, 3.0)  # that two regions order writes
LOOK_PAUSE_S = 0.02
STEPS_BACK = "healed link until the old primary orders nothing"


async def splits(run: Run) -> None:
    """As many as the plan says; whoever was promoted is the next to be cut off."""
    await rounds(run, CALM_S, _split)


async def _split(run: Run, number: int, target: str) -> None:
    world, old, start_ns = run.world, run.primary, time.monotonic_ns()
    async with probing(run, old):
        what = await _cut(run, number, target)
        promotion = await promote(run, old, target, force=True)
        run.primary = target
        learning = asyncio.create_task(_learnt(run, promotion), name="old primary learns")
        await asyncio.sleep(run.rng.uniform(*BOTH_S))
        healed_ns = time.monotonic_ns()
        await asyncio.to_thread(world.network.heal)
        promotion = await learning
        run.findings.took(STEPS_BACK, max(0, promotion.learnt_ns - healed_ns) / 1e9)
        took_s = await run.in_step()
    count = await account(run, promotion)
    run.fault(f"split, {what}", old, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  {old} {what}, {target} promoted;"
        f" two primaries for {(promotion.learnt_ns - promotion.asked_ns) / 1e9:.1f} s at most, in step"
        f" {took_s:.1f} s after, {count} commands set aside"
    )


async def _cut(run: Run, number: int, target: str) -> str:
    """Cut the primary off in one of several ways, the first time from all others, and wait; which one it was."""
    if number > 1 and run.rng.random() < REACHED:
        return "only reached by regions"
    neighbours = number > 1 and len(run.world.names) > 2 and run.rng.random() < NEIGHBOURS
    swallow = run.rng.random() < 0.5
    there = target if neighbours else ""
    await asyncio.to_thread(run.world.network.cut, run.primary, there, swallow=swallow)
    await asyncio.sleep(run.rng.uniform(*CUT_S))
    return f"cut off from {there or 'all'}"


async def _learnt(run: Run, promotion: Promotion) -> Promotion:
    """The same with the moment in which the old primary knows that it was superseded. Raises NotInTimeError."""
    world, nodes = run.world, run.world.clusters[promotion.old].nodes
    ends = time.monotonic() + IN_STEP_TIMEOUT_S
    while time.monotonic() < ends:
        for node in nodes:
            told = await asyncio.to_thread(world.overview, promotion.old, node.id)
            if told.get("role") == "secondary":
                return replace(promotion, learnt_ns=time.monotonic_ns(), answers_s=ATTEMPT_TIMEOUT_S)
        await asyncio.sleep(LOOK_PAUSE_S)
    raise NotInTimeError(
        f"{promotion.old} orders writes {IN_STEP_TIMEOUT_S:.0f} s after its links were healed"
    )
