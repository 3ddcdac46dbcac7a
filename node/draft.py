"""One change of what a view holds: what was read, and what is to be written in its place, all or nothing.

Every write names the revision that was read, so that two changes that overlap cannot both be made: the later one
is told Raced and begins again. retried() does that.
"""

import functools
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

import msgspec

from node.core.request import Request
from node.errors import InvalidRequest, TooBusy
from node.store import CommandRejected, Store
from node.view import View, write
from storage.command import AnyCommand
from storage.outcome import Reason

TRIES_MAX = 32
CHANGES_MAX = 4000

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)


class Raced(Exception):
    """Something that this change is based on has changed: begin again."""


class Draft:
    """Reads what is there, or what this draft would put there."""

    def __init__(self, store: Store, view: str, request: Request | None = None) -> None:
        """`request`: the one that asks for the change, under whose identity it is made at most once."""
        self.store = store
        self._request = request
        self._view = View(store, view)
        self._revisions: dict[str, int] = {}
        self._changes: dict[str, tuple[msgspec.Struct, int] | None] = {}
        self.now_ns = store.now_ns()

    def get(self, path: str, kind: type[S]) -> S | None:
        """The record at a path."""
        if path in self._changes:
            change = self._changes[path]
            if change is None:
                return None
            assert isinstance(change[0], kind)
            return change[0]
        item = self._view.get(path)
        self._revisions.setdefault(path, item.revision if item else self._view.revision(path))
        return msgspec.json.decode(item.raw, type=kind) if item else None

    def put(self, path: str, record: msgspec.Struct, *, expires_ns: int = 0) -> None:
        self._look(path)
        self._changes[path] = (record, expires_ns)

    def delete(self, path: str) -> None:
        self._look(path)
        self._changes[path] = None

    def _look(self, path: str) -> None:
        if path not in self._revisions:
            self._revisions[path] = self._view.revision(path)

    def children(self, folder: str) -> list[str]:
        """Names right below a folder, sorted, as they are after this draft."""
        names = set(self._view.children(folder))
        for path, change in self._changes.items():
            name = path.removeprefix(folder)
            if path.startswith(folder) and "/" not in name:
                (names.discard if change is None else names.add)(name)
        return sorted(names)

    def commands(self) -> list[AnyCommand]:
        """What makes the change; the first refusal of them undoes them all."""
        return [self._command(path, change) for path, change in self._changes.items()]

    def _command(self, path: str, change: tuple[msgspec.Struct, int] | None) -> AnyCommand:
        expect = self._revisions[path]
        if change is None:
            return self._view.delete(path, expect=expect)
        record, expires_ns = change
        return self._view.put(path, msgspec.json.encode(record), expires_ns=expires_ns, expect=expect)

    def _identity(self) -> bytes:
        request = self._request
        return b"" if request is None else attempt_id(request.request_id, request.attempt)

    async def commit(self, *, extra: Sequence[AnyCommand] = ()) -> None:
        """Make the change, and what `extra` does besides. Raises Raced, and what Store.submit() does."""
        commands = [*self.commands(), *extra]
        if not commands:
            return
        if len(commands) > CHANGES_MAX:
            raise InvalidRequest(
                f"this would change more than {CHANGES_MAX} things at once; nothing was written"
            )
        try:
            await write(self.store, *commands, request_id=self._identity())
        except CommandRejected as error:
            if error.reason != Reason.REVISION_MISMATCH:
                raise
            raise Raced from None


def attempt_id(request_id: bytes, attempt: int) -> bytes:
    """The identity (16 bytes) of one attempt of a request: the outcome of a raced one is remembered too."""
    if not request_id or attempt == 0:
        return request_id
    return hashlib.sha256(b"attempt" + request_id + attempt.to_bytes(4, "big")).digest()[:16]


def drawn_id(request: Request, label: str) -> str:
    """A UUID for what a request makes: random, but the same again when the request is repeated under its identity."""
    if not request.request_id:
        return str(uuid.uuid4())
    digest = hashlib.sha256(b"made by " + request.request_id + label.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def retried(attempt: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Begin again when raced, a bounded number of times; then TooBusy. The request is among the arguments."""

    @functools.wraps(attempt)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(TRIES_MAX):
            try:
                return await attempt(*args, **kwargs)
            except Raced:
                for each in args:
                    if isinstance(each, Request):
                        each.attempt += 1
        raise TooBusy("others keep changing the same things; nothing was written")

    return run
