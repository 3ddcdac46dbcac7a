"""The write lane: plain writes take the ordinary way's steps without a task of their own, and many at a time.

It takes a PUT or POST whose route can write in steps (router.Begun), where nothing has to be waited for before the
write is proposed: the headers say nothing unusual, the token is known and not counted, policies allow it, and nobody
else writes there. Everything else takes the ordinary way (node/api/http.py), as if it had not been looked at.

The node's state need not be fresh for that: the command says which state the permission was read from, and the
state machine refuses it if a permission may have been taken since (KvPut.decided). Then the ordinary way asks again.

Nothing is decided here: the steps are those of the pipeline, in its order. The audit records of all requests that one
turn of the loop brings are written at once, before any of them is proposed; those of all answers that are ready
at once, before any of them leaves.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from node import errors
from node.api import paths
from node.api.body import BodyReader
from node.api.callers import TARGET_CHARACTERS_MAX, Caller, admit, caller_of
from node.api.head import AnswerHead, operation_of, request_of
from node.api.plain import PlainRequest
from node.api.vault import render
from node.api.vault.render import Rendered
from node.core import fields, pipeline
from node.core.core import Core
from node.core.request import Operation, Request, Response
from node.core.router import Begun, Match
from node.regions import forwarding
from node.store import WRITE_TIMEOUT_S, Store
from node.telemetry.logs import name_of, where
from node.telemetry.metrics import now
from storage.rows import Mount

TARGETS_MAX = 16_384
_UPDATE = Operation.UPDATE.value

Done = Callable[[bytes, bool], None]  # the bytes of the answer, and whether to close the connection then

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a target stands for, as long as the mounts stay as they are."""

    path: str
    mount: Mount | None
    match: Match
    unremarked: frozenset[str]  # fields that the answer says nothing of


class _Write(msgspec.Struct):
    """One request on its way."""

    raw: PlainRequest
    request: Request
    place: _Place
    begun: Begun
    done: Done
    began: float
    released: bool = False
    future: "asyncio.Future[Any] | None" = None
    response: Response | None = None
    error: errors.NodeError | None = None


