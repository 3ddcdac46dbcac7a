"""What became of recent commands, by request id: so that a retry is answered and not repeated.

The ids are in memory, oldest first, with their times; the outcomes are in a table. What is new waits for the next
commit, or for company, so that no commit finds thousands of rows to write at once; so does the removal of what is
forgotten. What is kept is a function of the history alone, whenever a node commits.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from storage.database import Database, Row

RETENTION_NS = 5 * 60 * 10**9
FORGET_ROWS_MAX = 1024  # at a time, and as often as needed: a backlog shrinks
FORGET_EVERY_NS = 10**9  # by the machine's clock: once a second, not with every command

# Then they are written, unless a commit is under way: that would have to be waited for.
WAITING_ROWS_MAX = 256

INDEX_QUERY = "SELECT request_id, position, time_ns FROM outcomes ORDER BY position"


@dataclass(slots=True)
class Index:
    """All ids, oldest first, with the positions and times of their commands. Times never decrease."""

    positions: dict[bytes, int] = field(default_factory=dict)
    ids: deque[bytes] = field(default_factory=deque)
    places: "array[int]" = field(default_factory=lambda: array("q"))
    times_ns: "array[int]" = field(default_factory=lambda: array("q"))

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Index":
        """From the rows of INDEX_QUERY."""
        index = cls()
        for request_id, position, time_ns in rows:
            index.add(request_id, position, time_ns)
        return index

    def add(self, request_id: bytes, position: int, time_ns: int) -> None:
        self.positions[request_id] = position
        self.ids.append(request_id)
        self.places.append(position)
        self.times_ns.append(time_ns)

    def drop(self, count: int) -> int:
        """Forget the oldest ones; returns the last position that went."""
        last = self.places[count - 1]
        for _ in range(count):
            request_id = self.ids.popleft()
            if self.positions[request_id] <= last:  # another region's history may have named it again
                del self.positions[request_id]
        del self.places[:count]
        del self.times_ns[:count]
        return last


class Outcomes:
    """See the module. Belongs to the machine's thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._index = Index()
        self._unsaved: dict[int, tuple[int, bytes, int, bytes]] = {}  # rows by position
        self._forgotten = 0  # rows up to this position are to be deleted; 0: none

    def load(self, index: Index | None) -> None:
        """Know what the table holds; `index` if somebody has read it already."""
        self._unsaved.clear()
        self._forgotten = 0
        self._index = Index.of(self._db.each(INDEX_QUERY)) if index is None else index

    def get(self, request_id: bytes) -> bytes | None:
        """The encoded outcome of a command that is not forgotten."""
        position = self._index.positions.get(request_id)
        if position is None:
            return None
        row = self._unsaved.get(position)
        if row is not None:
            return row[3]
        self._db.settle()
        found = self._db.one("SELECT outcome FROM outcomes WHERE position = ?", (position,))
        return None if found is None else found[0]

    def remember(self, position: int, request_id: bytes, clock_ns: int, outcome: bytes) -> None:
        """The outcome of the command at `position`; `clock_ns` is the machine's clock. The oldest may go."""
        self._unsaved[position] = (position, request_id, clock_ns, outcome)
        self._index.add(request_id, position, clock_ns)
        if self._index.times_ns[0] < clock_ns - RETENTION_NS - FORGET_EVERY_NS:
            self._forget(clock_ns - RETENTION_NS)
        if len(self._unsaved) >= WAITING_ROWS_MAX and not self._db.committing:
            self.flush()

    def _forget(self, before_ns: int) -> None:
        count = min(bisect_left(self._index.times_ns, before_ns), FORGET_ROWS_MAX)
        self._forgotten = self._index.drop(count)

    def flush(self) -> None:
        """The table holds what is remembered, and nothing else, when this returns."""
        if self._forgotten:
            self._db.run("DELETE FROM outcomes WHERE position <= ?", (self._forgotten,))
        sql = "INSERT INTO outcomes (position, request_id, time_ns, outcome) VALUES (?, ?, ?, ?)"
        self._db.run_many(sql, [row for row in self._unsaved.values() if row[0] > self._forgotten])
        self._unsaved.clear()
        self._forgotten = 0
