"""Commands about the keys of KV engines. Tags 30 to 39."""

from storage.command.base import Command, Sealed


class KvPut(Command, frozen=True, tag=30):
    """Write version `version` of a key, which must be the next one.

    `decided` is the position of the state that the caller's permission was read from; 0: a confirmed state.
    Checked in this order: Rejected(PERMISSION_OUTDATED) if anything that a permission may rest on has changed since
    `decided`; Rejected(NO_SUCH_MOUNT); Rejected(CAS_REQUIRED) if the mount or the key demands
    `cas` and it is None; Rejected(CAS_MISMATCH) if `cas` is not the current version (0: must not exist, or
    have no versions); Rejected(VERSION_RACED) if `version` is not current + 1: the ciphertext is bound to its
    version, so the proposer encrypts again and retries.
    Done({"version", "created_ns", "deletion_ns", "destroyed": False, "custom_metadata": map or None}).
    """

    mount_id: str
    path: str
    version: int
    cas: int | None
    value: Sealed
    decided: int = 0
    patch: bool = False  # made from the version before it: what is told of it differs, what it does does not


class KvDelete(Command, frozen=True, tag=31):
    """Mark versions deleted (those that exist, are not destroyed or deleted already); () means the latest."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvUndelete(Command, frozen=True, tag=32):
    """Take the deletion mark off versions that are not destroyed."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvDestroy(Command, frozen=True, tag=33):
    """Forget the wrapped data key and the ciphertext of versions, for ever."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvMetadataPut(Command, frozen=True, tag=34):
    """Create or change a key's metadata; None leaves a field as it is. Rejected(NO_SUCH_MOUNT).

    custom_metadata replaces the whole map; with patch=True it merges, and a null value removes its key, and
    an absent key is Rejected(NO_SUCH_KEY). Lowering max_versions prunes the oldest versions at the next
    write.
    """

    mount_id: str
    path: str
    max_versions: int | None = None
    cas_required: bool | None = None
    delete_version_after_ns: int | None = None
    custom_metadata: dict[str, str | None] | None = None
    patch: bool = False


class KvMetadataDelete(Command, frozen=True, tag=35):
    """Forget a key with all its versions."""

    mount_id: str
    path: str


class KvConfigPut(Command, frozen=True, tag=36):
    """Change what is not None of a mount's defaults. Rejected(NO_SUCH_MOUNT).

    A negative delete_version_after_ns switches it off for all keys of the mount, whatever they ask for.
    """

    mount_id: str
    max_versions: int | None = None
    cas_required: bool | None = None
    delete_version_after_ns: int | None = None
