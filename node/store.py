"""The one door to consensus and storage: propose a command, read at a freshness, encrypt and decrypt.

Exists only while the node is unsealed. Engines, auth methods and schedulers hold a Store and never see
Raft, SQL or keys.
"""

import asyncio
import contextlib
import os
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, TypeVar

from consensus import errors as raft_errors
from consensus.api import COMMAND_BYTES_MAX, Applied, Group, Status
from node.copies import StateCopies
from node.errors import DiskFull, NodeError, NoQuorum, NotEnabled, NotPrimary, OutcomeUnknown, TooBusy
from storage import regions
from storage.cache import ValueCache
from storage.command import LOCAL, AnyCommand, Sealed, encode, level_of
from storage.executor import Observer
from storage.keyring import FIRST_TERM, Context, Keyring, RootKey
from storage.machine import Machine
from storage.marks import Marks
from storage.outcome import Done, Reason, Rejected
from storage.reads import Reads
from storage.rows import Epoch, KvKey, Mount, Node, Region, Token

WRITE_TIMEOUT_S = 20.0
ROLE_LOOK_S = 0.2  # meanwhile, how often it looks whether this region has begun to follow another one
CLEARANCE_WAIT_S = 15.0  # how long a write waits until the other regions were asked (node/regions/worker.py)
T = TypeVar("T")

SHARED_BYTES_MAX = COMMAND_BYTES_MAX - 512  # so that it can be handed on inside of another region's command
READ_INDEX_TIMEOUT_S = 5.0
TOKENS_CACHED_MAX = 10_000


