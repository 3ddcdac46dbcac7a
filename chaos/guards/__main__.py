"""Rehearse rights under faults: `python -m chaos.guards --minutes 2 --pauses --read-workers 2`.

Starts a cluster of its own; tokens are revoked, policies and entities changed and mounts moved while all nodes are
asked for what those rights are for, and nodes are killed and stopped. Ends with 1 if anybody was let do what he might
not any more, or was refused what he might, or if something worked more often than it may; then the directory is kept.
"""

import argparse
import asyncio
import random
import secrets
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.faults import Family, Kills, Odds, Pauses
from chaos.guards.asking import GaveUpError, World
from chaos.guards.ledger import GRANTED, REFUSED, SHOWN_MAX, Ledger
from chaos.guards.rights import prepare
from chaos.guards.scenes import play
from chaos.guards.sleepers import Sleepers
from chaos.machines import Machines
from chaos.place import Place
from chaos.workload import Endpoint
from node.cli.local_cluster import LocalCluster

SEED_BITS = 32
MINUTES = 2.0
CALM_S = (1.0, 4.0)  # between two faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to a cluster."""

    seed: int
    minutes: float
    kills: bool = True
    pauses: bool = False
    read_workers: int = 0
    nodes: int = 3


async def _strike(machines: Machines, world: World, plan: Plan, say: Callable[[str], None]) -> None:
    """Break nodes until cancelled. Raises GaveUpError if one ends by itself."""
    rng = random.Random(f"{plan.seed}/faults")
    families: list[Family] = [Sleepers(machines, world)]
    families += [Kills(machines, Odds())] * plan.kills + [Pauses(machines)] * plan.pauses
    while True:
        await asyncio.sleep(rng.uniform(*CALM_S))
        struck = await rng.choice(families).strike(rng)
        for name in machines.dead():
            say(f"    {name} ended by itself: {machines.last_words(name)}")
            raise GaveUpError(f"{name} ended by itself")
        say(f"{struck.kind}: {', '.join(struck.targets)} for {struck.outage_s:.1f} s")


async def _rehearse(plan: Plan, cluster: LocalCluster, say: Callable[[str], None]) -> Ledger:
    machines = Machines(cluster)
    for name in machines.names:
        await asyncio.to_thread(machines.start, name)
    await asyncio.to_thread(cluster.bootstrap)
    endpoints = [Endpoint(node.id, node.api_address.rstrip("/")) for node in cluster.nodes]
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    async with World(endpoints, cluster.token, tls, random.Random(f"{plan.seed}/scenes")) as world:
        await prepare(world)
        faults = asyncio.create_task(_strike(machines, world, plan, say), name="faults")
        try:
            await play(world, 60 * plan.minutes)
        except* GaveUpError as errors:
            world.ledger.broken += [f"stuck: {error}" for error in errors.exceptions]
        faults.cancel()
        for outcome in await asyncio.gather(faults, return_exceptions=True):
            if isinstance(outcome, Exception):
                world.ledger.broken.append(f"faults: {outcome}")
        return world.ledger


def rehearse(plan: Plan, directory: Path, say: Callable[[str], None]) -> Ledger:
    """Run a plan on a new cluster in `directory` (which must not exist); no process stays."""
    workers = f"read_workers = {plan.read_workers}" if plan.read_workers else ""
    cluster = LocalCluster(directory, nodes=plan.nodes, extra_config=workers)
    cluster.create()
    try:
        return asyncio.run(_rehearse(plan, cluster, say))
    finally:
        for node in cluster.nodes:
            if cluster.alive(node.id):
                cluster.resume(node.id)
                cluster.kill(node.id)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.guards", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for how long (default %(default)s)")
    parser.add_argument("--no-kills", action="store_true", help="kill no node")
    parser.add_argument("--pauses", action="store_true", help="stop nodes for a while, too (SIGSTOP)")
    parser.add_argument("--read-workers", type=int, default=0, help="of each node (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, help="draw scenes and faults as an earlier run did")
    parser.add_argument("--directory", type=Path, help="where to run (default: a temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    plan = Plan(
        seed=secrets.randbits(SEED_BITS) if options.seed is None else options.seed,
        minutes=options.minutes,
        kills=not options.no_kills,
        pauses=options.pauses,
        read_workers=options.read_workers,
        nodes=options.nodes,
    )
    place = Place(options.directory, "cluster")
    print(f"seed {plan.seed}, directory {place.directory}", flush=True)
    ledger = rehearse(plan, place.directory, lambda line: print(line, flush=True))
    violations = ledger.violations()
    played = ", ".join(f"{name} {count}" for name, count in sorted(ledger.played.items()))
    print(f"played: {played}")
    print(f"granted {ledger.count(GRANTED)}, refused {ledger.count(REFUSED)}, violations {len(violations)}")
    print(*violations[:SHOWN_MAX], sep="\n")
    return place.leave(print, good=not violations, promise="every right was what it had to be")


if __name__ == "__main__":
    sys.exit(main())
