"""How long a token may live: what was asked for, within what the mount, the role and the token itself allow.

Pure; the clock comes in. Times and durations are nanoseconds, 0 for none.
"""

import re
from dataclasses import dataclass

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.config import Settings
from node.errors import InvalidRequest
from storage.rows import Mount


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a mount: what a token gets that asks for nothing, and the most that any gets."""

    default_ns: int
    max_ns: int


def limits(settings: Settings, mount: Mount | None) -> Limits:
    """A mount's own, where it was tuned, or the server's."""
    max_ns = (mount.max_lease_ttl_ns if mount else 0) or settings.max_lease_ttl_s * SECOND_NS
    default_ns = (mount.default_lease_ttl_ns if mount else 0) or settings.default_lease_ttl_s * SECOND_NS
    return Limits(min(default_ns, max_ns), max_ns)


def grant(
    bounds: Limits,
    *,
    asked_ns: int,
    period_ns: int,
    explicit_max_ns: int,
    created_ns: int,
    now_ns: int,
    role_max_ns: int = 0,
) -> tuple[int, list[str]]:
    """How long from now, and warnings if that is less than asked for.

    A periodic token gets its period each time, and ends only by its explicit maximum; any other ends at the
    latest when the maximum has passed since its creation. InvalidRequest once that has happened.
    """
    maximum_ns = min(each for each in (bounds.max_ns, role_max_ns, explicit_max_ns) if each)
    ttl_ns = period_ns or asked_ns or bounds.default_ns
    if period_ns:
        maximum_ns = min(explicit_max_ns or bounds.max_ns, bounds.max_ns)
    bound = (created_ns, maximum_ns) if explicit_max_ns or not period_ns else (now_ns, bounds.max_ns)
    left_ns = fields.ends_ns(*bound) - now_ns
    if left_ns <= 0:
        raise InvalidRequest("past the max TTL, cannot renew")
    if ttl_ns <= left_ns:
        return ttl_ns, []
    subject = ("period", "period value") if period_ns else ("TTL", "TTL value")
    warning = (
        f'{subject[0]} of "{_short(ttl_ns)}" exceeded the effective max_ttl of "{_short(maximum_ns)}"; '
        f"{subject[1]} is capped accordingly"
    )
    return left_ns, [warning] if asked_ns or period_ns or explicit_max_ns else []


def _short(nanoseconds: int) -> str:
    text = fields.go_duration(nanoseconds)
    return re.sub(r"(?<=[hm])0[ms](0s)?$", "", text)
