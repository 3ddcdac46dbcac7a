"""What every loss of a primary has in common: another region is promoted, and what that cost is sorted out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from chaos.regions.checks import Promotion, Replayed, SetAside, entries
from chaos.regions.run import PREFIX, Run
from chaos.regions.world import NotInTimeError, World

PROMOTE_TIMEOUT_S = 60.0
PROBES, PROBE_PAUSE_S = 6, 0.03
REPLAYS_MAX = 3  # of one loss
REPLAY_ATTEMPTS_MAX, REPLAY_PAUSE_S = 50, 0.2
DISCARDING = 8  # at a time


async def promote(run: Run, old: str, target: str, *, force: bool = False) -> Promotion:
    """As an operator does: without a loss if there is none, else accepting it. Raises NotInTimeError."""
    command = ["promote", "-format=json", *(["-force"] if force else [])]
    first_asked_ns = asked_ns = time.monotonic_ns()
    told = await asyncio.to_thread(run.world.operator, target, *command)
    while told.code != 0:
        if (asked_ns - first_asked_ns) / 1e9 > PROMOTE_TIMEOUT_S:
            raise NotInTimeError(f"promote at {target} is refused: {told.error}")
        options = ["-accept-loss"] if "accept_loss" in told.error else []
        asked_ns = time.monotonic_ns()
        told = await asyncio.to_thread(run.world.operator, target, *command, *options)
    acknowledged_ns = time.monotonic_ns()
    return Promotion(
        old=old,
        new=target,
        first_asked_ns=first_asked_ns,
        asked_ns=asked_ns,
        learnt_ns=acknowledged_ns,
        epoch=told.answer["epoch"],
        position=told.answer["position"],
        lag_entries=told.answer["lost"]["lag_entries"],
        lag_seconds=told.answer["lost"]["lag_seconds"],
    )


@contextlib.asynccontextmanager
async def probing(run: Run, old: str) -> AsyncIterator[None]:
    """Write at the nodes of the region that was superseded, all the time: what they acknowledge has to be somewhere."""
    prefix = f"{PREFIX}/superseded/{len(run.findings.promotions)}"
    probes = run.writers(prefix, [old], count=PROBES, pause_s=PROBE_PAUSE_S)
    task = asyncio.create_task(probes.run(), name="probes")
    try:
        yield
    finally:
        probes.stop()
        await task
        run.workload.keys |= probes.keys


async def account(run: Run, promotion: Promotion) -> int:
    """Take down what a promotion cost, write some of it again, discard the rest; how many commands were set aside."""
    told = await _set_aside(run, promotion.old)
    # a third region that held more than the one that was promoted has older entries of its own
    now = tuple(entry for entry in told if entry.epoch == promotion.epoch - 1)
    run.findings.promotions.append(replace(promotion, set_aside=now))
    await _replay(run, promotion.old, now)
    await _discard(run, promotion.old, told)
    return len(now)


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
