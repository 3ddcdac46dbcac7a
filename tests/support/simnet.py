"""The pieces of a simulated world: time that jumps, frames that travel, a state machine that tells what it does."""

import asyncio
import selectors
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from support.machines import DictMachine

from consensus.transport import PeerHandler


class Violation(AssertionError):
    """A promise was broken."""


class _NoWaiting(selectors.SelectSelector):
    """Instead of sleeping, time moves on."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Violation("everybody waits for ever")
        self.loop.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class SimMachine(DictMachine):
    """Tells the world what it applies; `path` is what a crash leaves."""

    def __init__(self, path: Path, applied: Callable[[int, str], None]) -> None:
        super().__init__(path)
        self._tell = applied

    def apply(self, index: int, request_id: bytes, command: bytes) -> Any:
        self._tell(index, command.decode())
        return super().apply(index, request_id, command)


class Carrier(Protocol):
    """Takes frames from one node to another."""

    def carry(self, sender: str, receiver: str, epoch: int, body: bytes) -> None: ...


class SimNet:
    """A node's transport: frames arrive in order, after a delay, as long as the link lives."""

    def __init__(self, world: Carrier, me: str, handler: PeerHandler) -> None:
        self.world, self.me, self.handler = world, me, handler
        self.links: dict[str, int] = {}
        self.open = False

    async def start(self) -> None:
        self.open = True

    async def stop(self) -> None:
        self.open = False

    def set_peers(self, peers: dict[str, str]) -> None:
        """The world connects whom it likes; admission is transport.py's own test."""

    def send(self, peer_id: str, body: bytes) -> bool:
        if not self.open or peer_id not in self.links:
            return False
        self.world.carry(self.me, peer_id, self.links[peer_id], body)
        return True

    def backlog(self, peer_id: str) -> int:
        return 0

    def connected(self) -> set[str]:
        return set(self.links)
