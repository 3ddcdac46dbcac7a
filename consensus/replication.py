"""The leader's side of replication: who gets which entries next. Pipelined, bounded, learners included.

pysyncobj's own loop rewinds after every acknowledgement and cannot send some sizes (P12, P16); this one keeps
one `next` index per peer, moves it as it sends, and moves it back only on a rejection.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from consensus import wire
from consensus.options import RaftOptions
from consensus.pysyncobj_log import Log


class ChunkSource(Protocol):
    """One snapshot on its way to one peer."""

    @property
    def index(self) -> int: ...

    @property
    def sha256(self) -> bytes: ...
    def offer(self, *, term: int, seq: int) -> wire.SnapshotOffer: ...
    def read(self, offset: int, bytes_max: int) -> bytes: ...
    def spoil(self) -> None: ...
    def close(self) -> None: ...


class Links(Protocol):
    """The way out, and the snapshots to send on it."""

    def send(self, peer: str, body: bytes) -> bool: ...
    def backlog(self, peer: str) -> int: ...
    def snapshot_for(self, peer: str) -> ChunkSource | None:
        """A snapshot at or after the log's base; None while one is being taken (heartbeats ask again)."""
        ...


@dataclass(slots=True)
class Progress:
    """What the leader knows of one peer. Entries in [match + 1, next) are on their way."""

    next: int
    match: int = 0
    reset_seq: int = 0  # rejections of rounds before this one are answers to what was since rewound
    contact: float | None = None
    snapshot: ChunkSource | None = None
    snapshots_sent: int = 0

    def drop_snapshot(self) -> None:
        if self.snapshot is not None:
            self.snapshot.close()
            self.snapshot = None


class Replicator:
    """All peers of a leader. Without leadership it is idle and empty."""

    def __init__(self, log: Log, links: Links, options: RaftOptions, new_round: Callable[[], int]) -> None:
        self._log, self._links, self._options, self._new_round = log, links, options, new_round
        self.progress: dict[str, Progress] = {}
        self.connected: set[str] = set()
        self.commit_sent = 0
        self.snapshots_sent = 0

    def begin_term(self, peers: Iterable[str]) -> None:
        self.end_term()
        self.progress = {peer: Progress(self._log.last_index + 1) for peer in peers}
        self.commit_sent = 0

    def end_term(self) -> None:
        for progress in self.progress.values():
            progress.drop_snapshot()
        self.progress = {}

    def set_peers(self, peers: Iterable[str]) -> None:
        """Keep what is known of those who stay."""
        wanted = set(peers)
        for peer in self.progress.keys() - wanted:
            self.progress.pop(peer).drop_snapshot()
        for peer in sorted(wanted - self.progress.keys()):
            self.progress[peer] = Progress(self._log.last_index + 1)

    def link(self, peer: str, *, up: bool) -> None:
        """A new connection has lost what the old one had not delivered."""
        (self.connected.add if up else self.connected.discard)(peer)
        if (progress := self.progress.get(peer)) is not None:
            progress.drop_snapshot()
            if progress.match:
                progress.next = progress.match + 1

    def acknowledged(self, peer: str, match: int, now: float) -> None:
        if (progress := self.progress.get(peer)) is not None:
            progress.contact = now
            progress.match = max(progress.match, match)
            progress.next = max(progress.next, progress.match + 1)
            if progress.snapshot is not None and progress.match >= progress.snapshot.index:
                progress.drop_snapshot()
                self.snapshots_sent += 1

    def rejected(self, peer: str, *, seq: int, hint: int, now: float) -> bool:
        """Go back to `hint`. Returns whether that changed anything."""
        progress = self.progress.get(peer)
        if progress is None:
            return False
        progress.contact = now
        if seq < progress.reset_seq or (progress.snapshot is not None and hint <= self._log.base.index):
            return False
        progress.drop_snapshot()
        progress.next = max(progress.match + 1, min(hint, self._log.last_index + 1), 1)
        return True

    @property
    def snapshot_floor(self) -> int | None:
        """Entries after this index are still needed by a peer that is getting a snapshot."""
        held = [p.snapshot.index for p in self.progress.values() if p.snapshot is not None]
        return min(held, default=None)

    def replicate(self, *, term: int, commit: int, heartbeat: bool, only: str | None = None) -> None:
        """Send to every peer (or to `only`) what it lacks; with `heartbeat`, at least one frame each."""
        seq = self._new_round()
        cache: dict[tuple[int, bool], tuple[bytes, int]] = {}
        if only is None:
            self.commit_sent = commit
        for peer in list(self.progress) if only is None else (only,):
            progress = self.progress.get(peer)
            if progress is None or peer not in self.connected:
                continue
            if heartbeat and only is not None:
                progress.reset_seq = seq
            if progress.next <= self._log.base.index:
                self._send_snapshot(peer, progress, term=term, seq=seq, heartbeat=heartbeat)
            if progress.next > self._log.base.index:
                self._send_entries(peer, progress, _Round(term, commit, seq, cache), heartbeat=heartbeat)

    def _send_entries(self, peer: str, progress: Progress, round_: "_Round", *, heartbeat: bool) -> None:
        options, last = self._options, self._log.last_index
        while True:
            full = (
                self._links.backlog(peer) > options.backlog_bytes_max
                or progress.next - 1 - progress.match > options.window_entries
            )
            if not heartbeat and (full or progress.next > last):
                return
            key = (progress.next, full)
            if key not in round_.cache:
                round_.cache[key] = self._append_frame(progress.next, round_, empty=full)
            body, after = round_.cache[key]
            if not self._links.send(peer, body):
                return
            heartbeat = False
            progress.next = after

    def _append_frame(self, first: int, round_: "_Round", *, empty: bool) -> tuple[bytes, int]:
        log, options = self._log, self._options
        position = first - log.base.index
        entries = []
        size = 0
        if not empty:
            for entry in log[position : position + options.batch_entries]:
                entries.append(entry)
                size += len(entry[0])
                if size >= options.batch_bytes:
                    break
        _, prev_index, prev_term = log[position - 1]
        frame = wire.Append(round_.term, round_.seq, prev_index, prev_term, round_.commit, entries)
        return wire.encode(frame), first + len(entries)

    def _send_snapshot(self, peer: str, progress: Progress, *, term: int, seq: int, heartbeat: bool) -> None:
        """Offer one, at first and with each heartbeat; the peer asks for its pieces (shipping.py)."""
        if progress.snapshot is None:
            progress.snapshot = self._links.snapshot_for(peer)
            heartbeat = heartbeat or progress.snapshot is not None
        if not heartbeat:
            return
        if progress.snapshot is not None:
            self._links.send(peer, wire.encode(progress.snapshot.offer(term=term, seq=seq)))
        else:
            _, index, index_term = self._log[-1]
            self._links.send(peer, wire.encode(wire.Append(term, seq, index, index_term, 0, [])))


@dataclass(frozen=True, slots=True)
class _Round:
    """What the frames of one call share."""

    term: int
    commit: int
    seq: int
    cache: dict[tuple[int, bool], tuple[bytes, int]]
