"""What a request handler can reach: a handful of parts, made by the composition root (node/server.py)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from node.audit.log import AuditLog
from node.auth.identity import TokenAuthority
from node.ceremonies import Ceremonies, Shares
from node.config import Settings
from node.core.router import Table
from node.entities.directory import Directory
from node.errors import Sealed
from node.events.hub import Hub
from node.leases.manager import Revokers
from node.policy.acl import ACL
from node.policy.cache import PolicyCache
from node.store import Store
from node.telemetry.metrics import Metrics
from storage.rows import Token
from storage.seal import SealFile
from storage.secret import Secret

if TYPE_CHECKING:
    from node.auth.methods.method import Method
    from node.backup.archive import Contents
    from node.regions.arrival import Progress
    from node.regions.copies import Copies
    from node.regions.worker import RegionsWorker
    from node.workers.supervisor import Workers


@dataclass(frozen=True, slots=True)
class Initialized:
    """What a new store hands out, once."""

    root_token: Secret
    keys: list[bytes] = field(default_factory=list, repr=False)
    recovery_keys: list[bytes] = field(default_factory=list, repr=False)


class Lifecycle(Protocol):
    """What turns a node on and off; node/lifecycle.py implements it."""

    @property
    def initialized(self) -> bool: ...
    @property
    def cluster_id(self) -> str: ...

    async def initialize(self, *, seal: Shares, recovery: Shares | None) -> Initialized:
        """Create the store: `seal` counts where people open it, `recovery` where a key file does."""
        ...

    async def follow(self, *, ticket: str, seal: Shares) -> list[bytes]:
        """Become the first node of a region that follows; the key shares of its own seal. Raises InvalidRequest."""
        ...

    @property
    def arriving(self) -> "Progress | None":
        """How much of the other region's state is here meanwhile."""
        ...

    async def unseal(self, *, share: str, reset: bool) -> None: ...
    async def seal(self) -> None: ...
    async def step_down(self) -> None: ...
    async def join(self, *, leader_api_address: str, join_token: str) -> None: ...
    async def remove(self, node_id: str, timeout: float) -> None: ...
    async def begin_anew(self, contents: "Contents") -> None:
        """Put a snapshot with another root key, seal and authority in the place of this store, which has one node.

        With key shares the node is sealed afterwards, and the shares of the snapshot's seal open it. Raises
        InvalidRequest, and then nothing was touched.
        """
        ...

    def seal_status(self) -> dict[str, Any]: ...

    @property
    def seal_file(self) -> SealFile:
        """The sealed root key, as this node keeps it (and a joining node gets it)."""
        ...

    async def adopt_seal(self, file: SealFile) -> None:
        """Keep a newer one from now on; an older one changes nothing."""
        ...

    @property
    def ca_certificate(self) -> bytes: ...

    @property
    def listener_pin(self) -> bytes:
        """SHA-256 of the listener's certificate if the operator brought it, else empty."""
        ...


@dataclass(slots=True)
class Core:
    """The parts. store is None exactly while the node is sealed or uninitialised."""

    settings: Settings
    lifecycle: Lifecycle
    audit: AuditLog
    policies: PolicyCache
    tokens: TokenAuthority
    directory: Directory
    metrics: Metrics
    system: Table  # the routes of sys/ and auth/token/
    engines: Mapping[str, Table]  # Mount.engine -> its routes, relative to the mount
    revokers: Revokers  # Mount.engine -> how it takes back what it handed out
    methods: Mapping[str, "Method"]  # the auth methods among them, by Mount.kind
    loops: Sequence[
        Callable[["Core"], Awaitable[None]]
    ] = ()  # what runs from unseal to seal, besides housekeeping
    store: Store | None = None
    copies: "Copies | None" = None  # of the state, for regions that begin to follow
    workers: "Workers | None" = None  # who answer plain reads besides, where the configuration wants them
    regions: "RegionsWorker | None" = None  # while the store is open, on a node with a disk
    ceremonies: Ceremonies = field(default_factory=Ceremonies)
    events: Hub = field(default_factory=Hub)

    @property
    def unsealed(self) -> Store:
        """The store. Raises Sealed."""
        if self.store is None:
            raise Sealed("Vault is sealed")
        return self.store

    def acl(self, row: Token) -> ACL:
        """What the holder of a token may do: the one way to ask."""
        store = self.unsealed
        identity = self.directory.find(store, row.entity_id) if row.entity_id else None
        return self.policies.acl(store, row, identity)
