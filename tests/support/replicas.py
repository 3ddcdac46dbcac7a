"""One real Replica (the adapter to pysyncobj and all) with hand-fed frames, clock and disk: for directed tests."""

import random
from typing import Any, NoReturn

import pysyncobj.syncobj

from consensus import wire
from consensus.api import Member
from consensus.options import RaftOptions
from consensus.pysyncobj_log import Log
from consensus.records import Base, Entry, HardState
from consensus.replica import Replica


class Fatal(Exception):
    """The node would have stopped its process."""


class MemoryJournal:
    """The journal's interface over a list. `disk` is what a power cut leaves; everything else is lost."""

    def __init__(self, disk: list[tuple[str, Any]] | None = None) -> None:
        self.disk: list[tuple[str, Any]] = [] if disk is None else disk
        self.queue: list[tuple[str, Any]] = []
        self.taken: list[list[tuple[str, Any]]] = []
        self.lsn = self.durable_lsn = 0

    def _put(self, kind: str, value: Any) -> int:
        self.queue.append((kind, value))
        self.lsn += 1
        return self.lsn

    def append(self, entry: Entry) -> int:
        return self._put("entry", entry)

    def set_hard_state(self, hard: HardState) -> int:
        return self._put("hard", hard)

    def reset(self, base: Base) -> int:
        return self._put("reset", base)

    def compact(self, base: Base) -> int:
        return self._put("base", base)

    @property
    def dirty(self) -> bool:
        return bool(self.queue)

    def take(self) -> int:
        if self.queue:
            self.taken.append(self.queue)
            self.queue = []
        return self.lsn

    def write(self, ticket: int) -> None:
        while self.taken and self.durable_lsn < ticket:
            batch = self.taken.pop(0)
            self.disk.extend(batch)
            self.durable_lsn += len(batch)

    def sync(self) -> None:
        self.write(self.take())

    def close(self) -> None:
        """Nothing to release."""

    def read(self) -> tuple[Base, list[Entry], HardState]:
        """What a restart would find."""
        base, entries, hard = Base(0, 0, ()), [], HardState(0, None)
        for kind, value in self.disk:
            if kind == "entry":
                del entries[value[1] - base.index - 1 :]
                entries.append(value)
            elif kind == "hard":
                hard = value
            elif kind == "reset":
                base, entries = value, []
            else:
                entries = entries[value.index - base.index :]
                base = value
        return base, entries, hard


class OneReplica:
    """A host.Host around one Replica "n1" of a group. Time moves by `pass_time`, disks by `sync_disk`."""

    def __init__(
        self,
        monkeypatch: Any,
        *,
        voters: int = 3,
        disk: list[tuple[str, Any]] | None = None,
        applied: int = 0,
        options: RaftOptions | None = None,
    ) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", self.clock)
        self.members = tuple(Member(f"n{i}", f"h{i}:1") for i in range(1, voters + 1))
        self.journal = MemoryJournal(disk)
        if not self.journal.disk:
            self.journal.disk.append(("reset", Base(0, 0, self.members)))
        self.sent: list[tuple[str, wire.Frame]] = []
        self.applied: list[Entry] = []
        self.files: set[bytes] = set()  # payloads of RESTORE entries whose file is here
        self.laid_ready = False
        self.offers: list[wire.SnapshotOffer] = []
        self.kicked = 0
        self.disk_hangs = self.disk_full = self.cramped = False
        self.options = options or RaftOptions(heartbeat_s=0.1, election_min_s=0.5, election_max_s=1.0)
        base, entries, hard = self.journal.read()
        log = Log(self.journal, base, entries, hard)
        rng = random.Random(1)
        self.replica = Replica(self, me="n1", log=log, applied_index=applied, options=self.options, rng=rng)
        self.log, self.core = log, self.replica.core
        for member in self.members[1:]:
            self.replica.link(member.id, up=True)

    # ---- host.Host ----

    def clock(self) -> float:
        return self.now

    def boottime(self) -> float:
        return self.now

    @property
    def lsn(self) -> int:
        return self.journal.lsn

    @property
    def durable_lsn(self) -> int:
        return self.journal.durable_lsn

    def sync(self) -> None:
        self.journal.sync()

    @property
    def stalled(self) -> bool:
        return self.disk_hangs

    def kick(self) -> None:
        self.kicked += 1

    def send(self, peer: str, body: bytes) -> bool:
        self.sent.append((peer, wire.decode(body)))
        return True

    def backlog(self, peer: str) -> int:
        return 0

    def snapshot_for(self, peer: str) -> None:
        return None

    def committed(self, index: int) -> None:
        """Nothing waits for it here."""

    def apply(self, entry: Entry) -> None:
        self.applied.append(entry)

    def takes(self, entry: Entry) -> bool:
        return entry[0] in self.files

    def restored(self, entry: Entry) -> bool:
        if self.laid_ready:
            self.applied.append(entry)
        return self.laid_ready

    def offered(self, peer: str, offer: wire.SnapshotOffer) -> None:
        self.offers.append(offer)

    def role_changed(self) -> None:
        """Nobody waits here."""

    def members_changed(self) -> None:
        """There is no network here."""

    def fatal(self, reason: str) -> NoReturn:
        raise Fatal(reason)

    # ---- what tests do ----

    def tick(self) -> None:
        self.replica.tick()
        self.replica.apply()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def sync_disk(self) -> None:
        """One group commit from beginning to end."""
        self.replica.taken()
        self.journal.sync()
        self.replica.durable()
        self.tick()

    def frame(self, peer: str, frame: wire.Frame, *, sync: bool = True) -> None:
        """Receive; then tick, and (unless the disk hangs) sync."""
        assert self.replica.on_frame(peer, wire.decode(wire.encode(frame)))
        self.tick()
        if sync:
            self.sync_disk()

    def append(self, peer: str, term: int, prev: tuple[int, int], *entries: Entry, **more: Any) -> None:
        """An Append from `peer`; `commit`, `seq`, `sync` by keyword."""
        sync = more.pop("sync", True)
        frame = wire.Append(term, more.pop("seq", 1), prev[0], prev[1], more.pop("commit", 0), list(entries))
        assert not more
        self.frame(peer, frame, sync=sync)

    def of(self, kind: type) -> list[Any]:
        """The frames of one kind that were sent, oldest first."""
        return [frame for _, frame in self.sent if isinstance(frame, kind)]

    def last(self, kind: type) -> Any:
        return self.of(kind)[-1]

    def lead(self) -> int:
        """Win an election; returns the term. The leader's own no-op is in the log, durable, not committed."""
        self.pass_time(self.options.election_max_s + 0.1)
        term = self.core.term + 1
        for member in self.members[1:]:
            self.frame(member.id, wire.PreVote(self.core.term, term, True))
        for member in self.members[1:]:
            if not self.replica.leading:
                self.frame(member.id, wire.Vote(term))
        assert self.replica.leading
        self.sync_disk()
        for member in self.members[1:]:
            self.frame(member.id, wire.LeaseAsk(term, 0, False, int(self.options.promise_s * 1e6)))
        return term

    def ack(self, peer: str, match: int, *, term: int | None = None, seq: int | None = None) -> None:
        seq = self.replica.gate.sequence if seq is None else seq
        self.frame(peer, wire.Ack(self.core.term if term is None else term, seq, match))


def entries(first: int, last: int, term: int, tag: str = "x") -> list[Entry]:
    """Regular entries first..last; equal tags make equal payloads."""
    return [(b"\0" + bytes(16) + f"{tag}{index}".encode(), index, term) for index in range(first, last + 1)]
