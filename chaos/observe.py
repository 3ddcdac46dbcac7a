"""Reads, from every node's own state, all that a run wrote, once the cluster is whole and quiet."""

import asyncio
import json
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import aiohttp

from chaos.checker import NodeState
from chaos.workload import MOUNT, Endpoint

READERS = 16
READ_TIMEOUT_S = 20.0
READ_ATTEMPTS_MAX = 5
POLL_S = 0.2
STALE_OK = {"X-Strongroom-Consistency": "stale-ok"}
STATUS_PATH = "/v1/sys/cluster/node"


class NotConvergedError(Exception):
    """The nodes did not come to the same applied index in time."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a node is: its applied index, and the digest of its state if it offers one."""

    applied_index: int
    digest: str | None


async def observe(
    *, endpoints: Sequence[Endpoint], token: str, tls: ssl.SSLContext, keys: Collection[str], timeout: float
) -> tuple[NodeState, ...]:
    """Wait until all nodes have applied the same index, then read every version of every key on each of them.

    Raises NotConvergedError after `timeout` seconds. The reads are local ones: nobody asks the leader.
    """
    async with reading(token, tls) as session:
        positions = await _converge(session, endpoints, timeout)
        states = []
        for endpoint in endpoints:
            values = await read_all(session, [endpoint], keys)
            position = positions[endpoint.node]
            states.append(NodeState(endpoint.node, position.applied_index, position.digest, values))
    return tuple(states)


def reading(token: str, tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """A session that reads what a node has itself."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0),
        headers={"X-Vault-Token": token, **STALE_OK},
        timeout=aiohttp.ClientTimeout(total=READ_TIMEOUT_S),
    )


async def _converge(
    session: aiohttp.ClientSession, endpoints: Sequence[Endpoint], timeout: float
) -> dict[str, Position]:
    """The nodes' positions once all are at one index, twice in a row."""
    found: list[Position | None] = []
    try:
        async with asyncio.timeout(timeout):
            while True:
                before, found = found, [await _position(session, endpoint) for endpoint in endpoints]
                known = [position for position in found if position is not None]
                level = len({position.applied_index for position in known}) == 1
                if found == before and len(known) == len(endpoints) and level:
                    return {endpoint.node: at for endpoint, at in zip(endpoints, known, strict=True)}
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NotConvergedError(f"after {timeout:.0f} s the nodes are at {found}") from None


async def _position(session: aiohttp.ClientSession, endpoint: Endpoint) -> Position | None:
    try:
        async with session.get(endpoint.url + STATUS_PATH) as response:
            body = json.loads(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    data = body.get("data") or body
    if response.status != 200 or "applied_index" not in data:  # sealed: it has no state to speak of
        return None
    digest = data.get("state_digest")
    return Position(int(data["applied_index"]), str(digest) if digest else None)


async def read_all(
    session: aiohttp.ClientSession, endpoints: Sequence[Endpoint], keys: Collection[str]
) -> dict[str, dict[int, str]]:
    """Every version of every key, each key from one of the nodes, which hold the same."""
    values: dict[str, dict[int, str]] = {}
    waiting = iter(sorted(keys))

    async def reader(endpoint: Endpoint) -> None:
        for key in waiting:
            values[key] = await _versions(session, endpoint, key)

    async with asyncio.TaskGroup() as group:
        for number in range(max(READERS, len(endpoints))):
            group.create_task(reader(endpoints[number % len(endpoints)]))
    return values


async def _versions(session: aiohttp.ClientSession, endpoint: Endpoint, key: str) -> dict[int, str]:
    """Every version of a key, the latest first."""
    url = f"{endpoint.url}/v1/{MOUNT}/data/{key}"
    latest = await _get(session, url)
    if latest is None:
        return {}
    version, value = latest
    versions = {version: value}
    for older in range(version - 1, 0, -1):
        found = await _get(session, f"{url}?version={older}")
        if found is not None:
            versions[found[0]] = found[1]
    return versions


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, str] | None:
    """(version, value), or None if the node says that there is none. All else is tried again, then raised."""
    for attempt in range(1, READ_ATTEMPTS_MAX + 1):
        try:
            async with session.get(url) as response:
                if response.status == 404:
                    return None
                response.raise_for_status()
                data = json.loads(await response.read())["data"]
                return int(data["metadata"]["version"]), str(data["data"]["value"])
        except (aiohttp.ClientError, TimeoutError, OSError):
            if attempt == READ_ATTEMPTS_MAX:
                raise
            await asyncio.sleep(POLL_S)
    raise AssertionError("unreachable")
