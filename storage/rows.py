"""The typed rows that reads hand out. Times and durations are nanoseconds; 0 means none."""

from dataclasses import dataclass
from typing import Any

import msgspec

from storage.command import Sealed


@dataclass(frozen=True, slots=True)
class Mount:
    path: str
    mount_id: str
    accessor: str
    kind: str
    version: int
    description: str
    default_lease_ttl_ns: int
    max_lease_ttl_ns: int
    details: dict[str, Any]  # what clients said of it besides: its options, its configuration

    @property
    def engine(self) -> str:
        """Which engine answers for it: its kind, and the version of a kind that has several."""
        return f"{self.kind}-v{self.version}" if self.version else self.kind


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a view. revision grows with every write and is never used twice."""

    path: str
    revision: int
    created_ns: int
    updated_ns: int
    expires_ns: int
    owner: bytes | None
    value: Sealed


@dataclass(frozen=True, slots=True)
class Lease:
    """What an engine handed out. ending: it is to be taken back, from due_ns on."""

    lease_id: str
    mount_id: str
    owner: bytes | None
    issued_ns: int
    ttl_ns: int
    expires_ns: int
    max_ns: int
    renewed_ns: int
    renewable: bool
    ending: bool
    due_ns: int
    attempts: int
    problem: str  # of the last attempt to take it back
    irrevocable: bool
    value: Sealed


@dataclass(frozen=True, slots=True)
class Region:
    """A region that holds the store's history."""

    name: str
    endpoints: tuple[str, ...]
    links: tuple[str, ...]
    created_ns: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """From `position` on, and until the next epoch, `region` orders the history."""

    epoch: int
    region: str
    position: int


@dataclass(frozen=True, slots=True)
class KvConfig:
    max_versions: int
    cas_required: bool
    delete_version_after_ns: int


class KvKey(msgspec.Struct, frozen=True):
    path: str
    current_version: int
    oldest_version: int
    created_ns: int
    updated_ns: int
    max_versions: int
    cas_required: bool
    delete_version_after_ns: int
    custom_metadata: dict[str, str] | None


class KvVersion(msgspec.Struct, frozen=True):
    """One version; value is None once destroyed, and where it was not asked for.

    deletion_ns may lie in the future (delete_version_after).
    """

    version: int
    created_ns: int
    deletion_ns: int
    destroyed: bool
    value: Sealed | None
    custom_metadata: dict[str, str] | None = None  # its key's

    def without_value(self) -> "KvVersion":
        """The rest of the row."""
        return KvVersion(
            self.version, self.created_ns, self.deletion_ns, self.destroyed, None, self.custom_metadata
        )

    def is_deleted(self, now_ns: int) -> bool:
        """Whether it counts as deleted now: a deletion may be set for later."""
        return 0 < self.deletion_ns <= now_ns


@dataclass(frozen=True, slots=True)
class Token:
    digest: bytes
    accessor: str
    parent: bytes | None
    policies: tuple[str, ...]
    path: str
    display_name: str
    metadata: dict[str, str] | None
    num_uses: int
    ttl_ns: int
    explicit_max_ttl_ns: int
    period_ns: int
    renewable: bool
    created_ns: int
    expires_ns: int
    orphan: bool
    last_renewal_ns: int
    entity_id: str = ""
    role: str = ""
    bound_cidrs: tuple[str, ...] = ()
    issuer: str = ""  # id of the auth method's mount; "" for the token store
    kind: str = "service"  # or "batch", which no database holds


@dataclass(frozen=True, slots=True)
class Node:
    node_id: str
    region: str
    api_address: str
    cluster_address: str
    link_address: str
    software: str  # "" until it has told
    level: int


@dataclass(frozen=True, slots=True)
class KeyTerm:
    term: int
    wrapped_key: bytes
    created_ns: int
    wraps: int = 0  # data keys wrapped while it was not the newest; see Machine.wraps
