"""Broken links between regions, with nodes restarted meanwhile: whoever follows holds a prefix, and catches up."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from chaos.regions.run import Run

CALM_S = (0.2, 1.0)
CHECKS_EVERY_S = 2.0
COMPARED_MAX = 5000  # commands, of the latest, while a link is broken
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "reset": {"cut": "reset"},
    "swallowed": {"cut": "swallow"},
    "corrupt": {"flip_probability": 1e-4},
    "1 Mbit/s": {"bits_per_s": 1_000_000.0},
}
HEALTHY: Mapping[str, Any] = {"cut": "", "flip_probability": 0.0, "bits_per_s": 0.0}
CAUGHT_UP = "healed link to in step"


async def links(run: Run) -> None:
    """Each fault as often as the plan says, in an order that the seed draws."""
    for number in range(1, run.plan.count + 1):
        for kind in run.rng.sample(list(FAULTS), len(FAULTS)):
            await run.progress()
            await run.in_step()
            await asyncio.sleep(run.rng.uniform(*CALM_S))
            await _break(run, number, kind)
    await run.in_step()
    await asyncio.to_thread(compare, run, whole=True)


async def _break(run: Run, number: int, kind: str) -> None:
    start_ns = time.monotonic_ns()
    await asyncio.to_thread(partial(run.world.network.change, **FAULTS[kind]))
    compared = await _meanwhile(run)
    await asyncio.to_thread(partial(run.world.network.change, **HEALTHY))
    behind = await asyncio.to_thread(_behind, run)
    took_s = await run.in_step()
    run.findings.took(CAUGHT_UP, took_s)
    compared += await asyncio.to_thread(compare, run)
    run.fault(f"link {kind}", run.primary, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  links {kind} for"
        f" {run.plan.fault_s:.0f} s, {behind} commands behind, in step {took_s:.1f} s after;"
        f" {compared} prefixes compared"
    )


async def _meanwhile(run: Run) -> int:
    """While a link is broken: restart nodes of all regions, one after the other, and compare prefixes."""
    ends = time.monotonic() + run.plan.fault_s
    restarts = asyncio.create_task(_restart_all(run))
    compared = 0
    while time.monotonic() < ends or not restarts.done():
        compared += await asyncio.to_thread(compare, run)
        await asyncio.sleep(CHECKS_EVERY_S)
    await restarts
    return compared


async def _restart_all(run: Run) -> None:
    for name in run.world.names:
        for node in run.world.clusters[name].nodes:
            await asyncio.to_thread(run.world.restart, name, node.id)


def compare(run: Run, *, whole: bool = False) -> int:
    """Blocking: hold what each node of a region that follows has against the primary; how many were compared.

    Only the latest commands, unless `whole`. What cannot be compared now, because nobody answers, is left out.
    """
    world, compared = run.world, 0
    for name, node in [
        (n, node) for n in world.names if n != run.primary for node in world.clusters[n].nodes
    ]:
        last = int(world.overview(name, node.id).get("position", 0))
        first = last - COMPARED_MAX if last > COMPARED_MAX and not whole else 0
        mine = world.history_digest(name, node.id, first, last) if last else None
        theirs = mine and _of_primary(run, mine["first"], last)
        if not mine or not theirs:
            continue
        compared += 1
        if theirs["history"] != mine["history"]:
            run.findings.violate(
                "prefix", f"{node.id} differs from {run.primary} between {mine['first']} and {last}"
            )
    return compared


def _of_primary(run: Run, first: int, last: int) -> dict[str, Any] | None:
    """The digest as any node of the primary tells it. Nobody may be ahead of all of them."""
    nodes = run.world.clusters[run.primary].nodes
    for node in nodes:
        if (told := run.world.history_digest(run.primary, node.id, first, last)) is not None:
            return told
    positions = [run.world.overview(run.primary, node.id).get("position") for node in nodes]
    if all(position is not None and position < last for position in positions):
        run.findings.violate(
            "prefix", f"{last} is reached in a region that follows; {run.primary}: {positions}"
        )
    return None


def _behind(run: Run) -> int:
    """By how many commands the region that is farthest behind is behind."""
    told = {name: int(run.world.overview(name).get("position", 0)) for name in run.world.names}
    return max(told[run.primary] - position for position in told.values())
