"""What a proposal or a read can end in, other than its result.

ConsensusError
 +- NotProposed        certainly not in the log; the caller may try again as it likes
 |   +- NoLeader       nobody leads within the deadline, and nothing was handed to anyone
 |   +- Overloaded     a named limit (pending proposals) is reached
 |   +- DiskFull       a disk has no room for new writes
 |   +- TooLarge       the command is larger than COMMAND_BYTES_MAX
 |   +- Shutdown       this group is stopping, and had handed nothing to anyone
 +- OutcomeUnknown     it may have been committed, or may be later; ask again with the same request id
 +- ReadNotConfirmed   no quorum confirmed the read index within the deadline
 +- MembershipRefused  the change is not safe now (one is pending, no such member, last voter, ...)
 +- RestoreRefused     the file was not restored: nothing changed, on no member
 +- Corrupt            what is on disk is not what was written there: the node must not start
"""


class ConsensusError(Exception):
    """The root of this package's operating errors."""


class NotProposed(ConsensusError):
    """Certainly not in the log, and never will be by this attempt."""


class NoLeader(NotProposed):
    """Nobody leads within the deadline, and nothing was handed to anyone."""


class Overloaded(NotProposed):
    """A named limit of pending work is reached."""


class DiskFull(NotProposed):
    """This node's disk, or the leader's, has no room for new writes. Reads go on."""


class TooLarge(NotProposed):
    """The command is larger than COMMAND_BYTES_MAX."""


class Shutdown(NotProposed):
    """The group is stopping."""


class OutcomeUnknown(ConsensusError):
    """The command may have been committed, or may be later. Never to be shown as failure."""


class ReadNotConfirmed(ConsensusError):
    """No quorum confirmed within the deadline that this view is current."""


class MembershipRefused(ConsensusError):
    """The membership change is not safe, or not possible, now."""


class RestoreRefused(ConsensusError):
    """The group does not restore that file; nothing changed, and nothing will by that attempt."""


class Corrupt(ConsensusError):
    """What is on disk is not what was once written there; starting would risk what others rely on."""
