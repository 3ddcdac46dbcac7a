"""What is played: rights that come and go while all nodes are asked, and things that may work only so many times."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chaos.guards.asking import World
from chaos.guards.ledger import at_most
from chaos.guards.rights import APPROLE, KINDS, SECRET, Request, proof, token
from chaos.workload import Endpoint

CALM_S = (0.05, 0.6)  # between two changes of a right
AFTER_S = 0.3  # for how long it is tried after the last one
PACE_S = 0.02  # of one who tries
UNDER_WAY_MAX = 32  # of his requests
MORE = 5  # that try, than may succeed

Scene = Callable[[World], Awaitable[None]]


@asynccontextmanager
async def besieged(
    world: World, subject: str, token: str | None, requests: Sequence[Request]
) -> AsyncIterator[None]:
    """Meanwhile, and for a moment longer, the subject's right is used on every node.

    Nobody waits for the answers: what reaches a node while it is stopped is what it looks at first when it goes on.
    """
    over = asyncio.Event()

    async def insist(node: Endpoint, request: Request) -> None:
        under_way: set[asyncio.Task[Any]] = set()
        while not over.is_set():
            if len(under_way) < UNDER_WAY_MAX:
                task = group.create_task(world.access(subject, node, *request, token=token))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(world.rng.uniform(0, 2 * PACE_S))

    async with asyncio.TaskGroup() as group:
        for node in world.endpoints:
            for request in requests:
                group.create_task(insist(node, request))
        try:
            yield
            await asyncio.sleep(AFTER_S)
        finally:
            over.set()


async def _calm(world: World) -> None:
    await asyncio.sleep(world.rng.uniform(*CALM_S))


# --- rights that come and go ---


async def taken(world: World) -> None:
    """A right goes, and comes and goes again if it can."""
    right = await world.rng.choice(KINDS)(world)
    async with besieged(world, right.subject, right.token, right.uses):
        await _calm(world)
        await right.taken(world)
        if right.give is not None:
            for change in (right.given, right.taken, right.given):
                await _calm(world)
                await change(world)


async def moved(world: World) -> None:
    """A mount moves away and back while it is written: what was acknowledged is where the mount is."""
    here, there = world.name("here"), world.name("there")
    await world.change(here, True, "POST", f"sys/mounts/{here}", {"type": "kv-v2"})
    await world.must("POST", f"{here}/data/x", {"data": {"x": "y"}})
    world.ledger.change(there, 0, 1, given=False)
    written: list[str] = []
    over = asyncio.Event()

    async def write(node: Endpoint) -> None:
        while not over.is_set():
            value = world.name("v")
            for at in (here, there):
                answer = await world.ask(node, "POST", f"{at}/data/{value}", {"data": {"x": value}})
                if answer.status == 200:
                    written.append(value)
                    break
            await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(node)) for node in world.endpoints]
        async with (
            besieged(world, here, None, [("GET", f"{here}/data/x", None)]),
            besieged(world, there, None, [("GET", f"{there}/data/x", None)]),
        ):
            for source, target in ((here, there), (there, here)):
                await _calm(world)
                await _move(world, source, target)
        over.set()
    assert all(task.done() for task in tasks)
    for value in written:
        answer = await world.must("GET", f"{here}/data/{value}")
        if answer["data"]["data"] != {"x": value}:
            world.ledger.broken.append(f"moved: {value} was acknowledged and reads {answer}")


async def _move(world: World, source: str, target: str) -> None:
    """Both rights change by one command."""
    began_ns = time.monotonic_ns()
    await world.must("POST", "sys/remount", {"from": source, "to": target})
    ended_ns = time.monotonic_ns()
    world.ledger.change(source, began_ns, ended_ns, given=False)
    world.ledger.change(target, began_ns, ended_ns, given=True)


# --- what works so many times ---


async def _all_at_once(
    world: World, number: int, method: str, path: str, body: Any = None, *, token: str | None
) -> list[int | None]:
    """So many requests, over all nodes; how each was answered."""
    nodes = [world.endpoints[each % len(world.endpoints)] for each in range(number)]
    answers = await asyncio.gather(*(world.ask(node, method, path, body, token=token) for node in nodes))
    return [answer.status for answer in answers]


def _judge(world: World, name: str, number: int, statuses: list[int | None]) -> None:
    if wrong := at_most(number, statuses):
        world.ledger.broken.append(f"{name}: {wrong}")


async def counted(world: World) -> None:
    """A token with a number of uses."""
    uses = world.rng.randint(1, 6)
    auth = await token(world, world.name("counted"), num_uses=uses)
    statuses = await _all_at_once(world, uses + MORE, "GET", SECRET, token=auth["client_token"])
    _judge(world, "a token with uses", uses, statuses)


async def wrapped(world: World) -> None:
    """A wrapping token, and what it wraps."""
    made = await world.must("GET", SECRET, headers={"X-Vault-Wrap-TTL": "120s"})
    token = made["wrap_info"]["token"]
    statuses = await _all_at_once(world, 1 + MORE, "POST", "sys/wrapping/unwrap", token=token)
    _judge(world, "a wrapping token", 1, statuses)


async def one_time(world: World) -> None:
    """Secret ids with a number of uses."""
    role, uses = world.name("role"), world.rng.randint(1, 3)
    await world.must("POST", f"{APPROLE}/role/{role}", {"secret_id_num_uses": uses})
    login = await proof(world, role)
    statuses = await _all_at_once(world, uses + MORE, "POST", f"{APPROLE}/login", login, token="")
    _judge(world, "a secret id", uses, statuses)


async def compared(world: World) -> None:
    """Writers on all nodes who each say which version they have seen: one of them writes the next."""
    path = f"secret/data/guards/{world.name('cas')}"
    for version in range(3):
        body = {"data": {"x": "y"}, "options": {"cas": version}}
        statuses = await _all_at_once(world, 1 + MORE, "POST", path, body, token=None)
        _judge(world, "a check-and-set", 1, statuses)
        if 200 not in statuses:
            return  # whether the version is there is not known


SCENES: tuple[Scene, ...] = (
    taken,
    taken,
    moved,
    counted,
    wrapped,
    one_time,
    compared,
)


async def play(world: World, seconds: float, *, at_once: int = 3) -> None:
    """Scene after scene, some at a time, for so long and until the last of them is over. Raises GaveUpError."""
    ends = asyncio.get_running_loop().time() + seconds

    async def one_after_another() -> None:
        while asyncio.get_running_loop().time() < ends:
            scene = world.rng.choice(SCENES)
            await scene(world)
            world.ledger.played[scene.__name__] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_another())
