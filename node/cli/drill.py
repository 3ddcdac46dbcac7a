"""`strongroom drill ...`: rehearse what is to happen when something fails, and keep what came of it."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from node.cli import drill_plan
from node.cli.client import Client, needed
from node.cli.drill_probe import Probe, wait_for
from node.cli.drill_run import SETTLE_S, Run, check, conduct, look, members
from node.cli.flags import DURATION, NATURAL, Group, flag, switch
from node.cli.output import REMOTE_ERROR, LocalError, Output, RemoteError, table
from node.cli.remote import Prints, remote
from node.cli.values import Duration
from node.drills import obstacles

WITHOUT_S = 2.0
IN_STEP_COMMANDS = 100
REPORT_BYTES_MAX = 256 << 10
OPERATOR_S = 600.0  # how long an operator has for what the drill asks of him
NODE_TIMEOUT_S = 2.0


@click.group(cls=Group, lazy={"isolated": "node.cli.drill_isolated:isolated"})
def drill() -> None:
    """Rehearse the loss of a leader, a node or a region, and prove that a snapshot opens."""


_force = switch("force", help="Even if it would hurt.")


@drill.command()
@remote(Prints.FORMATS)
def plan(client: Client, out: Output) -> int:
    """Show what would happen if something failed now; changes nothing. Exit code 2 if something speaks against it."""
    told = drill_plan.gather(client)
    out.show(told, drill_plan.text(told))
    against = told["against"]
    return REMOTE_ERROR if against["leader"] or against["node"] or any(against["region"].values()) else 0


@drill.command()
@_force
@remote(Prints.FORMATS)
def leader(client: Client, out: Output, force: bool) -> int:
    """Let the leader step down, and measure how long no write is acknowledged."""
    before = look(client)
    forced = check("leader", obstacles.to_leader(before), force=force)
    old, nodes = before["cluster"]["leader"], members(client)
    return conduct(_measured(client, out, "leader", old, forced, nodes), partial(_step_down, old, nodes))


def _step_down(old: str, nodes: dict[str, Client], run: Run) -> None:
    run.warm_up()
    began = time.monotonic()
    with run.step(f"Asking {old} to step down"):
        nodes[old].call("PUT", "sys/step-down", doing=f"{old} did not step down")
    with run.step("Waiting for another leader"):
        wait_for("another leader", lambda: _leader_of(run.client) not in ("", old), SETTLE_S)
    with run.step("Waiting for an acknowledged write"):
        run.wait_for_write(time.monotonic())
    run.note(f"{_leader_of(run.client)} leads now; no write was acknowledged for {run.measure(began)} ms")


@drill.command()
@click.argument("node_id", required=False, default="")
@flag(
    "directory",
    click.Path(path_type=Path),
    default=Path(".strongroom"),
    help="The local cluster that the node is of.  [default: .strongroom]",
)
@flag("for", DURATION, variable="without", help="How long the others are watched without it.  [default: 2s]")
@switch("kill", help="By SIGKILL: as if the machine had failed.")
@switch("watch", help="Ask nobody: somebody else stops the node, and starts it again.")
@_force
@remote(Prints.FORMATS)
def node(
    client: Client,
    out: Output,
    node_id: str,
    directory: Path,
    without: Duration | None,
    kill: bool,
    watch: bool,
    force: bool,
) -> int:
    """Stop NODE_ID (a follower unless it is named), watch the others, and its return.

    A node of a local cluster is stopped and started here; for any other the operator is asked to do that.
    """
    before = look(client)
    healthy = [each for each in before["cluster"]["members"] if each["healthy"] and each["voter"]]
    victim = node_id or next((each["node_id"] for each in healthy if not each["leader"]), "")
    if not victim:
        raise RemoteError("There is no healthy follower to stop.")
    forced = check("node", obstacles.to_node(before, victim), force=force)
    nodes = members(client)
    if victim not in nodes:
        raise LocalError(f"There is no node {victim}; there are {', '.join(sorted(nodes))}.")
    hands = _hands(directory, victim, nodes[victim], kill=kill, watch=watch)
    others = {name: each for name, each in nodes.items() if name != victim}
    run = _measured(next(iter(others.values()), client), out, "node", victim, forced, others)
    without_s = WITHOUT_S if without is None else without / 10**9
    return conduct(run, partial(_lose_node, nodes[victim], victim, hands, without_s))


@dataclass(frozen=True, slots=True)
class Hands:
    """How a node is stopped and started. `asks`: that is somebody else's to do, and is said before it is waited for."""

    stop: Callable[[], object]
    start: Callable[[], object]
    asks: bool = False


