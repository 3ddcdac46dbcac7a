"""The kill harness: `python -m chaos.run --kills 50 --power-loss 0.6`.

Starts a cluster of its own, writes to it while its nodes are killed, heals it, and holds what every node
has against what was acknowledged. Ends with 1 if a promise was broken, and then keeps the directory.
"""

import argparse
import asyncio
import random
import secrets
import shutil
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checker import Verdict, Violation, check
from chaos.history import History, Recorder, read_history
from chaos.machines import Machines
from chaos.nemesis import Nemesis, NoProgressError, Odds, Tally
from chaos.observe import NotConvergedError, observe
from chaos.report import lines
from chaos.target import Cluster
from chaos.workload import WRITERS, Endpoint, Workload
from node.cli.local_cluster import LocalCluster

CONVERGE_TIMEOUT_S = 60.0
LEADER_TIMEOUT_S = 30.0
SEED_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to a cluster. `kills` counts faults; one of them may kill several nodes."""

    kills: int
    seed: int
    odds: Odds = field(default_factory=Odds)
    nodes: int = 3
    writers: int = WRITERS


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    history: History
    tally: Tally
    verdict: Verdict


def rehearse(plan: Plan, directory: Path, say: Callable[[str], None]) -> Result:
    """Run a plan on a new cluster in `directory` (which must not exist) and check it; no process stays."""
    cluster = LocalCluster(directory, nodes=plan.nodes)
    cluster.create()
    try:
        return asyncio.run(_rehearse(plan, cluster, directory / "history.jsonl", say))
    finally:
        for node in cluster.nodes:
            if cluster.alive(node.id):
                cluster.kill(node.id)


async def _rehearse(plan: Plan, cluster: Cluster, file: Path, say: Callable[[str], None]) -> Result:
    with Recorder(file, seed=plan.seed, nodes=plan.nodes) as recorder:
        keys, tally, violations = await _drive(plan, cluster, recorder, say)
    history = read_history(file)
    say("reading everything back from every node")
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    try:
        states = await observe(
            endpoints=_endpoints(cluster),
            token=cluster.token,
            tls=tls,
            keys=keys,
            timeout=CONVERGE_TIMEOUT_S,
        )
    except NotConvergedError as error:
        return Result(history, tally, Verdict((*violations, Violation("diverged", str(error)))))
    return Result(history, tally, Verdict((*violations, *check(history, states).violations)))


async def _drive(
    plan: Plan, cluster: Cluster, recorder: Recorder, say: Callable[[str], None]
) -> tuple[set[str], Tally, list[Violation]]:
    """Write and break until the plan is done and every writer knows what became of its last write."""
    machines = Machines(cluster)
    for name in machines.names:
        await asyncio.to_thread(machines.start, name)
    await asyncio.to_thread(cluster.bootstrap)
    workload = Workload(
        endpoints=_endpoints(cluster),
        token=cluster.token,
        tls=ssl.create_default_context(cafile=str(cluster.ca_path)),
        recorder=recorder,
        rng=random.Random(f"{plan.seed}/writes"),
        prefix="chaos",
        writers=plan.writers,
    )
    nemesis = Nemesis(
        machines,
        recorder=recorder,
        workload=workload,
        rng=random.Random(f"{plan.seed}/faults"),
        odds=plan.odds,
        say=say,
    )
    violations = []
    async with asyncio.TaskGroup() as group:
        group.create_task(workload.run(), name="writers")
        try:
            await nemesis.run(plan.kills)
        except NoProgressError as error:
            violations.append(Violation("stuck", str(error)))
        finally:
            workload.stop()
    died = [Violation("died", f"{name} ended by itself: see its log") for name in nemesis.tally.died_alone]
    return workload.keys, nemesis.tally, [*violations, *died]


def _endpoints(cluster: Cluster) -> list[Endpoint]:
    return [Endpoint(node.id, node.api_address.rstrip("/")) for node in cluster.nodes]


def _tally_lines(tally: Tally) -> list[str]:
    losses = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.losses.items()))
    lost = ", ".join(f"{count} bytes of the {place}" for place, count in sorted(tally.lost_bytes.items()))
    text = [f"killed {tally.kills} processes"]
    return [*text, f"power losses: {losses} (took {lost})"] if losses else text


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.run", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many faults (default %(default)s)")
    parser.add_argument(
        "--power-loss", type=float, default=0.0, metavar="P", help="of the killed, how many lose power"
    )
    parser.add_argument(
        "--database-loss",
        type=float,
        default=0.3,
        metavar="P",
        help="of those, how many also lose the database's unsynced tail (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--directory", type=Path, help="where to run (default: a temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    plan = Plan(
        kills=options.kills,
        seed=seed,
        odds=Odds(options.power_loss, options.database_loss),
        nodes=options.nodes,
        writers=options.writers,
    )
    base = options.directory or Path(tempfile.mkdtemp(prefix="strongroom-chaos-"))
    directory = base / "cluster"
    print(f"seed {seed} (--seed {seed} repeats these faults), directory {directory}", flush=True)
    result = rehearse(plan, directory, lambda line: print(line, flush=True))
    print("\n".join([*lines(result.history, result.verdict), *_tally_lines(result.tally)]), flush=True)
    if not result.verdict.good:
        print(f"FAILED; everything is kept in {directory}")
        return 1
    shutil.rmtree(directory if options.directory else base)
    print("every promise was kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
