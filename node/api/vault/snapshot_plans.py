"""sys/storage/raft/snapshot-auto/: snapshots that the leader takes by itself."""

import time
from datetime import UTC, datetime
from typing import Any

from node.api.vault.leader import elsewhere
from node.api.vault.snapshots import on_disk
from node.backup.automatic import Automatic
from node.backup.plans import Plan, Plans
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, told
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest, NotFound

_CONFIG = "sys/storage/raft/snapshot-auto/config"
_PLAN = (
    Field("interval", Kind.DURATION, "From one snapshot to the next.", required=True),
    Field("retain", Kind.INTEGER, "How many are kept."),
    Field("file_prefix", Kind.STRING, "How the files' names begin."),
    Field("storage_type", Kind.STRING, 'Always "local".'),
    Field("local_max_space", Kind.INTEGER, "Bytes of all its files together; 0: no limit."),
)
_PROGRESS = (
    Field("consecutive_errors", Kind.INTEGER, "How often it has failed since it last succeeded."),
    *named(Kind.STRING, "last_snapshot_start last_snapshot_end last_snapshot_error"),
    Field("last_snapshot_url", Kind.STRING, "The file."),
    Field("next_snapshot_start", Kind.STRING, "When the next one is due."),
)


class SnapshotPlans:
    """The handlers of one node, which knows what it has done itself."""

    def __init__(self, automatic: Automatic) -> None:
        self._automatic = automatic

    def routes(self) -> list[Route]:
        """The table of this module."""
        return [
            Route(
                f"{_CONFIG}/",
                {Operation.LIST: self.list_names},
                sudo=True,
                summary="The names of the plans by which snapshots are taken.",
            ),
            Route(
                f"{_CONFIG}/{{name}}",
                {Operation.READ: self.read, Operation.UPDATE: self.write, Operation.DELETE: self.delete},
                local=True,
                sudo=True,
                summary="How often the leader takes a snapshot, and how many it keeps.",
                fields=(in_path("name", "The plan's name."), *_PLAN),
                answers={Operation.READ: told(_PLAN)},
            ),
            Route(
                "sys/storage/raft/snapshot-auto/status/{name}",
                {Operation.READ: self.status},
                sudo=True,
                summary="How the leader fares with a plan.",
                fields=(in_path("name", "The plan's name."),),
                answers={Operation.READ: _PROGRESS},
            ),
        ]

    async def list_names(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        on_disk(core)
        names = Plans(core.unsealed).names()
        if not names:
            raise NotFound
        return Response(data={"keys": names})

    async def read(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        return Response(data=_known(core, params["name"]).shown())

    async def write(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """On every node alike, so the directory must be configured here; whoever leads needs it too."""
        on_disk(core)
        if self._automatic.directory is None:
            raise InvalidRequest(
                "snapshot_dir is not set in this node's configuration: there is nowhere to write to"
            )
        await Plans(core.unsealed).put(params["name"], Plan.of(request.data))
        return Response(status=NO_CONTENT)

    async def delete(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """The plan; the snapshots stay."""
        on_disk(core)
        await Plans(core.unsealed).delete(params["name"])
        self._automatic.forget(params["name"])
        return Response(status=NO_CONTENT)

    async def status(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """The leader's own account."""
        plan = _known(core, params["name"])
        if (there := elsewhere(core, request)) is not None:
            return there
        known = self._automatic.progress(params["name"])
        due = time.time() + self._automatic.due_in_s(plan)
        return Response(
            data={
                "consecutive_errors": known.errors,
                "last_snapshot_start": _time(known.started),
                "last_snapshot_end": _time(known.ended),
                "last_snapshot_error": known.error,
                "last_snapshot_url": known.file,
                "next_snapshot_start": _time(due),
            }
        )


def _known(core: Core, name: str) -> Plan:
    on_disk(core)
    plan = Plans(core.unsealed).get(name)
    if plan is None:
        raise NotFound
    return plan


def _time(seconds: float) -> Any:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
