"""The history of a run: what was asked, what was answered, what was broken; one JSON object a line.

    {"v":1,"type":"header","seed":7,"nodes":3,"regions":["a"],"clock":"monotonic ns of the driver"}
    {"i":0,"type":"invoke","process":4,"f":"put","key":"s/4/0","value":"4.1.9f","expect":0,"t":12,"node":"n1",
     "rid":"5e.."}
    {"i":1,"type":"ok","process":4,"f":"put","key":"s/4/0","value":"4.1.9f","version":1,"index":81,"t":45,
     "status":200,"attempts":1}
    {"i":2,"type":"invoke","process":5,"f":"get","key":"s/4/0","t":13,"node":"n2"}
    {"i":3,"type":"ok","process":5,"f":"get","key":"s/4/0","value":null,"version":0,"t":44}
    {"type":"fault","f":"kill leader","target":"n1","t":50,"end":900,"detail":"n1 lost journal torn"}

Values are unique; version 0 is "nothing there". `fail` is written only when it is certain that nothing happened;
`info` means that the outcome is not known: such an operation stays open for ever and its process number is not used
again (the convention of Jepsen, so its checkers and porcupine's can read the file). Attempts under one request id are
one operation.
"""

import enum
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

FORMAT = 1


class Outcome(enum.StrEnum):
    """How an operation ended, as far as its client can know."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Write:
    """One write, from its first attempt to the answer; times are the driver's monotonic nanoseconds."""

    process: int
    key: str
    value: str
    expect: int | None  # check-and-set: the version that it must follow; None for an unconditional write
    node: str  # where the first attempt went
    request_id: str
    invoked_ns: int
    outcome: Outcome = Outcome.INFO
    completed_ns: int | None = None
    version: int | None = None
    index: int | None = None
    status: int | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """One read that was answered: 0 and None where nothing was."""

    key: str
    node: str
    invoked_ns: int
    completed_ns: int
    version: int
    value: str | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was broken on purpose, from `start_ns` until it was mended at `end_ns`."""

    kind: str
    target: str
    start_ns: int
    end_ns: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """A finished run."""

    seed: int
    nodes: int
    writes: tuple[Write, ...]
    faults: tuple[Fault, ...]
    reads: tuple[Read, ...] = ()


class Recorder:
    """Appends events to a history file; the one writer of that file. Use as a context manager."""

    def __init__(self, path: Path, *, seed: int, nodes: int, regions: Sequence[str] = ("a",)) -> None:
        self._file: IO[str] = path.open("x", encoding="utf-8")
        self._next = 0
        self._processes = 0
        header = {"v": FORMAT, "type": "header", "seed": seed, "nodes": nodes, "regions": list(regions)}
        self._write({**header, "clock": "monotonic ns of the driver"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def invoke(
        self, *, process: int, key: str, value: str, expect: int | None, node: str, request_id: str
    ) -> None:
        """A client is about to send its first attempt: call this before the bytes can leave."""
        event = {"type": "invoke", "process": process, "f": "put", "key": key, "value": value}
        self._event({**event, "expect": expect, "t": time.monotonic_ns(), "node": node, "rid": request_id})

    def complete(
        self,
        outcome: Outcome,
        *,
        process: int,
        key: str,
        value: str,
        version: int | None = None,
        index: int | None = None,
        status: int | None = None,
        attempts: int = 1,
    ) -> None:
        """The answer arrived (or never will): call this after the last byte."""
        event = {"type": outcome.value, "process": process, "f": "put", "key": key, "value": value}
        answer = {"version": version, "index": index, "status": status, "attempts": attempts}
        self._event({**event, **answer, "t": time.monotonic_ns()})

    def new_process(self) -> int:
        """A process number that nobody has used."""
        self._processes += 1
        return self._processes

    def invoke_read(self, *, process: int, key: str, node: str) -> None:
        """A client is about to read: call this before the bytes can leave."""
        event = {"type": "invoke", "process": process, "f": "get", "key": key}
        self._event({**event, "t": time.monotonic_ns(), "node": node})

    def complete_read(
        self, outcome: Outcome, *, process: int, key: str, version: int | None, value: str | None
    ) -> None:
        """The answer arrived, or none will: call this after the last byte."""
        event = {"type": outcome.value, "process": process, "f": "get", "key": key, "value": value}
        self._event({**event, "version": version, "t": time.monotonic_ns()})

    def fault(self, fault: Fault) -> None:
        event = {"type": "fault", "f": fault.kind, "target": fault.target, "t": fault.start_ns}
        self._write({**event, "end": fault.end_ns, "detail": fault.detail})

    def _event(self, event: dict[str, Any]) -> None:
        self._write({"i": self._next, **event})
        self._next += 1

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")


def read_history(path: Path) -> History:
    """Read a history file back. ValueError if it is not one, or if its events do not pair up."""
    with path.open(encoding="utf-8") as file:
        header = json.loads(file.readline() or "null")
        if not isinstance(header, dict) or header.get("v") != FORMAT:
            raise ValueError(f"{path} is not a history of format {FORMAT}")
        writes: list[Write] = []
        reads: list[Read] = []
        faults: list[Fault] = []
        pending: dict[int, Mapping[str, Any]] = {}
        for line in file:
            event = json.loads(line)
            if event["type"] == "fault":
                faults.append(
                    Fault(event["f"], event["target"], event["t"], event["end"], event.get("detail", ""))
                )
            elif event["type"] == "invoke":
                if event["process"] in pending:
                    raise ValueError(
                        f"event {event['i']}: process {event['process']} invokes twice at a time"
                    )
                pending[event["process"]] = event
            else:
                invoked = pending.pop(event["process"], None)
                if invoked is None:
                    raise ValueError(f"event {event['i']}: an answer to nothing")
                if event["f"] == "put":
                    writes.append(_completed(_invoked(invoked), event))
                elif event["type"] == Outcome.OK:
                    reads.append(_read(invoked, event))
        writes += [_invoked(event) for event in pending.values() if event["f"] == "put"]
    return History(header["seed"], header["nodes"], tuple(writes), tuple(faults), tuple(reads))


def _read(invoked: Mapping[str, Any], event: Mapping[str, Any]) -> Read:
    return Read(
        key=sys.intern(invoked["key"]),
        node=sys.intern(invoked["node"]),
        invoked_ns=invoked["t"],
        completed_ns=event["t"],
        version=event["version"],
        value=None if event["value"] is None else sys.intern(event["value"]),
    )


def _invoked(event: Mapping[str, Any]) -> Write:
    return Write(
        process=event["process"],
        key=sys.intern(event["key"]),
        value=sys.intern(event["value"]),  # readers saw it too
        expect=event["expect"],
        node=event["node"],
        request_id=event["rid"],
        invoked_ns=event["t"],
    )


def _completed(write: Write, event: Mapping[str, Any]) -> Write:
    return replace(
        write,
        outcome=Outcome(event["type"]),
        completed_ns=event["t"],
        version=event.get("version"),
        index=event.get("index"),
        status=event.get("status"),
        attempts=event.get("attempts", 1),
    )
