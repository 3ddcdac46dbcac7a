"""A leader and a newcomer with real state machines in one process, which ends itself at a named point.

python -m support.killpoints DIRECTORY POINT        exit code 137: the point was reached
"""

import asyncio
import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.groups import FAST
from support.patience import PATIENCE_S, eventually
from support.ports import free_ports

import consensus.files
import storage.files
from consensus.api import Member
from consensus.follower import Follower
from consensus.group import GroupConfig, RaftGroup
from consensus.journal import Journal
from consensus.pysyncobj_log import Log
from consensus.restoring import Restoring
from consensus.snapshot import Receiver, SnapshotFiles
from storage import command as c
from storage.keyring import JournalCipher
from storage.machine import Machine

KILLED = 137
KEY = b"k" * 32
OPTIONS = replace(FAST, compact_entries=10, trailing_entries=5)
T0 = 1_800_000_000 * 10**9
VALUE = "v" * (120 << 10)
SEGMENT_BYTES = 512 << 10


@dataclass(frozen=True)
class Point:
    """Before or after one call of a function; `named` picks the call by its first path argument's name."""

    owner: Any
    function: str
    after: bool = False
    named: Callable[[str], bool] = lambda name: True


def _is(name: str) -> Callable[[str], bool]:
    return lambda found: found == name


POINTS = {
    "taking: the copy is written": Point(Machine, "snapshot", after=True),
    "taking: renamed, not described": Point(consensus.files, "write_atomic", named=_is("outgoing.meta")),
    "taking: described": Point(consensus.files, "write_atomic", after=True, named=_is("outgoing.meta")),
    "shipping: a window was read": Point(Receiver, "write"),
    "shipping: a window is written": Point(Receiver, "write", after=True),
    "shipping: all is here": Point(Receiver, "finish", after=True),
    "shipping: renamed, not described": Point(consensus.files, "write_atomic", named=_is("incoming.meta")),
    "shipping: described": Point(consensus.files, "write_atomic", after=True, named=_is("incoming.meta")),
    "installing: laid beside the state": Point(Machine, "stage", after=True),
    "installing: the log begins anew in memory": Point(Follower, "begin_install", after=True),
    "installing: the log begins anew on disk": Point(Machine, "restore"),
    "installing: before the rename": Point(storage.files, "replace", named=_is("state.db.incoming")),
    "installing: after the rename": Point(
        storage.files, "replace", after=True, named=_is("state.db.incoming")
    ),
    "installing: restored": Point(Machine, "restore", after=True),
    "installing: half forgotten": Point(consensus.files, "remove", after=True, named=_is("incoming.meta")),
    "compacting: the state is durable": Point(Machine, "checkpoint", after=True),
    "compacting: the new base is queued": Point(Log, "compact", after=True),
    "compacting: the new base is durable": Point(
        consensus.files, "remove", named=lambda name: name.endswith(".wal")
    ),
    "compacting: one segment is deleted": Point(
        consensus.files, "remove", after=True, named=lambda name: name.endswith(".wal")
    ),
}


RESTORE_POINTS = {
    "restoring: the file is copied in": Point(SnapshotFiles, "hold_copy", after=True),
    "restoring: the other member holds it": Point(Restoring, "on_held"),
    "restoring: the entry is queued": Point(Restoring, "append", after=True),
    "restoring: before the state is laid ready": Point(Machine, "stage_reset"),
    "restoring: the state is laid ready": Point(Machine, "stage_reset", after=True),
    "restoring: before the state is swapped": Point(Machine, "restore"),
    "restoring: before the rename": Point(storage.files, "replace", named=_is("state.db.incoming")),
    "restoring: after the rename": Point(
        storage.files, "replace", after=True, named=_is("state.db.incoming")
    ),
    "restoring: the state is swapped": Point(Machine, "restore", after=True),
    "restoring: the file is forgotten": Point(SnapshotFiles, "release", after=True),
    "restoring: the log begins behind it": Point(Log, "compact", after=True),
}


