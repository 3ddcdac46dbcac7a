"""The adapter to pysyncobj 0.3.17: the only module that imports it or names its private parts.

What stays pysyncobj's: the member's state, the vote rule, the commit rule, the append handler, the election
timer, leadership and its fallback. What is taken away from it, by overriding name-mangled methods (a subclass
may define `_SyncObj__name`, and `self.__name` inside SyncObj finds it): every byte on disk and on the wire,
the replication loop, applying, snapshots, compaction, membership. DESIGN.md says why, fault by fault.

All of it leans on one exact source file, so the import fails when that file is another one.
"""

import hashlib
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from consensus.options import RaftOptions
from consensus.pysyncobj_log import Log
from consensus.records import Entry

VERSION = "0.3.17"
SOURCE_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
LOG_NEVER_COMPACTED = 10**9

_METHODS = (
    "applyLogEntries deleteEntriesFrom generateRaftTimeout getEntries loadDumpFile onBecomeLeader onMessageReceived "
    "sendAppendEntries sendNextNodeIdx setCurrentTerm setState tryLogCompaction"
)
_FIELDS = (
    "connectedNodes lastResponseTime needLoadDumpFile newAppendEntriesTime noopIDx otherNodes raftCommitIndex "
    "raftCurrentTerm raftElectionDeadline raftLastApplied raftLeader raftLog raftMatchIndex raftNextIndex raftState "
    "transferInProgress votedForNodeId"
)


