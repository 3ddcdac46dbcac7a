"""What `make up` shows: a secret written here is read there, and the cluster outlives its leader."""

import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Any

import click

from node.cli.http_exchange import Unreachable
from node.cli.local_cluster import ClusterError, LocalCluster
from node.cli.progress import step

WRITE_TIMEOUT_S = 2.0
WITHOUT_LEADER_S_MAX = 60.0
RETRY_S = 0.02
PATH = "secret/data/hello"


@dataclass(frozen=True, slots=True)
class Written:
    version: int
    attempts: int


def demonstrate(cluster: LocalCluster) -> None:
    """Write, read elsewhere, kill the leader, write on, bring it back. Needs three nodes. Raises ClusterError."""
    leader = cluster.wait_leader()
    here, there = (node.id for node in cluster.nodes if node.id != leader)
    greeting = f"first greeting, {secrets.token_hex(3)}"
    with step(f"Writing {PATH} through the follower {here}"):
        write(cluster, here, greeting)
    with step(f"Reading it through the follower {there}"):
        expect(cluster, there, greeting)

    greeting = f"written after the leader's death, {secrets.token_hex(3)}"
    with step(f"Killing the leader {leader} (SIGKILL), and writing through {here} until it is acknowledged"):
        started = time.monotonic()
        cluster.kill(leader)
        written = write(cluster, here, greeting)
        without_leader_s = time.monotonic() - started
    with step(f"Reading it through {there}"):
        expect(cluster, there, greeting)
    successor = cluster.wait_leader(other_than=leader)
    with step(f"Starting {leader} again, until it has caught up"):
        cluster.start(leader)
        cluster.wait_caught_up(leader)
    with step(f"Reading it through {leader}"):
        expect(cluster, leader, greeting)
    click.echo(
        f"\nWithout its leader the cluster took no writes for {without_leader_s:.2f} s, until {successor} led it"
        f" ({written.attempts} {'attempt' if written.attempts == 1 else 'attempts'})."
        f"\nNothing that had been acknowledged was lost: {PATH} is at version {written.version} on all three nodes."
    )


def write(cluster: LocalCluster, node_id: str, greeting: str) -> Written:
    """Write until acknowledged. All attempts carry one request id, so that together they write at most once."""
    headers = {"X-Strongroom-Request-Id": uuid.uuid4().hex}
    deadline = time.monotonic() + WITHOUT_LEADER_S_MAX
    attempts = 0
    while True:
        attempts += 1
        why, answer = _attempt(cluster, node_id, greeting, headers)
        if answer is not None:
            return Written(answer["data"]["version"], attempts)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{node_id} took no write for {WITHOUT_LEADER_S_MAX:g} s; the last answer: {why}."
            )
        time.sleep(RETRY_S)


def _attempt(
    cluster: LocalCluster, node_id: str, greeting: str, headers: dict[str, str]
) -> tuple[str, dict[str, Any] | None]:
    body = {"data": {"greeting": greeting}}
    try:
        status, answer, _ = cluster.request(
            node_id, "POST", PATH, body, headers=headers, timeout=WRITE_TIMEOUT_S
        )
    except Unreachable as e:
        return str(e), None
    if status == 200:
        return "", answer
    if 400 <= status < 500 and status != 429:
        raise ClusterError(f"{node_id} refused to write {PATH} with {status}: {answer}")
    return f"{status} {answer}", None


def expect(cluster: LocalCluster, node_id: str, greeting: str) -> None:
    """Read, and insist on what was written: a stale answer here would be a broken promise."""
    found = cluster.must(node_id, "GET", PATH)["data"]["data"]["greeting"]
    if found != greeting:
        raise ClusterError(f"{node_id} answered an older version of {PATH} ({found!r}).")
