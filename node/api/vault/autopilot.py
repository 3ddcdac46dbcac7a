"""sys/storage/raft/autopilot/: how the members fare, and what the leader does about those that do not."""

from datetime import UTC, datetime
from typing import Any

from node import api_version
from node.api.vault.leader import elsewhere
from node.api.vault.snapshots import on_disk
from node.auth.fields import SECOND_NS, go_duration
from node.autopilot import settings
from node.autopilot.health import Server, failure_tolerance
from node.autopilot.loop import Autopilot
from node.core.core import Core
from node.core.fields import Field, Kind, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route

_SETTINGS = (
    Field("cleanup_dead_servers", Kind.BOOLEAN, "Remove members that are silent for too long."),
    Field("last_contact_threshold", Kind.DURATION, "Silent for longer is not healthy."),
    Field("dead_server_last_contact_threshold", Kind.DURATION, "Silent for longer is dead."),
    Field("server_stabilization_time", Kind.DURATION, "A new node votes when it was healthy for so long."),
    Field("min_quorum", Kind.INTEGER, "So many voters always stay."),
    Field("max_trailing_logs", Kind.INTEGER, "Further behind is not healthy."),
)
_SERVER = (
    *named(Kind.STRING, "id name address node_status last_contact stable_since status version node_type"),
    *named(Kind.INTEGER, "last_term last_index"),
    Field("healthy", Kind.BOOLEAN, "Whether it is in touch and close behind."),
)
_STATE = (
    Field("failure_tolerance", Kind.INTEGER, "How many healthy voters may fail yet."),
    Field("healthy", Kind.BOOLEAN, "Whether all members are."),
    Field("leader", Kind.STRING, "Its id."),
    Field("servers", Kind.OBJECT, "By id.", members=(of_any_name(Kind.OBJECT, "", *_SERVER),)),
    Field("voters", Kind.STRINGS, "Their ids."),
    Field("non_voters", Kind.STRINGS, "Their ids."),
)


class AutopilotPaths:
    """The handlers of one node."""

    def __init__(self, autopilot: Autopilot) -> None:
        self._autopilot = autopilot

    def routes(self) -> list[Route]:
        """The table of this module."""
        return [
            Route(
                "sys/storage/raft/autopilot/state",
                {Operation.READ: self.state},
                summary="How the members fare, as the leader sees it.",
                answers={Operation.READ: _STATE},
            ),
            Route(
                "sys/storage/raft/autopilot/configuration",
                {Operation.READ: self.read, Operation.UPDATE: self.write},
                local=True,
                summary="What counts as healthy, and when a dead member is removed.",
                fields=_SETTINGS,
                answers={Operation.READ: _SETTINGS},
            ),
        ]

    async def state(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """Only the leader knows; a follower sends the client there."""
        on_disk(core)
        if (there := elsewhere(core, request)) is not None:
            return there
        store = core.unsealed
        servers = self._autopilot.servers(store)
        term = store.status().term
        software = {node.node_id: node.software for node in store.reads.nodes()}
        return Response(
            data={
                "failure_tolerance": failure_tolerance(servers),
                "healthy": all(server.healthy for server in servers),
                "leader": core.settings.node_id,
                "servers": {server.id: _shown(server, term, software) for server in servers},
                "voters": [server.id for server in servers if server.voter],
            }
            | ({"non_voters": learners} if (learners := [s.id for s in servers if not s.voter]) else {})
        )

    async def read(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        on_disk(core)
        return Response(data=settings.KEPT.current(core.unsealed).shown())

    async def write(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """What is not named stays."""
        on_disk(core)
        await settings.KEPT.change(core.unsealed, request.data)
        return Response(status=NO_CONTENT)


def _shown(server: Server, term: int, software: dict[str, str]) -> dict[str, Any]:
    since = datetime.fromtimestamp(server.stable_since_s, UTC)
    return {
        "id": server.id,
        "name": server.id,
        "address": server.address,
        "node_status": "alive" if server.alive else "failed",
        "last_contact": go_duration(int(server.silent_s * SECOND_NS)),
        "last_term": term,
        "last_index": server.last_index,
        "healthy": server.healthy,
        "stable_since": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "status": "leader" if server.leader else "voter" if server.voter else "non-voter",
        "version": api_version(known) if (known := software.get(server.id)) else "",
        "node_type": "voter",
    }
