"""What speaks against a drill, or a promotion, now: pure functions of what `sys/drills/plan` answers.

Each returns sentences; none of them: go ahead.
"""

from collections.abc import Mapping
from typing import Any

CONTACT_FRESH_S = 2.0
DRILL_LAG_MAX = 1_000  # commands: a switchover makes writers wait until they have travelled

Plan = Mapping[str, Any]


def to_leader(plan: Plan) -> list[str]:
    """Against stepping the leader down."""
    return _without_writes(plan["regions"]) + _without_spare(plan["cluster"])


def to_node(plan: Plan, node_id: str = "") -> list[str]:
    """Against stopping one node."""
    members = {each["node_id"]: each for each in plan["cluster"]["members"]}
    if node_id and node_id not in members:
        return [f"there is no node {node_id}; there are {', '.join(sorted(members))}"]
    if node_id and not members[node_id]["healthy"]:
        return [f"{node_id} is not healthy as it is"]
    return _without_writes(plan["regions"]) + _without_spare(plan["cluster"])


def to_switchover(plan: Plan, target: str, lag_max: int = DRILL_LAG_MAX) -> list[str]:
    """Against handing over to `target`, and back."""
    regions = plan["regions"]
    if regions is None:
        return ["there are no regions"]
    entries = {each["name"]: each for each in regions["regions"]}
    entry = entries.get(target)
    if entry is None:
        return [f"there is no region {target}; there are {', '.join(sorted(entries))}"]
    if target == regions["primary"]:
        return [f"{target} orders writes already"]
    found = [f"{regions['region']} does not get on: {regions['stuck']}"] if regions["stuck"] else []
    found += [_out_of_touch(each) for each in entries.values() if _is_out_of_touch(each, regions["region"])]
    if [each["name"] for each in entries.values() if each["role"] == "primary"] != [regions["primary"]]:
        found.append("it is not clear which region orders writes")
    if entry["role"] != "secondary":
        found.append(f"{target} is {entry['role']}, and does not follow")
    if entry["lag_entries"] is None:
        found.append(f"nobody here knows how far {target} is behind: ask a node of {regions['primary']}")
    elif entry["lag_entries"] > lag_max:
        found.append(f"{target} is {entry['lag_entries']} commands behind (at most {lag_max})")
    return found


def to_promotion(plan: Plan, target: str) -> list[str]:
    """Against promoting `target` now, as if the primary were gone, and what it would cost."""
    regions = plan["regions"]
    if regions is None:
        return ["there are no regions"]
    entries = {each["name"]: each for each in regions["regions"]}
    entry, primary = entries[target], entries.get(regions["primary"])
    nodes = [plan["node"]] if target == regions["region"] else entry["nodes"]
    found = []
    if primary is not None and not _is_out_of_touch(primary, regions["region"]):
        found.append(f"{primary['name']} answers: `region switchover {target}` hands over without a loss")
    if not nodes:
        found.append(f"no node of {target} answers")
    elif not any(each["leader_id"] for each in nodes):
        found.append(f"{target} has no leader")
    found += [
        f"{each['node_id']}: its seal cannot be opened: {each['seal_problem']}"
        for each in nodes
        if each["seal_reachable"] is False
    ]
    if entry["lag_entries"] or entry["lag_seconds"]:
        entries_lost, seconds = entry["lag_entries"], entry["lag_seconds"]
        found.append(
            f"{'an unknown number of' if entries_lost is None else entries_lost} commands, all of the last"
            f" {'unknown' if seconds is None else seconds} seconds, would be lost: -accept-loss, or -max-lag"
        )
    return found


def _without_writes(regions: Mapping[str, Any] | None) -> list[str]:
    """A drill measures by writes, which only one region orders."""
    if regions is None or regions["primary"] == regions["region"]:
        return []
    entry = next((each for each in regions["regions"] if each["name"] == regions["primary"]), None)
    if entry is None:
        return ["no region orders writes, so there is nothing to measure"]
    if _is_out_of_touch(entry, regions["region"]):
        return [f"{entry['name']} orders writes and does not answer, so there is nothing to measure"]
    return []


def _without_spare(cluster: Mapping[str, Any]) -> list[str]:
    voters = [each for each in cluster["members"] if each["voter"]]
    if len(voters) == 1:
        return ["the cluster has one voter: nobody could take over"]
    if cluster["failure_tolerance"] < 1:
        healthy = sum(each["healthy"] for each in voters)
        return [
            f"{healthy} of {len(voters)} voters are healthy: the loss of another one would stop all writes"
        ]
    return []


def _is_out_of_touch(entry: Mapping[str, Any], own: str) -> bool:
    contact_s = entry["last_contact_seconds"]
    return entry["name"] != own and (contact_s is None or contact_s > CONTACT_FRESH_S)


def _out_of_touch(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} does not answer"
