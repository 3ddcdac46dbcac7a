"""What a replica needs from whoever runs it: engine.Engine, or a test."""

from typing import NoReturn, Protocol

from consensus import wire
from consensus.records import Entry
from consensus.replication import Links


class Host(Links, Protocol):
    """Time, disk, network and state machine. Everything on one thread."""

    def clock(self) -> float:
        """Monotonic seconds, the clock that pysyncobj reads."""
        ...

    def boottime(self) -> float:
        """Seconds that also pass while the machine sleeps."""
        ...

    @property
    def lsn(self) -> int: ...
    @property
    def durable_lsn(self) -> int: ...
    def sync(self) -> None:
        """Blocking: all that was appended to the journal is durable on return."""
        ...

    @property
    def stalled(self) -> bool:
        """The disk does not answer: what is queued for it cannot become durable soon."""
        ...

    @property
    def disk_full(self) -> bool:
        """There is no room for new writes."""
        ...

    @property
    def cramped(self) -> bool:
        """There is not even room to apply those that were taken."""
        ...

    def kick(self) -> None:
        """Tick soon."""
        ...

    def committed(self, index: int) -> None:
        """This node leads, and everything up to `index` is committed: what waited for that may be appended."""
        ...

    def apply(self, entry: Entry) -> None: ...
    def takes(self, entry: Entry) -> bool:
        """Whether a follower may have this entry in its log: a file that it names is here."""
        ...

    def restored(self, entry: Entry) -> bool:
        """Apply a RESTORE entry; False: not yet, tick again when kicked."""
        ...

    def offered(self, peer: str, offer: wire.SnapshotOffer) -> None:
        """The leader `peer` has a snapshot that this member needs."""
        ...

    def role_changed(self) -> None:
        """Leader, term or own role may be others now."""
        ...

    def members_changed(self) -> None: ...
    def fatal(self, reason: str) -> NoReturn: ...
