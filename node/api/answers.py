"""Answers that are ready but for their ids and times: those of one turn of the loop leave together, recorded first."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import msgspec
import structlog

from node import errors
from node.api.head import AnswerHead
from node.api.vault import render
from node.api.vault.render import Rendered
from node.audit.log import AuditLog, Prepared
from node.audit.record import Asker
from node.core.request import Operation
from node.telemetry.logs import name_of, where
from node.telemetry.metrics import now

READS_A_WRITE_MAX = 256  # of one write to the audit file
OK = 200
_READ = Operation.READ.value  # looked up once: reading it off the enum costs as much as counting it

_log = structlog.get_logger(__name__)

Done = Callable[[bytes, bool], None]  # the bytes of the answer, and whether to close the connection then


class Known(Protocol):
    """An answer without its id and times."""

    @property
    def start(self) -> bytes:
        """Of the head."""
        ...

    @property
    def before(self) -> bytes:
        """Of the body: up to the request id."""
        ...

    @property
    def after(self) -> bytes: ...
    @property
    def audit(self) -> Prepared: ...


class Counting(Protocol):
    """What node.telemetry.metrics.Metrics does for those who answer."""

    def request_started(self) -> None: ...
    def request_finished(self) -> None: ...

    @property
    def observe(self) -> Callable[[str, int, float], None]: ...


class _Read(msgspec.Struct):
    """One request on its way out."""

    known: Known
    who: Asker
    done: Done
    began: float


class Answers:
    """What is answered on the spot: the records of everybody who asked in a turn are one write, before any answer."""

    def __init__(self, audit: Callable[[], AuditLog], head: AnswerHead, count: Counting) -> None:
        self._audit, self._head, self._count = audit, head, count
        self._asked: list[_Read] = []  # in this turn of the loop

    def add(self, known: Known, who: Asker, done: Done, began: float) -> None:
        """`done` will be called with the answer before this turn is over."""
        self._asked.append(_Read(known, who, done, began))
        self._count.request_started()
        if len(self._asked) == 1:
            asyncio.get_running_loop().call_soon(self._leave)
        elif len(self._asked) >= READS_A_WRITE_MAX:
            self._leave()

    def _leave(self) -> None:
        """The records of everybody who asked in this turn, then the answers; without the records, what says so."""
        asked = self._asked
        if not asked:
            return
        self._asked = []
        ids = [render.new_request_id() for _ in asked]
        try:
            self._audit().exchanges(
                [(read.who, read.known.audit, id_) for read, id_ in zip(asked, ids, strict=True)]
            )
        except Exception as error:  # noqa: BLE001 - the boundary, as in http.py: whatever it was, nobody gets an answer
            failure = self._withheld(error)
            start = self._head.start(failure.status, failure.headers, len(failure.body))
            for read in asked:
                self._send(read, failure.status, start + self._head.end() + failure.body)
            return
        end = self._head.end()
        for read, request_id in zip(asked, ids, strict=True):
            was = read.known
            self._send(read, OK, b"%b%b%b%b%b" % (was.start, end, was.before, request_id.encode(), was.after))

    @staticmethod
    def _withheld(error: Exception) -> Rendered:
        if isinstance(error, errors.AuditFailed):
            return render.failure(error)
        _log.error("reads failed", error=name_of(error), where=where(error))
        return render.message(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

    def _send(self, read: _Read, status: int, answer: bytes) -> None:
        self._count.request_finished()
        self._count.observe(_READ, status, now() - read.began)
        read.done(answer, False)