def _hands(directory: Path, victim: str, its: Client, *, kill: bool, watch: bool) -> Hands:
    """Those of the drill for a node of a local cluster, else the operator's. Raises LocalError."""
    from node.cli.local_cluster import LocalCluster
    from node.cli.local_layout import read_marker

    below = directory.iterdir() if directory.is_dir() else ()  # a cluster for each of several regions
    for place in (each for each in (directory, *below) if read_marker(each) is not None):
        local = LocalCluster.open(place)
        if any(each.id == victim and each.api_address == its.address for each in local.nodes):
            stop = local.kill if kill else local.stop
            return Hands(partial(stop, victim), partial(local.start, victim))
    if not watch and not sys.stdin.isatty():
        raise LocalError(
            f"{victim} is no node of a local cluster in {directory}, and nobody can be asked here to stop it;"
            " -watch waits until somebody does."
        )
    return Hands(
        partial(
            click.echo, f"Stop {victim} now ({its.address}): this waits until it does not answer.", err=True
        ),
        partial(click.echo, f"Start {victim} again: this waits until it has caught up.", err=True),
        asks=True,
    )


def _lose_node(its: Client, victim: str, hands: Hands, without_s: float, run: Run) -> None:
    run.warm_up()
    began = time.monotonic()
    restarted = run.undone(f"Starting {victim} again", hands.start)
    if hands.asks:
        hands.stop()
    with run.step(f"Waiting until {victim} is stopped" if hands.asks else f"Stopping {victim}"):
        if not hands.asks:
            hands.stop()
        wait_for(f"the end of {victim}", lambda: _account(its) is None, OPERATOR_S)
    with run.step(f"Writing and reading without it, for {without_s:g} s at least"):
        run.wait_for_write(time.monotonic())
        time.sleep(without_s)
        run.wait_for_write(time.monotonic())
    run.note(f"without {victim} no write was acknowledged for {run.measure(began)} ms at the longest")
    goal = (_account(run.client) or {}).get("commit_index", 0)
    hands.start()
    restarted()
    with run.step(f"Waiting until {victim} has caught up"):
        wait_for(
            f"the return of {victim}",
            lambda: ((_account(its) or {}).get("applied_index") or 0) >= goal,
            OPERATOR_S,
        )
    run.wait_for_write(time.monotonic())
    run.measure(began)


@drill.command()
@click.argument("target", required=False, default="")
@flag("max-lag", NATURAL, help="So many commands it may be behind.  [default: 1000]")
@_force
@remote(Prints.FORMATS)
def region(client: Client, out: Output, target: str, max_lag: int | None, force: bool) -> int:
    """Hand over to region TARGET (the only other one unless it is named), and back; measure both."""
    before = look(client)
    regions = before["regions"]
    if regions is None:
        raise RemoteError("There are no regions: `strongroom region create` founds the first one.")
    home = regions["primary"]
    others = [each["name"] for each in regions["regions"] if each["name"] != home]
    if not target and len(others) != 1:
        raise LocalError(f"Which region? There are {', '.join(others) or 'no others'}.")
    target = target or others[0]
    limit = obstacles.DRILL_LAG_MAX if max_lag is None else max_lag
    forced = check("region", obstacles.to_switchover(before, target, limit), force=force)
    run = _measured(client, out, "region", target, forced, members(client))
    run.lag_entries = next(each["lag_entries"] for each in regions["regions"] if each["name"] == target)
    return conduct(run, partial(_there_and_back, home, target))


def _there_and_back(home: str, target: str, run: Run) -> None:
    run.warm_up()
    handed_back = run.undone(f"Handing back to {home}", partial(_switch, run.client, home))
    for name in (target, home):
        began = time.monotonic()
        with run.step(f"Handing over to {name}"):
            _switch(run.client, name)
            run.wait_for_write(time.monotonic())
        if name == home:
            handed_back()
        run.note(f"on the way to {name} no write was acknowledged for {run.measure(began)} ms at the longest")
        with run.step("Waiting until all regions are in step"):
            wait_for("all regions in step", lambda: _in_step(run.client), SETTLE_S)


