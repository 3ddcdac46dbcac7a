"""`strongroom cluster status`: every member asked for itself, side by side."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from node.cli.client import Client, needed, payload
from node.cli.flags import Group
from node.cli.output import REMOTE_ERROR, Output, RemoteError, table
from node.cli.remote import Prints, remote

NODE_TIMEOUT_S = 2.0
ASKED_AT_ONCE_MAX = 16
NOT_TOLD = "-"

_TOLD = (
    "role",
    "term",
    "last_index",
    "commit_index",
    "applied_index",
    "leader_id",
    "sealed",
    "initialized",
    "version",
    "pid",
)


@click.group(cls=Group)
def cluster() -> None:
    """Look at the cluster as a whole."""


@cluster.command()
@remote(Prints.FORMATS)
def status(client: Client, out: Output) -> int:
    """Ask every member how it is. Exit code 0: there is a leader, 2: there is none."""
    report = survey(client)
    out.show(report, render(report))
    return 0 if report["leader_id"] else REMOTE_ERROR


def survey(client: Client) -> dict[str, Any]:
    """The members by sys/cluster/nodes of one node (with the token), then each member by its own account.

    The shape is a contract, described in docs/cli.md. Raises RemoteError if the list cannot be had.
    """
    members: list[dict[str, Any]] = needed(client.call("GET", "sys/cluster/nodes"), "data", "nodes")
    with ThreadPoolExecutor(max_workers=ASKED_AT_ONCE_MAX) as pool:
        nodes = list(pool.map(lambda member: _ask(client, member), members))
    newest = max((n["last_index"] for n in nodes if n["last_index"] is not None), default=None)
    for node in nodes:
        known = newest is not None and node["applied_index"] is not None
        node["lag"] = max(0, newest - node["applied_index"]) if known else None
    awake = [n for n in nodes if n["reachable"] and n["term"] is not None]
    latest = max(awake, key=lambda n: (n["term"], n["leader_id"] is not None), default=None)
    return {
        "leader_id": latest["leader_id"] if latest else None,
        "term": latest["term"] if latest else None,
        "last_index": newest,
        "nodes": nodes,
    }


def _ask(client: Client, member: dict[str, Any]) -> dict[str, Any]:
    """One member's own account; what it cannot tell is None."""
    told: dict[str, Any] = {}
    error = None
    try:
        asking = Client(member["api_address"], context=client.context)
        answer = asking.send("GET", "sys/cluster/node", timeout=NODE_TIMEOUT_S)
        if answer.status == 200:
            told = payload(answer.body)
        else:
            error = f"{member['api_address']} answered {answer.status}: {answer.errors}"
    except RemoteError as e:
        error = str(e)
    return {
        "node_id": member["node_id"],
        "region": member["region"],
        "api_address": member["api_address"],
        "cluster_address": member["cluster_address"],
        "voter": member["voter"],
        "reachable": error is None,
        "error": error,
        **{key: told.get(key) if told.get(key) != "" else None for key in _TOLD},
    }


def render(report: dict[str, Any]) -> str:
    """The report as a table and a line."""
    rows = [
        [
            node["node_id"],
            node["region"],
            node["api_address"],
            _role(node),
            node["term"],
            node["last_index"],
            node["lag"],
            node["sealed"],
            node["pid"],
        ]
        for node in report["nodes"]
    ]
    headings = ("Node", "Region", "Address", "Role", "Term", "Last Index", "Lag", "Sealed", "PID")
    leader = f"The leader is {report['leader_id']}." if report["leader_id"] else "There is no leader."
    return f"{table(headings, rows, empty=NOT_TOLD)}\n\n{leader}"


def _role(node: dict[str, Any]) -> object:
    if not node["reachable"]:
        return "unreachable"
    return node["role"] if node["voter"] or not node["role"] else f"{node['role']} (no vote yet)"
