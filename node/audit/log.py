"""The audit log: a line before anything happens, a line before the answer leaves, or no answer at all.

Paths come from the configuration file, never from a request. A record that no sink accepted withholds the
answer (AuditFailed); with several sinks one is enough, and the others are counted.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from node.audit import record
from node.core.request import Request, Response
from node.errors import AuditFailed
from storage.rows import Token
from storage.secret import Secret

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o600


class _Sink:
    """One file. O_APPEND and a single write keep lines whole; O_NONBLOCK keeps a stuck pipe from holding us."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures = 0
        self._sequence = 0
        self._torn = b""
        self._descriptor = _open(path)

    def append(self, *records: bytes) -> bool:
        """Write records of record.py at once, numbered; False if they are not all wholly in the file."""
        sequence = self._sequence
        lines = [self._torn] if self._torn else []
        for body in records:
            sequence += 1
            lines.append(b'{"seq":%d,%b\n' % (sequence, body))
        data = b"".join(lines)
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self.failures += 1
            return False
        if written < len(data):
            self._sequence += data.count(b"\n", len(self._torn), written)
            self._torn = b"\n"  # the next record starts a line of its own
            self.failures += 1
            return False
        self._torn = b""
        self._sequence = sequence
        return True

    def reopen(self) -> None:
        """A new file under the same name (rotation). If it cannot be opened the old one stays. OSError."""
        fresh = _open(self.path)
        self.close()
        self._descriptor, self._sequence, self._torn = fresh, 0, b""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Prepared(msgspec.Struct, frozen=True):
    """Pieces of both records of a request, hashed under one key."""

    hasher: record.Hasher
    what: bytes
    outcome: bytes


class AuditLog:
    """Records requests and answers in every sink. Raises OSError if a sink cannot be opened at start."""

    def __init__(self, paths: Sequence[Path], *, key: bytes | None = None) -> None:
        self._sinks: list[_Sink] = []
        self._hasher = record.Hasher(key)
        self._refused = 0
        self.refused_elsewhere: Callable[[], int] = (
            int  # by other processes of this node, which have files of their own
        )
        try:
            for path in paths:
                self._sinks.append(_Sink(path))
        except OSError:
            self.close()
            raise

    @property
    def enabled(self) -> bool:
        """Whether there is any sink; without one (development) every record is accepted and dropped."""
        return bool(self._sinks)

    @property
    def failures(self) -> dict[str, int]:
        """Writes that failed since the start, by sink path."""
        return {str(sink.path): sink.failures for sink in self._sinks}

    @property
    def refused(self) -> int:
        """Records that no sink took: as many answers withheld."""
        return self._refused + self.refused_elsewhere()

    def set_key(self, key: bytes | None) -> None:
        """The HMAC key of the unsealed store (storage.keyring.AUDIT_HMAC), or None when it is sealed."""
        self._hasher = record.Hasher(key)

    def hash(self, value: str) -> str:
        """What `value` looks like in the records: for finding it there."""
        return self._hasher.text(value)

    def request(self, request: Request, *, error: str = "") -> None:
        """Record what is asked. Raises AuditFailed."""
        if self._sinks:
            request.audited = subject = record.asked(self._hasher, request)
            self._append(record.request_record(subject, now_ns=time.time_ns(), error=error))

    def requests(self, requests: Sequence[Request]) -> None:
        """request() for several, which are all recorded, or none may go on. Raises AuditFailed."""
        if self._sinks:
            hasher, now_ns = self._hasher, time.time_ns()
            records = []
            for request in requests:
                request.audited = subject = record.asked(hasher, request)
                records.append(record.request_record(subject, now_ns=now_ns))
            self._append(*records, answers=len(requests))

    def responses(self, answers: Sequence[tuple[Request, Response | None, str]]) -> None:
        """response() for several, with their errors; all are recorded, or none may leave. Raises AuditFailed."""
        if self._sinks and answers:
            self._append(*(self._response(*answer) for answer in answers), answers=len(answers))

    def response(self, request: Request, response: Response | None, *, error: str = "") -> None:
        """Record what is about to be answered. Raises AuditFailed."""
        if self._sinks:
            self._append(self._response(request, response, error))

    def _response(self, request: Request, response: Response | None, error: str) -> bytes:
        subject, hasher = request.audited, self._hasher
        if not isinstance(subject, bytes):  # the node was sealed, or opened, in between
            subject = record.asked(hasher, request)
        outcome = None if response is None else record.outcome(hasher, request, response)
        return record.response_record(subject, outcome, now_ns=time.time_ns(), error=error)

    @property
    def hasher(self) -> record.Hasher:
        """Changes when the store is sealed or unsealed, and with it everything that was prepared."""
        return self._hasher

    def prepare(self, request: Request, response: Response) -> Prepared:
        """For exchanges(): the pieces that do not depend on who asks and when."""
        hasher = self._hasher
        return Prepared(hasher, record.place(hasher, request), record.outcome(hasher, request, response))

    def prepare_folder(self, request: Request, name: str) -> record.FolderReads:
        """For prepare_name(): record.folder_reads(), good for as long as the hasher and the mount are."""
        return record.folder_reads(self._hasher, request, name)

    @staticmethod
    def prepare_name(reads: record.FolderReads, name: str, data: dict[str, Any]) -> Prepared:
        """prepare() for a name in a folder that was answered with nothing but data."""
        return Prepared(reads.hasher, reads.place(name), reads.outcome(data))

    def asker(self, row: Token, token: Secret, remote: str) -> record.Asker:
        """For exchanges(): who asks, good for as long as the token's row is."""
        return record.asker(self._hasher, row=row, token=token, remote=remote)

    def exchanges(self, answered: Sequence[tuple[record.Asker, Prepared, str]]) -> None:
        """request() and response() in one, for what is answered on the spot and changes nothing.

        Each with who asks, and its request id; all are recorded, or none may leave. Raises AuditFailed.
        """
        if self._sinks:
            moment = record.moment(time.time_ns())
            records: list[bytes] = []
            for who, prepared, request_id in answered:
                asked = record.asked_by(who, prepared.what, request_id=request_id)
                records.append(record.request_at(moment, asked))
                records.append(record.response_at(moment, asked, prepared.outcome))
            self._append(*records, answers=len(answered))

    def _append(self, *records: bytes, answers: int = 1) -> None:
        accepted = [sink.append(*records) for sink in self._sinks]
        if not any(accepted):
            self._refused += answers
            raise AuditFailed("no audit sink accepted the record; the request was refused")

    def reopen(self) -> list[str]:
        """After rotation (SIGHUP). A sink that cannot be opened keeps its old file, is counted, and named."""
        refused = []
        for sink in self._sinks:
            try:
                sink.reopen()
            except OSError:
                sink.failures += 1
                refused.append(str(sink.path))
        return refused

    def close(self) -> None:
        """Close every sink; records fail from then on."""
        for sink in self._sinks:
            sink.close()


def _open(path: Path) -> int:
    return os.open(path, _FLAGS, _MODE)
