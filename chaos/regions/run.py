"""One rehearsal of regions from its plan to its verdict."""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checker import NodeState, Verdict, Violation, check
from chaos.history import Fault, History, Recorder, read_history
from chaos.observe import read_all, reading
from chaos.regions.checks import (
    Promotion,
    Replayed,
    check_applications,
    check_promotions,
    first_writes,
    set_aside_of,
    unplaced,
    without_losses,
)
from chaos.regions.sdk import Applications
from chaos.regions.world import NotInTimeError, World
from chaos.workload import Workload
from node.cli.http_exchange import Unreachable
from node.cli.local_cluster import ClusterError

PROGRESS_WRITES = 100
PROGRESS_TIMEOUT_S = 60.0
IN_STEP_TIMEOUT_S = 90.0
LEVEL_ATTEMPTS_MAX = 5
PREFIX = "chaos"
FIRST_WRITE = "promote to first write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. writes_per_s is what all writers aim at together; count is how often."""

    mode: str
    count: int
    seed: int
    regions: int = 2
    nodes: int = 3
    writers: int = 24
    writes_per_s: float = 200.0
    round_trip_s: float | None = None  # between regions; None: what is usual between continents
    fault_s: float = 10.0  # how long a link stays broken, where links are

    @property
    def applications(self) -> bool:
        """Whether applications must notice nothing: some node of the primary serves all the time."""
        return self.mode == "switchovers" or (self.mode == "links" and self.nodes > 1)


@dataclass(slots=True)
class Findings:
    """What a run saw, besides its history."""

    promotions: list[Promotion] = field(default_factory=list)
    replays: list[Replayed] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    times_s: dict[str, list[float]] = field(default_factory=dict)  # what took how long, by what

    def took(self, what: str, seconds: float) -> None:
        self.times_s.setdefault(what, []).append(seconds)

    def violate(self, kind: str, detail: str) -> None:
        self.violations.append(Violation(kind, detail))


@dataclass(slots=True, kw_only=True)
class Run:
    """What every mode has at hand while it breaks things."""

    plan: Plan
    world: World
    recorder: Recorder
    workload: Workload
    applications: Applications
    rng: random.Random
    say: Callable[[str], None]
    tls: ssl.SSLContext
    findings: Findings = field(default_factory=Findings)
    primary: str = ""

    async def progress(self, count: int = PROGRESS_WRITES, timeout: float = PROGRESS_TIMEOUT_S) -> None:
        """Until so many more writes are acknowledged. Raises NotInTimeError."""
        if not await self.workload.wait_acknowledged(count, timeout):
            raise NotInTimeError(f"fewer than {count} writes in {timeout:.0f} s with all nodes up")

    async def in_step(self, timeout: float = IN_STEP_TIMEOUT_S) -> float:
        """Until all regions follow the one that orders writes; how long that took. Raises NotInTimeError."""
        for node in await asyncio.to_thread(self.world.dead):
            raise NotInTimeError(f"{node} ended by itself: see its log")
        return await asyncio.to_thread(self.world.wait_in_step, self.primary, timeout)

    def writers(self, prefix: str, regions: Sequence[str], *, count: int, pause_s: float) -> Workload:
        """More writers, at the nodes of some regions, that write below a prefix of their own."""
        return Workload(
            endpoints=self.world.endpoints(regions),
            token=self.world.token,
            tls=self.tls,
            recorder=self.recorder,
            rng=random.Random(f"{self.plan.seed}/{prefix}"),
            prefix=prefix,
            writers=count,
            pause_s=pause_s,
        )

    def fault(self, kind: str, target: str, start_ns: int, detail: str = "") -> None:
        self.recorder.fault(Fault(kind, target, start_ns, time.monotonic_ns(), detail))


Mode = Callable[[Run], Awaitable[None]]  # what a run does to its regions


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    plan: Plan
    history: History
    findings: Findings
    lost: int  # acknowledged writes that were set aside
    calls: int  # of applications
    verdict: Verdict


def rehearse(plan: Plan, mode: Mode, directory: Path, say: Callable[[str], None]) -> Result:
    """Run a plan in `directory` (which must not exist) and check it; no process stays."""
    world = World(directory, regions=plan.regions, nodes=plan.nodes, round_trip_s=plan.round_trip_s)
    try:
        say(f"starting {plan.regions} regions of {plan.nodes} nodes")
        world.create()
        return asyncio.run(_rehearse(plan, mode, world, say))
    finally:
        world.end()


