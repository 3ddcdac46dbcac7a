"""The answers that a worker may give by itself, each for as long as what it depends on stands.

Nothing is decided here: the main process has said who may have which answer, and by which marks that can be told to be
outdated. Order matters: first whether the state is fresh, then the marks (board.py).
"""

import hashlib

import msgspec

from node.api.answers import Answers, Done
from node.api.plain import PlainRequest
from node.audit.log import Prepared
from node.audit.record import Asker, Hasher
from node.telemetry.metrics import now
from node.workers.board import Board
from node.workers.messages import Answerer, Entry

CALLERS_MAX = 4096
ACLS_MAX = 64  # that are known to allow one answer
OVERHEAD_BYTES = 1536  # Python's, for one answer

_NO_KEY = Hasher(None)  # pieces of records come hashed


class _Caller(msgspec.Struct):
    """What a connection's header block stands for."""

    told: Answerer
    who: Asker


class _Answer(msgspec.Struct):
    """See node.api.answers.Known."""

    entry: Entry
    start: bytes
    before: bytes
    after: bytes
    audit: Prepared
    acls: set[int]
    size_bytes: int


class Remembered:
    """What one worker knows, bounded in bytes; what came first goes first."""

    def __init__(self, board: Board, answers: Answers, bytes_max: int) -> None:
        self._board, self._answers, self._bytes_max = board, answers, bytes_max
        self._known: dict[str, _Answer] = {}  # by target
        self._callers: dict[bytes, _Caller] = {}
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"Remembered({len(self._known)} answers, {self._size_bytes} bytes)"

    def begin(self, raw: PlainRequest, done: Done) -> bool:
        """Whether `done` will be called with the answer before this turn is over; if not, nothing has happened."""
        began, board = now(), self._board
        known = self._known.get(raw.raw_path)
        if known is None or not board.is_fresh():
            return False
        if "caller" not in raw.memo:  # another connection of the same client's may have asked
            raw.memo["caller"] = self._callers.get(_identity(raw))
        caller: _Caller | None = raw.memo["caller"]
        if caller is None:
            return False
        who, entry = caller.told, known.entry
        if who.epoch != board.epoch or who.acl not in known.acls:
            return False
        if board.words[entry.slot] != entry.mark:
            self._forget(raw.raw_path)
            return False
        now_ns = board.now_ns()
        if 0 < who.expires_ns <= now_ns or 0 < entry.deletion_ns <= now_ns:
            return False
        self._answers.add(known, caller.who, done, began)
        return True

    def learn(self, raw: PlainRequest, caller: Answerer, entry: Entry) -> None:
        """The main process has answered this request with this, and says what that depends on."""
        if len(self._callers) >= CALLERS_MAX:
            self._callers.clear()
        who = _Caller(caller, Asker(_NO_KEY, None, caller.auth, caller.members))
        raw.memo["caller"] = self._callers[_identity(raw)] = who
        known = self._known.get(raw.raw_path)
        if known is not None and known.entry == entry:
            if len(known.acls) >= ACLS_MAX:
                known.acls.clear()
            known.acls.add(caller.acl)
            return
        self._forget(raw.raw_path)
        size_bytes = OVERHEAD_BYTES + 2 * len(raw.raw_path)
        size_bytes += sum(map(len, (entry.start, entry.before, entry.after, entry.what, entry.outcome)))
        if size_bytes > self._bytes_max:
            return
        audit = Prepared(_NO_KEY, entry.what, entry.outcome)
        self._known[raw.raw_path] = _Answer(
            entry, entry.start, entry.before, entry.after, audit, {caller.acl}, size_bytes
        )
        self._size_bytes += size_bytes
        while self._size_bytes > self._bytes_max:
            self._forget(next(iter(self._known)))

    def _forget(self, target: str) -> None:
        known = self._known.pop(target, None)
        if known is not None:
            self._size_bytes -= known.size_bytes

    def close(self) -> None:
        """Forget everything, and keep nothing from now on."""
        self._bytes_max, self._size_bytes = -1, 0
        self._known.clear()
        self._callers.clear()


def _identity(raw: PlainRequest) -> bytes:
    """Of who asks: all that the main process's answer to that can depend on, and nothing that could be presented."""
    fields = (f"{name}:{value}\n" for name, value in raw.headers.items())  # no value has a line's end in it
    return hashlib.sha256(f"{raw.remote}\n{''.join(fields)}".encode()).digest()
