"""Round after round: each begins where all are in step, and ends with another region as the primary."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from chaos.regions.run import Run

REFUSAL_EVERY = 10  # how often a promotion is tried while the primary is healthy

Move = Callable[
    [Run, int, str], Awaitable[None]
]  # the round's number, and the region that is primary after it


async def rounds(run: Run, calm_s: tuple[float, float], move: Move) -> None:
    """As many as the plan says; the region that a round made primary is where the next one begins.

    Between two, everybody is in step and writes go on, for so many seconds at least and at most.
    """
    for number in range(1, run.plan.count + 1):
        await run.progress()
        await run.in_step()
        target = run.rng.choice([name for name in run.world.names if name != run.primary])
        if number % REFUSAL_EVERY == 1:
            await _refuse_promotion(run, target)
        await asyncio.sleep(run.rng.uniform(*calm_s))
        await move(run, number, target)
    await run.progress()
    await run.in_step()


async def _refuse_promotion(run: Run, target: str) -> None:
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
