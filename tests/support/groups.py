"""Real three-node groups in one process: real TLS, real journals in a temporary directory, a tiny state machine."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from support.certs import Authority
from support.machines import DictMachine, NoCipher
from support.patience import PATIENCE_S, eventually
from support.ports import free_ports

from consensus.api import Member
from consensus.errors import NoLeader, OutcomeUnknown
from consensus.group import GroupConfig, Parts, RaftGroup, RaftOptions
from consensus.identity import peer_contexts

CLUSTER = "c1"
FAST = RaftOptions(heartbeat_s=0.05, election_min_s=0.3, election_max_s=0.6, propose_retry_s=0.5)


def request_id() -> bytes:
    return os.urandom(16)


class Cluster:
    """Nodes by id. `boot()` brings up the first; `grow()` adds others through add_member()."""

    def __init__(self, directory: Path, options: RaftOptions = FAST) -> None:
        self.directory, self.options = directory, options
        self.authority = Authority(directory / "ca")
        self.ports: dict[str, int] = {}
        self.groups: dict[str, RaftGroup] = {}
        self.machines: dict[str, DictMachine] = {}
        self.fatal: list[str] = []
        self.free_bytes = 1 << 40  # on every node's disk

    def member(self, node_id: str) -> Member:
        if node_id not in self.ports:
            (self.ports[node_id],) = free_ports(1)
        return Member(node_id, f"127.0.0.1:{self.ports[node_id]}")

    def config(self, node_id: str) -> GroupConfig:
        home = self.directory / node_id
        home.mkdir(exist_ok=True)
        server, client = peer_contexts(ca=self.authority.ca, certificate=self._certificate(node_id))
        self.member(node_id)
        return GroupConfig(
            node_id=node_id,
            cluster_id=CLUSTER,
            owner=f"{CLUSTER}/{node_id}/1",
            directory=home,
            listen=("127.0.0.1", self.ports[node_id]),
            server_tls=server,
            client_tls=client,
            cipher=NoCipher(),
            options=self.options,
        )

    def _certificate(self, node_id: str) -> Path:
        path = self.authority.directory / f"{node_id}.pem"
        return path if path.exists() else self.authority.node(node_id, CLUSTER)

    def _die(self, reason: str) -> NoReturn:
        self.fatal.append(reason)
        raise AssertionError(reason)

    async def _start(self, node_id: str, build: Callable[..., RaftGroup], **more: Any) -> RaftGroup:
        machine = self.machines[node_id] = DictMachine(self.directory / node_id / "state")
        group = build(
            self.config(node_id),
            machine,
            parts=Parts(fatal=self._die, free_bytes=lambda _: self.free_bytes),
            **more,
        )
        await group.start()
        self.groups[node_id] = group
        return group

    async def boot(self, node_id: str = "n1") -> RaftGroup:
        return await self._start(node_id, RaftGroup.create, address=self.member(node_id).address)

    async def join(self, node_id: str) -> RaftGroup:
        members = tuple(self.member(other) for other in self.groups)
        return await self._start(node_id, RaftGroup.join, members=members)

    async def grow(self, *node_ids: str) -> None:
        for node_id in node_ids:
            await self.join(node_id)
            while node_id not in self._members():
                await eventually(self.leaders, "a leader")
                with contextlib.suppress(NoLeader, OutcomeUnknown):  # it may lose its office meanwhile
                    await self.leader().add_member(self.member(node_id), PATIENCE_S)

    def _members(self) -> set[str]:
        return {member.id for each in self.leaders() for member in self.groups[each].status().members}

    async def reopen(self, node_id: str) -> RaftGroup:
        return await self._start(node_id, RaftGroup.open)

    async def stop(self, node_id: str) -> None:
        await self.groups.pop(node_id).stop()

    async def close(self) -> None:
        for node_id in list(self.groups):
            await self.stop(node_id)
        assert not self.fatal

    def leaders(self) -> list[str]:
        return [node_id for node_id, group in self.groups.items() if group.status().role == "leader"]

    def leader(self) -> RaftGroup:
        return self.groups[self.leaders()[0]]

    def members(self, node_id: str) -> list[str]:
        """Whom this node takes for the voters."""
        return [member.id for member in self.groups[node_id].status().members]

    def followers(self) -> list[str]:
        return [node_id for node_id in self.groups if node_id not in self.leaders()]

    async def led(self) -> str:
        """Wait until exactly one node leads and everyone knows it."""

        def agreed() -> bool:
            seen = {group.status().leader_id for group in self.groups.values()}
            return len(self.leaders()) == 1 and seen == set(self.leaders())

        await eventually(agreed, "one leader that everyone knows")
        return self.leaders()[0]

    async def write(self, node_id: str, text: str, timeout: float = PATIENCE_S) -> int:
        applied = await self.groups[node_id].propose(text.encode(), request_id=request_id(), timeout=timeout)
        return applied.index

    async def converged(self) -> None:
        """Wait until all logs are applied equally far; then all histories must be equal."""
        await eventually(lambda: len({m.applied_index for m in self._live()}) == 1, "equal applied indexes")
        assert len({tuple(machine.history) for machine in self._live()}) == 1

    def _live(self) -> list[DictMachine]:
        return [self.machines[node_id] for node_id in self.groups]
