"""Rehearse failures on real processes: `python -m chaos.run --kills 50 --power-loss 0.6 --pauses --cuts`.

Starts a cluster of its own, writes to it and reads from it while its nodes are killed and paused and their links cut,
heals it, and holds what every node has and every reader saw against what was acknowledged. Ends with 1 if a promise was
broken, and then keeps the directory.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checker import Verdict, Violation, check
from chaos.faults import Cuts, Family, Kills, Odds, Pauses
from chaos.history import History, Recorder, read_history
from chaos.machines import Machines
from chaos.nemesis import Nemesis, NoProgressError, Tally
from chaos.network import Network
from chaos.observe import NotConvergedError, observe
from chaos.place import Place
from chaos.readers import Readers
from chaos.report import lines
from chaos.target import Cluster
from chaos.workload import WRITERS, Endpoint, Workload
from node.cli.local_cluster import LocalCluster

CONVERGE_TIMEOUT_S = 60.0
SEED_BITS = 32
STRIKES = 50
PAUSE_S, READ_PAUSE_S = 0.03, 0.02  # of a client between two operations, on the average
WRITES_MAX = 150_000  # about, of a run
WEIGHTS = {"kills": 4, "pauses": 2, "cuts": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to a cluster: `strikes` faults, or faults for `minutes`; one of them may kill several nodes."""

    seed: int
    strikes: int | None = None
    minutes: float | None = None
    odds: Odds = field(default_factory=Odds)
    pauses: bool = False
    cuts: bool = False
    nodes: int = 3
    writers: int = WRITERS
    read_workers: int = 0  # of each node; a paused node's go on

    @property
    def pause_s(self) -> float:
        """Of a client between two operations, on the average: all that is written is read again in the end."""
        return max(PAUSE_S, (self.minutes or 0.0) * 60 * self.writers / WRITES_MAX)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    history: History
    tally: Tally
    kills: Kills
    verdict: Verdict


def rehearse(plan: Plan, directory: Path, say: Callable[[str], None]) -> Result:
    """Run a plan on a new cluster in `directory` (which must not exist) and check it; no process stays."""
    workers = f"read_workers = {plan.read_workers}" if plan.read_workers else ""
    cluster = LocalCluster(directory, nodes=plan.nodes, doors=plan.cuts, extra_config=workers)
    cluster.create()
    with Network(cluster.nodes, seed=plan.seed) if plan.cuts else contextlib.nullcontext() as network:
        try:
            return asyncio.run(_Rehearsal(plan, cluster, network, say).run(directory / "history.jsonl"))
        finally:
            for node in cluster.nodes:
                if cluster.alive(node.id):
                    cluster.kill(node.id)


