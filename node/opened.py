"""What exists only while the store of a node with a disk is open, made and ended in order.

Everything that holds a key lives in one `Unsealed`, so that sealing is dropping one object.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

import structlog

from consensus.api import Member
from consensus.group import RaftGroup
from node import pki
from node.config import Settings
from node.core.core import Core
from node.housekeeping import Housekeeping
from node.identity import Identity, Layout
from node.listeners import Listeners
from node.raft import Start, open_group
from node.regions.copies import Copies
from node.regions.worker import RegionsWorker
from node.store import Store
from node.telemetry.logs import name_of, where
from storage.cache import ValueCache
from storage.keyring import DATABASE, Keyring, RootKey
from storage.machine import Machine

log = structlog.get_logger("lifecycle")


@dataclass(slots=True)
class Unsealed:
    """The parts of an open store, and the tasks that it has."""

    root: RootKey
    identity: Identity
    peer_tls: tuple[ssl.SSLContext, ssl.SSLContext]
    machine: Machine
    group: RaftGroup
    store: Store
    housekeeping: asyncio.Task[None]
    regions: RegionsWorker
    copies: Copies
    together: asyncio.Task[None]

    async def close(self) -> None:
        """End the tasks, then the group, then the database, folded in."""
        for task in (self.together, self.housekeeping):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.copies.close()
        await self.group.stop()
        await asyncio.to_thread(self.machine.checkpoint)
        self.machine.close()


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens stores in one directory for one node."""

    settings: Settings
    layout: Layout
    core: Core
    renew: Callable[[], None]
    follow_seal: Callable[[Store], Awaitable[None]]
    on_failure: Callable[[], None]  # a task ended by an exception: the node must stop

    async def open(
        self,
        root: RootKey,
        identity: Identity,
        *,
        start: Start,
        members: tuple[Member, ...] = (),
        term: int = 0,
    ) -> Unsealed:
        """StorageError and consensus.Corrupt mean: this directory must not be used."""
        values = ValueCache(self.settings.value_cache_bytes_max, self.settings.packed_cache_bytes_max)
        machine = await asyncio.to_thread(
            Machine.open, self.layout.database, key=root.derive(DATABASE), values=values
        )
        tls = pki.peer_contexts(identity.ca_certificate, identity.peer)
        try:
            group = await asyncio.to_thread(
                open_group,
                start=start,
                settings=self.settings,
                directory=self.layout.raft,
                identity=identity,
                root=root,
                machine=machine,
                members=members,
                term=term,
                tls=tls,
                observe_fsync=self.core.metrics.observe_fsync,
            )
            try:
                await group.start()
            except BaseException:
                await group.stop()
                raise
        except BaseException:
            machine.close()
            raise
        store = Store(machine=machine, group=group, keyring=Keyring(root, identity.cluster_id), root=root)
        worker = RegionsWorker(
            store, self.settings, identity.cluster_id, self.layout.root, self._listen_to_regions
        )
        copies = Copies(self.layout.root, store.copies.take, store)
        chores = self._task(self._all_chores(self._housekeeping(machine, group, store)), "housekeeping")
        together = self._task(worker.run(), "regions")
        return Unsealed(root, identity, tls, machine, group, store, chores, worker, copies, together)

    def _housekeeping(self, machine: Machine, group: RaftGroup, store: Store) -> Housekeeping:
        return Housekeeping(
            store=store,
            group=group,
            metrics=self.core.metrics,
            revokers=self.core.revokers,
            renew=self.renew,
            checkpoint=machine.checkpoint,
            follow_seal=lambda: self.follow_seal(store),
        )

    async def _all_chores(self, chores: Housekeeping) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(chores.run())
            for loop in self.core.loops:
                group.create_task(loop(self.core))  # type: ignore[arg-type]

    async def _listen_to_regions(self, address: str, tls: ssl.SSLContext) -> Listeners:
        listeners = Listeners(self.core)
        host, _, port = address.rpartition(":")
        await listeners.listen(host.strip("[]"), int(port), tls, link=True)
        return listeners

    def _task(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            log.critical("a chore failed", task=task.get_name(), error=name_of(error), where=where(error))
            self.on_failure()
