"""What somebody was let do and when, held against when he might. Pure.

A change of a right is under way from its first attempt until it is acknowledged: meanwhile both answers are right. At
all other times only one is, on whichever node, and it does not matter what happened to the nodes.
"""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

GRANTED = frozenset({200, 204})
REFUSED = frozenset({400, 403, 404})
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """A right was given or taken. Times are the driver's monotonic nanoseconds."""

    began_ns: int
    acknowledged_ns: int
    given: bool


@dataclass(frozen=True, slots=True)
class Access:
    """One request and how it was answered; `status` None: it was not."""

    what: str
    node: str
    began_ns: int
    ended_ns: int
    status: int | None


@dataclass(slots=True)
class Ledger:
    """Changes and accesses by subject: a token, a mount, whatever a right is of."""

    changes: dict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    accesses: dict[str, list[Access]] = field(default_factory=lambda: defaultdict(list))
    broken: list[str] = field(default_factory=list)  # promises of other kinds, in words
    played: Counter[str] = field(default_factory=Counter)  # scenes, by name

    def change(self, subject: str, began_ns: int, acknowledged_ns: int, *, given: bool) -> None:
        insort(self.changes[subject], Change(began_ns, acknowledged_ns, given))

    def access(self, subject: str, access: Access) -> None:
        self.accesses[subject].append(access)

    def violations(self) -> list[str]:
        """Every broken promise, in words."""
        found = list(self.broken)
        for subject, accesses in self.accesses.items():
            changes = self.changes[subject]
            found += [f"{subject}: {text}" for access in accesses for text in _judged(changes, access)]
        return found

    def count(self, statuses: frozenset[int]) -> int:
        """How many requests were answered like this."""
        return sum(each.status in statuses for some in self.accesses.values() for each in some)


def _judged(changes: list[Change], access: Access) -> Iterator[str]:
    given = right(changes, access)
    if given is False and access.status in GRANTED:
        yield f"GRANTED after the right was taken: {access}"
    if given is True and access.status in REFUSED:
        yield f"REFUSED although the right was given: {access}"


def right(changes: list[Change], access: Access) -> bool | None:
    """Whether the subject had its right during all of an access; None if that changed, or may have."""
    last: Change | None = None
    for change in changes:
        if change.acknowledged_ns < access.began_ns:
            last = change
        elif change.began_ns <= access.ended_ns:
            return None
    return None if last is None else last.given


def at_most(number: int, statuses: list[int | None]) -> str:
    """What is wrong, if something that works so many times did not: "" if nothing is.

    Who was not answered, or with a server's error, may have been one of them.
    """
    worked = sum(status in GRANTED for status in statuses)
    unknown = sum(status not in GRANTED | REFUSED for status in statuses)
    if worked > number:
        return f"worked {worked} times instead of {number}: {statuses}"
    if worked + unknown < min(number, len(statuses)):
        return f"worked {worked} times only instead of {number}: {statuses}"
    return ""
