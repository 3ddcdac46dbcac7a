"""Broken links between regions, with nodes restarted meanwhile: whoever follows holds a prefix, and catches up."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from chaos.regions.run import Run
from storage.history import COMMANDS_SLACK

CALM_S = (0.2, 1.0)
CHECKS_EVERY_S = 2.0
COMPARED_MAX = 5000  # commands, of the latest, while a link is broken
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "reset": {"cut": "reset"},
    "swallowed": {"cut": "swallow"},
    "corrupt": {"flip_probability": 1e-4},
    "1 Mbit/s": {"bits_per_s": 1_000_000.0},
}
LONGER: Mapping[str, int] = {"swallowed": 2}  # times the plan's fault_s
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
    compared, followers = await asyncio.to_thread(compare, run, whole=True), len(_followers(run))
    if compared != followers:
        run.findings.violate(
            "prefix", f"of {followers} nodes that follow {compared} could be compared at the end"
        )


async def _break(run: Run, number: int, kind: str) -> None:
    start_ns, lasts_s = time.monotonic_ns(), run.plan.fault_s * LONGER.get(kind, 1)
    await asyncio.to_thread(partial(run.world.network.change, **FAULTS[kind]))
    compared = await _meanwhile(run, lasts_s)
    lasted_s = (time.monotonic_ns() - start_ns) / 1e9
    await asyncio.to_thread(partial(run.world.network.change, **HEALTHY))
    behind = await asyncio.to_thread(_behind, run)
    took_s = await run.in_step()
    run.findings.took(CAUGHT_UP, took_s)
    compared += await asyncio.to_thread(compare, run)
    run.fault(f"link {kind}", run.primary, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  links {kind} for"
        f" {lasted_s:.0f} s, {behind} commands behind, in step {took_s:.1f} s after;"
        f" {compared} prefixes compared"
    )


async def _meanwhile(run: Run, lasts_s: float) -> int:
    """While a link is broken: restart nodes of all regions, one after the other, and compare prefixes."""
    ends = time.monotonic() + lasts_s
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
    for name, node_id in _followers(run):
        last = int(world.overview(name, node_id).get("position", 0))
        first = _first_kept(run, name, node_id, last) if whole else max(0, last - COMPARED_MAX)
        mine = world.history_digest(name, node_id, first, last) if last else None
        theirs = mine and _of_primary(run, mine["first"], last)
        if not mine or not theirs:
            continue
        compared += 1
        if theirs["history"] != mine["history"]:
            run.findings.violate(
                "prefix", f"{node_id} differs from {run.primary} between {mine['first']} and {last}"
            )
    return compared


def _followers(run: Run) -> list[tuple[str, str]]:
    """(region, node) of all that follow."""
    clusters = run.world.clusters
    return [(name, node.id) for name in clusters if name != run.primary for node in clusters[name].nodes]


def _first_kept(run: Run, name: str, node_id: str, last: int) -> int:
    """The first position that this node and the primary both keep, for a while yet."""
    world = run.world
    nodes = [(name, node_id), *((run.primary, node.id) for node in world.clusters[run.primary].nodes)]
    told = [world.history_digest(where, each, 0, last) for where, each in nodes]
    first = max((int(each["first"]) for each in told if each), default=0)
    return first + COMMANDS_SLACK if first > COMMANDS_SLACK else first


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