def _no_pickle(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("pickle is not used here")


def _pin() -> None:
    """Refuse any other pysyncobj than the audited one, and take its pickle away. Raises RuntimeError."""
    source = Path(pysyncobj.syncobj.__file__).read_bytes()
    if pysyncobj.syncobj.VERSION != VERSION or hashlib.sha256(source).hexdigest() != SOURCE_SHA256:
        raise RuntimeError(
            f"consensus needs the audited source of pysyncobj {VERSION}, and this is another one"
        )
    names = vars(pysyncobj.syncobj.SyncObj)
    missing = [name for name in _METHODS.split() if f"_SyncObj__{name}" not in names]
    missing += [name for name in _FIELDS.split() if f"self.__{name} " not in source.decode()]
    if missing:
        raise RuntimeError(f"pysyncobj lacks {missing}")
    for module in (pysyncobj.pickle, pysyncobj.journal):
        for name in ("load", "loads", "dump", "dumps"):
            if hasattr(module, name):
                setattr(module, name, _no_pickle)


@contextmanager
def clock(read: Callable[[], float]) -> Iterator[None]:
    """For simulations: every member of this process counts its timeouts on this clock meanwhile."""
    before = pysyncobj.syncobj.monotonicTime
    pysyncobj.syncobj.monotonicTime = read
    try:
        yield
    finally:
        pysyncobj.syncobj.monotonicTime = before


class Owner(Protocol):
    """What the adapter asks of `replica.Replica`, always inside a call that came from there."""

    def election_timeout(self) -> float: ...
    def committable_index(self) -> int: ...
    def core_sends(self, peer: str, message: dict[str, Any]) -> None: ...
    def heartbeat(self) -> None: ...
    def state_changed(self, old: int, new: int) -> None: ...


class _Bridge(Transport):  # type: ignore[misc]  # pysyncobj is untyped
    """What pysyncobj takes for its network: messages go to the owner, which knows the wire."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(None, None, None)
        self.owner = owner

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        self.owner.core_sends(node.id, message)
        return True


class _NoPoller:
    """Stands for the socket poller: the event loop is asyncio's."""

    def poll(self, _timeout: float) -> None: ...


class _Voter(Node):  # type: ignore[misc]
    """A node as pysyncobj wants it, compared by identity: its own compares ids in Python for every entry.

    Its hash is the same in every process, so that pysyncobj walks its sets in the same order in all of them.
    """

    __eq__ = object.__eq__

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self._hash = zlib.crc32(peer.encode())

    def __hash__(self) -> int:
        return self._hash


_voters: dict[str, _Voter] = {}


def _voter(peer: str) -> _Voter:
    """The one object of an id; ids are few, each was a member once."""
    voter = _voters.get(peer)
    if voter is None:
        voter = _voters[peer] = _Voter(peer)
    return voter


class Core(pysyncobj.syncobj.SyncObj):  # type: ignore[misc]  # pysyncobj is untyped
    """One member's Raft state with a typed face. `others` are ids; `log` holds what the disk holds."""

    _SyncObj__otherNodes: set[Any]
    _SyncObj__raftLeader: Any
    _SyncObj__noopIDx: int | None

    def __init__(
        self,
        owner: Owner,
        *,
        me: str,
        log: Log,
        applied_index: int,
        others: Collection[str],
        options: RaftOptions,
    ) -> None:
        self._owner = owner
        conf = pysyncobj.syncobj.SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # False makes a pipe that nobody here would drain
            appendEntriesPeriod=options.heartbeat_s,
            raftMinTimeout=options.election_min_s,
            raftMaxTimeout=options.election_max_s,
            leaderFallbackTimeout=options.election_max_s,
            connectionTimeout=max(3.5, options.election_max_s),
            commandsWaitLeader=False,
            dynamicMembershipChange=False,  # membership.py's job
            useFork=False,
            logCompactionMinEntries=LOG_NEVER_COMPACTED,
            logCompactionMinTime=LOG_NEVER_COMPACTED,
            onStateChanged=owner.state_changed,
        )
        bridge = _Bridge(owner)
        super().__init__(
            _voter(me), [_voter(peer) for peer in others], conf=conf, nodeClass=_voter, transport=bridge
        )
        # There is no constructor argument for these, and nothing has been sent yet.
        self._poller = _NoPoller()
        self._SyncObj__raftLog = log
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__raftCurrentTerm = max(log.hard.term, log.last_term)
        same_term = log.hard.term == self._SyncObj__raftCurrentTerm
        self._SyncObj__votedForNodeId = log.hard.voted_for if same_term else None
        # What the machine holds was committed; nothing else that a disk could say is trusted (P18).
        self._SyncObj__raftCommitIndex = self._SyncObj__raftLastApplied = applied_index
        for peer in self._SyncObj__otherNodes:
            self._track(peer)

    # ---- reading the state ----

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def state(self) -> int:
        return int(self._SyncObj__raftState)

    @property
    def leading(self) -> bool:
        return self.state == LEADER

    @property
    def following(self) -> bool:
        return self.state == FOLLOWER

    @property
    def leader_id(self) -> str | None:
        node = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def noop_index(self) -> int | None:
        """Where this leader's term begins in the log."""
        index = self._SyncObj__noopIDx
        return None if index is None else int(index)

    @property
    def deadline(self) -> float:
        """When this node would campaign, in pysyncobj's clock."""
        return float(self._SyncObj__raftElectionDeadline)

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._SyncObj__raftElectionDeadline = at

    @property
    def told_to_campaign(self) -> bool:
        """The leader has sent TimeoutNow."""
        return bool(self._SyncObj__transferInProgress)

    @told_to_campaign.setter
    def told_to_campaign(self, told: bool) -> None:
        self._SyncObj__transferInProgress = told

    # ---- changing it ----

    def tick(self) -> None:
        """What is due: campaign, count votes and matches, advance the commit index, send heartbeats."""
        self._onTick(0.0)

    def step(self, peer: str, message: dict[str, Any]) -> None:
        """Give pysyncobj's handler one message that has been checked and narrowed."""
        super()._SyncObj__onMessageReceived(_voter(peer), message)

    def step_down(self, term: int) -> None:
        """A higher term exists: follow in it, without a vote and without a leader yet."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self.told_to_campaign = False

    def resign(self) -> None:
        """Lead no longer, in the same term: the vote that this node gave itself stands."""
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def forget_leadership(self) -> None:
        """No entry of the term that begins now is in the log yet."""
        self._SyncObj__noopIDx = None

    def link(self, peer: str, *, up: bool) -> None:
        connected = self._SyncObj__connectedNodes
        (connected.add if up else connected.discard)(_voter(peer))

    def acknowledged(self, peer: str, match: int, now: float) -> None:
        """`peer` holds the log up to `match` (0: only that it is alive)."""
        node = _voter(peer)
        if node in self._SyncObj__otherNodes:
            known = self._SyncObj__raftMatchIndex
            known[node] = max(known.get(node, 0), match)
            self._SyncObj__lastResponseTime[node] = now

    def raise_commit(self, index: int) -> None:
        """A leader said that all up to `index` is committed, and the log here agrees with its log."""
        self._SyncObj__raftCommitIndex = max(self.commit_index, index)

    def applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    def restored(self, index: int) -> None:
        """A snapshot at `index` took the place of the state, and of the log up to there."""
        self._SyncObj__raftCommitIndex = max(self.commit_index, index)
        self._SyncObj__raftLastApplied = index

    def set_others(self, others: Collection[str], now: float) -> None:
        """The other voters from now on."""
        wanted = {_voter(peer) for peer in others}
        for node in self._SyncObj__otherNodes - wanted:
            self._SyncObj__raftMatchIndex.pop(node, None)
            self._SyncObj__raftNextIndex.pop(node, None)
        added = wanted - self._SyncObj__otherNodes
        self._SyncObj__otherNodes = wanted
        for node in added:
            self._track(node)
            self._SyncObj__lastResponseTime[node] = now

    def _track(self, node: Any) -> None:
        self._SyncObj__raftMatchIndex[node] = 0
        self._SyncObj__raftNextIndex[node] = 0

    # ---- what pysyncobj calls, and finds here instead of its own ----

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        return self._owner.election_timeout()

    def _SyncObj__getEntries(  # noqa: N802
        self, first: int, count: int | None = None, max_bytes: int | None = None
    ) -> list[Entry]:
        """The commit rule reads one entry at a time to see its term, and passes over one that is not there.

        So an entry that is not yet durable on this node is not there: the leader does not count itself, nor
        applies, before its own fsync (P1). Nor is one that a follower with a read lease lacks (leases.py).
        No other caller that is left asks for exactly one.
        """
        if count == 1 and first > self._owner.committable_index():
            return []
        entries: list[Entry] = super()._SyncObj__getEntries(first, count, max_bytes)
        return entries

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Ours: replica.py applies once it has sent what others wait for."""
        return False

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        now: float = pysyncobj.syncobj.monotonicTime()
        self._SyncObj__newAppendEntriesTime = now + self.conf.appendEntriesPeriod
        self._owner.heartbeat()

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """Ours, by what the state machine holds durably."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803
        raise AssertionError("snapshots never pass through pysyncobj")

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Its queue stays empty: replica.py appends, and pysyncobj never forwards anything (P13, P16)."""

    def _applyCommand(  # noqa: N802
        self,
        command: bytes,
        callback: Callable[..., None] | None,
        commandType: int | None = None,  # noqa: N803
    ) -> None:
        raise AssertionError("commands never pass through pysyncobj's queue")


_pin()
