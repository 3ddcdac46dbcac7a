"""What applied commands mean to those who watch: pure functions from commands to events. Never a value.

Types and metadata are those of Vault's event notifications for its kv engines (docs/concepts/events), with one more
type, kv-v2/expired, for versions that delete_version_after has ended.
"""

from collections.abc import Iterator, Mapping

import msgspec

from storage import command as c
from storage.entries import IDENTITY
from storage.rows import Mount

EXPIRED = "expired"
KINDS = {
    2: (
        *("data-write", "data-patch", "data-delete", "delete", "undelete", "destroy", EXPIRED),
        *("metadata-write", "metadata-patch", "metadata-delete", "config-write"),
    ),
    1: ("write", "delete", "config-write"),
}
TYPES = tuple(f"kv-v{version}/{kind}" for version, kinds in KINDS.items() for kind in kinds)
EVENT_OVERHEAD_BYTES = 400  # what Python needs for one event besides its names, roughly


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to one secret, or to a mount's configuration.

    `operation` is the part of the type behind the slash. `time_ns` is when the command was made; of an expiry when it
    fell due. One command may be several events: `nth` tells them apart, and whoever was told this one and all before
    holds `reached`.
    """

    position: int
    nth: int
    reached: int
    time_ns: int
    mount: Mount
    operation: str
    name: str  # of the secret, within the mount; "" for the mount itself
    version: int = 0  # the one that came to be, or expired; 0: told by `versions`
    versions: tuple[int, ...] = ()

    @property
    def type(self) -> str:
        return f"kv-v{self.mount.version}/{self.operation}"

    @property
    def path(self) -> str:
        """The path of the API through which it happened, or might have."""
        return self._at(_PARTS.get(self.operation, self.operation))

    @property
    def data_path(self) -> str:
        """The path of the API at which what it is about is read."""
        return self._at(_READ_AT.get(self.operation, "data"))

    @property
    def size_bytes(self) -> int:
        return EVENT_OVERHEAD_BYTES + len(self.name)

    def _at(self, part: str) -> str:
        if not self.name:
            return f"{self.mount.path}config"
        return (
            f"{self.mount.path}{part}/{self.name}" if self.mount.version == 2 else self.mount.path + self.name
        )


_PARTS = {
    **dict.fromkeys(("data-write", "data-patch", "data-delete", EXPIRED), "data"),
    **dict.fromkeys(("metadata-write", "metadata-patch", "metadata-delete"), "metadata"),
}
_READ_AT = dict.fromkeys(("metadata-write", "metadata-patch", "metadata-delete"), "metadata")

_KV = (
    c.KvPut,
    c.KvDelete,
    c.KvUndelete,
    c.KvDestroy,
    c.KvMetadataPut,
    c.KvMetadataDelete,
    c.KvConfigPut,
)
_RIGHTS = (c.PolicyPut, c.PolicyDelete, c.TokenRevoke, c.TokensExpire, c.TokenRenew, c.MountRemove)


def is_news(command: c.AnyCommand) -> bool:
    """Whether a command, or one in a batch, may be an event or take a right away."""
    if isinstance(command, c.Batch):
        return any(is_news(each) for each in parts(command))
    return isinstance(command, _KV) or moves_secrets(command) or touches_rights(command)


def parts(command: c.AnyCommand) -> Iterator[c.AnyCommand]:
    """The commands that one is made of."""
    if isinstance(command, c.Batch):
        yield from (c.decode(data) for data in command.commands)
    else:
        yield command


def moves_secrets(command: c.AnyCommand) -> bool:
    """Whether secrets may have gone, or be elsewhere, without a command of their own."""
    if isinstance(command, c.MountTune):
        return command.version is not None  # version 1 became 2
    return isinstance(command, c.MountRemove | c.MountMove)


def touches_rights(command: c.AnyCommand) -> bool:
    """Whether somebody may have lost, or got, the right to hear of something, or the token that gives it."""
    return isinstance(command, _RIGHTS) or getattr(command, "view", None) == IDENTITY


def written(position: int, put: c.KvPut, mount: Mount) -> Event:
    """happened() for most of what happens: a version that was written by a command of its own."""
    operation = _operation(put, mount.version)
    return Event(position, 0, position, put.time_ns, mount, operation, put.path, put.version)


def happened(
    position: int, nth: int, reached: int, command: c.AnyCommand, mounts: Mapping[str, Mount]
) -> Event | None:
    """The event of one command that was done, if it is one."""
    mount = mounts.get(getattr(command, "mount_id", ""))
    if mount is None or not isinstance(command, _KV):
        return None
    operation = _operation(command, mount.version)
    return Event(
        position,
        nth,
        reached,
        command.time_ns,
        mount,
        operation,
        getattr(command, "path", ""),
        version=command.version if isinstance(command, c.KvPut) else 0,
        versions=getattr(command, "versions", ()),
    )


def _operation(command: c.AnyCommand, version: int) -> str:
    match command:
        case c.KvPut():
            return "write" if version == 1 else "data-patch" if command.patch else "data-write"
        case c.KvDelete():
            return "delete" if command.versions else "data-delete"
        case c.KvUndelete():
            return "undelete"
        case c.KvDestroy():
            return "destroy"
        case c.KvMetadataPut():
            return "metadata-patch" if command.patch else "metadata-write"
        case c.KvMetadataDelete():
            return "metadata-delete" if version == 2 else "delete"
    return "config-write"
