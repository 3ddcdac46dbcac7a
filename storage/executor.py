"""What each command does to the state, in the order of the log: equally everywhere.

The machine's clock is the latest time that any command was stamped with. Request ids are remembered for
idempotency.RETENTION_NS of it; a command stamped more than COMMAND_AGE_MAX_NS ago is refused unless remembered,
because it could be a retry of one already forgotten. Proposers therefore stamp max(their clock, clock_ns).
"""

from collections.abc import Iterable
from typing import Any, Protocol

from storage import cluster, entries, regions
from storage import command as c
from storage.cache import ValueCache
from storage.database import Database, SlotMemory
from storage.errors import Incompatible
from storage.handling import HANDLINGS, NOT_IN_BATCHES, OF_ONE_KEY, TOPICS
from storage.history import History
from storage.idempotency import Index, Outcomes
from storage.outcome import Done, Outcome, Reason, Rejected, encode_outcome
from storage.recent import Recent
from storage.sanity import is_sane
from storage.wraps import Wraps

COMMAND_AGE_MAX_NS = 4 * 60 * 10**9
BATCH_COMMANDS_MAX = 4096


class Observer(Protocol):
    """Who is told what was done; it changes nothing, and what it does is no part of the state."""

    def applied(self, position: int, command: c.AnyCommand, outcome: Outcome) -> None:
        """A command of the store's history."""
        ...

    def replaced(self) -> None:
        """The whole state is another one."""
        ...


