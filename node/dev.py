"""`strongroom server -dev`: a store in memory, open at start, KV version 2 at secret/. Never for production."""

import base64
import uuid

from node.ceremonies import Shares
from node.memory import MemoryLifecycle
from storage.command import MountPut
from storage.secret import Secret


class DevLifecycle(MemoryLifecycle):
    """Open from the start; `seal` and `unseal` work, with the one key that is printed."""

    unseal_key = ""

    async def open(self, root_token: str | None) -> Secret:
        """Make the store and open it; returns the root token."""
        made = await self._initialize(Shares(1, 1), root_token)
        self.unseal_key = base64.b64encode(made.keys[0]).decode()
        await self.unseal(share=self.unseal_key, reset=False)
        store = self.core.unsealed
        await store.submit(
            MountPut(
                time_ns=store.now_ns(),
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
        return made.root_token
