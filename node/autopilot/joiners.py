"""Registered nodes on their way into the cluster: each in a task of its own, so none holds up another or the loop."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

import structlog

from consensus.api import Group, Member
from node.autopilot import health
from node.autopilot.health import Server
from node.autopilot.settings import Settings

TIMEOUT_S = 30.0  # beside what a node must prove itself for; then it is tried again

log = structlog.get_logger("autopilot")


class Attempt(Protocol):
    """Carries out a step; what an operation may fail with ends it quietly."""

    def __call__(self, step: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]: ...


class Joiners:
    """The tasks, of which `tasks` is the owner. They end by themselves when this node leads no longer."""

    def __init__(self, tasks: asyncio.TaskGroup, attempt: Attempt) -> None:
        self._tasks, self._attempt = tasks, attempt
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._settings = Settings()
        self._proven: set[str] = set()

    def note(self, servers: list[Server], settings: Settings) -> None:
        """How the members fare now; those that are not told of again must prove themselves anew."""
        self._settings, self._proven = settings, health.proven(servers, settings)

    def match(self, group: Group, wanted: Mapping[str, str]) -> None:
        """Have exactly `wanted` (id to address) join, from now on."""
        for node_id in wanted.keys() - self._joining.keys():
            work = self._attempt(self._join(group, Member(node_id, wanted[node_id])))
            task = self._joining[node_id] = self._tasks.create_task(work)
            task.add_done_callback(lambda _, node_id=node_id: self._joining.pop(node_id))  # type: ignore[misc]
        for node_id in self._joining.keys() - wanted.keys():
            self._joining[node_id].cancel()

    async def _join(self, group: Group, member: Member) -> None:
        log.info("adding a member", member=member.id)
        timeout_s = TIMEOUT_S + self._settings.server_stabilization_time
        await group.add_member(member, timeout_s, may_vote=lambda: self._may_vote(member.id))
        log.info("member added", member=member.id)

    def _may_vote(self, node_id: str) -> bool:
        return not self._settings.server_stabilization_time or node_id in self._proven
