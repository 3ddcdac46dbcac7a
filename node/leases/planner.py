"""What is granted, and what follows a failure: pure, the clock comes in. Times and durations are nanoseconds."""

from dataclasses import dataclass

from node.auth.fields import SECOND_NS, ends_ns, go_duration
from node.auth.ttl import Limits
from node.errors import InvalidRequest
from storage.rows import Lease

REVOKE_ATTEMPTS_MAX = 6  # then the lease is irrevocable, until an operator asks again
RETRY_FIRST_NS = 10 * SECOND_NS
RETRY_LONGEST_NS = 3600 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Grant:
    """For how long a credential is good, and the time beyond which no renewal reaches."""

    ttl_ns: int
    max_ns: int
    warnings: tuple[str, ...] = ()


def grant(bounds: Limits, *, asked_ns: int, longest_ns: int, now_ns: int) -> Grant:
    """The lifetime of a new lease: what was asked for, or the mount's default, within its maximum.

    `asked_ns` and `longest_ns` are the role's, 0 for none.
    """
    longest_ns = min(longest_ns or bounds.max_ns, bounds.max_ns, ends_ns(now_ns, bounds.max_ns) - now_ns)
    ttl_ns = asked_ns or min(bounds.default_ns, longest_ns)
    if ttl_ns <= longest_ns:
        return Grant(ttl_ns, now_ns + longest_ns)
    return Grant(longest_ns, now_ns + longest_ns, (_capped(ttl_ns, longest_ns),) if asked_ns else ())


def renewal(lease: Lease, *, increment_ns: int, now_ns: int) -> Grant:
    """The lifetime of a lease from now on. Raises InvalidRequest."""
    if not lease.renewable:
        raise InvalidRequest("lease is not renewable")
    left_ns = lease.max_ns - now_ns
    if left_ns <= 0:
        raise InvalidRequest("past the max TTL, cannot renew")
    ttl_ns = increment_ns or lease.ttl_ns
    if ttl_ns <= left_ns:
        return Grant(ttl_ns, lease.max_ns)
    return Grant(left_ns, lease.max_ns, (_capped(ttl_ns, lease.max_ns - lease.issued_ns),))


def _capped(asked_ns: int, longest_ns: int) -> str:
    return (
        f'TTL of "{go_duration(asked_ns)}" exceeded the effective max_ttl of "{go_duration(longest_ns)}";'
        " TTL value is capped accordingly"
    )


def is_live(lease: Lease, now_ns: int) -> bool:
    """Whether what a lease stands for is still good, whether or not a sweep came by."""
    return not lease.ending and lease.expires_ns > now_ns


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again to take a credential back; never, if it is given up."""

    at_ns: int
    irrevocable: bool


def after_failure(lease: Lease, now_ns: int) -> Retry:
    """Twice as long each time, and at the last attempt never again."""
    wait_ns = min(RETRY_FIRST_NS << lease.attempts, RETRY_LONGEST_NS)
    return Retry(now_ns + wait_ns, irrevocable=lease.attempts + 1 >= REVOKE_ATTEMPTS_MAX)
