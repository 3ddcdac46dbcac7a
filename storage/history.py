"""The store's history as other regions read it: the latest commands, by position.

Kept by every node of every region once there are regions, as part of the replicated state: so any node can serve it,
it survives compaction of the log, and after a change of primary the new one has what the old one had. Rows wait in
memory until flush(), which writes them all at once; the machine calls it before it commits. The latest commands stay
in memory besides: regions that keep up are served without asking the database, which may be busy with a commit.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from storage.database import Database

COMMANDS_MAX = 100_000
BYTES_MAX = 256 << 20
COMMANDS_SLACK = 1024  # so many more are kept until the oldest go, many at once
BYTES_SLACK = 4 << 20
TAIL_COMMANDS_MAX = 8192  # in memory
TAIL_BYTES_MAX = 4 << 20
READ_BYTES_MAX = 512 << 10  # of one read; a single command may be larger

_FROM = "SELECT request_id, command FROM history WHERE position >= ? ORDER BY position"

Item = tuple[bytes, bytes]  # request id and encoded command


class History:
    """The commands with positions first to last, last included; empty if first > last."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[int, bytes, bytes]] = []
        self._tail: list[Item] = []  # the latest commands
        self._tail_bytes = 0
        self.first, self.last, self._bytes = 1, 0, 0

    def load(self, position: int) -> None:
        """Know what the table holds; `position` is the last one applied."""
        self._waiting.clear()
        self._forget_tail()
        row = self._db.one("SELECT min(position), sum(length(command)) FROM history")
        kept = row is not None and row[0] is not None
        self.last = position
        self.first, self._bytes = (row[0], row[1]) if row is not None and kept else (position + 1, 0)

    def append(self, position: int, request_id: bytes, command: bytes) -> None:
        """The next position; the oldest ones go where limits are passed: a function of the history alone."""
        self._waiting.append((position, request_id, command))
        self._tail.append((request_id, command))
        self._tail_bytes += len(command)
        if len(self._tail) > TAIL_COMMANDS_MAX or self._tail_bytes > TAIL_BYTES_MAX:
            del self._tail[: len(self._tail) // 2 + 1]
            self._tail_bytes = sum(len(each) for _, each in self._tail)
        self.last = position
        self._bytes += len(command)
        too_many = self.last - self.first >= COMMANDS_MAX + COMMANDS_SLACK
        if too_many or self._bytes > BYTES_MAX + BYTES_SLACK:
            self._drop_oldest()

    def skip(self, position: int) -> None:
        """A position that is not kept: there are no regions."""
        self.first, self.last = position + 1, position
        if self._tail:
            self._forget_tail()

    def _forget_tail(self) -> None:
        self._tail.clear()
        self._tail_bytes = 0

    def clear(self, position: int) -> None:
        """Forget all of it: nobody follows any more."""
        self._waiting.clear()
        self._db.settle()
        self._db.run("DELETE FROM history")
        self._bytes = 0
        self.skip(position)

    def flush(self) -> None:
        if self._waiting:
            sql = "INSERT INTO history (position, request_id, command) VALUES (?, ?, ?)"
            self._db.run_many(sql, self._waiting)
            self._waiting.clear()

    def read(self, first: int, bytes_max: int = READ_BYTES_MAX) -> list[Item] | None:
        """Commands from position `first` on, at least one if there is any; None if they are no longer kept."""
        if first < self.first:
            return None
        items: list[Item] = []
        size = 0
        for request_id, command in self._from(first):
            size += len(command)
            if items and size > bytes_max:
                break
            items.append((request_id, command))
        return items

    def _from(self, first: int) -> Iterable[Item]:
        tail_first = self.last + 1 - len(self._tail)
        if first >= tail_first:
            return islice(self._tail, first - tail_first, None)
        return self._from_table(first)

    def _from_table(self, first: int) -> Iterator[Item]:
        """While a commit is under way, what was there before it; if that is nothing, the commit is waited for."""
        for whole in (False, True):
            if whole or not self._db.committing:
                self.flush()
                self._db.settle()
            found = False
            for item in self._db.each(_FROM, (first,)):
                found = True
                yield item
            if found:
                return

    def _drop_oldest(self) -> None:
        self.flush()
        self._db.settle()
        sizes = "SELECT position, length(command) FROM history WHERE position < ? ORDER BY position"
        for position, size in self._db.each(sizes, (self.last,)):
            if self.last - self.first < COMMANDS_MAX and self._bytes <= BYTES_MAX:
                break
            self._bytes -= size
            self.first = position + 1
        self._db.run("DELETE FROM history WHERE position < ?", (self.first,))