def _switch(client: Client, target: str) -> None:
    """Until `target` orders writes, as the node that is asked knows it. Raises RemoteError."""
    wait_for("all regions in step", lambda: _in_step(client), SETTLE_S)
    if _regions(client)["primary"] != target:
        client.call("POST", "sys/regions/switchover", {"name": target}, doing="The switchover was refused")
        wait_for(
            f"{target} to order writes", lambda: _roles(_regions(client)).get(target) == "primary", SETTLE_S
        )


def _roles(regions: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["role"] for each in regions["regions"]}


def _in_step(client: Client) -> bool:
    """As far as the node that is asked knows; what travels while the load runs does not count."""
    regions = _regions(client)
    roles = _roles(regions)
    settled = roles.pop(regions["primary"], "") == "primary" and set(roles.values()) <= {"secondary"}
    positions = [each["position"] for each in regions["regions"]]
    if not settled or regions["stuck"] or None in positions:
        return False
    return bool(max(positions) - min(positions) <= IN_STEP_COMMANDS)


def _regions(client: Client) -> dict[str, Any]:
    told: dict[str, Any] = needed(client.call("GET", "sys/regions"), "data")
    return told


@drill.command()
@switch("verify", help="Check every signature.")
@flag("key", default="", help="The public key to verify with, if the server is not to be believed.")
@flag(
    "keep",
    click.Path(path_type=Path),
    help="Keep the report in this file, which could not be kept at the time.",
)
@remote(Prints.FORMATS)
def history(client: Client, out: Output, verify: bool, key: str, keep: Path | None) -> int:
    """List the reports, newest first. With -verify, exit code 2 if a signature is not good.

    -keep takes what a drill printed with -format=json.
    """
    if keep is not None:
        client.call("POST", "sys/drills/history", {"report": _printed(keep)}, doing="The report was not kept")
    data = needed(client.call("GET", "sys/drills/history"), "data")
    reports: list[dict[str, Any]] = data["reports"]
    headings = ["Report", "Target", "Result", "RTO (ms)", "Lost", "Requests", "Failed", "By"]
    rows = [_row(each) for each in reports]
    good = True
    if verify:
        from node.drills.report import verifies

        verdicts = [verifies(each, key or data["public_key"]) for each in reports]
        good = all(verdicts)
        headings.append("Signature")
        for row, verdict in zip(rows, verdicts, strict=True):
            row.append("good" if verdict else "BAD")
        data |= {"verified": dict(zip((each["id"] for each in reports), verdicts, strict=True))}
    out.show(data, table(headings, rows, empty="-"))
    return 0 if good else REMOTE_ERROR


def _printed(file: Path) -> dict[str, Any]:
    """The report in what a drill printed. Raises LocalError."""
    with file.open("rb") as opened:
        raw = opened.read(REPORT_BYTES_MAX)
    try:
        report = json.loads(raw)["report"]
    except (ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{file} is not what a drill prints with -format=json.") from error
    if not isinstance(report, dict):
        raise LocalError(f"{file} is not what a drill prints with -format=json.")
    return report


def _row(record: dict[str, Any]) -> list[object]:
    report = record["report"]
    return [
        record["id"],
        report["target"],
        report["ending"],
        report["rto_ms"],
        report["rpo_writes"],
        report["requests"],
        report["requests_failed"],
        record["by"],
    ]


def _measured(
    client: Client, out: Output, kind: str, target: str, forced: bool, readers: dict[str, Client]
) -> Run:
    writer = replace(client, connections=None)
    return Run(client, out, kind, target, forced, Probe(writer, list(readers.values())))


def _leader_of(client: Client) -> str:
    return str((_account(client) or {}).get("leader_id") or "")


def _account(client: Client) -> dict[str, Any] | None:
    """A node's account of itself; None if it does not answer."""
    try:
        answer = client.send("GET", "sys/cluster/node", timeout=NODE_TIMEOUT_S)
    except RemoteError:
        return None
    return answer.body["data"] if answer.status == 200 else None