class CommandRejected(Exception):
    """The state machine looked at the command, in order, and refused it: nothing changed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Store:
    """One unsealed store on this node."""

    def __init__(self, *, machine: Machine, group: Group, keyring: Keyring, root: RootKey) -> None:
        self._machine = machine
        self._group = group
        self.group = group  # for who looks after the members
        self._keyring = keyring
        self._keyring_generation = -1
        self._mounts: tuple[Mount, ...] = ()
        self._mount_paths: list[str] = []
        self._mounts_generation = -1
        self._rows: dict[str, tuple[int, Any]] = {}
        self._tokens: dict[bytes, Token] = {}
        self._tokens_generation = -1
        self._key: KvKey | None = None
        self._key_place = (-1, "", "")
        self.root = root
        self.copies = StateCopies(machine, group)
        self.cleared = asyncio.Event()  # not set: another region may have taken over, and has yet to be asked
        self.cleared.set()
        self.leading_since_ns = 0  # 0: another node leads, as far as housekeeping has seen

    @property
    def reads(self) -> Reads:
        """Typed queries of this node's own state."""
        return self._machine.reads

    @property
    def values(self) -> ValueCache:
        """Decrypted values; the machine forgets what changes."""
        return self._machine.values

    @property
    def position(self) -> int:
        """How far this node's state is in the store's history: a number that all nodes of all regions share."""
        return self._machine.position

    def observe(self, observer: Observer | None) -> None:
        """Tell one observer of every command of the history from now on, between two turns of the loop."""
        self._machine.observe(observer)

    def show(self, marks: Marks | None, watcher: Callable[[float], None] | None) -> None:
        """Tell readers in other processes what changes, and until when this node's state is fresh (Group.watch())."""
        self._machine.mark(marks)
        self._group.watch(watcher)

    def mounts(self) -> tuple[Mount, ...]:
        """All of them, by path."""
        generation = self._machine.generation("mounts")
        if generation != self._mounts_generation:
            self._mounts = tuple(self.reads.mounts())
            self._mount_paths = [mount.path for mount in self._mounts]
            self._mounts_generation = generation
        return self._mounts

    def region(self) -> tuple[str, str]:
        """Reads.region(), and all below likewise: the stream to other regions asks for every batch."""
        return self._kept("regions", self.reads.region)

    def regions(self) -> list[Region]:
        return self._kept("regions", self.reads.regions)

    def epochs(self) -> list[Epoch]:
        return self._kept("regions", self.reads.epochs)

    def nodes(self) -> list[Node]:
        return self._kept("nodes", self.reads.nodes)

    def _kept(self, topic: str, read: Callable[[], T]) -> T:
        """What `read` said since rows of `topic` changed last."""
        generation = self._machine.generation(topic)
        known = self._rows.get(read.__name__)
        if known is None or known[0] != generation:
            known = self._rows[read.__name__] = (generation, read())
        value: T = known[1]
        return value

    def has_mount(self, mount_id: str) -> bool:
        """Whether this mount still exists, wherever it was moved to."""
        return any(mount.mount_id == mount_id for mount in self.mounts())

    def mount_for(self, path: str) -> Mount | None:
        """The mount that `path` lies in, as Reads.mount_for() tells it."""
        inside, mounts = path if path.endswith("/") else path + "/", self.mounts()
        at = bisect_right(self._mount_paths, inside) - 1  # no mount's path begins another's
        return mounts[at] if at >= 0 and inside.startswith(mounts[at].path) else None

    def kv_key(self, mount_id: str, path: str) -> KvKey | None:
        """Reads.kv_key(); the last answer is kept until anything is applied: a write asks twice in a row."""
        place = (self._machine.applied_index, mount_id, path)
        if place != self._key_place:
            self._key, self._key_place = self.reads.kv_key(mount_id, path), place
        return self._key

    def token(self, digest: bytes) -> Token | None:
        """A token's row, as Reads.token() tells it; rows of tokens that exist are remembered until any changes."""
        generation = self._machine.generation("tokens")
        if generation != self._tokens_generation or len(self._tokens) >= TOKENS_CACHED_MAX:
            self._tokens.clear()
            self._tokens_generation = generation
        row = self._tokens.get(digest) or self.reads.token(digest)
        if row is not None:
            self._tokens[digest] = row
        return row

    @property
    def epoch(self) -> int:
        """Changes whenever anything but values may have: tokens, policies, identities, mounts, ..."""
        return self._machine.epoch

    def generation(self, topic: str) -> int:
        """Changes whenever rows of `topic` may have: what caches compare."""
        return self._machine.generation(topic)

    @property
    def wraps(self) -> int:
        """How many data keys the newest key term has wrapped."""
        return self._machine.wraps

    def region_role(self) -> str:
        """This region's part in the store's history (storage/regions.py)."""
        return self._machine.role

    @property
    def orders(self) -> bool:
        """Whether this region orders writes: what follows sweeps and rotates nothing by itself."""
        return self._machine.role in (regions.ALONE, regions.PRIMARY)

    @property
    def accepts(self) -> bool:
        """Whether a write of the history may be tried here now: what admit() waits for."""
        role = self._machine.role
        return role == regions.ALONE or (role == regions.PRIMARY and self.cleared.is_set())

    async def admit(self) -> None:
        """Return once a write of the history may be tried here: the one place that decides.

        Raises NotPrimary where another region orders writes, NoQuorum while that is not known yet.
        """
        ends = time.monotonic() + CLEARANCE_WAIT_S
        while not self.accepts:
            if not self.orders:
                raise NotPrimary("another region orders writes")
            if time.monotonic() > ends:
                raise NoQuorum("the other regions have not been asked yet whether one took over")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROLE_LOOK_S):
                    await self.cleared.wait()

    def history(self, first: int, bytes_max: int) -> list[tuple[bytes, bytes]] | None:
        """Commands (request id, encoded) from position `first` on; None if they are no longer kept."""
        return self._machine.history.read(first, bytes_max)

    def was_refused(self, request_id: bytes) -> bool | None:
        """Whether the state machine refused a command; None: what became of it is not remembered (any more)."""
        known = self._machine.outcome(request_id)
        return None if known is None else isinstance(known.result, Rejected)

    def history_first(self) -> int:
        """The first position that history() still has."""
        return self._machine.history.first

    def status(self) -> Status:
        return self._group.status()

    def now_ns(self) -> int:
        """What a command is stamped with: the wall clock (UTC), never behind the newest stamp applied here."""
        return max(time.time_ns(), self._machine.clock_ns)

    async def submit(
        self, command: AnyCommand, *, request_id: bytes = b"", timeout: float = WRITE_TIMEOUT_S
    ) -> tuple[int, dict[str, Any]]:
        """Replicate a command; returns (log index, the outcome's value) once this node has applied it.

        The same 16-byte request_id is applied at most once; none given draws a fresh one. Raises
        CommandRejected, NoQuorum, DiskFull, TooBusy, NotEnabled or NotPrimary (nothing happened), OutcomeUnknown (ask
        again with the same id).
        """
        self._check_level(command)
        if not self.accepts and not self._machine.is_local(command):
            await self.admit()
        request_id = request_id or os.urandom(16)
        try:
            applied = await self._group.propose(_encoded(command), request_id=request_id, timeout=timeout)
        except raft_errors.ConsensusError as error:
            raise _told(error) from error
        return applied.index, _value(applied)

    def begin(
        self, command: AnyCommand, *, request_id: bytes, timeout: float = WRITE_TIMEOUT_S
    ) -> "asyncio.Future[Applied]":
        """submit() for callers that do not await: end() tells what came of it.

        Raises TooBusy, NoQuorum, NotEnabled, and NotPrimary where submit() might have waited.
        """
        self._check_level(command)
        if not self.accepts:
            raise NotPrimary("another region orders writes, or may")
        try:
            return self._group.begin(_encoded(command), request_id=request_id, timeout=timeout)
        except raft_errors.ConsensusError as error:
            raise _told(error) from error

    def _check_level(self, command: AnyCommand) -> None:
        """An older node would take it for garbage, so nobody proposes it before all know it."""
        level = level_of(command)
        if level > self._machine.level:
            raise NotEnabled(
                f"this needs feature level {level}, the cluster is at {self._machine.level}:"
                " it is raised by itself once every node runs the newer release"
            )

    @property
    def level(self) -> int:
        """The feature level at which the cluster is."""
        return self._machine.level

    @property
    def known_level(self) -> int:
        """The newest level that this node knows."""
        return self._machine.known_level

    @staticmethod
    def end(begun: "asyncio.Future[Applied]") -> dict[str, Any]:
        """The outcome's value of what begin() began, once that is done. Raises as submit() does."""
        try:
            return _value(begun.result())
        except raft_errors.ConsensusError as error:
            raise _told(error) from error

    def fresh_now(self) -> bool:
        """Whether local reads, made before anything is awaited, are as good as after fresh()."""
        return self._group.fresh_now()

    def age_s(self) -> float | None:
        """Local reads see everything acknowledged so many seconds ago, or earlier; None: nobody knows."""
        return self._group.age_s()

    async def fresh(self, *, confirm: bool = False) -> None:
        """After this, a local read sees everything acknowledged in the region before the call. NoQuorum.

        With `confirm` a quorum says so, whatever lease there is.
        """
        if not confirm and self._group.fresh_now():
            return
        try:
            await self._group.read_index(READ_INDEX_TIMEOUT_S, confirm=confirm)
        except raft_errors.ConsensusError as error:
            raise NoQuorum("no quorum confirms that this node is up to date") from error

    async def wait_for(self, position: int, timeout: float) -> bool:
        """Whether this node's state has come to `position` within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._machine.position < position:
                    await self._group.wait_applied(self._machine.applied_index + 1, timeout)
        except (TimeoutError, raft_errors.ConsensusError):
            return False
        return True

    @property
    def keyring(self) -> Keyring:
        """The keyring with every term that this node has applied."""
        generation = self._machine.generation("keyring")
        if generation != self._keyring_generation:
            self._keyring.load(self.reads.key_terms())
            self._keyring_generation = generation
        return self._keyring

    def seal(self, context: Context, plaintext: bytes, *, lasting: bool = False) -> Sealed:
        """Encrypt a value for exactly this place. `lasting`: it opens whatever history the store comes to have."""
        return self.keyring.seal(context, plaintext, term=FIRST_TERM if lasting else 0)

    def open(self, context: Context, sealed: Sealed) -> bytes:
        """Decrypt. Raises storage.errors.Corrupt if anything, or the place, differs."""
        return self.keyring.open(context, sealed)


def _encoded(command: AnyCommand) -> bytes:
    """Raises TooBusy for what could not be handed on to other regions."""
    encoded = encode(command)
    if len(encoded) > SHARED_BYTES_MAX and type(command) not in LOCAL:
        raise TooBusy("the write is too large to be replicated")
    return encoded


def _value(applied: Applied) -> dict[str, Any]:
    outcome = applied.result
    if isinstance(outcome, Rejected) and outcome.reason == Reason.NOT_PRIMARY:
        raise NotPrimary
    if isinstance(outcome, Rejected) and outcome.reason == Reason.STALE:
        raise OutcomeUnknown("this node's clock is too far behind; an earlier attempt may have succeeded")
    if isinstance(outcome, Rejected):
        raise CommandRejected(outcome.reason, outcome.detail)
    assert isinstance(outcome, Done)
    return outcome.value


def _told(error: raft_errors.ConsensusError) -> NodeError:
    """What became of a proposal, as this node's own error."""
    if isinstance(error, raft_errors.OutcomeUnknown):
        return OutcomeUnknown("the outcome of this write is not known yet")
    if isinstance(error, raft_errors.Overloaded | raft_errors.TooLarge):
        return TooBusy(str(error))
    if isinstance(error, raft_errors.DiskFull):
        return DiskFull(str(error))
    if isinstance(error, raft_errors.NotProposed):
        return NoQuorum("no leader could be reached; nothing was written")
    raise error
