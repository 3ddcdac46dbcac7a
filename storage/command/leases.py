"""Commands about what engines hand out for a time. Tags 80 to 89."""

from storage.command.base import Command, Sealed


class LeasePut(Command, frozen=True, tag=80):
    """A new lease of a mount. Rejected(LEASE_EXISTS | NO_SUCH_MOUNT | NO_SUCH_TOKEN).

    A lease with an `owner`, a token's digest, falls due when that token goes. `value` is what the engine needs to take
    back what it gave.
    """

    lease_id: str
    mount_id: str
    owner: bytes | None
    ttl_ns: int
    expires_ns: int
    max_ns: int  # no renewal reaches beyond this time
    renewable: bool
    value: Sealed


class LeaseRenew(Command, frozen=True, tag=81):
    """Set a live lease's expiry. Rejected(NO_SUCH_LEASE) if it is gone, ending or expired."""

    lease_id: str
    ttl_ns: int
    expires_ns: int


class LeasesEnd(Command, frozen=True, tag=82):
    """At most `limit` leases, that named `prefix` or all that begin with it, fall due now. Done({"ended": n})."""

    prefix: str
    exact: bool
    limit: int


class LeaseFailed(Command, frozen=True, tag=83):
    """The engine could not take a lease back at attempt number `attempts` (from 0). Done({"recorded": 0 or 1})."""

    lease_id: str
    attempts: int
    problem: str
    retry_ns: int
    irrevocable: bool


class LeasesRemove(Command, frozen=True, tag=84):
    """Forget leases whose revocation is done. Done({"removed": n})."""

    lease_ids: tuple[str, ...]
