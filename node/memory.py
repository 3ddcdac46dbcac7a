"""`storage "inmem"`: a store in memory, of one node, that is initialised, unsealed and sealed like any other.

The same core, engines and audit as a real node, over a machine without a file and a group of one. What is sealed here
is sealed: the root key is gone from memory until enough shares bring it back.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from consensus.api import Status
from consensus.memory import SoloGroup
from node import seals
from node.backup.archive import Contents
from node.ceremonies import Shares
from node.config import Settings
from node.core.core import Core, Initialized
from node.errors import InvalidRequest, NotInitialized
from node.genesis import genesis
from node.housekeeping import Housekeeping
from node.store import Store
from node.telemetry.logs import name_of, where
from storage.cache import ValueCache
from storage.keyring import AUDIT_HMAC, Keyring, RootKey
from storage.machine import Machine
from storage.seal import SealFile, Unsealer

DATABASE_KEY_BYTES = 32
NOT_IN_MEMORY = "a store in memory has one node: there is nobody to join or to remove"

log = structlog.get_logger("lifecycle")


@dataclass(slots=True)
class Kept:
    """What an initialised store keeps while it is sealed."""

    cluster_id: str
    ca_certificate: bytes
    seal: SealFile
    unsealer: Unsealer
    machine: Machine
    group: SoloGroup


class MemoryLifecycle:
    """See node/core/core.py, Lifecycle. Transitions never overlap: they await nothing but their own steps."""

    def __init__(self, settings: Settings, on_failure: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._transition = asyncio.Lock()
        self._kept: Kept | None = None
        self._chores: asyncio.Task[None] | None = None
        self.core: Core  # set by the composition root

    # --- what is ---

    @property
    def initialized(self) -> bool:
        return self._kept is not None

    @property
    def unsealed(self) -> bool:
        return self.core.store is not None

    @property
    def cluster_id(self) -> str:
        """Empty before the store is initialised."""
        return self._kept.cluster_id if self._kept else ""

    listener_pin = b""

    @property
    def ca_certificate(self) -> bytes:
        return self._kept.ca_certificate if self._kept else b""

    def seal_status(self) -> dict[str, Any]:
        kept = self._kept
        return {
            "type": "shamir",
            "t": kept.seal.threshold if kept else 0,
            "n": kept.seal.shares if kept else 0,
            "progress": kept.unsealer.progress if kept else 0,
            "nonce": kept.unsealer.nonce if kept else "",
            "recovery_seal": False,
        }

    @property
    def seal_file(self) -> SealFile:
        if self._kept is None:
            raise NotInitialized("Vault is not initialized")
        return self._kept.seal

    async def adopt_seal(self, file: SealFile) -> None:
        """See Lifecycle."""
        if self._kept is not None and file.generation > self._kept.seal.generation:
            self._kept.seal, self._kept.unsealer = file, Unsealer(file)

    def raft_status(self) -> Status | None:
        return self._kept.group.status() if self._kept and self.unsealed else None

    def raft_counters(self) -> dict[str, float]:
        return {}

    # --- transitions ---

    async def start(self) -> None:
        """At process start."""
        log.info("node is not initialised: `operator init` makes a new store, which is gone when this ends")

    async def follow(self, *, ticket: str, seal: Shares) -> list[bytes]:
        raise InvalidRequest("a server in memory takes no part in regions")

    @property
    def arriving(self) -> None:
        """See Lifecycle."""
        return None

    async def initialize(self, *, seal: Shares, recovery: Shares | None) -> Initialized:
        """See Lifecycle.initialize. The store is sealed afterwards."""
        async with self._transition:
            made = await self._initialize(seal, None)
            log.info("store initialised", cluster_id=self.cluster_id, seal="shamir")
            return made

    async def _initialize(self, shares: Shares, root_token: str | None) -> Initialized:
        from node.pki import new_ca  # nobody waits for it at start

        if self._kept is not None:
            raise InvalidRequest("Vault is already initialized")
        root, cluster_id = RootKey.generate(), str(uuid.uuid4())
        seal, keys = await asyncio.to_thread(shares.seal, root, cluster_id)
        ca = new_ca(self._settings.cluster_name)
        values = ValueCache(self._settings.value_cache_bytes_max, self._settings.packed_cache_bytes_max)
        machine = Machine.open(None, key=os.urandom(DATABASE_KEY_BYTES), values=values)
        group = SoloGroup(machine, self._settings.node_id)
        keyring = Keyring(root, cluster_id)
        store = Store(machine=machine, group=group, keyring=keyring, root=root)
        minted = self.core.tokens.root_token_commands(store, root_token)
        await store.submit(
            genesis(
                settings=self._settings,
                now_ns=store.now_ns(),
                cluster_id=cluster_id,
                keyring=keyring,
                ca_key=ca.key,
                root_token=minted.command,
            )
        )
        self._kept = Kept(cluster_id, ca.certificate, seal, Unsealer(seal), machine, group)
        return Initialized(minted.token, keys)

    async def unseal(self, *, share: str, reset: bool) -> None:
        """Offer one share. Raises InvalidRequest for a bad share or a set that does not open the store."""
        async with self._transition:
            kept = self._kept
            if kept is None:
                raise NotInitialized("Vault is not initialized")
            if self.core.store is not None:
                return
            if reset:
                kept.unsealer.reset()
                return
            root = seals.offer(kept.unsealer, share, wrong="Unseal failed")
            if root is not None:
                self._open(kept, root)

    def _open(self, kept: Kept, root: RootKey) -> None:
        store = Store(
            machine=kept.machine, group=kept.group, keyring=Keyring(root, kept.cluster_id), root=root
        )
        chores = Housekeeping(
            store=store,
            group=kept.group,
            metrics=self.core.metrics,
            revokers=self.core.revokers,
            renew=lambda: None,
            checkpoint=lambda: 0,
            follow_seal=lambda: seals.follow(store, self),
        )
        self._chores = asyncio.create_task(chores.run(), name="housekeeping")
        self._chores.add_done_callback(self._chores_done)
        self.core.audit.set_key(root.derive(AUDIT_HMAC))
        self.core.store = store
        self.core.events.open(self.core, store)
        log.info("node unsealed", cluster_id=kept.cluster_id)

    def _chores_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("housekeeping failed", error=name_of(error), where=where(error))
            self._on_failure()

    async def seal(self) -> None:
        async with self._transition:
            self.core.events.close()
            self.core.store = None
            self.core.audit.set_key(None)
            self.core.tokens.forget()
            self.core.policies.clear()
            if self._kept is not None:
                self._kept.machine.values.clear()
            self.core.ceremonies.forget()
            self.core.directory.clear()
            if self._chores is not None:
                self._chores.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._chores
                self._chores = None

    async def hand_over(self) -> None:
        """There is nobody to hand over to."""

    async def step_down(self) -> None:
        """There is nobody to hand over to."""

    async def stop(self) -> None:
        """At the end of the process."""
        await self.seal()
        if self._kept is not None:
            await self._kept.group.stop()
            await asyncio.to_thread(self._kept.machine.close)
            self._kept = None

    async def join(self, *, leader_api_address: str, join_token: str) -> None:
        raise InvalidRequest(NOT_IN_MEMORY)

    async def begin_anew(self, contents: Contents) -> None:
        raise InvalidRequest("a store in memory is not restored from a snapshot")

    async def remove(self, node_id: str, timeout: float) -> None:
        raise InvalidRequest(NOT_IN_MEMORY)
