"""A group of one without disk or network: the same face, for the dev mode and for tests of what is above it."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from consensus.api import COMMAND_BYTES_MAX, REQUEST_ID_BYTES, Applied, Member, Role, StateMachine, Status
from consensus.errors import MembershipRefused, ReadNotConfirmed, RestoreRefused, Shutdown, TooLarge

ADDRESS = "memory:0"


class SoloGroup:
    """See api.Group. Every command is committed, applied and closed before propose() returns."""

    def __init__(self, machine: StateMachine, node_id: str) -> None:
        self._machine, self._me = machine, Member(node_id, ADDRESS)
        self._stopped = False
        self._watcher: Callable[[float], None] | None = None

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Refuse what comes from now on."""
        self._stopped = True
        if self._watcher is not None:
            self._watcher(0.0)

    def begin(self, command: bytes, *, request_id: bytes, timeout: float) -> "asyncio.Future[Applied]":
        """See api.Group."""
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        future.set_result(self._commit(command, request_id))
        return future

    async def propose(self, command: bytes, *, request_id: bytes, timeout: float) -> Applied:
        """See api.Group."""
        return self._commit(command, request_id)

    def _commit(self, command: bytes, request_id: bytes) -> Applied:
        if len(request_id) != REQUEST_ID_BYTES:
            raise ValueError(f"a request id has {REQUEST_ID_BYTES} bytes")
        if self._stopped:
            raise Shutdown("this node is stopping")
        if len(command) > COMMAND_BYTES_MAX:
            raise TooLarge(f"a command has at most {COMMAND_BYTES_MAX} bytes")
        if (known := self._machine.outcome(request_id)) is not None:
            return Applied(known.index, known.result)
        index = self._machine.applied_index + 1
        result = self._machine.apply(index, request_id, command)
        self._machine.commit()
        return Applied(index, result)

    def fresh_now(self) -> bool:
        """See api.Group."""
        return not self._stopped

    def watch(self, watcher: Callable[[float], None] | None) -> None:
        """See api.Group."""
        self._watcher = watcher
        if watcher is not None:
            watcher(0.0 if self._stopped else math.inf)

    def age_s(self) -> float | None:
        """See api.Group."""
        return 0.0

    async def read_index(self, timeout: float, *, confirm: bool = False) -> int:
        """See api.Group."""
        if self._stopped:
            raise ReadNotConfirmed("this node is stopping")
        return self._machine.applied_index

    async def wait_applied(self, index: int, timeout: float) -> None:
        """See api.Group. What is not applied now will not be by waiting."""
        if index > self._machine.applied_index:
            raise ReadNotConfirmed(f"this node has not applied {index}")

    def status(self) -> Status:
        """See api.Group."""
        index = self._machine.applied_index
        return Status(self._me.id, Role.LEADER, 1, self._me.id, 1, index, index, index, (self._me,), ())

    async def step_down(self, timeout: float) -> None:
        """There is nobody to hand over to."""

    async def add_member(
        self, member: Member, timeout: float, *, may_vote: Callable[[], bool] | None = None
    ) -> None:
        """Always refused."""
        raise MembershipRefused("an in-memory group has one member")

    async def remove_member(self, node_id: str, timeout: float) -> None:
        """Always refused."""
        raise MembershipRefused("an in-memory group has one member")

    async def check_removal(self, node_id: str, timeout: float) -> None:
        """Always refused."""
        raise MembershipRefused("an in-memory group has one member")

    async def restore(self, path: Path, timeout: float) -> None:
        """Always refused."""
        raise RestoreRefused("an in-memory group has nothing to restore to")
