"""`strongroom drill plan`: the leader's view, each node's own, and what speaks against which drill."""

from typing import Any

from node.cli.client import Client, needed
from node.cli.drill_run import look, members
from node.cli.output import RemoteError, table

_NODE_HEADINGS = (
    "Node",
    "Region",
    "Leader",
    "Seal",
    "Seal opens",
    "Newest snapshot (s)",
    "Clients",
    "Free (MiB)",
)
_REGION_HEADINGS = ("Region", "Role", "Lag", "Lag (s)", "Last contact (s)", "Nodes that answer")


def gather(client: Client) -> dict[str, Any]:
    """The plan, with what every node of this region tells of itself under "nodes"; None for one that does not."""
    plan = look(client)
    plan["nodes"] = {name: _of_node(each) for name, each in members(client).items()}
    return plan


def _of_node(client: Client) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = needed(client.call("GET", "sys/drills/node"), "data")
    except RemoteError:
        return None
    return told


def text(plan: dict[str, Any]) -> str:
    """The plan for people."""
    cluster = plan["cluster"]
    healthy = sum(each["healthy"] and each["voter"] for each in cluster["members"])
    voters = sum(each["voter"] for each in cluster["members"])
    spare = cluster["failure_tolerance"]
    lines = [
        f"{cluster['leader']} leads; {healthy} of {voters} voters are healthy; {spare} more may fail.",
        "",
        table(_NODE_HEADINGS, _node_rows(plan), empty="-"),
    ]
    if plan["regions"] is not None:
        lines += [
            "",
            table(_REGION_HEADINGS, [_region_row(each) for each in plan["regions"]["regions"]], empty="-"),
        ]
    lines += ["", *_verdict("drill leader", plan["against"]["leader"])]
    lines += _verdict("drill node", plan["against"]["node"])
    for name, reasons in plan["against"]["region"].items():
        lines += _verdict(f"drill region {name}", reasons)
    for name, reasons in plan["against"]["promotion"].items():
        lines += _verdict(f"region promote, asked of {name}", reasons)
    return "\n".join(lines)


def _node_rows(plan: dict[str, Any]) -> list[list[object]]:
    silent = [[name, None, "no answer"] + [None] * 5 for name, told in plan["nodes"].items() if told is None]
    told = [each for each in plan["nodes"].values() if each is not None]
    for region in (plan["regions"] or {"regions": ()})["regions"]:
        told += region["nodes"]
    return [_node_row(each) for each in told] + silent


def _node_row(told: dict[str, Any]) -> list[object]:
    age_s = told["snapshot_age_seconds"]
    return [
        told["node_id"],
        told["region"],
        told["is_leader"],
        told["seal_type"],
        "by people" if told["seal_reachable"] is None else told["seal_reachable"],
        None if age_s is None else round(age_s),
        told["clients"],
        told["disk_free_bytes"] >> 20,
    ]


def _region_row(told: dict[str, Any]) -> list[object]:
    return [
        told["name"],
        told["role"],
        told["lag_entries"],
        told["lag_seconds"],
        told["last_contact_seconds"],
        len(told["nodes"]) or None,
    ]


def _verdict(what: str, reasons: list[str]) -> list[str]:
    if not reasons:
        return [f"{what}: nothing speaks against it."]
    return [f"{what}: refused now.", *(f"  * {reason}" for reason in reasons)]
