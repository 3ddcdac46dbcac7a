"""sys/replication/: the regions of a store in the shapes of Vault Enterprise, for dashboards that know them.

Regions are its disaster recovery: each has everything.
"""

from typing import Any

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
        *("known_secondaries", "secondaries", "primaries"),
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
    if role == roles.ALONE or core.regions is None:
        return {"dr": {"mode": "disabled"}, "performance": {"mode": "disabled"}}
    told = control.overview(core)
    mode = "secondary" if role in roles.FOLLOWS else "primary"
    dr: dict[str, Any] = {
        "mode": mode,
        "cluster_id": core.lifecycle.cluster_id,
        "last_wal": told["position"],
        "state": "running" if mode == "primary" else ("stream-wals" if not told["stuck"] else "idle"),
    }
    others = [each for each in told["regions"] if each["name"] != told["region"]]
    if mode == "primary":
        dr["known_secondaries"] = [each["name"] for each in others]
        dr["secondaries"] = [_peer(each) for each in others]
    else:
        dr["last_remote_wal"] = told["position"]
        dr["primaries"] = [_peer(each) for each in others if each["name"] == told["primary"]]
    return {"dr": dr, "performance": {"mode": "disabled"}}


def _peer(entry: dict[str, Any]) -> dict[str, Any]:
    contact = entry["last_contact_seconds"]
    return {
        "node_id": entry["name"],
        "api_address": (entry["endpoints"] or [""])[0],
        "cluster_address": (entry["links"] or [""])[0],
        "connection_status": "connected"
        if contact is not None and contact < control.CONTACT_FRESH_S
        else "disconnected",
        "last_remote_wal": entry["position"],
    }
