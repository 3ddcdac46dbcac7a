"""What consensus asks of others (Protocols) and the values that it hands out."""

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

REQUEST_ID_BYTES = 16
COMMAND_BYTES_MAX = (1 << 20) - 4096  # one entry always fits a frame, with room for its envelope
PENDING_PROPOSALS_MAX = 10_000


class Role(enum.StrEnum):
    """What a member is at this moment. A learner receives the log and has no vote."""

    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEARNER = "learner"


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One voter: its node id and the host:port of its Raft listener."""

    id: str
    address: str


class Applied(msgspec.Struct, frozen=True):
    """A committed command, as applied on this node."""

    index: int
    result: Any


@dataclass(frozen=True, slots=True)
class Peer:
    """What the leader knows of one other member; elsewhere match_index is 0."""

    member: Member
    connected: bool
    match_index: int
    last_contact_s: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """This node's view of its group, at one moment."""

    node_id: str
    role: Role
    term: int
    leader_id: str | None
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    members: tuple[Member, ...]
    peers: tuple[Peer, ...]
    learners: tuple[Peer, ...] = ()  # known to the leader only


class Remembered(Protocol):
    """What a state machine remembers of an applied command; Applied is one."""

    @property
    def index(self) -> int: ...
    @property
    def result(self) -> Any: ...


class StateMachine(Protocol):
    """The replicated state. All methods run on the event loop's thread unless they say otherwise.

    apply() is total: it never raises for a bad command (it returns a typed rejection), so an exception is a
    bug and stops the node. It reads no clock and draws no randomness: equal logs give equal states.
    """

    @property
    def applied_index(self) -> int:
        """The last index applied; right after opening, the last one that the disk holds."""
        ...

    def apply(self, index: int, request_id: bytes, command: bytes) -> Any:
        """Apply the entry at `index` (always applied_index + 1); the result goes to whoever proposed it.

        A request id that was applied before returns the remembered outcome and changes nothing else.
        """
        ...

    def skip(self, index: int) -> None:
        """The entry at `index` carries no command (no-op, membership): only applied_index moves."""
        ...

    def outcome(self, request_id: bytes) -> Remembered | None:
        """The remembered outcome of a command, if it was applied and is not yet forgotten."""
        ...

    def commit(self) -> None:
        """End of a batch of applies: close the open transaction (survives kill -9, not power loss)."""
        ...

    def commit_soon(self) -> bool:
        """commit(), perhaps in the background. False: an earlier one is still under way, so ask again later."""
        ...

    def checkpoint(self) -> int:
        """Blocking, any thread: fsync what commit() closed; returns the applied index that is now durable."""
        ...

    def snapshot(self, path: Path) -> int:
        """Blocking, any thread: write a consistent copy to a new file; returns the copy's applied index."""
        ...

    def stage(self, path: Path) -> None:
        """Blocking, any thread: verify a copy that another node's snapshot() wrote and lay it beside the state,
        so that restore(path) is quick. What the state answers and takes stays as it was. Until restore() or
        unstage(), checkpoint() and snapshot() wait.
        """
        ...

    def stage_reset(self, path: Path, index: int, request_id: bytes) -> bool:
        """As stage(), for a copy of any age: restore(path) makes it the state at `index`, of whose outcomes
        none is remembered but that of `request_id`. It keeps what names the group's members. A function of the
        copy and of the state at index - 1, which commit() has closed.

        False, also a function of these two: that state is not to be replaced by that copy.
        """
        ...

    def decline(self, index: int, request_id: bytes) -> None:
        """The entry at `index` is a restore for which stage_reset() returned False: only applied_index moves, and
        outcome(request_id) is remembered.
        """
        ...

    def declined(self, request_id: bytes) -> bool:
        """Whether the remembered outcome of a restore is that it changed nothing."""
        ...

    def unstage(self) -> None:
        """Forget what stage() laid ready, if anything."""
        ...

    def restore(self, path: Path) -> None:
        """Replace the whole state by such a copy; blocking for long only if it was not staged. Crash-safe."""
        ...


class Cipher(Protocol):
    """Authenticated encryption of what goes to disk; keys come from the seal, so a sealed node cannot read it."""

    def segment(self, salt: bytes) -> "SegmentCipher":
        """A cipher under a key of its own, derived from `salt` (16 random bytes kept in the file's header)."""
        ...


class SegmentCipher(Protocol):
    """AEAD with a random nonce inside the ciphertext. decrypt() raises ValueError if anything was altered."""

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes: ...
    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes: ...


class Group(Protocol):
    """A running replicated log: what node/ uses. Implemented by group.RaftGroup and memory.SoloGroup."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Hand leadership over if possible, then end every task and pending future."""
        ...

    def begin(self, command: bytes, *, request_id: bytes, timeout: float) -> "asyncio.Future[Applied]":
        """propose() as a future, begun when this returns. Raises at once NotProposed: nothing happened."""
        ...

    async def propose(self, command: bytes, *, request_id: bytes, timeout: float) -> Applied:
        """Commit `command` exactly once, through the leader wherever it is; returns when THIS node applied it.

        Tries again by itself with the same request id (leader changes, lost replies) until `timeout` seconds.
        Raises NotProposed (nothing happened, ever) or OutcomeUnknown (ask again with the same id).
        """
        ...

    def fresh_now(self) -> bool:
        """Whether a local read that is made before anything is awaited is as good as one after read_index().

        No message, no wait: for the way of every read. Count on it once, for reads that began before the call.
        """
        ...

    def watch(self, watcher: Callable[[float], None] | None) -> None:
        """Tell `watcher` from now on when fresh_now() ends by itself: in boot-time seconds, 0.0 if it does not hold.

        Told again before anything leaves this node after which somebody else may know of a write that local reads do
        not show yet, or may lead: whoever reads alone until then, in another process too, reads what is fresh.
        """
        ...

    def age_s(self) -> float | None:
        """How old a local read can be now: it sees everything acknowledged anywhere so many seconds ago.

        None: not known (no leader has said it since this node started).
        """
        ...

    async def read_index(self, timeout: float, *, confirm: bool = False) -> int:
        """After this returns, a local read sees everything acknowledged anywhere before the call (linearizable).

        With `confirm` a quorum is asked even where a lease would do, which leans on clocks.
        Returns the applied index. Raises ReadNotConfirmed.
        """
        ...

    async def wait_applied(self, index: int, timeout: float) -> None:
        """Return when this node has applied `index`. Raises ReadNotConfirmed at the deadline."""
        ...

    def status(self) -> Status: ...

    async def step_down(self, timeout: float) -> None:
        """Leader: hand over to an up-to-date follower and wait until it leads (or return at the deadline)."""
        ...

    async def add_member(
        self, member: Member, timeout: float, *, may_vote: Callable[[], bool] | None = None
    ) -> None:
        """Leader or not: bring `member` up to date as a learner, then make it a voter. Raises MembershipRefused.

        With `may_vote` only as the leader, and not before that holds, too; it is asked often, and must be cheap.
        """
        ...

    async def check_removal(self, node_id: str, timeout: float) -> None:
        """Leader or not: raises MembershipRefused if remove_member() would refuse as things are."""
        ...

    async def remove_member(self, node_id: str, timeout: float) -> None:
        """Leader or not. Raises MembershipRefused, also where those that are left could not go on."""
        ...

    async def restore(self, path: Path, timeout: float) -> None:
        """Replace the state on every member by a copy that the machine can stage_reset(); returns once it is so here.

        Raises RestoreRefused (nothing happened) or OutcomeUnknown.
        """
        ...