class Executor:
    """The state as commands change it. What is in memory only is in the database after flush() and a commit."""

    def __init__(self, database: Database, recent: Recent, values: ValueCache, known_level: int) -> None:
        self._db, self._recent, self.values = database, recent, values
        self.known_level = known_level
        self.level = 1  # of the cluster: what is newer is no command yet, here as on a node that is older
        self.history, self.outcomes, self.wraps = History(database), Outcomes(database), Wraps(database)
        self.observer: Observer | None = None
        self.role = regions.ALONE
        self.position = self.clock_ns = 0
        self.authority = 0  # the position of the last command that may have taken a permission from anybody
        self.generations, self.epoch = dict.fromkeys(TOPICS, 0), 0
        self.mixed = False  # since the last commit there were others than versions of secrets

    def load(self, index: Index | None) -> None:
        """Know what the database holds; `index` of the outcomes if somebody has read it. Raises Incompatible."""
        row = self._db.one("SELECT position, clock_ns, authority FROM state")
        if row is None:
            raise AssertionError("the schema puts one row into state")
        self.position, self.clock_ns, self.authority = row
        self._db.index, self._db.clock_ns = self.position, self.clock_ns
        self.role = regions.own(self._db)[1]
        self.level = self.checked_level(cluster.level(self._db))
        self.wraps.load()
        self.mixed = False
        self._recent.forget()
        self.history.load(self.position)
        self.outcomes.load(index)

    def flush(self) -> None:
        """The tables hold all that was applied, but for what is counted()."""
        self._recent.flush()
        self.outcomes.flush()
        self.history.flush()

    def counted(self) -> tuple[int, int, int, int]:
        """Position, clock, wraps and authority: columns of the table `state` that change with every command."""
        return self.position, self.clock_ns, self.wraps.count, self.authority

    def replaced(self) -> None:
        """The whole state is another one: nothing that anybody remembers of it holds."""
        self.values.clear()
        self.epoch += 1
        for topic in TOPICS:
            self.generations[topic] += 1

    def checked_level(self, level: int) -> int:
        """Raises Incompatible: what a newer release wrote could be misread."""
        if level > self.known_level:
            raise Incompatible(
                f"the state is at feature level {level}, this release knows {self.known_level}: run a newer one"
            )
        return level

    def apply(self, index: int, request_id: bytes, data: bytes) -> Outcome:
        """The outcome of the bytes at `index` of the log, which hold a command if all is well."""
        command = self._decoded(data)
        if type(command) is not c.KvPut and command is not None and self.is_local(command):
            return self._apply_local(index, request_id, command)
        if type(command) is c.EpochBegin:
            return Rejected(Reason.MALFORMED)
        if self.role not in (regions.ALONE, regions.PRIMARY):
            return Rejected(Reason.NOT_PRIMARY)  # not remembered: a retry may find this region promoted
        return self._apply_shared(request_id, data, command)

    def _apply_shared(self, request_id: bytes, data: bytes, command: c.AnyCommand | None) -> Outcome:
        """The next command of the store's history."""
        self.position += 1
        self._db.index = self.position
        outcome = self._decide(command)
        self._remember(request_id, outcome)
        if self.role == regions.ALONE:
            self.history.skip(self.position)
        else:
            self.history.append(self.position, request_id, data)
        if self.observer is not None and command is not None:
            self.observer.applied(self.position, command, outcome)
        return outcome

    def _apply_local(self, index: int, request_id: bytes, command: Any) -> Outcome:
        """A command about this region's own cluster."""
        if not is_sane(command):
            return Rejected(Reason.MALFORMED)
        if isinstance(command, c.RegionApply):
            return self._follow(command)
        if isinstance(command, c.RegionPromote):
            begin = regions.promotion(self._db, command)
            if isinstance(begin, Rejected):
                return begin
            self.role = regions.PRIMARY
            return self._apply_shared(request_id, c.encode(begin), begin)
        self._db.index = index  # revisions of its own
        outcome = self._batch(command) if isinstance(command, c.Batch) else self._dispatch(command)
        self._db.index = self.position
        if isinstance(command, c.RegionLeave) and isinstance(outcome, Done):
            self.history.clear(self.position)
        return outcome

    def _follow(self, command: c.RegionApply) -> Outcome:
        """What another region ordered: the same commands at the same positions."""
        if self.role not in regions.FOLLOWS:
            return Rejected(Reason.REGION_ROLE)
        if (command.epoch, command.first) != (regions.newest_epoch(self._db)[0], self.position + 1):
            return Rejected(Reason.POSITION_GAP, str(self.position))
        for request_id, data in command.commands:
            self._apply_shared(request_id, data, self._decoded(data))
        return Done({"position": self.position})

    def _decide(self, command: c.AnyCommand | None) -> Outcome:
        """`command` None: bytes that are none. No detail is told: it is replicated state, and the wording of a
        library's error is not for ever.
        """
        if command is None or not is_sane(command):
            return Rejected(Reason.MALFORMED)
        if command.time_ns < self.clock_ns - COMMAND_AGE_MAX_NS:
            return Rejected(Reason.STALE)
        self.clock_ns = self._db.clock_ns = max(self.clock_ns, command.time_ns)
        if isinstance(command, c.Batch):
            return self._batch(command)
        outcome = self._dispatch(command)
        if type(command) is c.KvPut:
            self.wraps.add_one(command.value.term)
        else:
            self._count((command,))
        return outcome

    def _count(self, commands: Iterable[c.AnyCommand]) -> None:
        """What was sealed for commands of the history, refused or not. Of a region's own there are only a few."""
        for command in commands:
            if isinstance(command, c.KeyTermAdd):
                self.wraps.turn()
        for command in commands:
            self.wraps.add(command)

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
        self.mixed = True
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
        newer = c.LEVELS.get(type(command), 1) > self.level
        return None if newer else command

    def _dispatch(self, command: c.AnyCommand) -> Outcome:
        if type(command) is c.KvPut:
            if 0 < command.decided < self.authority:
                return Rejected(Reason.PERMISSION_OUTDATED)
            self.values.forget(command.mount_id, command.path)
            return self._recent.put(command)
        self.mixed = True
        handling = HANDLINGS[type(command)]
        if not handling.apart:
            self._recent.forget()
        outcome = handling.apply(self._db, command)
        if type(command) is c.LevelRaise:
            self.level = self.checked_level(cluster.level(self._db))
        if isinstance(command, OF_ONE_KEY):
            self.values.forget(command.mount_id, command.path)
        elif "mounts" in handling.topics:
            self.values.mounts_changed(gone=type(command) is c.MountRemove)
        of_identity = getattr(command, "view", None) == entries.IDENTITY
        if not handling.harmless or of_identity:
            self.authority = self.position
        if handling.topics and isinstance(outcome, Done):
            self.epoch += 1
            for topic in handling.topics:
                self.generations[topic] += 1
            if "regions" in handling.topics:
                self.role = regions.own(self._db)[1]
            if of_identity:
                self.generations["identity"] += 1
        return outcome

    def _remember(self, request_id: bytes, outcome: Outcome) -> None:
        encoded = encode_outcome(outcome)
        self.outcomes.remember(self.position, request_id, self.clock_ns, encoded)
