"""Adding and removing members, one server at a time, on the leader's behalf of a caller anywhere.

A joiner first gets the log as a learner: it counts for nothing. Only when it has nearly all of it does the
entry that makes it a voter go into the log, so a change never costs the group its majority (Raft thesis,
section 4.2.1). Several may learn at once, and hold up no other change meanwhile: entries go into the log one at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable

from consensus import membership
from consensus.api import Member
from consensus.errors import MembershipRefused
from consensus.replica import Replica

FAREWELL_S = 2.0
FAREWELL_HEARTBEATS = 2  # after which it has heard that its removal is committed

Predicate = Callable[[], bool]
Wait = Callable[[Predicate], Awaitable[None]]


class Changes:
    """The leader's side. `wait(predicate)` returns when the predicate holds after some event of the group."""

    def __init__(self, replica: Replica, wait: Wait) -> None:
        self._replica, self._wait = replica, wait
        self._busy = asyncio.Lock()

    async def change(self, member: Member, *, adding: bool) -> None:
        """As the leader, carry one membership change through. Raises MembershipRefused."""
        if adding:
            await self.add(member, lambda: True)
        else:
            await self.remove(member.id)

    async def add(self, member: Member, may_vote: Predicate) -> None:
        """Returns when the new configuration is applied here. Cancel it at the caller's deadline.

        `may_vote()` is asked whenever something happens, besides whether the learner has caught up.
        """
        replica = self._replica

        def good() -> bool:
            return self._caught_up(member.id) and may_vote()

        if self._is_member(member):
            return
        self._check_leading()
        membership.check_learner(replica.learners, member)
        replica.set_learners({**replica.learners, member.id: member})
        try:
            while not self._is_member(member):
                await self._until(lambda: good() or member.id in replica.members)
                async with self._busy:
                    if good() and not self._is_member(member):
                        await self._append(member, adding=True)
        finally:
            self._forget(member.id)

    def _is_member(self, member: Member) -> bool:
        """Whether it is one already. Raises MembershipRefused if it cannot become one."""
        members = self._replica.members
        if members.get(member.id) == member:
            return True
        if member.id in members:
            raise MembershipRefused("that id is a member under another address: remove it first")
        membership.check_add(members, member)
        return False

    async def remove(self, node_id: str) -> None:
        """As add(). The leader cannot remove itself: it hands over first (group.py)."""
        replica = self._replica
        async with self._busy:
            if node_id in replica.members:
                await self._hear_from_all()
            if (leaving := replica.members.get(node_id)) is None:  # perhaps another leader was quicker
                return
            self.check_removal(node_id)
            # It goes on getting the log until it knows that it is out; otherwise it would campaign for ever.
            index = await self._append(leaving, adding=False, keep=True)
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self._until(lambda: self._holds(node_id, index))
                    await asyncio.sleep(FAREWELL_HEARTBEATS * replica.options.heartbeat_s)
            except TimeoutError:
                pass
            finally:
                self._forget(node_id)

    async def _hear_from_all(self) -> None:
        """A leader that has just begun knows nobody's health yet: give the others a moment to answer it."""
        try:
            async with asyncio.timeout(FAREWELL_HEARTBEATS * self._replica.options.heartbeat_s):
                await self._until(lambda: self._replica.answering.issuperset(self._replica.others))
        except TimeoutError:
            pass

    def check_removal(self, node_id: str) -> None:
        """Raises MembershipRefused if that member cannot go now: it is the last, or the rest could not go on."""
        members = self._replica.members
        if node_id in members:
            membership.check_remove(members, node_id)
            membership.check_keeps_quorum(members, node_id, self._replica.answering)

    def _caught_up(self, node_id: str) -> bool:
        progress = self._replica.replicator.progress.get(node_id)
        lag = self._replica.options.learner_lag_entries
        return (
            progress is not None
            and node_id in self._replica.replicator.connected
            and progress.match > 0
            and progress.match + lag >= self._replica.log.last_index
        )

    def _holds(self, node_id: str, index: int) -> bool:
        progress = self._replica.replicator.progress.get(node_id)
        return progress is None or progress.match >= index

    async def _append(self, member: Member, *, adding: bool, keep: bool = False) -> int:
        """One change, once it is safe; returns its index when it is applied."""
        replica = self._replica
        await self._until(self._safe)
        if keep:
            replica.learners = {**replica.learners, member.id: member}
        index = replica.append(membership.payload_of(member, adding=adding))
        term = replica.core.term
        await self._until(lambda: replica.core.applied_index >= index or replica.log.term_at(index) != term)
        if replica.log.term_at(index) not in (term, None):
            raise MembershipRefused("the leader changed; look at the members and ask again")
        return index

    def _safe(self) -> bool:
        replica = self._replica
        try:
            membership.check_safe(
                changes=replica.log.changes,
                applied_index=replica.core.applied_index,
                noop_index=replica.core.noop_index,
            )
        except MembershipRefused:
            return False
        return True

    def _forget(self, node_id: str) -> None:
        if self._replica.learners.pop(node_id, None) is not None:
            self._replica.set_learners(self._replica.learners)

    async def _until(self, predicate: Callable[[], bool]) -> None:
        await self._wait(lambda: predicate() or not self._replica.leading)
        self._check_leading()

    def _check_leading(self) -> None:
        if not self._replica.leading:
            raise MembershipRefused("not the leader any more; look at the members and ask again")
