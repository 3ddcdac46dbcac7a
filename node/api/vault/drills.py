"""sys/drills/: what would happen if something failed now, the writes that drills measure by, and their reports."""

from typing import Any

from node.api.vault.leader import elsewhere
from node.api.vault.region_links import link_route
from node.auth import fields as values
from node.autopilot.loop import Autopilot
from node.backup.automatic import Automatic
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, of_struct
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.drills import history, obstacles, probes, readiness, report
from node.errors import InvalidRequest

_REPORT = Field("report", Kind.OBJECT, "What was done and measured.", required=True)
_NAME = in_path("name", "Of the probe: 1 to 32 of a-z and 0-9.")
_NUMBER = Field("number", Kind.INTEGER, "What is written; each time a greater one.", required=True)
_NODE = (
    *named(Kind.STRING, "node_id region leader_id seal_type seal_problem"),
    *named(Kind.BOOLEAN, "is_leader seal_reachable"),
    *named(Kind.INTEGER, "voters failure_tolerance clients disk_free_bytes lag_entries"),
    Field("lag_seconds", Kind.NUMBER, "Of its region; what a promotion would lose."),
    Field("snapshot_age_seconds", Kind.NUMBER, "Of the newest one that the leader took by itself."),
)
_MEMBER = (Field("node_id"), *named(Kind.BOOLEAN, "voter healthy leader"))
_CLUSTER = (
    Field("leader"),
    Field("failure_tolerance", Kind.INTEGER, "How many members may fail yet."),
    Field("members", Kind.OBJECTS, members=_MEMBER),
)
_PLAN = (
    Field("node", Kind.OBJECT, "The leader.", members=_NODE),
    Field("cluster", Kind.OBJECT, members=_CLUSTER),
    Field("regions", Kind.OBJECT, "As sys/regions tells them, each with its nodes."),
    Field("against", Kind.OBJECT, "What speaks against each kind of drill."),
)
_RECORDS = Field(
    "reports", Kind.OBJECTS, "Newest first.", members=(*of_struct(report.Record), Field("signature"))
)


class Drills:
    """The handlers of one node."""

    def __init__(self, automatic: Automatic, autopilot: Autopilot) -> None:
        self._automatic, self._autopilot = automatic, autopilot

    def routes(self) -> list[Route]:
        """The table of this module."""
        read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
        return [
            Route(
                "sys/drills/plan",
                {read: self.plan},
                sudo=True,
                summary="What would happen if something failed now, and what speaks against a drill.",
                answers={read: _PLAN},
            ),
            Route(
                "sys/drills/node",
                {read: self.node},
                sudo=True,
                fresh=False,
                summary="What this node knows of itself that matters when something fails.",
                answers={read: _NODE},
            ),
            Route(
                "sys/drills/history",
                {read: self.listed, update: self.keep},
                sudo=True,
                summary="The reports of drills, newest first, and the key that verifies them; or one more.",
                fields=(_REPORT,),
                answers={read: (_RECORDS, Field("public_key")), update: (Field("id"),)},
            ),
            Route(
                "sys/drills/probe/{name}",
                {read: self.probe, update: self.put_probe, delete: self.remove_probe},
                sudo=True,
                summary="A write that a drill measures by; it goes an hour after the last one.",
                fields=(_NAME, _NUMBER),
                answers={read: (_NUMBER,)},
            ),
            link_route("readiness", self.node, shape=Shape.RAW),
        ]

    async def plan(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """Only the leader knows its members; a follower sends the client there."""
        _some_nodes(core)
        if (there := elsewhere(core, request)) is not None:
            return there
        told = await readiness.plan(core, self._automatic, self._autopilot)
        names = [each["name"] for each in (told["regions"] or {"regions": ()})["regions"]]
        others = [name for name in names if name != told["regions"]["primary"]]
        told["against"] = {
            "leader": obstacles.to_leader(told),
            "node": obstacles.to_node(told),
            "region": {name: obstacles.to_switchover(told, name) for name in others},
            "promotion": {name: obstacles.to_promotion(told, name) for name in others},
        }
        return Response(data=told)

    async def node(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        _some_nodes(core)
        return Response(data=await readiness.of_this_node(core, self._automatic, self._autopilot))

    async def listed(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        reports = history.listed(core)
        return Response(data={"reports": reports, "public_key": report.public_key(core.unsealed.root)})

    async def keep(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        told: Any = request.data.get("report")
        return Response(data={"id": await history.keep(core, request, report.parse(told))})

    async def probe(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        return Response(data={"number": probes.get(core, params["name"])})

    async def put_probe(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        if "number" not in request.data:
            raise InvalidRequest("number is required")
        await probes.put(core, request, params["name"], values.integer(request.data["number"], "number"))
        return Response(status=NO_CONTENT)

    async def remove_probe(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        await probes.remove(core, request, params["name"])
        return Response(status=NO_CONTENT)


def _some_nodes(core: Core) -> None:
    """Raises InvalidRequest where nothing can be rehearsed."""
    if core.settings.storage != "raft":
        raise InvalidRequest("a store in memory has one node, and no snapshots: there is nothing to rehearse")
