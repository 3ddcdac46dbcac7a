"""What a request can end in, other than an answer. node/api/vault/render.py turns each into HTTP, in one table.

NodeError
 +- InvalidRequest       400  the caller's mistake; the message is for the caller
 +- NotEnabled           400  an older node is still among the cluster's: nothing happened
 +- PermissionDenied     403  no, or not for this token
 +- NotFound             404  `errors` is empty unless a message helps (unknown mount)
 +- Unsupported          405  the path exists, the operation does not
 +- TooOld               412  a read that accepts old state does not accept one as old as this node's (Retry-After)
 +- BodyTooLarge         413
 +- NotYet               429  this node does not hold the demanded index yet (Retry-After)
 +- TooBusy              503  a named limit is reached; nothing happened
 +- DiskFull             507  a disk has no room for new writes; nothing happened, and reads go on
 +- Sealed               503
 +- NotInitialized       501 where asked for health, else as Sealed
 +- NotPrimary           503  this region follows, and the one that orders writes could not be asked: nothing happened
 +- NoQuorum             503  no leader could be reached: certainly nothing happened
 +- OutcomeUnknown       504  it may have happened: try again with the same X-Strongroom-Request-Id
 +- AuditFailed          500  no sink took the record, so the answer is withheld
"""


class NodeError(Exception):
    """The root of a request's operating errors. `message` goes to the caller: never a secret in it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(NodeError):
    """The caller's mistake."""


class NotEnabled(NodeError):
    """It needs a feature level to which the cluster has not been raised yet."""


class PermissionDenied(NodeError):
    """No, or not for this token. The default message is what Vault says when a policy denies."""


class NotFound(NodeError):
    """Nothing there."""


class Unsupported(NodeError):
    """The path exists, the operation does not."""


class TooOld(NodeError):
    """What this node has may be older than the caller accepts; another node may have more."""


class BodyTooLarge(NodeError):
    """More than Settings.body_bytes_max."""


class NotYet(NodeError):
    """This node does not hold the demanded index yet."""


class TooBusy(NodeError):
    """A named limit is reached; nothing happened."""


class DiskFull(NodeError):
    """This node's disk, or the leader's, has no room; nothing happened."""


class Sealed(NodeError):
    """The store is sealed."""


class NotInitialized(NodeError):
    """The store has never been initialised."""


class NoQuorum(NodeError):
    """No leader could be reached; nothing happened."""


class NotPrimary(NodeError):
    """This region follows another one, which orders writes; nothing happened."""


class OutcomeUnknown(NodeError):
    """It may have happened, or may yet."""


class AuditFailed(NodeError):
    """No audit sink accepted the record."""
