"""The leader's care for who is in the cluster: registered nodes become members, others go, dead ones are removed.

Every step is idempotent: a leader that dies in the middle leaves something that its successor carries on with.
"""

import asyncio
import dataclasses
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from consensus import errors as raft_errors
from consensus.api import Role
from node.autopilot import health, settings
from node.autopilot.health import Observer, Server
from node.autopilot.joiners import Joiners
from node.core.core import Core
from node.errors import NodeError
from node.genesis import node_record
from node.store import CommandRejected, Store
from storage.command import LevelRaise, NodeRemove

TICK_S = 1.0
MEMBER_TIMEOUT_S = 30.0

log = structlog.get_logger("autopilot")


class Autopilot:
    """One loop, from unseal to seal; it does nothing while another node leads."""

    def __init__(self) -> None:
        self._observer: Observer | None = None  # while this node leads

    def servers(self, store: Store) -> list[Server]:
        """How the members fare, where this node leads."""
        now = time.monotonic()
        if self._observer is None:
            self._observer = Observer(now)
        return self._observer.look(
            store.group.status(), settings.KEPT.current(store), now=now, now_s=time.time()
        )

    async def run(self, core: Core) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            joiners = Joiners(tasks, _try)
            while True:
                await asyncio.sleep(TICK_S)
                store = core.store
                if store is not None:
                    await _try(announce(core, store))
                if store is not None and store.group.status().role is Role.LEADER:
                    await self._lead(store, joiners)
                else:
                    self._observer = None

    async def _lead(self, store: Store, joiners: Joiners) -> None:
        servers = self.servers(store)
        joiners.note(servers, settings.KEPT.current(store))
        await _try(self._clean_up(store, servers))
        await _try(raise_level(store))
        await _try(match_members(store, joiners))

    async def _clean_up(self, store: Store, servers: list[Server]) -> None:
        victim = health.dead(servers, settings.KEPT.current(store))
        if victim is not None:
            log.warning("removing a dead member", member=victim.id, silent_s=round(victim.silent_s))
            await store.group.remove_member(victim.id, MEMBER_TIMEOUT_S)
            await store.submit(NodeRemove(time_ns=store.now_ns(), node_id=victim.id))


async def _try(step: Coroutine[Any, Any, None]) -> None:
    try:
        await step
    except (NodeError, CommandRejected, raft_errors.ConsensusError) as error:
        log.warning("step put off", reason=str(error))


async def announce(core: Core, store: Store) -> None:
    """Any node: what it runs, and where it answers, is what the others know of it. The address of its Raft listener
    stays: that one is in the configuration of the group.
    """
    own = next((node for node in store.reads.nodes() if node.node_id == core.settings.node_id), None)
    if own is None:
        return  # it is being removed
    record = node_record(core.settings, store.now_ns(), store.known_level)
    record = msgspec.structs.replace(record, cluster_address=own.cluster_address)
    told = msgspec.structs.asdict(record)
    if any(told[name] != known for name, known in dataclasses.asdict(own).items()):
        await store.submit(record)


async def raise_level(store: Store) -> None:
    """The leader: once every registered node knows a newer level, the cluster is at it, for good."""
    level = min((node.level for node in store.reads.nodes()), default=0)
    if level > store.level:
        await store.submit(LevelRaise(time_ns=store.now_ns(), level=level))
        log.info("feature level raised", level=level)


async def match_members(store: Store, joiners: Joiners) -> None:
    """Members that are not registered are taken out; registered nodes become learners, and voters once caught up."""
    group = store.group
    await store.fresh()
    registered = {node.node_id: node for node in store.reads.nodes()}
    members = {member.id for member in group.status().members}
    for node_id in members - registered.keys():
        log.info("removing a member", member=node_id)
        await group.remove_member(node_id, MEMBER_TIMEOUT_S)
    wanted = {node_id: node.cluster_address for node_id, node in registered.items() if node_id not in members}
    joiners.match(group, wanted)
