"""The replicated state of a store, as the log drives it: each entry once, commits, copies out and whole states in.

apply() is a function of the state and the log: no clock, no randomness, no network. What a command does stands in
executor.py. A request id that is remembered answers with the outcome of then and changes nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from storage import amendments, regions
from storage import command as c
from storage.cache import ValueCache
from storage.database import Amendment, Database
from storage.digest import OWN, SHARED, Pause, digest
from storage.errors import NotWanted
from storage.executor import Executor, Observer
from storage.idempotency import INDEX_QUERY, Index
from storage.marks import Marks
from storage.outcome import Done, Outcome, Reason, Rejected, decode_outcome, encode_outcome
from storage.reads import Reads
from storage.recent import Recent

MIXED_ENTRIES_MAX = 512  # until a commit that cannot go on in the background

_READ_INDEX = "SELECT applied_index FROM state"
_LEVEL = "SELECT level FROM region"


@dataclass(frozen=True, slots=True)
class Remembered:
    """The outcome of a command that was applied at `index` or before."""

    index: int
    result: Outcome


class Machine:
    """A state machine over one encrypted database. One thread, except checkpoint(), snapshot() and stage()."""

    def __init__(
        self, database: Database, values: ValueCache | None = None, known_level: int = c.LEVEL
    ) -> None:
        self._db = database
        self.values = ValueCache(0) if values is None else values
        self._recent = Recent(database)
        self.reads = Reads(database, self._recent)
        self._executor = Executor(database, self._recent, self.values, known_level)
        self.history = self._executor.history
        self._failed = False
        self._uncommitted = 0  # entries
        self._applied_index, self._settled_by = 0, b""
        self._staged: tuple[Path, Index] | None = None  # what stage() laid ready, and its outcomes
        self._load()

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        key: bytes,
        values: ValueCache | None = None,
        known_level: int = c.LEVEL,
    ) -> "Machine":
        """Open or create the state at `path` (None: in memory) under a 32-byte key; `values` forgets what changes.

        `known_level` is for tests, which are a release ahead with it. Raises WrongKey, Corrupt, Incompatible.
        """
        database = Database(path, key=key)
        try:
            return cls(database, values, known_level)
        except BaseException:
            database.close()
            raise

    @property
    def applied_index(self) -> int:
        return self._applied_index

    @property
    def position(self) -> int:
        """How many commands of the store's history have been applied: the same number in every region."""
        return self._executor.position

    @property
    def role(self) -> str:
        """This region's part in the history: one of regions.ALONE and its like."""
        return self._executor.role

    @property
    def level(self) -> int:
        """The feature level at which the cluster is: newer commands are refused until it is raised."""
        return self._executor.level

    @property
    def known_level(self) -> int:
        """The newest level that this build knows."""
        return self._executor.known_level

    @property
    def clock_ns(self) -> int:
        """The latest time that an applied command was stamped with."""
        return self._executor.clock_ns

    @property
    def wraps(self) -> int:
        """How many data keys the newest key term has wrapped."""
        return self._executor.wraps.count

    def generation(self, topic: str) -> int:
        """A number that grows whenever rows of `topic` (one of TOPICS) may have changed; not persistent."""
        return self._executor.generations[topic]

    @property
    def epoch(self) -> int:
        """Grows whenever any generation() does: whenever anything but values may have changed; not persistent."""
        return self._executor.epoch

    def apply(self, index: int, request_id: bytes, command: bytes) -> Outcome:
        """Apply the log entry at `index`, which must be the next one; the outcome is remembered."""
        self._advance(index)
        known = self.outcome(request_id)
        if known is not None:
            return known.result
        try:
            outcome = self._executor.apply(index, request_id, command)
            self._keep_bounded()
            self._show_marks()
        except BaseException:
            self._failed = True  # a bug, or a broken disk: what is half done must never be committed
            self._db.rollback()
            raise
        return outcome

    def mark(self, marks: Marks | None) -> None:
        """Tell `marks` of every change from now on; it changes nothing, and is no part of the state."""
        self.values.marks = marks
        self._show_marks()

    def _show_marks(self) -> None:
        if self.values.marks is not None:
            executor = self._executor
            self.values.marks.moved(executor.position, executor.clock_ns, executor.epoch)

    def observe(self, observer: Observer | None) -> None:
        """Tell `observer` from now on what is done."""
        self._executor.observer = observer

    def is_local(self, command: c.AnyCommand) -> bool:
        """Whether it is about a region's own cluster. See Executor."""
        return self._executor.is_local(command)

    def skip(self, index: int) -> None:
        """The entry at `index` holds no command."""
        self._advance(index)

    def outcome(self, request_id: bytes) -> Remembered | None:
        """What became of a command, if it was applied and is not yet forgotten."""
        encoded = self._executor.outcomes.get(request_id)
        if encoded is None:
            if not self._settled_by:
                return None
            if self.declined(request_id):
                return Remembered(self._applied_index, Rejected(Reason.REGION_ROLE))
            return Remembered(self._applied_index, Done()) if request_id == self._settled_by else None
        return Remembered(self._applied_index, decode_outcome(encoded))

    def commit(self) -> None:
        """Close the open transaction, applied_index included: survives kill -9."""
        self._check_usable()
        self._db.settle()
        if self._uncommitted:
            self._write_all()
            self._db.commit()
            self._recent.committed()

    def commit_soon(self) -> bool:
        """commit(), in the background if nothing but versions of secrets was written since the last one.

        False: one is under way already, and what was applied meanwhile is not part of it.
        """
        self._check_usable()
        if self._db.committing:
            return False
        if self._executor.mixed:
            self.commit()
        elif self._uncommitted:
            self._write_all()
            self._recent.commit_begins()
            self._db.commit_soon()
        return True

    def _write_all(self) -> None:
        self._executor.flush()
        self._db.run(
            "UPDATE state SET applied_index = ?, position = ?, clock_ns = ?, wraps = ?, authority = ?",
            (self._applied_index, *self._executor.counted()),
        )
        self._uncommitted, self._executor.mixed = 0, False

    def _keep_bounded(self) -> None:
        """What a commit takes is bounded in time and bytes, whoever calls commit() how often."""
        too_mixed = self._executor.mixed and self._uncommitted >= MIXED_ENTRIES_MAX
        if too_mixed or (self._recent.is_full and not self.commit_soon()):
            self.commit()

    def checkpoint(self) -> int:
        """Any thread, blocking: make what was committed durable; returns the applied index it reaches."""
        return self._db.checkpoint(_READ_INDEX)

    def snapshot(self, path: Path) -> int:
        """Any thread, blocking: write what was committed to a new file; returns its applied index."""
        return self._db.copy_to(path, _READ_INDEX)

    def stage(self, path: Path) -> None:
        """Any thread, blocking: verify a snapshot and lay it beside the state, so that restore() is quick.

        Until restore() or unstage(), checkpoint() and snapshot() wait. Raises WrongKey, Corrupt, Incompatible
        (also for a snapshot older than this state): nothing changed.
        """
        self._db.stage(path, _READ_INDEX, at_least=self._applied_index)
        self._look_at_staged(path)

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> bool:
        """As stage(), for a snapshot of any age, which becomes the state at `index`. See amendments.py.

        False: this state is not to be replaced by it; nothing is laid ready, and decline() is what is left.
        """
        try:
            self._db.stage(path, _READ_INDEX, at_least=0, amend=_reset(index, request_id))
        except NotWanted:
            return False
        self._look_at_staged(path)
        return True

    def decline(self, index: int, request_id: bytes) -> None:
        """The entry at `index` asked for a state that this one is not to be replaced by: that is remembered."""
        self._advance(index)
        self._executor.mixed = True
        self._settled_by = regions.decline(self._db, request_id)

    def declined(self, request_id: bytes) -> bool:
        """Whether that request was the last one of the kind, and declined."""
        return self._settled_by == request_id + regions.DECLINED

    def _look_at_staged(self, path: Path) -> None:
        try:
            self._executor.checked_level(self._db.staged(_LEVEL)[0][0])
            self._staged = path, Index.of(self._db.staged(INDEX_QUERY))
        except BaseException:
            self._db.unstage()
            raise

    def verify(self, path: Path) -> None:
        """Any thread, blocking: whether stage_reset() would take this file in. Raises what that raises."""
        self._db.verify(path, _READ_INDEX, _reset(0, bytes(16)))

    def unstage(self) -> None:
        """Forget what stage() laid ready, if anything."""
        self._staged = None
        self._db.unstage()

    def restore(self, path: Path) -> None:
        """Replace the whole state by a snapshot, which is left where it is; staged first unless it was.

        `reads` stays valid and every generation moves. Crash-safe: the state is the old or the new one.
        Raises what stage() raises: nothing changed.
        """
        self._check_usable()
        self.commit()
        if self._staged is None or self._staged[0] != path:
            self.unstage()
            self.stage(path)
        staged, self._staged = self._staged, None
        self._db.replace()
        self._load(None if staged is None else staged[1])
        self._executor.replaced()
        self._show_marks()
        if self._executor.observer is not None:
            self._executor.observer.replaced()

    def digest_of(self, path: Path, pause: Pause) -> str:
        """Any thread, blocking: the state_digest() of a copy that snapshot() wrote, which is left as it is.

        `pause` is called every few rows: other threads have work for this interpreter, too.
        """
        with self._db.opened_copy(path) as database:
            return Machine(database, known_level=self.known_level)._digest(SHARED + OWN, pause)

    def enter_alone(self, node: c.NodePut) -> None:
        """Before there is a log: make this state, taken from a snapshot, that of a group of this one node."""
        self._check_usable()
        amendments.enter_alone(self._db, node)
        self._uncommitted += 1
        self.commit()
        self._load()

    def settle(self, region: str) -> None:
        """Make this state, restored from another region's, that of a new region which follows: it has no nodes."""
        self._check_usable()
        regions.settle(self._db, region)
        self._applied_index = regions.SETTLED_INDEX
        self._executor.role = regions.SECONDARY
        self._uncommitted += 1
        self.commit()

    def arrive(self) -> None:
        """Mark this copy of another region's state: restored by a group, it makes that a region that follows."""
        self._check_usable()
        regions.arrive(self._db)
        self._uncommitted += 1
        self.commit()

    def state_digest(self, pause: Pause | None = None) -> str:
        """SHA-256 (hex) over the replicated state: equal logs give equal digests, on any node. See digest_of()."""
        return self._digest(SHARED + OWN, pause)

    def history_digest(self, pause: Pause | None = None) -> str:
        """SHA-256 (hex) over what all regions share: equal at equal positions, in any region. See digest_of()."""
        return self._digest(SHARED, pause)

    def _digest(self, queries: tuple[str, ...], pause: Pause | None = None) -> str:
        self._executor.flush()
        return digest(self._db, queries, self._executor.counted(), pause)

    def close(self) -> None:
        """Commit what is open, unless a failure left it half done, and close the file."""
        self.values.close()
        if not self._failed:
            self.commit()
        self._db.close()

    def _load(self, index: Index | None = None) -> None:
        row = self._db.one("SELECT applied_index FROM state")
        if row is None:
            raise AssertionError("the schema puts one row into state")
        self._applied_index, self._settled_by = row[0], regions.settled_by(self._db)
        self._executor.load(index)
        self._uncommitted = 0

    def _advance(self, index: int) -> None:
        self._check_usable()
        if index != self._applied_index + 1:
            raise ValueError(f"entry {index} does not follow {self._applied_index}")
        self._uncommitted += 1
        self._applied_index = index

    def _check_usable(self) -> None:
        if self._failed:
            raise RuntimeError("an earlier failure left this state machine unusable; open it again")


def _reset(index: int, request_id: bytes) -> Amendment:
    outcome = encode_outcome(Done())
    return lambda copy, present: amendments.reset(copy, present, index, request_id, outcome)
