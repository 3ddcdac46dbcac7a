"""Commands about mounts and policies. Tags 20 to 29 and 40 to 49."""

from typing import Any

import msgspec

from storage.command.base import Command


class MountPut(Command, frozen=True, tag=20):
    """Mount an engine. Rejected(PATH_IN_USE) if the path equals, contains or lies under another mount's."""

    path: str  # ends with "/"
    mount_id: str  # a uuid, never reused
    accessor: str
    kind: str  # "kv", "approle", ...: which engine answers
    version: int  # of the engine; 0 where it has no versions
    description: str
    default_lease_ttl_ns: int
    max_lease_ttl_ns: int
    # what clients said of it besides: its options, its configuration
    details: dict[str, Any] = msgspec.field(default_factory=dict)


class MountTune(Command, frozen=True, tag=21):
    """Change what is not None. Rejected(NO_SUCH_MOUNT)."""

    path: str
    description: str | None = None
    default_lease_ttl_ns: int | None = None
    max_lease_ttl_ns: int | None = None
    details: dict[str, Any] | None = None  # replaces them all
    version: int | None = None


class MountMove(Command, frozen=True, tag=22):
    """Rejected(NO_SUCH_MOUNT) or Rejected(PATH_IN_USE)."""

    source: str
    target: str


class MountRemove(Command, frozen=True, tag=23):
    """Remove a mount with everything in it; removing an absent one succeeds."""

    path: str


class PolicyPut(Command, frozen=True, tag=40):
    """The text has been parsed by the proposer; `name` is canonical (lower case)."""

    name: str
    text: str


class PolicyDelete(Command, frozen=True, tag=41):
    name: str