def arm(point: Point) -> None:
    """From now on, that call ends the process as kill -9 would."""
    real = getattr(point.owner, point.function)

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        paths = [argument.name for argument in arguments if isinstance(argument, Path)]
        meant = point.named(paths[0] if paths else "")
        if meant and not point.after:
            os._exit(KILLED)
        result = real(*arguments, **named)
        if meant:
            os._exit(KILLED)
        return result

    setattr(point.owner, point.function, call)


class Pair:
    """n1 has everything; n2 joins it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports = directory / "ports.json"  # in the log for good
        if not ports.exists():
            ports.write_text(json.dumps(dict(zip(("n1", "n2"), free_ports(2), strict=True))))
        self.ports: dict[str, int] = json.loads(ports.read_text())
        self.machines: dict[str, Machine] = {}
        self.groups: dict[str, RaftGroup] = {}

    def member(self, node_id: str) -> Member:
        return Member(node_id, f"127.0.0.1:{self.ports[node_id]}")

    async def start(self, node_id: str) -> RaftGroup:
        home = self.directory / node_id
        new = not home.exists()
        home.mkdir(exist_ok=True)
        machine = self.machines[node_id] = Machine.open(home / "state.db", key=KEY)
        config = GroupConfig(
            node_id=node_id, cluster_id="c", owner=f"c/{node_id}/1", directory=home / "raft",
            listen=("127.0.0.1", self.ports[node_id]), server_tls=None, client_tls=None, insecure=True,
            cipher=JournalCipher(KEY), options=OPTIONS,
        )  # fmt: skip
        if not new:
            group = RaftGroup.open(config, machine)
        elif node_id == "n1":
            group = RaftGroup.create(config, machine, address=self.member("n1").address)
        else:
            group = RaftGroup.join(config, machine, members=(self.member("n1"),))
        self.groups[node_id] = group
        await group.start()
        return group

    async def write(self, count: int, name: str) -> None:
        for i in range(count):
            command = c.encode(c.PolicyPut(T0, f"{name}{i}", VALUE))
            await self.groups["n1"].propose(command, request_id=os.urandom(16), timeout=PATIENCE_S)

    async def stop(self) -> None:
        for node_id, group in self.groups.items():
            await group.stop()
            self.machines[node_id].close()


def small_segments() -> None:
    for make in (Journal.create, Journal.open):
        defaults = make.__func__.__kwdefaults__  # type: ignore[attr-defined]
        defaults["segment_bytes"] = SEGMENT_BYTES


async def prepare(directory: Path) -> None:
    """n1 alone, with a state of several windows and a log that does not reach back to its beginning."""
    pair = Pair(directory)
    group = await pair.start("n1")
    await pair.write(40, "before")
    await eventually(lambda: group.status().first_index > 10, "the log is compacted")
    await pair.stop()


async def play(directory: Path, point: Point) -> None:
    pair = Pair(directory)
    await pair.start("n1")
    await pair.start("n2")
    arm(point)
    joining = asyncio.create_task(pair.groups["n1"].add_member(pair.member("n2"), PATIENCE_S))
    await pair.write(30, "during")
    await joining
    await pair.stop()


BACKUP = "backup.db"


async def prepare_restore(directory: Path) -> None:
    """Two members, and a copy of their state from before the last writes."""
    pair = Pair(directory)
    group = await pair.start("n1")
    command = c.encode(c.ClusterInit(T0, "cluster", "name"))
    await group.propose(command, request_id=os.urandom(16), timeout=PATIENCE_S)
    await pair.start("n2")
    await group.add_member(pair.member("n2"), PATIENCE_S)
    await pair.write(12, "kept")
    pair.machines["n1"].commit()
    pair.machines["n1"].snapshot(directory / BACKUP)
    await pair.write(3, "lost")
    await pair.stop()


async def play_restore(directory: Path, point: Point) -> None:
    pair = Pair(directory)
    await pair.start("n1")
    await pair.start("n2")
    await pair.write(1, "ready")  # somebody leads
    arm(point)
    await pair.groups["n1"].restore(directory / BACKUP, PATIENCE_S)
    await pair.write(30, "after")
    await pair.stop()


if __name__ == "__main__":
    small_segments()
    where, name = Path(sys.argv[1]), sys.argv[2]
    asyncio.run(
        play_restore(where, RESTORE_POINTS[name]) if name in RESTORE_POINTS else play(where, POINTS[name])
    )
