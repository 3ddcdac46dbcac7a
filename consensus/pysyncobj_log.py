"""The Raft log in the shape that pysyncobj expects (a list with a few methods), written to our journal.

The list never is empty: its first element stands for the base (what was compacted away, or nothing at index
0), so that the term before the first real entry is known. Nothing here is durable by itself: see `Journal`.
"""

from collections.abc import Iterable
from typing import Protocol

from consensus.api import Member
from consensus.errors import Corrupt
from consensus.membership import MEMBER, NOOP, Change, change_of, configuration
from consensus.records import Base, Entry, HardState

BASE_PAYLOAD = bytes([NOOP])


class JournalWriter(Protocol):
    """The part of the journal that buffers records; `journal.Journal` is the real one."""

    def append(self, entry: Entry) -> None: ...
    def set_hard_state(self, hard: HardState) -> None: ...
    def reset(self, base: Base) -> None: ...
    def compact(self, base: Base) -> None: ...


class Log(list[Entry]):
    """Entries from the base on, the configuration that they imply, and the hard state."""

    def __init__(self, journal: JournalWriter, base: Base, entries: Iterable[Entry], hard: HardState) -> None:
        super().__init__([(BASE_PAYLOAD, base.index, base.term)])
        self.journal = journal
        self.base = base
        self.hard = hard
        self.bytes = 0
        self.trimmed = False  # the next write of the journal may delete files: not on the event loop
        self.changes: list[Change] = []
        for entry in entries:
            if entry[1] != self.last_index + 1 or entry[2] < self.last_term:
                raise Corrupt(f"the journal's entry {entry[1]} does not follow {self.last_index}")
            self._note(entry)
            self.append(entry)

    @property
    def last_index(self) -> int:
        return self[-1][1]

    @property
    def last_term(self) -> int:
        return self[-1][2]

    def term_at(self, index: int) -> int | None:
        """The term of the entry (or base) at `index`; None if the log does not hold it."""
        position = index - self.base.index
        return self[position][2] if 0 <= position < len(self) else None

    def members(self, upto: int | None = None) -> dict[str, Member]:
        """The configuration in force, or the one at index `upto`."""
        wanted = (c for c in self.changes if upto is None or c.index <= upto)
        return configuration(self.base.members, wanted)

    def reset(self, base: Base) -> None:
        """Forget everything: a snapshot at `base` takes its place."""
        self[:] = [(BASE_PAYLOAD, base.index, base.term)]
        self.base, self.bytes, self.trimmed = base, 0, True
        self.changes.clear()
        self.journal.reset(base)

    def compact(self, index: int) -> None:
        """Drop the entries up to `index`, which the state machine holds durably."""
        position = index - self.base.index
        base = Base(index, self[position][2], tuple(self.members(index).values()))
        self.bytes -= sum(len(entry[0]) for entry in self[1 : position + 1])
        self[: position + 1] = [(BASE_PAYLOAD, base.index, base.term)]
        self.base, self.trimmed = base, True
        self.changes = [change for change in self.changes if change.index > index]
        self.journal.compact(base)

    def _note(self, entry: Entry) -> None:
        self.bytes += len(entry[0])
        if entry[0][0] == MEMBER:
            self.changes.append(change_of(entry[0], entry[1]))

    # What pysyncobj calls.

    def add(self, payload: bytes, index: int, term: int) -> None:
        entry = (payload, index, term)
        self._note(entry)
        self.append(entry)
        self.journal.append(entry)

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 - pysyncobj's name
        """Truncate. The journal needs no record: a later entry with the same index overrides."""
        index = self[position][1]
        self.bytes -= sum(len(entry[0]) for entry in self[position:])
        del self[position:]
        self.changes = [change for change in self.changes if change.index < index]

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802
        hard = HardState(term, voted_for)
        if hard != self.hard:
            self.hard = hard
            self.journal.set_hard_state(hard)

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802
        """The commit index is never kept: what is applied says more (P18)."""

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Nothing to flush: durability is event-driven."""
