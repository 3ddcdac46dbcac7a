"""`strongroom server -dev`: one node in memory, unsealed, KV version 2 at secret/. Never for production.

The same core, engines and audit as a real node, over a machine without a file and a group of one.
"""

import asyncio
import base64
import os
import uuid
from typing import Any

from consensus.api import Status
from consensus.memory import SoloGroup
from node.config import Settings
from node.core.core import Core
from node.errors import InvalidRequest
from node.genesis import genesis
from node.pki import Credentials, new_ca
from node.store import Store
from storage.command import MountPut
from storage.errors import StorageError
from storage.keyring import AUDIT_HMAC, Keyring, RootKey
from storage.machine import Machine
from storage.seal import SealFile, Unsealer, create_shamir
from storage.secret import Secret

NOT_IN_DEV = "a dev server is a cluster of its own: it has nobody to join or to remove"


class DevLifecycle:
    """Open from the start; `seal` and `unseal` work, with the one key that is printed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = RootKey.generate()
        self.cluster_id = str(uuid.uuid4())
        self._seal: SealFile
        self._seal, keys = create_shamir(self._root, cluster_id=self.cluster_id, shares=1, threshold=1)
        self.unseal_key = base64.b64encode(keys[0]).decode()
        self._unsealer = Unsealer(self._seal)
        self._ca: Credentials = new_ca(settings.cluster_name)
        self._machine = Machine.open(None, key=os.urandom(32))
        self._group = SoloGroup(self._machine, settings.node_id)
        self._store = Store(
            machine=self._machine,
            group=self._group,
            keyring=Keyring(self._root, self.cluster_id),
            root=self._root,
        )
        self.core: Core  # set by the composition root

    initialized = True

    @property
    def unsealed(self) -> bool:
        return self.core.store is not None

    listener_pin = b""

    @property
    def ca_certificate(self) -> bytes:
        return self._ca.certificate

    async def start(self, root_token: str | None) -> Secret:
        """Make the store; returns the root token."""
        await self._group.start()
        minted = self.core.tokens.root_token_commands(self._store, root_token)
        now = self._store.now_ns()
        await self._store.submit(
            genesis(
                settings=self._settings,
                now_ns=now,
                cluster_id=self.cluster_id,
                keyring=Keyring(self._root, self.cluster_id),
                ca_key=self._ca.key,
                root_token=minted.command,
            )
        )
        await self._store.submit(
            MountPut(
                time_ns=now,
                path="secret/",
                mount_id=str(uuid.uuid4()),
                accessor=f"kv_{uuid.uuid4().hex[:8]}",
                kind="kv",
                version=2,
                description="key/value secret storage",
                default_lease_ttl_ns=0,
                max_lease_ttl_ns=0,
            )
        )
        self._open()
        return minted.token

    def _open(self) -> None:
        self.core.audit.set_key(self._root.derive(AUDIT_HMAC))
        self.core.store = self._store

    async def unseal(self, *, share: str, reset: bool) -> None:
        if self.core.store is not None:
            return
        if reset:
            self._unsealer.reset()
            return
        try:
            if self._unsealer.offer(share) is not None:
                self._open()
        except StorageError as error:
            raise InvalidRequest(f"Unseal failed: {error}") from None

    async def seal(self) -> None:
        self.core.store = None
        self.core.audit.set_key(None)
        self.core.tokens.forget()
        self.core.policies.clear()

    async def stop(self) -> None:
        """At the end of the process."""
        await self.seal()
        await self._group.stop()
        await asyncio.to_thread(self._machine.close)

    async def initialize(self, *, shares: int, threshold: int) -> dict[str, Any]:
        raise InvalidRequest("Vault is already initialized")

    async def step_down(self) -> None:
        """There is nobody to hand over to."""

    async def join(self, *, leader_api_address: str, join_token: str) -> None:
        raise InvalidRequest(NOT_IN_DEV)

    async def remove(self, node_id: str, timeout: float) -> None:
        raise InvalidRequest(NOT_IN_DEV)

    def seal_status(self) -> dict[str, Any]:
        return {"type": "shamir", "t": 1, "n": 1, "progress": 0, "nonce": "", "recovery_seal": False}

    def seal_file_fields(self) -> dict[str, Any]:
        raise InvalidRequest(NOT_IN_DEV)

    def raft_status(self) -> Status | None:
        return self._group.status()

    def raft_counters(self) -> dict[str, float]:
        return {}