class WriteLane:
    """Answers plain writes of one listener."""

    def __init__(self, core: Core, head: AnswerHead, bodies: BodyReader) -> None:
        self._core, self._head, self._bodies = core, head, bodies
        self._places: dict[str, _Place | None] = {}  # by target
        self._mounts: tuple[Store, int] | None = None  # whose places those are
        self._asked: list[_Write] = []
        self._ready: list[_Write] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, raw: PlainRequest, done: Done) -> bool:
        """Whether `done` will be called with the answer; if not, nothing has happened."""
        core, began = self._core, now()
        store = core.store
        if store is None or raw.method not in ("PUT", "POST"):
            return False
        if not store.accepts:
            return False  # the ordinary way knows who orders writes, and carries them there
        caller = caller_of(core, raw, store)
        if caller.token is None:
            return False
        place = self._place(raw, store)
        if place is None:
            return False
        try:
            write = self._check(raw, caller, store, place, done, began)
        except errors.NodeError:
            return False
        if write is None:
            return False
        core.metrics.request_started()
        self._asked.append(write)
        if len(self._asked) == 1:
            asyncio.get_running_loop().call_soon(self._start)
        return True

    def _check(
        self, raw: PlainRequest, caller: Caller, store: Store, place: _Place, done: Done, began: float
    ) -> _Write | None:
        """Authenticated, authorised and well-formed, or None. Raises NodeError for what the ordinary way refuses."""
        core, route = self._core, place.match.route
        row = admit(core, caller, raw.remote, store.now_ns())
        if row is None:
            return None
        data, has_body = self._bodies.parse(raw.body)
        request = Request(
            id=render.new_request_id(),
            operation=Operation.UPDATE,
            path=place.path,
            data=data,
            token=caller.token,
            remote=raw.remote,
            content_type=caller.content_type,
            has_body=has_body,
            mount=place.mount,
            token_row=row,
        )
        if route.exists is not None and not route.exists(core, request, place.match.params):
            request.operation = Operation.CREATE
        if not pipeline.permits(caller.acl, request, route):
            return None
        if not data.keys() <= place.unremarked:
            return None
        if data and route.fields:
            fields.check(route.fields, data)
        assert route.begins is not None
        begun = route.begins(core, request, place.match.params)
        return None if begun is None else _Write(raw, request, place, begun, done, began)

    def _place(self, raw: PlainRequest, store: Store) -> _Place | None:
        mounts = (store, store.generation("mounts"))
        if mounts != self._mounts or len(self._places) >= TARGETS_MAX:
            self._places.clear()
            self._mounts = mounts
        target = raw.raw_path
        if len(target) > TARGET_CHARACTERS_MAX:
            return None
        if target not in self._places:
            self._places[target] = self._find(raw)
        return self._places[target]

    def _find(self, raw: PlainRequest) -> _Place | None:
        """Where a target leads, if this lane goes there."""
        try:
            target = paths.parse(raw.raw_path)
            if isinstance(target, paths.Redirect) or target.path is None or target.query:
                return None
            request = request_of(raw, target, operation_of(raw.method, target), "")
        except (errors.NodeError, paths.BadPath):
            return None
        if request.path.endswith("/"):
            return None
        match = pipeline.route(self._core, request)
        if match is None or match.route.begins is None:
            return None
        unremarked = fields.unremarked(match.route.fields, match.params)
        return _Place(request.path, request.mount, match, unremarked)

    # ---- the requests of one turn ----

    def _start(self) -> None:
        """The records, then the writes."""
        asked, self._asked = self._asked, []
        try:
            self._core.audit.requests([write.request for write in asked])
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
            for write in asked:
                self._release(write)
                self._withhold(write, error)
            return
        timeout_s = min(self._core.settings.request_timeout_s, WRITE_TIMEOUT_S)
        for write in asked:
            try:
                write.future = write.begun.start(timeout_s)
            except errors.NodeError as error:
                write.error = error
                self._over(write)
            except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
                self._release(write)
                self._withhold(write, error)
            else:
                write.future.add_done_callback(functools.partial(self._over, write))

    def _over(self, write: _Write, _: object = None) -> None:
        self._ready.append(write)
        if len(self._ready) == 1:
            asyncio.get_running_loop().call_soon(self._answer)

    @staticmethod
    def _release(write: _Write) -> None:
        if not write.released:
            write.released = True
            write.begun.release()

    # ---- the answers of one turn ----

    def _answer(self) -> None:
        ready, self._ready = self._ready, []
        answered = [write for write in ready if self._settle(write)]
        try:
            self._core.audit.responses(
                [
                    (write.request, write.response, "" if write.error is None else write.error.message)
                    for write in answered
                ]
            )
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
            for write in answered:
                self._withhold(write, error)
            return
        for write in answered:
            if isinstance(write.error, errors.NotPrimary):
                self._spawn(self._carry(write))
            else:
                self._send(write, self._rendered(write))

    def _settle(self, write: _Write) -> bool:
        """Whether there is an answer, or an error that is one; a write that goes on in a task has none yet."""
        self._release(write)
        if write.response is not None or write.error is not None:
            return True
        assert write.future is not None
        try:
            write.response = write.begun.answer(write.future)
        except errors.NodeError as error:
            write.error = error
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
            self._withhold(write, error)
            return False
        if write.response is None and write.error is None:
            self._spawn(self._go_on(write))
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="write")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go_on(self, write: _Write) -> None:
        try:
            async with asyncio.timeout(self._core.settings.request_timeout_s):
                await pipeline.readmit(self._core, write.request, write.place.match)
                write.response = await write.begun.answer_later()
        except TimeoutError:
            write.error = errors.OutcomeUnknown()
        except errors.NodeError as error:
            write.error = error
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
            self._withhold(write, error)
            return
        self._over(write)

    async def _carry(self, write: _Write) -> None:
        """Another region orders writes by now, and nothing has happened here: let it do this one."""
        try:
            rendered = await forwarding.forward(self._core, write.raw, write.request)
        except errors.NodeError as error:
            rendered = render.failure(error)
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py
            self._withhold(write, error)
            return
        self._send(write, rendered)

    def _rendered(self, write: _Write) -> Rendered:
        if write.error is not None:
            return render.failure(write.error)
        assert write.response is not None
        return render.answer(write.response, request_id=write.request.id, shape=write.place.match.route.shape)

    def _withhold(self, write: _Write, error: Exception) -> None:
        """Without its records there is no answer; and a bug must not take the others' answers with it."""
        if isinstance(error, errors.AuditFailed):
            self._send(write, render.failure(error))
            return
        request_id = write.request.id
        _log.error("request failed", request_id=request_id, error=name_of(error), where=where(error))
        text = f"internal error (request {request_id})"
        self._send(write, render.message(HTTPStatus.INTERNAL_SERVER_ERROR, text))

    def _send(self, write: _Write, rendered: Rendered) -> None:
        metrics = self._core.metrics
        metrics.request_finished()
        metrics.observe(_UPDATE, rendered.status, now() - write.began)
        close = isinstance(write.error, errors.BodyTooLarge)
        length = None if rendered.status == HTTPStatus.NO_CONTENT else len(rendered.body)
        start = self._head.start(rendered.status, rendered.headers, length, close=close)
        write.done(start + self._head.end() + rendered.body, close)
