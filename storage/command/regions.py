"""Commands about regions: who follows, who orders writes, and what travels between them. Tags 90 to 99."""

from storage.command.base import Command


class RegionFound(Command, frozen=True, tag=90):
    """This cluster becomes the primary region `name` of its store. Rejected(REGION_ROLE) if there are regions."""

    name: str
    endpoints: tuple[str, ...]
    links: tuple[str, ...]


class RegionPut(Command, frozen=True, tag=91):
    """A region that follows, or what changed of one. Rejected(REGION_ROLE) while there are no regions."""

    name: str
    endpoints: tuple[str, ...]  # URLs at which clients reach its nodes
    links: tuple[str, ...]  # host:port at which other regions do


class RegionRemove(Command, frozen=True, tag=92):
    """Forget a region that follows. Rejected(REGION_ROLE) if it is the one that orders writes."""

    name: str


class RegionHandover(Command, frozen=True, tag=93):
    """The last command that the primary region orders: from here on only `target` may begin an epoch.

    Rejected(NO_SUCH_REGION) if nobody follows under that name, or it is the primary itself.
    """

    target: str


class EpochBegin(Command, frozen=True, tag=94):
    """The first command of an epoch: `region` orders writes from here on. Only RegionPromote makes one."""

    epoch: int
    region: str


class RegionApply(Command, frozen=True, tag=95):
    """What the primary ordered, in a region that follows: commands from position `first` on.

    `epoch` is the one in force before the first of them. Rejected(REGION_ROLE) in a region that does not follow,
    Rejected(POSITION_GAP) if the last one applied is not first - 1 or the epoch is another one.
    Done({"position": the last one applied}).
    """

    epoch: int
    first: int
    commands: tuple[tuple[bytes, bytes], ...]  # request id and encoded command


class RegionPromote(Command, frozen=True, tag=96):
    """This region, which followed, begins epoch `epoch`. Rejected(REGION_ROLE), or Rejected(POSITION_GAP) if the
    epoch in force is not epoch - 1 or, with `at`, the last position applied is not `at`.
    """

    epoch: int
    at: int | None = None


class RegionDemote(Command, frozen=True, tag=97):
    """This region follows from now on: it handed over, found that another one began an epoch where it stands, or was
    told to order nothing any more.
    """


class RegionLeave(Command, frozen=True, tag=98):
    """This cluster is no region any more: the state stays, and it orders its writes alone.

    Rejected(REGION_ROLE) unless it follows, or orders writes and no other region is registered.
    """
