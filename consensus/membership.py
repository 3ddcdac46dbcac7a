"""Who belongs to the group: a pure function of the log, and the rules of changing it one server at a time.

The configuration in force is the one of the log's base and every MEMBER entry after it, committed or not
(Raft thesis, section 4.1): applied when appended, rolled back when truncated, rebuilt at start.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgpack

from consensus.api import Member
from consensus.errors import Corrupt, MembershipRefused

REGULAR, NOOP, MEMBER, RESTORE = 0, 1, 2, 3  # the first byte of an entry's payload
VOTERS_MAX = 9
LEARNERS_MAX = 9
ADD, REMOVE = "add", "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log that changed the configuration."""

    index: int
    adding: bool
    member: Member


def payload_of(member: Member, *, adding: bool) -> bytes:
    """The log payload of a change."""
    fields = (ADD, member.id, member.address) if adding else (REMOVE, member.id)
    return bytes([MEMBER]) + bytes(msgpack.packb(fields))


def change_of(payload: bytes, index: int) -> Change:
    """The change in a MEMBER payload. Raises Corrupt: only this module writes them."""
    try:
        match msgpack.unpackb(payload[1:], raw=False, use_list=True):
            case [str(op), str(node_id), str(address)] if op == ADD and node_id and address:
                return Change(index, True, Member(node_id, address))
            case [str(op), str(node_id)] if op == REMOVE and node_id:
                return Change(index, False, Member(node_id, ""))
    except (ValueError, msgpack.UnpackException):
        pass
    raise Corrupt(f"entry {index} is no membership change")


def configuration(base: Iterable[Member], changes: Iterable[Change]) -> dict[str, Member]:
    """The members by id after `changes` were applied, in log order, to `base`."""
    members = {member.id: member for member in base}
    for change in changes:
        if change.adding:
            members[change.member.id] = change.member
        else:
            members.pop(change.member.id, None)
    return dict(sorted(members.items()))


def check_safe(*, changes: Sequence[Change], applied_index: int, noop_index: int | None) -> None:
    """Whether the leader may append another change now. Raises MembershipRefused.

    One at a time, and only after an entry of the leader's own term is committed: otherwise two disjoint
    majorities may exist (Ongaro, raft-dev 2015, "bug in single-server membership changes").
    """
    if noop_index is None or applied_index < noop_index:
        raise MembershipRefused("the leader has not committed an entry of its own term yet")
    if changes and changes[-1].index > applied_index:
        raise MembershipRefused("another membership change is pending")


def check_add(members: dict[str, Member], member: Member) -> None:
    """Raises MembershipRefused if `member` cannot be added to `members`."""
    if not member.id or not member.address:
        raise MembershipRefused("a member needs an id and an address")
    if len(members) >= VOTERS_MAX:
        raise MembershipRefused(f"a group has at most {VOTERS_MAX} voters")
    if any(other.address == member.address for other in members.values() if other.id != member.id):
        raise MembershipRefused("another member has that address")


def check_learner(learners: dict[str, Member], member: Member) -> None:
    """Raises MembershipRefused if `member` cannot begin to learn beside `learners`."""
    if len(learners) >= LEARNERS_MAX and member.id not in learners:
        raise MembershipRefused(f"at most {LEARNERS_MAX} nodes can join at a time; ask again")


def check_remove(members: dict[str, Member], node_id: str) -> None:
    """Raises MembershipRefused if `node_id` cannot be removed from `members`."""
    if node_id not in members:
        raise MembershipRefused("no such member")
    if len(members) == 1:
        raise MembershipRefused("the last voter cannot be removed")


def check_keeps_quorum(members: dict[str, Member], node_id: str, alive: Collection[str]) -> None:
    """Raises MembershipRefused if those that are left, of whom `alive` answer, could not go on without `node_id`."""
    left = members.keys() - {node_id}
    answering = left & set(alive)
    if len(answering) <= len(left) // 2:
        raise MembershipRefused(
            f"without {node_id} only {len(answering)} of {len(left)} voters would answer, which is no majority:"
            " bring back or remove those that do not answer first"
        )
