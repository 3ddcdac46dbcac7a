"""The replicated state of a store: what every command does, exactly once and equally everywhere.

apply() is a function of the state and the log: no clock, no randomness, no network. The machine's clock is
the latest time that any command was stamped with. Request ids are remembered for OUTCOME_RETENTION_NS of it;
a command stamped more than COMMAND_AGE_MAX_NS ago is refused unless remembered, because it could be a retry
of one already forgotten. Proposers therefore stamp max(their clock, clock_ns).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from storage import amendments, cluster, entries, regions
from storage import command as c
from storage.cache import ValueCache
from storage.database import Amendment, Database, SlotMemory
from storage.digest import OWN, SHARED, Pause, digest
from storage.errors import Incompatible, NotWanted
from storage.handling import HANDLINGS, NOT_IN_BATCHES, OF_ONE_KEY, TOPICS
from storage.history import History
from storage.idempotency import INDEX_QUERY, Index, Outcomes
from storage.marks import Marks
from storage.outcome import Done, Outcome, Reason, Rejected, decode_outcome, encode_outcome
from storage.reads import Reads
from storage.recent import Recent
from storage.sanity import is_sane
from storage.wraps import Wraps

COMMAND_AGE_MAX_NS = 4 * 60 * 10**9
BATCH_COMMANDS_MAX = 4096
MIXED_ENTRIES_MAX = 512  # until a commit that cannot go on in the background

_READ_INDEX = "SELECT applied_index FROM state"
_LEVEL = "SELECT level FROM region"


class Observer(Protocol):
    """Who is told what was done; it changes nothing, and what it does is no part of the state."""

    def applied(self, position: int, command: c.AnyCommand, outcome: Outcome) -> None:
        """A command of the store's history."""
        ...

    def replaced(self) -> None:
        """The whole state is another one."""
        ...


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
        self._known_level = known_level
        self._level = 1  # of the cluster: what is newer is no command yet, here as on a node that is older
        self.values = ValueCache(0) if values is None else values
        self._recent = Recent(database)
        self.reads = Reads(database, self._recent)
        self._generations = dict.fromkeys(TOPICS, 0)
        self._epoch = 0
        self._failed = False
        self._uncommitted = 0  # entries
        self._mixed = False  # there are others than versions of secrets among them
        self._applied_index = self._position = self._clock_ns = self._authority = 0
        self._role, self._settled_by = regions.ALONE, b""
        self.history = History(database)
        self._outcomes = Outcomes(database)
        self.observer: Observer | None = None
        self._wraps = Wraps(database)
        self._staged_index: Index | None = None  # of the outcomes in what stage() laid ready
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
        return self._position

    @property
    def role(self) -> str:
        """This region's part in the history: one of regions.ALONE and its like."""
        return self._role

    @property
    def level(self) -> int:
        """The feature level at which the cluster is: newer commands are refused until it is raised."""
        return self._level

    @property
    def known_level(self) -> int:
        """The newest level that this build knows."""
        return self._known_level

    @property
    def clock_ns(self) -> int:
        """The latest time that an applied command was stamped with."""
        return self._clock_ns

    @property
    def wraps(self) -> int:
        """How many data keys the newest key term has wrapped."""
        return self._wraps.count

    def generation(self, topic: str) -> int:
        """A number that grows whenever rows of `topic` (one of TOPICS) may have changed; not persistent."""
        return self._generations[topic]

    @property
    def epoch(self) -> int:
        """Grows whenever any generation() does: whenever anything but values may have changed; not persistent."""
        return self._epoch

    def apply(self, index: int, request_id: bytes, command: bytes) -> Outcome:
        """Apply the log entry at `index`, which must be the next one; the outcome is remembered."""
        self._advance(index)
        known = self.outcome(request_id)
        if known is not None:
            return known.result
        try:
            outcome = self._apply(request_id, command)
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
            self.values.marks.moved(self._position, self._clock_ns, self._epoch)

    def skip(self, index: int) -> None:
        """The entry at `index` holds no command."""
        self._advance(index)

    def outcome(self, request_id: bytes) -> Remembered | None:
        """What became of a command, if it was applied and is not yet forgotten."""
        encoded = self._outcomes.get(request_id)
        if encoded is None:
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
        if self._mixed:
            self.commit()
        elif self._uncommitted:
            self._write_all()
            self._recent.commit_begins()
            self._db.commit_soon()
        return True

    def _write_all(self) -> None:
        self._recent.flush()
        self._outcomes.flush()
        self.history.flush()
        self._db.run(
            "UPDATE state SET applied_index = ?, position = ?, clock_ns = ?, wraps = ?, authority = ?",
            (self._applied_index, self._position, self._clock_ns, self._wraps.count, self._authority),
        )
        self._uncommitted, self._mixed = 0, False

    def _keep_bounded(self) -> None:
        """What a commit takes is bounded in time and bytes, whoever calls commit() how often."""
        too_mixed = self._mixed and self._uncommitted >= MIXED_ENTRIES_MAX
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
        self._look_at_staged()

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> bool:
        """As stage(), for a snapshot of any age, which becomes the state at `index`. See amendments.py.

        False: this state is not to be replaced by it; nothing is laid ready, and decline() is what is left.
        """
        try:
            self._db.stage(path, _READ_INDEX, at_least=0, amend=_reset(index, request_id))
        except NotWanted:
            return False
        self._look_at_staged()
        return True

    def decline(self, index: int, request_id: bytes) -> None:
        """The entry at `index` asked for a state that this one is not to be replaced by: that is remembered."""
        self._advance(index)
        self._mixed = True
        self._settled_by = regions.decline(self._db, request_id)

    def declined(self, request_id: bytes) -> bool:
        """Whether that request was the last one of the kind, and declined."""
        return self._settled_by == request_id + regions.DECLINED

    def _look_at_staged(self) -> None:
        try:
            self._checked_level(self._db.staged(_LEVEL)[0][0])
            self._staged_index = Index.of(self._db.staged(INDEX_QUERY))
        except BaseException:
            self._db.unstage()
            raise

    def verify(self, path: Path) -> None:
        """Any thread, blocking: whether stage_reset() would take this file in. Raises what that raises."""
        self._db.verify(path, _READ_INDEX, _reset(0, bytes(16)))

    def unstage(self) -> None:
        """Forget what stage() laid ready, if anything."""
        self._staged_index = None
        self._db.unstage()

    def restore(self, path: Path) -> None:
        """Replace the whole state by a snapshot, which is left where it is; staged first unless it was.

        `reads` stays valid and every generation moves. Crash-safe: the state is the old or the new one.
        Raises what stage() raises: nothing changed.
        """
        self._check_usable()
        self.commit()
        self._db.replace_by(path, _READ_INDEX, at_least=self._applied_index)
        self._load(self._staged_index)
        self._staged_index = None
        self.values.clear()
        self._epoch += 1
        for topic in TOPICS:
            self._generations[topic] += 1
        self._show_marks()
        if self.observer is not None:
            self.observer.replaced()

    def digest_of(self, path: Path, pause: Pause) -> str:
        """Any thread, blocking: the state_digest() of a copy that snapshot() wrote, which is left as it is.

        `pause` is called every few rows: other threads have work for this interpreter, too.
        """
        with self._db.opened_copy(path) as database:
            return Machine(database, known_level=self._known_level)._digest(SHARED + OWN, pause)

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
        self._role = regions.SECONDARY
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
        self._recent.flush()
        self._outcomes.flush()
        self.history.flush()
        counters = (self._position, self._clock_ns, self._wraps.count, self._authority)
        return digest(self._db, queries, counters, pause)

    def close(self) -> None:
        """Commit what is open, unless a failure left it half done, and close the file."""
        self.values.close()
        if not self._failed:
            self.commit()
        self._db.close()

    def _load(self, index: Index | None = None) -> None:
        row = self._db.one("SELECT applied_index, position, clock_ns, authority FROM state")
        if row is None:
            raise AssertionError("the schema puts one row into state")
        self._applied_index, self._position, self._clock_ns, self._authority = row
        self._db.index, self._db.clock_ns = self._position, self._clock_ns
        self._role, self._settled_by = regions.own(self._db)[1], regions.settled_by(self._db)
        self._level = self._checked_level(cluster.level(self._db))
        self._wraps.load()
        self._uncommitted, self._mixed = 0, False
        self._recent.forget()
        self.history.load(self._position)
        self._outcomes.load(index)

    def _checked_level(self, level: int) -> int:
        """Raises Incompatible: what a newer release wrote could be misread."""
        if level > self._known_level:
            raise Incompatible(
                f"the state is at feature level {level}, this release knows {self._known_level}: run a newer one"
            )
        return level

    def _advance(self, index: int) -> None:
        self._check_usable()
        if index != self._applied_index + 1:
            raise ValueError(f"entry {index} does not follow {self._applied_index}")
        self._uncommitted += 1
        self._applied_index = index

    def _check_usable(self) -> None:
        if self._failed:
            raise RuntimeError("an earlier failure left this state machine unusable; open it again")

    def _apply(self, request_id: bytes, data: bytes) -> Outcome:
        command = self._decoded(data)
        if type(command) is not c.KvPut and command is not None and self.is_local(command):
            return self._apply_local(request_id, command)
        if type(command) is c.EpochBegin:
            return Rejected(Reason.MALFORMED)
        if self._role not in (regions.ALONE, regions.PRIMARY):
            return Rejected(Reason.NOT_PRIMARY)  # not remembered: a retry may find this region promoted
        return self._apply_shared(request_id, data, command)

    def _apply_shared(self, request_id: bytes, data: bytes, command: c.AnyCommand | None) -> Outcome:
        """The next command of the store's history."""
        self._position += 1
        self._db.index = self._position
        outcome = self._decide(command)
        self._remember(request_id, outcome)
        if self._role == regions.ALONE:
            self.history.skip(self._position)
        else:
            self.history.append(self._position, request_id, data)
        if self.observer is not None and command is not None:
            self.observer.applied(self._position, command, outcome)
        return outcome

    def _apply_local(self, request_id: bytes, command: Any) -> Outcome:
        """A command about this region's own cluster."""
        if not is_sane(command):
            return Rejected(Reason.MALFORMED)
        if isinstance(command, c.RegionApply):
            return self._follow(command)
        if isinstance(command, c.RegionPromote):
            begin = regions.promotion(self._db, command)
            if isinstance(begin, Rejected):
                return begin
            self._role = regions.PRIMARY
            return self._apply_shared(request_id, c.encode(begin), begin)
        self._db.index = self._applied_index  # revisions of its own
        outcome = self._batch(command) if isinstance(command, c.Batch) else self._dispatch(command)
        self._db.index = self._position
        if isinstance(command, c.RegionLeave) and isinstance(outcome, Done):
            self.history.clear(self._position)
        return outcome

    def _follow(self, command: c.RegionApply) -> Outcome:
        """What another region ordered: the same commands at the same positions."""
        if self._role not in regions.FOLLOWS:
            return Rejected(Reason.REGION_ROLE)
        if (command.epoch, command.first) != (regions.newest_epoch(self._db)[0], self._position + 1):
            return Rejected(Reason.POSITION_GAP, str(self._position))
        for request_id, data in command.commands:
            self._apply_shared(request_id, data, self._decoded(data))
        return Done({"position": self._position})

    def _decide(self, command: c.AnyCommand | None) -> Outcome:
        """`command` None: bytes that are none. No detail is told: it is replicated state, and the wording of a
        library's error is not for ever.
        """
        if command is None or not is_sane(command):
            return Rejected(Reason.MALFORMED)
        if command.time_ns < self._clock_ns - COMMAND_AGE_MAX_NS:
            return Rejected(Reason.STALE)
        self._clock_ns = self._db.clock_ns = max(self._clock_ns, command.time_ns)
        if isinstance(command, c.Batch):
            return self._batch(command)
        outcome = self._dispatch(command)
        if type(command) is c.KvPut:
            self._wraps.add_one(command.value.term)
        else:
            self._count((command,))
        return outcome

    def _count(self, commands: Iterable[c.AnyCommand]) -> None:
        """What was sealed for commands of the history, refused or not. Of a region's own there are only a few."""
        for command in commands:
            if isinstance(command, c.KeyTermAdd):
                self._wraps.turn()
        for command in commands:
            self._wraps.add(command)

    def _batch(self, batch: c.Batch) -> Outcome:
        if len(batch.commands) > BATCH_COMMANDS_MAX:
            return Rejected(Reason.MALFORMED)
        decoded = [self._decoded(data) for data in batch.commands]
        commands = [each for each in decoded if each is not None]
        if len(commands) < len(decoded):
            return Rejected(Reason.MALFORMED)
        kinds = [type(each) for each in commands]
        local = [self.is_local(each) for each in commands]
        if any(kind in NOT_IN_BATCHES for kind in kinds) or not all(map(is_sane, commands)):
            return Rejected(Reason.MALFORMED)
        if any(local) and not all(local) and kinds[0] is not c.ClusterInit:
            return Rejected(Reason.MALFORMED)  # but for the one that makes a store
        self._recent.forget()
        outcome = self._all_or_none(commands)
        if not all(local):
            self._count(commands)
        return outcome

    def _all_or_none(self, commands: list[c.AnyCommand]) -> Outcome:
        self._mixed = True
        self._db.run("SAVEPOINT batch")
        results = []
        for each in commands:
            outcome = self._dispatch(each)
            self._recent.flush()
            if isinstance(outcome, Rejected):
                self._db.run("ROLLBACK TO batch")
                self._db.slots = SlotMemory()
                self._recent.forget()
                self._db.run("RELEASE batch")
                return outcome
            results.append(outcome.value)
        self._db.run("RELEASE batch")
        return Done({"results": results})

    def is_local(self, command: c.AnyCommand) -> bool:
        """Whether it is about a region's own cluster; of a batch the first one tells, and all must agree."""
        if isinstance(command, c.Batch):
            first = self._decoded(command.commands[0]) if command.commands else None
            return first is not None and not isinstance(first, c.Batch) and self.is_local(first)
        if isinstance(command, c.EntryPut | c.EntryDelete | c.EntriesDelete):
            return command.view.startswith(c.OWN_VIEWS)
        return type(command) in c.LOCAL

    def _decoded(self, data: bytes) -> c.AnyCommand | None:
        """The command, or None if the bytes are none of the level at which the cluster is."""
        try:
            command = c.decode(data)
        except c.MalformedCommand:
            return None
        newer = c.LEVELS.get(type(command), 1) > self._level
        return None if newer else command

    def _dispatch(self, command: c.AnyCommand) -> Outcome:
        if type(command) is c.KvPut:
            if 0 < command.decided < self._authority:
                return Rejected(Reason.PERMISSION_OUTDATED)
            self.values.forget(command.mount_id, command.path)
            return self._recent.put(command)
        self._mixed = True
        handling = HANDLINGS[type(command)]
        if not handling.apart:
            self._recent.forget()
        outcome = handling.apply(self._db, command)
        if type(command) is c.LevelRaise:
            self._level = self._checked_level(cluster.level(self._db))
        if isinstance(command, OF_ONE_KEY):
            self.values.forget(command.mount_id, command.path)
        elif "mounts" in handling.topics:
            self.values.mounts_changed(gone=type(command) is c.MountRemove)
        of_identity = getattr(command, "view", None) == entries.IDENTITY
        if not handling.harmless or of_identity:
            self._authority = self._position
        if handling.topics and isinstance(outcome, Done):
            self._epoch += 1
            for topic in handling.topics:
                self._generations[topic] += 1
            if "regions" in handling.topics:
                self._role = regions.own(self._db)[1]
            if of_identity:
                self._generations["identity"] += 1
        return outcome

    def _remember(self, request_id: bytes, outcome: Outcome) -> None:
        encoded = encode_outcome(outcome)
        self._outcomes.remember(self._position, request_id, self._clock_ns, encoded)


def _reset(index: int, request_id: bytes) -> Amendment:
    outcome = encode_outcome(Done())
    return lambda copy, present: amendments.reset(copy, present, index, request_id, outcome)