async def _rehearse(plan: Plan, mode: Mode, world: World, say: Callable[[str], None]) -> Result:
    file = world.directory / "history.jsonl"
    tls = ssl.create_default_context(cafile=str(world.ca_path))
    with Recorder(file, seed=plan.seed, nodes=plan.nodes, regions=world.names) as recorder:
        run = _run_of(plan, world, recorder, tls, say)
        await _drive(run, mode)
    history = read_history(file)
    say("reading everything back from every region")
    try:
        states, applications = await _observe(run, tls)
    except (NotInTimeError, Unreachable, ClusterError) as error:
        run.findings.violate("diverged", str(error))
        states, applications = [], []
    return _judge(run, history, states, applications)


def _run_of(
    plan: Plan, world: World, recorder: Recorder, tls: ssl.SSLContext, say: Callable[[str], None]
) -> Run:
    endpoints = world.endpoints()
    workload = Workload(
        endpoints=endpoints,
        token=world.token,
        tls=tls,
        recorder=recorder,
        rng=random.Random(f"{plan.seed}/writes"),
        prefix=PREFIX,
        writers=plan.writers,
        pause_s=plan.writers / plan.writes_per_s,
    )
    applications = Applications(
        endpoints=[each.url for each in endpoints],
        token=world.token,
        tls=tls,
        rng=random.Random(f"{plan.seed}/applications"),
        prefix=PREFIX,
    )
    return Run(
        plan=plan,
        world=world,
        recorder=recorder,
        workload=workload,
        applications=applications,
        rng=random.Random(f"{plan.seed}/faults"),
        say=say,
        tls=tls,
        primary=world.names[0],
    )


async def _drive(run: Run, mode: Mode) -> None:
    """Write and break until the plan is done and every writer knows what became of its last write."""
    async with asyncio.TaskGroup() as group:
        group.create_task(run.workload.run(), name="writers")
        if run.plan.applications:
            group.create_task(run.applications.run(), name="applications")
        try:
            await mode(run)
            await run.progress()
        except NotInTimeError as error:
            run.findings.violate("stuck", str(error))
        except (Unreachable, ClusterError) as error:
            run.findings.violate("stuck", f"{type(error).__name__}: {error}")
        finally:
            run.workload.stop()
            run.applications.stop()


async def _observe(run: Run, tls: ssl.SSLContext) -> tuple[list[NodeState], list[NodeState]]:
    """What each region holds once all are level: of writers, and of applications. Raises NotInTimeError."""
    world = run.world
    states, applications = [], []
    digests = await _level_digests(run)
    async with reading(world.token, tls) as session:
        for name in world.names:
            endpoints = world.endpoints([name])
            told = digests[name]
            if len(set(told)) > 1:  # else what one of them answers speaks for all
                run.findings.violate("diverged", f"the nodes of {name} are at {told}")
            values = await read_all(session, endpoints, run.workload.keys)
            kept = await read_all(session, endpoints, run.applications.written)
            states.append(NodeState(name, told[0][0], told[0][1], values))
            applications.append(NodeState(name, None, None, kept))
    return states, applications


async def _level_digests(run: Run) -> dict[str, list[tuple[int, str]]]:
    """Of every node of every region, at one position if there is one: a primary has work of its own now and then."""
    digests: dict[str, list[tuple[int, str]]] = {}
    for _ in range(LEVEL_ATTEMPTS_MAX):
        await run.in_step()
        for name in run.world.names:
            digests[name] = await asyncio.to_thread(run.world.state_digests, name)
        if len({position for each in digests.values() for position, _ in each}) == 1:
            break
    return digests


def _judge(run: Run, history: History, states: list[NodeState], applications: list[NodeState]) -> Result:
    found = run.findings
    lost = set_aside_of(history, found.promotions, found.replays, states)
    violations = list(found.violations)
    if states:
        free = unplaced(history, found.promotions)
        violations += check(without_losses(history, lost), states, unplaced=free).violations
        violations += check_promotions(history, found.promotions, lost, found.replays, states)
    for seconds in first_writes(history, found.promotions, lost):
        found.took(FIRST_WRITE, seconds)
    violations += check_applications(run.applications.written, run.applications.errors, applications)
    return Result(run.plan, history, found, len(lost), run.applications.calls, Verdict(tuple(violations)))
