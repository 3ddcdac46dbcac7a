"""The loss of the primary region: all its nodes killed under load, another one promoted, the old one comes back.

Often the link is cut for a moment before, so that there is something to lose. As soon as the old nodes answer again
each is asked to write, over and over: whatever they acknowledge has to be in the new history.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from chaos.regions.checks import Promotion, Replayed, SetAside, entries
from chaos.regions.run import PREFIX, Run
from chaos.regions.switchovers import REFUSAL_EVERY, refuse_promotion
from chaos.regions.world import NotInTimeError, World

CALM_S = (0.2, 1.5)
CUT_BEFORE = 0.5  # how often the link is cut before the kill
CUT_S = (0.1, 1.5)
OPERATOR_S = (0.0, 2.0)  # until somebody notices
PROMOTE_TIMEOUT_S = 60.0
ALONE_S = (0.2, 1.5)  # what the new primary has written alone before the old one returns
PROBES, PROBE_PAUSE_S = 6, 0.03
REPLAYS_MAX = 3  # of one loss
REPLAY_ATTEMPTS_MAX, REPLAY_PAUSE_S = 50, 0.2
DISCARDING = 8  # at a time


async def kills(run: Run) -> None:
    """As many as the plan says; whoever was promoted is the next to be killed."""
    for number in range(1, run.plan.count + 1):
        await run.progress()
        await run.in_step()
        target = run.rng.choice([name for name in run.world.names if name != run.primary])
        if number % REFUSAL_EVERY == 1:
            await refuse_promotion(run, target)
        await asyncio.sleep(run.rng.uniform(*CALM_S))
        await _lose(run, number, target)
    await run.progress()
    await run.in_step()


async def _lose(run: Run, number: int, target: str) -> None:
    world, old, start_ns = run.world, run.primary, time.monotonic_ns()
    cut_s = run.rng.uniform(*CUT_S) if run.rng.random() < CUT_BEFORE else 0.0
    if cut_s:
        await asyncio.to_thread(world.network.cut, old, swallow=run.rng.random() < 0.5)
        await asyncio.sleep(cut_s)
    await asyncio.to_thread(world.kill, old)
    killed_ns = time.monotonic_ns()
    await asyncio.to_thread(world.network.heal)
    await asyncio.sleep(run.rng.uniform(*OPERATOR_S))
    promotion = await _promote(run, old, target, killed_ns)
    run.primary = target
    await asyncio.sleep(run.rng.uniform(*ALONE_S))
    returned_ns = time.monotonic_ns()
    await asyncio.to_thread(world.start, old)
    async with _probing(run, old, number):
        took_s = await run.in_step()
    run.findings.took("return of the old primary until it follows", took_s)
    told = await _set_aside(run, old)
    # a third region that held more than the one that was promoted has older entries of its own
    now = tuple(entry for entry in told if entry.epoch == promotion.epoch - 1)
    run.findings.promotions.append(replace(promotion, set_aside=now))
    await _replay(run, old, now)
    await _discard(run, old, told)
    run.fault("loss of the primary", old, start_ns)
    run.say(
        f"{number:3d}/{run.plan.count} {run.workload.acknowledged:7d} acknowledged  {old} lost, {target} promoted;"
        f" cut {cut_s:.1f} s before, {len(now)} commands set aside ({promotion.lag_entries} known);"
        f" {(time.monotonic_ns() - returned_ns) / 1e9:.1f} s to return"
    )


async def _promote(run: Run, old: str, target: str, killed_ns: int) -> Promotion:
    """As an operator does: without a loss if there is none, else accepting it. Raises NotInTimeError."""
    first_asked_ns = asked_ns = time.monotonic_ns()
    told = await asyncio.to_thread(run.world.operator, target, "promote", "-format=json")
    while told.code != 0:
        if (asked_ns - first_asked_ns) / 1e9 > PROMOTE_TIMEOUT_S:
            raise NotInTimeError(f"promote at {target} is refused: {told.error}")
        options = ["-accept-loss"] if "accept_loss" in told.error else []
        asked_ns = time.monotonic_ns()
        told = await asyncio.to_thread(run.world.operator, target, "promote", "-format=json", *options)
    return Promotion(
        old=old,
        new=target,
        killed_ns=killed_ns,
        first_asked_ns=first_asked_ns,
        asked_ns=asked_ns,
        acknowledged_ns=time.monotonic_ns(),
        epoch=told.answer["epoch"],
        position=told.answer["position"],
        lag_entries=told.answer["lost"]["lag_entries"],
        lag_seconds=told.answer["lost"]["lag_seconds"],
    )


@contextlib.asynccontextmanager
async def _probing(run: Run, old: str, number: int) -> AsyncIterator[None]:
    """Write at the nodes of a region that was killed, all the time, from before they answer."""
    probes = run.writers(f"{PREFIX}/returned/{number}", [old], count=PROBES, pause_s=PROBE_PAUSE_S)
    task = asyncio.create_task(probes.run(), name="probes")
    try:
        yield
    finally:
        probes.stop()
        await task
        run.workload.keys |= probes.keys


async def _set_aside(run: Run, old: str) -> tuple[SetAside, ...]:
    told = await asyncio.to_thread(run.world.operator, old, "divergence", "-format=json")
    if told.code != 0:
        raise NotInTimeError(f"{old} does not tell what it set aside: {told.error}")
    return entries(told.answer)


async def _replay(run: Run, old: str, told: tuple[SetAside, ...]) -> None:
    """Write some entries again, each of them twice."""
    secrets = [entry for entry in told if entry.kind == "KvPut" and entry.key]
    chosen = run.rng.sample(secrets, min(REPLAYS_MAX, len(secrets)))
    for entry in chosen:
        replayed = await asyncio.to_thread(_write_again, run.world, old, entry)
        run.findings.replays.append(replayed)
        if replayed.version is not None:
            status, _ = await asyncio.to_thread(run.world.ask, old, "POST", _path(entry))
            if status != 404:
                run.findings.violate("replay", f"{entry.id} was written again, and once more: {status}")


async def _discard(run: Run, old: str, told: tuple[SetAside, ...]) -> None:
    """Forget what was not written again."""
    done = {each.entry.id for each in run.findings.replays if each.version is not None}
    rest = [entry for entry in told if entry.id not in done]
    with ThreadPoolExecutor(DISCARDING) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.run_in_executor(pool, run.world.ask, old, "DELETE", _path(entry)) for entry in rest)
        )


def _write_again(world: World, old: str, entry: SetAside) -> Replayed:
    """Blocking: until it is written or refused. Raises NotInTimeError."""
    status, body = 0, None
    for _ in range(REPLAY_ATTEMPTS_MAX):
        status, body = world.ask(old, "POST", _path(entry))
        if status == 200:
            return Replayed(entry, body["data"]["version"])
        if status in (400, 404):
            return Replayed(entry, None, "; ".join((body or {}).get("errors") or ()))
        time.sleep(REPLAY_PAUSE_S)
    raise NotInTimeError(f"{entry.id} can be neither written again nor is it refused: {status} {body}")


def _path(entry: SetAside) -> str:
    return f"sys/regions/divergence/{entry.id}"
