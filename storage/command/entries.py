"""Commands about what engines and auth methods keep by name. Tags 70 to 79."""

from storage.command.base import Command, Sealed


class EntryPut(Command, frozen=True, tag=70):
    """Write an entry of a view: what engines and auth methods keep by name.

    A view is a mount's id, or a name that begins with "sys:", or with "own:" if other regions do not share it.
    `expect` is the revision that the entry must have (0: it must not exist), None for any:
    Rejected(REVISION_MISMATCH). Rejected(NO_SUCH_MOUNT) if the mount is gone. An entry with an `owner`, a token's
    digest, goes when that token does; Rejected(NO_SUCH_TOKEN)
    if it is gone already. Done({"revision": n}): n grows with every write of the entry, also after a removal.
    """

    view: str
    path: str
    value: Sealed
    expires_ns: int = 0
    expect: int | None = None
    owner: bytes | None = None


class EntryDelete(Command, frozen=True, tag=71):
    """Remove an entry, if it has the revision `expect`: Rejected(REVISION_MISMATCH). Done({"removed": 0 or 1})."""

    view: str
    path: str
    expect: int | None = None


class EntriesDelete(Command, frozen=True, tag=72):
    """Remove every entry of a view whose path begins with `prefix`. Done({"removed": n})."""

    view: str
    prefix: str


class EntriesExpire(Command, frozen=True, tag=73):
    """Remove at most `limit` entries that expired by time_ns. Done({"removed": n})."""

    limit: int
