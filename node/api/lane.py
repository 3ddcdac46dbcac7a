"""The read lane: a plain read is answered on the spot, in the turn of the loop that brought it.

It takes a GET whose answer needs nothing to be waited for: the headers say nothing unusual, the node's view is fresh
now (a lease), the token is known and neither counted nor bound, policies allow the read, and its route can answer at
once. Everything else takes the ordinary way (node/api/http.py), as if it had not been looked at.

Nothing is decided here. Who asks, what for, may they, and what is answered come from the functions of the ordinary
way; their answers are remembered for as long as nothing moves that they depend on: the headers with the connection,
the permission with the ACL, the answer with the decrypted value, which apply drops when it touches the key. What is
left of an answer is its request id, its date, and its two audit records: those of all reads that one turn brings are
written at once, before any of the answers leaves.
"""

from typing import Any

import msgspec

from node import errors
from node.api import paths
from node.api.answers import Answers, Done
from node.api.callers import TARGET_CHARACTERS_MAX, Caller, admit, caller_of
from node.api.folders import Folder, Folders
from node.api.head import AnswerHead, operation_of, request_of
from node.api.plain import PlainRequest
from node.api.vault import render
from node.audit.log import Prepared
from node.core import pipeline
from node.core.core import Core
from node.core.fields import unremarked
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Route
from node.policy.acl import ACL
from node.store import Store
from node.telemetry.metrics import now
from storage.cache import CachedValue
from storage.errors import StorageError

TARGETS_MAX = 65_536
EXCHANGE_OVERHEAD_BYTES = 2048  # Python's, for one remembered answer
ID_BYTES = len(render.new_request_id())


class Exchange(msgspec.Struct):
    """A request for one target and its answer, all but the ids (answers.Known)."""

    target: str
    request: Request
    route: Route
    acl: ACL  # the one that allowed it last
    start: bytes  # of the head
    before: bytes  # of the body: up to the request id, and after it
    after: bytes
    audit: Prepared


class _Asked(msgspec.Struct):
    """What a target asks for, and what answers it."""

    request: Request
    route: Route
    params: dict[str, str]
    folder: Folder | None = None  # where it is known what is the same for all its names
    name: str = ""

    def permitted(self, acl: ACL) -> bool:
        if self.folder is not None:
            return self.folder.permits(acl, self.request)
        return pipeline.permits(acl, self.request, self.route)

    def prepare(self, core: Core, data: dict[str, Any]) -> Prepared:
        """The pieces of its audit records."""
        if self.folder is not None:
            return core.audit.prepare_name(self.folder.reads(core), self.name, data)
        return core.audit.prepare(self.request, Response(data=data))


class ReadLane:
    """Answers plain reads of one listener."""

    def __init__(self, core: Core, head: AnswerHead) -> None:
        self._core = core
        self._head = head
        self._folders = Folders(core)
        self._known: dict[str, CachedValue] = {}  # by target
        self._answers = Answers(lambda: core.audit, head, core.metrics)

    def begin(self, raw: PlainRequest, done: Done) -> bool:
        """Whether `done` will be called with the answer before this turn is over; if not, nothing has happened."""
        core, began = self._core, now()
        store = core.store
        if store is None:
            return False
        caller = caller_of(core, raw, store)
        if caller.token is None or not store.fresh_now():
            return False
        now_ns = store.now_ns()
        row = admit(core, caller, raw.remote, now_ns)
        if row is None:
            return False
        exchange = self._allowed(raw, store, caller.acl, now_ns)
        if exchange is None:
            return False
        who = caller.who
        if who is None or who.row is not row or who.hasher is not exchange.audit.hasher:
            who = caller.who = core.audit.asker(row, caller.token, raw.remote)
        self._answers.add(exchange, who, done, began)
        return True

    def answered_from(self, raw: PlainRequest) -> tuple[Caller, CachedValue, Exchange] | None:
        """What begin() has just taken, for whoever may answer the same to the same caller; None if it is not kept."""
        found, caller = self._known.get(raw.raw_path), raw.memo.get("caller")
        if found is None or not found.live or caller is None or found.attached.target != raw.raw_path:
            return None
        return caller, found, found.attached

    def _allowed(self, raw: PlainRequest, store: Store, acl: ACL, now_ns: int) -> Exchange | None:
        """What is asked and answered, if policies let this caller have it."""
        found = self._known.get(raw.raw_path)
        exchange: Exchange | None
        if found is None or not found.live or found.attached.target != raw.raw_path:
            exchange = self._find(raw, store, acl)
        else:
            exchange, found.used = found.attached, True
            if found.row.is_deleted(now_ns):
                return None
        if exchange is None or exchange.audit.hasher is not self._core.audit.hasher:
            return None
        if exchange.acl is not acl:
            if not pipeline.permits(acl, exchange.request, exchange.route):
                return None
            exchange.acl = acl
        return exchange

    def _find(self, raw: PlainRequest, store: Store, acl: ACL) -> Exchange | None:
        """What is asked at a target that is not remembered; it is from now on, if its value is kept."""
        if len(raw.raw_path) > TARGET_CHARACTERS_MAX:
            return None
        try:
            asked = self._asked_for(raw, store)
            if asked is None or asked.route.at_once is None or asked.route.shape is not Shape.LOGICAL:
                return None
            if asked.request.operation is not Operation.READ or not asked.permitted(acl):
                return None
            answered = asked.route.at_once(store, asked.request, asked.params)
        except (errors.NodeError, paths.BadPath, StorageError):
            return None
        if answered is None:
            return None
        found, data = answered
        before, after = render.around(data)
        audit = asked.prepare(self._core, data)
        length = len(before) + ID_BYTES + len(after)
        exchange = Exchange(
            target=raw.raw_path,
            request=asked.request,
            route=asked.route,
            acl=acl,
            start=self._head.start_json(length),
            before=before,
            after=after,
            audit=audit,
        )
        if found.live:
            size_bytes = length + len(audit.what) + len(audit.outcome) + EXCHANGE_OVERHEAD_BYTES
            store.values.attach(found, exchange, size_bytes)
            self._remember(raw.raw_path, found)
        return exchange

    def _asked_for(self, raw: PlainRequest, store: Store) -> _Asked | None:
        """What a target asks for, and what answers it. Raises NodeError, BadPath."""
        known = self._folders.find(store, raw.raw_path)
        if known is not None:
            folder, name = known
            params = {folder.parameter: folder.rest + name}
            return _Asked(folder.request(name), folder.route, params, folder, name)
        target = paths.parse(raw.raw_path)
        if isinstance(target, paths.Redirect) or target.path is None:
            return None
        request = request_of(raw, target, operation_of(raw.method, target), "")
        match = pipeline.route(self._core, request)
        request.token, request.remote = None, ""  # of whoever came first
        if match is None or not target.query.keys() <= unremarked(match.route.fields, match.params):
            return None
        return _Asked(request, match.route, match.params)

    def _remember(self, target: str, found: CachedValue) -> None:
        if len(self._known) >= TARGETS_MAX:
            self._known = {target: value for target, value in self._known.items() if value.live}
            if len(self._known) >= TARGETS_MAX:
                self._known.clear()
        self._known[target] = found
