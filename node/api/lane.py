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

import msgspec

from node import errors
from node.api import paths
from node.api.answers import Answers, Done
from node.api.callers import TARGET_CHARACTERS_MAX, Caller, admit, caller_of
from node.api.folders import Folders
from node.api.head import AnswerHead, operation_of, request_of
from node.api.plain import PlainRequest
from node.api.vault import render
from node.audit.log import Prepared
from node.core import pipeline
from node.core.core import Core
from node.core.request import Operation, Request
from node.core.router import Match, Route
from node.policy.acl import ACL
from node.store import Store
from node.telemetry.metrics import now
from storage.cache import CachedValue
from storage.errors import StorageError

TARGETS_MAX = 65_536
EXCHANGE_OVERHEAD_BYTES = 2048  # Python's, for one remembered answer
_SOME_ID = render.new_request_id()  # stands in answers until they leave; nobody outside ever sees it
_SOME_ID_BYTES = _SOME_ID.encode()


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
            asked = self._request(raw, store)
            if asked is None:
                return None
            request, match = asked
            if match.route.at_once is None or request.operation is not Operation.READ:
                return None
            if not pipeline.permits(acl, request, match.route):
                return None
            answered = match.route.at_once(store, request, match.params)
        except (errors.NodeError, paths.BadPath, StorageError):
            return None
        if answered is None:
            return None
        found, response = answered
        rendered = render.answer(response, request_id=_SOME_ID, shape=match.route.shape)
        before, _, after = rendered.body.partition(_SOME_ID_BYTES)
        request.token, request.remote = None, ""  # of whoever came first
        audit = self._core.audit.prepare(request, response)
        exchange = Exchange(
            target=raw.raw_path,
            request=request,
            route=match.route,
            acl=acl,
            start=self._head.start(rendered.status, rendered.headers, len(rendered.body)),
            before=before,
            after=after,
            audit=audit,
        )
        size_bytes = len(rendered.body) + len(audit.what) + len(audit.outcome) + EXCHANGE_OVERHEAD_BYTES
        store.values.attach(found, exchange, size_bytes)
        if found.live:
            self._remember(raw.raw_path, found)
        return exchange

    def _request(self, raw: PlainRequest, store: Store) -> tuple[Request, Match] | None:
        """What a target asks for, and what answers it. Raises NodeError, BadPath."""
        known = self._folders.find(store, raw.raw_path)
        if known is not None:
            folder, name = known
            request = Request(_SOME_ID, Operation.READ, folder.path + name, mount=folder.mount)
            return request, Match(folder.route, {folder.parameter: folder.rest + name})
        target = paths.parse(raw.raw_path)
        if isinstance(target, paths.Redirect) or target.path is None:
            return None
        request = request_of(raw, target, operation_of(raw.method, target), _SOME_ID)
        match = pipeline.route(self._core, request)
        return None if match is None else (request, match)

    def _remember(self, target: str, found: CachedValue) -> None:
        if len(self._known) >= TARGETS_MAX:
            self._known = {target: value for target, value in self._known.items() if value.live}
            if len(self._known) >= TARGETS_MAX:
                self._known.clear()
        self._known[target] = found
