"""What may leave this node: nothing that shows a term, a vote or an entry before the disk has it (P1)."""

from typing import Protocol

from consensus import wire
from consensus.pysyncobj_log import Log

HELD_FRAMES_MAX = 1024


class Disk(Protocol):
    """The journal's two counters, and the link."""

    @property
    def lsn(self) -> int: ...
    @property
    def durable_lsn(self) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...


class Durability:
    """How much of the log is on this node's disk. It can fall: a conflicting tail is replaced."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.index = self._in_flight = log.last_index

    def taken(self) -> None:
        """The batch about to be written holds the log up to its present end."""
        self._in_flight = self._log.last_index

    def written(self) -> None:
        """That batch is on disk; what was truncated since is no part of the log any more."""
        self.index = max(self.index, min(self._in_flight, self._log.last_index))

    def truncated(self, last: int) -> None:
        self.index, self._in_flight = min(self.index, last), min(self._in_flight, last)


class Outbox:
    """Frames that wait for the journal, in order, and the one acknowledgement that stands for many."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._frames: list[tuple[int, str, bytes]] = []
        self._ack: tuple[int, str, wire.Ack] | None = None
        self._hard_lsn = 0

    def hard_state_changed(self) -> None:
        """Whatever is sent from now on shows a term that the journal has only queued."""
        self._hard_lsn = self._disk.lsn

    @property
    def term_durable(self) -> bool:
        return self._disk.durable_lsn >= self._hard_lsn

    def send_durably(self, peer: str, frame: wire.Frame) -> None:
        """Send when everything that was queued so far is on disk: a vote, a campaign."""
        self._hold(self._disk.lsn, peer, frame)

    def send(self, peer: str, frame: wire.Frame) -> None:
        """Send at once, or as soon as the term that it shows is on disk."""
        if self.term_durable:
            self._disk.send(peer, wire.encode(frame))
        else:
            self._hold(self._hard_lsn, peer, frame)

    def _hold(self, lsn: int, peer: str, frame: wire.Frame) -> None:
        if len(self._frames) < HELD_FRAMES_MAX:
            self._frames.append((lsn, peer, wire.encode(frame)))

    def acknowledge(self, peer: str, ack: wire.Ack) -> None:
        """Send when the entries queued so far are on disk. The newest acknowledgement says all."""
        if self._ack is not None and self._ack[1] == peer and self._ack[2].term == ack.term:
            ack = wire.Ack(ack.term, ack.seq, max(ack.match, self._ack[2].match))
        self._ack = (self._disk.lsn, peer, ack)

    def drop(self) -> None:
        """A newer term: what was held belongs to an older one."""
        self._ack = None
        self._frames = []

    def flush(self) -> None:
        """Send what need not wait any more."""
        durable = self._disk.durable_lsn
        if self._frames:
            ready = [held for held in self._frames if held[0] <= durable]
            self._frames = [held for held in self._frames if held[0] > durable]
            for _, peer, body in ready:
                self._disk.send(peer, body)
        if self._ack is not None and self._ack[0] <= durable:
            _, peer, ack = self._ack
            self._ack = None
            self._disk.send(peer, wire.encode(ack))
