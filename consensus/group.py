"""The face of this package: one node's part of a replicated log, as `api.Group` describes it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

from consensus import opening
from consensus.api import Applied, Member, Peer, Role, StateMachine, Status
from consensus.engine import Engine
from consensus.errors import MembershipRefused, ReadNotConfirmed
from consensus.opening import Disk, GroupConfig
from consensus.options import RaftOptions
from consensus.parts import Counters, Parts

DEADLINE_PASSED = "the deadline passed; look at the members and ask again"

__all__ = ["Counters", "GroupConfig", "Parts", "RaftGroup", "RaftOptions"]


class RaftGroup:
    """See api.Group. Build it with create(), join() or open(); start() it on the loop that will run it."""

    def __init__(
        self, config: GroupConfig, machine: StateMachine, disk: Disk, parts: Parts | None = None
    ) -> None:
        self._engine = Engine(config, machine, disk, parts or Parts())
        self._stopping = False

    @classmethod
    def create(
        cls,
        config: GroupConfig,
        machine: StateMachine,
        *,
        address: str,
        term: int = 0,
        parts: Parts | None = None,
    ) -> Self:
        """A new cluster whose only member is this node. Blocking. Raises FileExistsError.

        Its log begins behind what the machine holds already, if anything; `term` is that state's.
        """
        index = machine.applied_index
        opening.create(config, (Member(config.node_id, address),), index=index, term=term)
        return cls.open(config, machine, parts=parts)

    @classmethod
    def join(
        cls,
        config: GroupConfig,
        machine: StateMachine,
        *,
        members: tuple[Member, ...],
        parts: Parts | None = None,
    ) -> Self:
        """An empty learner of the cluster of `members`, one of which must be asked to add_member() it. Blocking."""
        if not members or any(member.id == config.node_id for member in members):
            raise MembershipRefused("a joiner needs the other members, and must not be one of them")
        opening.create(config, members)
        return cls.open(config, machine, parts=parts)

    @classmethod
    def open(cls, config: GroupConfig, machine: StateMachine, *, parts: Parts | None = None) -> Self:
        """What create() or join() began. Blocking. Raises Corrupt."""
        return cls(config, machine, opening.open_disk(config, machine), parts)

    async def start(self) -> None:
        """Listen, and take part. Raises OSError if the address cannot be bound."""
        await self._engine.start()

    async def stop(self) -> None:
        """See api.Group. What was appended is durable when this returns."""
        if self._stopping:
            return
        self._stopping = True
        if self._engine.running:
            await self.step_down(self._engine.options.election_max_s)
        await self._engine.stop()

    def begin(self, command: bytes, *, request_id: bytes, timeout: float) -> "asyncio.Future[Applied]":
        """See api.Group."""
        return self._engine.proposals.begin(command, request_id=request_id, timeout=timeout)

    async def propose(self, command: bytes, *, request_id: bytes, timeout: float) -> Applied:
        """See api.Group."""
        return await self._engine.proposals.begin(command, request_id=request_id, timeout=timeout)

    def fresh_now(self) -> bool:
        """See api.Group. Inside a lease: the leader's own, or a follower's."""
        return self._engine.running and self._engine.replica.leasing.fresh

    def watch(self, watcher: Callable[[float], None] | None) -> None:
        """See api.Group."""
        self._engine.watch(watcher)

    def age_s(self) -> float | None:
        """See api.Group."""
        return self._engine.replica.leasing.age_s() if self._engine.running else None

    async def read_index(self, timeout: float, *, confirm: bool = False) -> int:
        """See api.Group. Where fresh_now() holds this does not even yield."""
        engine, core = self._engine, self._engine.replica.core
        if not confirm and self.fresh_now():
            return core.applied_index
        try:
            async with asyncio.timeout(timeout):
                if not confirm and await self._waited_out():
                    return core.applied_index
                while (index := await self._confirmed_index(confirm=confirm)) is None:  # noqa: ASYNC110 - news is polled
                    await asyncio.sleep(engine.options.heartbeat_s / 2)
                await engine.waits.applied(index)
        except TimeoutError:
            raise ReadNotConfirmed("no quorum confirmed a read index within the deadline") from None
        return core.applied_index

    async def _waited_out(self) -> bool:
        """Under a follower's lease only what is in its log can be news: whether that was applied soon."""
        engine, replica = self._engine, self._engine.replica
        if not engine.running or replica.leading or not replica.leasing.holds():
            return False
        try:
            async with asyncio.timeout(engine.options.heartbeat_s):
                await engine.waits.applied(replica.log.last_index)
        except TimeoutError:
            return False
        return True

    async def _confirmed_index(self, *, confirm: bool) -> int | None:
        """The leader's commit index, confirmed after this call began; None: ask again."""
        engine = self._engine
        if not engine.running:
            raise ReadNotConfirmed("this node is not running")
        if not engine.replica.leading:
            return await engine.reads.ask(confirm=confirm)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        engine.replica.read(lambda good: None if future.done() else future.set_result(good), confirm=confirm)
        return engine.replica.core.commit_index if await future else None

    async def wait_applied(self, index: int, timeout: float) -> None:
        """See api.Group."""
        try:
            async with asyncio.timeout(timeout):
                await self._engine.waits.applied(index)
        except TimeoutError:
            raise ReadNotConfirmed(f"this node has not applied {index} within the deadline") from None

    def status(self) -> Status:
        """See api.Group."""
        replica, core, log = self._engine.replica, self._engine.replica.core, self._engine.replica.log
        return Status(
            node_id=replica.me,
            role=replica.role,
            term=core.term,
            leader_id=core.leader_id,
            first_index=log.base.index + 1,
            last_index=log.last_index,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            members=tuple(replica.members.values()),
            peers=tuple(self._peer(m) for m in replica.members.values() if m.id != replica.me),
            learners=tuple(self._peer(m) for m in replica.learners.values()),
        )

    def _peer(self, member: Member) -> Peer:
        replica = self._engine.replica
        progress = replica.replicator.progress.get(member.id)
        contact = None if progress is None else progress.contact
        return Peer(
            member=member,
            connected=member.id in replica.replicator.connected,
            match_index=0 if progress is None else progress.match,
            last_contact_s=None if contact is None else max(0.0, self._engine.boottime() - contact),
        )

    async def step_down(self, timeout: float) -> None:
        """See api.Group. Proposals wait meanwhile; if it does not work out, this node goes on leading."""
        replica = self._engine.replica
        if not replica.leading or not replica.others:
            return
        replica.handover.transferring = True
        try:
            async with asyncio.timeout(timeout):
                told: list[str] = []
                while replica.core.leading:
                    await self._hand_over_once(told)
                await self._engine.until(lambda: replica.core.leader_id is not None)
        except (TimeoutError, MembershipRefused):  # the second: this node is being stopped
            pass
        finally:
            replica.handover.transferring = False
            self._engine.proposals.try_again()

    async def _hand_over_once(self, told: list[str]) -> None:
        """Tell the best follower to campaign once it has the whole log; wait for one election at most.

        Those of `told`, who was told before, come last.
        """
        engine, replica = self._engine, self._engine.replica
        progress, connected = replica.replicator.progress, replica.replicator.connected
        voters = [peer for peer in replica.others if peer in connected and peer in progress]
        target = max(voters, key=lambda peer: (-told.count(peer), progress[peer].match), default=None)
        if target is None or not replica.handover.to(target):
            await asyncio.sleep(engine.options.heartbeat_s / 4)
            return
        told.append(target)
        try:
            async with asyncio.timeout(engine.options.election_max_s):
                await engine.until(lambda: not replica.leading)
        except TimeoutError:
            pass

    async def add_member(
        self, member: Member, timeout: float, *, may_vote: Callable[[], bool] | None = None
    ) -> None:
        """See api.Group. Asking again for what is done already is fine."""
        if may_vote is None:
            await self._change(member, adding=True, timeout=timeout)
            return
        try:
            async with asyncio.timeout(timeout):
                await self._engine.changes.add(member, may_vote)
        except TimeoutError:
            raise MembershipRefused(DEADLINE_PASSED) from None

    async def remove_member(self, node_id: str, timeout: float) -> None:
        """See api.Group. Asking again for what is done already is fine."""
        await self._change(Member(node_id, ""), adding=False, timeout=timeout)

    async def check_removal(self, node_id: str, timeout: float) -> None:
        """See api.Group."""
        engine = self._engine
        try:
            async with asyncio.timeout(timeout):
                while not engine.replica.leading:
                    if await engine.change_questions.ask_removal(node_id):
                        return
                    await asyncio.sleep(engine.options.heartbeat_s)
        except TimeoutError:
            raise MembershipRefused("no leader answers; nothing happened") from None
        engine.changes.check_removal(node_id)

    async def _change(self, member: Member, *, adding: bool, timeout: float) -> None:
        engine, replica = self._engine, self._engine.replica
        deadline = engine.clock() + timeout
        try:
            async with asyncio.timeout(timeout):
                while not await self._change_once(member, adding, deadline - engine.clock()):  # noqa: ASYNC110
                    await asyncio.sleep(engine.options.heartbeat_s)
                if replica.me != member.id:
                    await engine.until(lambda: (member.id in replica.members) == adding)
        except TimeoutError:
            raise MembershipRefused(DEADLINE_PASSED) from None

    async def _change_once(self, member: Member, adding: bool, left: float) -> bool:
        engine, replica = self._engine, self._engine.replica
        if not adding and member.id == replica.me and replica.removed:
            return True  # the leader has cut the link that its answer would have come by
        if not replica.leading:
            return await engine.change_questions.ask(member, adding=adding, timeout=left)
        if not adding and member.id == replica.me and replica.others:
            await self.step_down(left)
            return False
        await engine.changes.change(member, adding=adding)
        return True

    async def restore(self, path: Path, timeout: float) -> None:
        """See api.Group."""
        await self._engine.restoring.restore(path, timeout)

    def counters(self) -> Counters:
        """What was counted so far."""
        return self._engine.counted()

    @property
    def role(self) -> Role:
        return self._engine.replica.role