class _Rehearsal:
    """One run of a plan on a cluster whose nodes are not started yet."""

    def __init__(
        self, plan: Plan, cluster: Cluster, network: Network | None, say: Callable[[str], None]
    ) -> None:
        self._plan, self._cluster, self._say = plan, cluster, say
        self._machines = Machines(cluster)
        self._kills = Kills(self._machines, plan.odds)
        self._families: dict[str, tuple[int, Family]] = {"kills": (WEIGHTS["kills"], self._kills)}
        if plan.pauses:
            self._families["pauses"] = (WEIGHTS["pauses"], Pauses(self._machines))
        if network is not None:
            self._families["cuts"] = (WEIGHTS["cuts"], Cuts(self._machines, network))

    async def run(self, file: Path) -> Result:
        """Write, read and break; then hold what every node has against the history in `file`."""
        plan, cluster = self._plan, self._cluster
        with Recorder(file, seed=plan.seed, nodes=plan.nodes) as recorder:
            keys, tally, violations = await self._drive(recorder)
        history = await asyncio.to_thread(read_history, file)
        self._say("reading everything back from every node")
        try:
            states = await observe(
                endpoints=_endpoints(cluster),
                token=cluster.token,
                tls=ssl.create_default_context(cafile=str(cluster.ca_path)),
                keys=keys,
                timeout=CONVERGE_TIMEOUT_S,
            )
        except NotConvergedError as error:
            violations.append(Violation("diverged", str(error)))
        else:
            violations += (await asyncio.to_thread(check, history, states)).violations
        return Result(history, tally, self._kills, Verdict(tuple(violations)))

    async def _drive(self, recorder: Recorder) -> tuple[set[str], Tally, list[Violation]]:
        """Write and break until the plan is done and every writer knows what became of its last write."""
        plan = self._plan
        for name in self._machines.names:
            await asyncio.to_thread(self._machines.start, name)
        await asyncio.to_thread(self._cluster.bootstrap)
        workload, readers = self._clients(recorder)
        nemesis = Nemesis(
            self._machines,
            self._families,
            recorder=recorder,
            workload=workload,
            rng=random.Random(f"{plan.seed}/faults"),
            say=self._say,
        )
        violations = []
        async with asyncio.TaskGroup() as group:
            group.create_task(workload.run(), name="writers")
            group.create_task(readers.run(), name="readers")
            try:
                await nemesis.run(
                    strikes=plan.strikes, seconds=None if plan.minutes is None else 60 * plan.minutes
                )
            except* NoProgressError as errors:
                violations += [Violation("stuck", str(error)) for error in errors.exceptions]
            finally:
                workload.stop()
        died = [
            Violation("died", f"{name} ended by itself: see its log") for name in nemesis.tally.died_alone
        ]
        return workload.keys, nemesis.tally, [*violations, *died]

    def _clients(self, recorder: Recorder) -> tuple[Workload, Readers]:
        cluster, plan = self._cluster, self._plan
        tls = ssl.create_default_context(cafile=str(cluster.ca_path))
        workload = Workload(
            endpoints=_endpoints(cluster),
            token=cluster.token,
            tls=tls,
            recorder=recorder,
            rng=random.Random(f"{plan.seed}/writes"),
            prefix="chaos",
            writers=plan.writers,
            pause_s=plan.pause_s,
        )
        readers = Readers(
            endpoints=_endpoints(cluster),
            token=cluster.token,
            tls=tls,
            recorder=recorder,
            workload=workload,
            rng=random.Random(f"{plan.seed}/reads"),
            pause_s=READ_PAUSE_S,
        )
        return workload, readers


def _endpoints(cluster: Cluster) -> list[Endpoint]:
    return [Endpoint(node.id, node.api_address.rstrip("/")) for node in cluster.nodes]


def _tally_lines(result: Result) -> list[str]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result.tally.faults.items()))
    text = [f"faults: {kinds}", f"killed {result.kills.processes} processes"]
    losses = ", ".join(f"{kind} {count}" for kind, count in sorted(result.kills.losses.items()))
    lost = ", ".join(
        f"{count} bytes of the {place}" for place, count in sorted(result.kills.lost_bytes.items())
    )
    return [*text, f"power losses: {losses} (took {lost})"] if losses else text


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.run", description=__doc__.split("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--kills", type=int, help=f"how many faults (default {STRIKES})")
    length.add_argument(
        "--minutes", type=float, help="for how long, instead; reading back takes longer still"
    )
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
    parser.add_argument("--pauses", action="store_true", help="stop processes for a while, too (SIGSTOP)")
    parser.add_argument(
        "--cuts", action="store_true", help="cut, flap and slow down links between nodes, too"
    )
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument(
        "--read-workers",
        type=int,
        default=0,
        help="of each node (default %(default)s); those of a stopped node go on",
    )
    parser.add_argument("--directory", type=Path, help="where to run (default: a temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    plan = Plan(
        seed=seed,
        strikes=None if options.minutes is not None else options.kills or STRIKES,
        minutes=options.minutes,
        odds=Odds(options.power_loss, options.database_loss),
        pauses=options.pauses,
        cuts=options.cuts,
        nodes=options.nodes,
        writers=options.writers,
        read_workers=options.read_workers,
    )
    place = Place(options.directory, "cluster")
    print(f"seed {seed} (--seed {seed} repeats these faults), directory {place.directory}", flush=True)
    result = rehearse(plan, place.directory, lambda line: print(line, flush=True))
    print("\n".join([*lines(result.history, result.verdict), *_tally_lines(result)]), flush=True)
    return place.leave(print, good=result.verdict.good, promise="every promise was kept")


if __name__ == "__main__":
    sys.exit(main())
