"""sys/replication/: the regions of a store in the shapes of Vault Enterprise, for dashboards that know them.

Regions are its disaster recovery: each has everything.
"""

import time
from typing import Any

from node.auth.fields import SECOND_NS, rfc3339
from node.core.core import Core
from node.core.fields import Field, Kind, in_path
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.errors import NotFound
from node.regions import control
from storage import regions as roles

_MODES = (
    Field("dr", Kind.OBJECT, "How this region stands to the others."),
    Field("performance", Kind.OBJECT, "Always disabled."),
)
_MODE = tuple(
    Field(name, Kind.ANY)
    for name in (
        *("mode", "cluster_id", "last_wal", "state", "last_remote_wal"),
        *(
            "known_secondaries",
            "secondaries",
            "primaries",
            "known_primary_cluster_addrs",
            "primary_cluster_addr",
        ),
        *("secondary_id", "connection_state", "epoch", "lag_entries", "lag_seconds"),
    )
)


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/replication/status",
            {Operation.READ: status},
            authenticated=False,
            audited=False,
            summary="How this region stands to the others, in Vault's shape.",
            answers={Operation.READ: _MODES},
        ),
        Route(
            "sys/replication/{mode}/status",
            {Operation.READ: status_of_mode},
            authenticated=False,
            audited=False,
            summary="The same for one mode of Vault's.",
            fields=(in_path("mode", "dr, or performance."),),
            answers={Operation.READ: _MODE},
        ),
    ]


async def status(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_status(core))


async def status_of_mode(core: Core, request: Request, params: dict[str, str]) -> Response:
    modes = _status(core)
    if params["mode"] not in modes:
        raise NotFound
    return Response(data=modes[params["mode"]])


def _status(core: Core) -> dict[str, Any]:
    role = core.unsealed.region_role()
    alone = role == roles.ALONE or core.regions is None
    return {
        "dr": {"mode": "disabled"} if alone else _recovery(core, role),
        "performance": {"mode": "disabled"},
    }


def _recovery(core: Core, role: str) -> dict[str, Any]:
    told = control.overview(core)
    mode = "secondary" if role in roles.FOLLOWS else "primary"
    dr: dict[str, Any] = {
        "mode": mode,
        "cluster_id": core.lifecycle.cluster_id,
        "last_wal": told["position"],
        "epoch": told["epoch"],
    }
    others = [each for each in told["regions"] if each["name"] != told["region"]]
    if mode == "primary":
        dr |= {"state": "running", "known_secondaries": [each["name"] for each in others]}
        return dr | {"secondaries": [_peer(each) for each in others]}
    own: dict[str, Any] = next((each for each in told["regions"] if each["name"] == told["region"]), {})
    primaries = [each for each in others if each["name"] == told["primary"]]
    in_touch, addresses = (
        any(map(_is_connected, primaries)),
        [each for one in primaries for each in one["links"]],
    )
    return dr | {
        "state": "stream-wals" if in_touch and not told["stuck"] else "idle",
        "connection_state": "ready" if in_touch else "transient_failure",
        "secondary_id": told["region"],
        "last_remote_wal": told["position"],
        "lag_entries": own.get("lag_entries"),
        "lag_seconds": own.get("lag_seconds"),
        "known_primary_cluster_addrs": addresses,
        "primary_cluster_addr": next((each["nearest"] for each in primaries), None) or "",
        "primaries": [_peer(each) for each in primaries],
    }


def _is_connected(entry: dict[str, Any]) -> bool:
    contact = entry["last_contact_seconds"]
    return contact is not None and contact < control.CONTACT_FRESH_S


def _peer(entry: dict[str, Any]) -> dict[str, Any]:
    contact = entry["last_contact_seconds"]
    return {
        "node_id": entry["name"],
        "api_address": (entry["endpoints"] or [""])[0],
        "cluster_address": (entry["links"] or [""])[0],
        "connection_status": "connected" if _is_connected(entry) else "disconnected",
        "last_heartbeat": "" if contact is None else rfc3339(time.time_ns() - int(contact * SECOND_NS)),
        "last_heartbeat_duration_ms": entry["round_trip_ms"],
        "last_remote_wal": entry["position"],
        "lag_entries": entry["lag_entries"],
        "lag_seconds": entry["lag_seconds"],
    }
