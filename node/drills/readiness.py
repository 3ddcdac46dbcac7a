"""What a node knows of itself that matters when something fails, and what the others tell of themselves."""

import asyncio
import contextlib
import dataclasses
import shutil
from typing import Any

import msgspec

from consensus.api import Role
from node.autopilot.health import failure_tolerance
from node.autopilot.loop import Autopilot
from node.backup.automatic import Automatic
from node.core.core import Core
from node.diagnose import keys
from node.diagnose.finding import Level
from node.identity import Layout
from node.regions import control, stream
from node.regions.links import Interrupted, Unreachable
from node.regions.worker import RegionsWorker
from storage import regions as roles
from storage.rows import Region

ASK_TIMEOUT_S = 3.0
READINESS = "/v1/sys/regions/link/readiness"


async def of_this_node(core: Core, automatic: Automatic, autopilot: Autopilot) -> dict[str, Any]:
    """failure_tolerance is known to the leader alone; seal_reachable is None where people open the store."""
    store, settings = core.unsealed, core.settings
    status = store.status()
    leads = status.role is Role.LEADER
    seal = await asyncio.to_thread(lambda: next(iter(keys.seal(settings, Layout(settings.data_dir)))))
    reachable = {Level.OK: True, Level.FAIL: False}.get(seal.level)
    return {
        "node_id": settings.node_id,
        "region": settings.region,
        "leader_id": status.leader_id,
        "is_leader": leads,
        "voters": len(status.members),
        "failure_tolerance": failure_tolerance(autopilot.servers(store)) if leads else None,
        "seal_type": core.lifecycle.seal_file.type,
        "seal_reachable": reachable,
        "seal_problem": seal.message if reachable is False else "",
        **_lag(core),
        "snapshot_age_seconds": await asyncio.to_thread(automatic.newest_age_s),
        "clients": core.metrics.clients(),
        "disk_free_bytes": (await asyncio.to_thread(shutil.disk_usage, settings.data_dir)).free,
    }


def _lag(core: Core) -> dict[str, Any]:
    """What a promotion of this region would lose now, as far as this node knows."""
    if core.regions is None or core.unsealed.region_role() == roles.ALONE:
        return {"lag_entries": None, "lag_seconds": None}
    return control.lag(core.regions, stream.standing(core.unsealed))


async def plan(core: Core, automatic: Automatic, autopilot: Autopilot) -> dict[str, Any]:
    """The leader's view: its members, every region, and what the nodes of the other regions tell of themselves."""
    store = core.unsealed
    servers = autopilot.servers(store)
    told: dict[str, Any] = {
        "node": await of_this_node(core, automatic, autopilot),
        "cluster": {
            "leader": core.settings.node_id,
            "failure_tolerance": failure_tolerance(servers),
            "members": [
                {"node_id": each.id, "voter": each.voter, "healthy": each.healthy, "leader": each.leader}
                for each in servers
            ],
        },
        "regions": None,
    }
    if core.regions is not None and store.region_role() != roles.ALONE:
        own = store.reads.region()[0]
        known = {each.name: each for each in store.reads.regions() if each.name != own}
        nodes = await asyncio.gather(*(_of_region(core.regions, each) for each in known.values()))
        by_name = dict(zip(known, nodes, strict=True))
        overview = control.overview(core)
        for entry in overview["regions"]:
            entry["nodes"] = by_name.get(entry["name"], [])
            for each in sorted(entry["nodes"], key=lambda node: not node["is_leader"])[:1]:
                entry["lag_seconds"] = each["lag_seconds"]  # nobody knows it but that region
        told["regions"] = overview
    return told


async def _of_region(worker: RegionsWorker, region: Region) -> list[dict[str, Any]]:
    """Every node of another region that answers; how it stands is known from now."""
    with contextlib.suppress(Unreachable, Interrupted):
        await worker.hello(region)
    return [
        each
        for each in await asyncio.gather(*(_of_node(worker, region, link) for link in region.links))
        if each is not None
    ]


async def _of_node(worker: RegionsWorker, region: Region, link: str) -> dict[str, Any] | None:
    only = dataclasses.replace(region, links=(link,))
    try:
        answer = await worker.ask(only, READINESS, body=b"{}", timeout_s=ASK_TIMEOUT_S)
        if answer.status != 200:
            return None
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (Unreachable, Interrupted, msgspec.MsgspecError):
        return None
