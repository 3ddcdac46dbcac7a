"""Linearizability of registers whose every write gets the next version: the versions are the order.

A history is linearizable exactly if the order of versions agrees with real time: whatever ended before an operation
began has no higher version, and none as high if that operation is a write. Writes with an unknown end stay open; a
read of their value gives them their version.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on `key`; `version` 0 is "nothing there". `ended` None: its outcome is not known."""

    kind: str  # write, read, or refused: a check-and-set that found another version than `expect`
    key: str
    node: str
    began: float
    ended: float | None
    version: int | None = None
    value: str | None = None  # unique for every write
    expect: int | None = None


def violations(ops: Iterable[Op]) -> list[str]:
    """Every broken promise, in words."""
    keys: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        keys[op.key].append(op)
    return [text for each in keys.values() for text in (*_values(each), *_order(each))]


def _values(ops: list[Op]) -> Iterator[str]:
    """One value a version, and none before it was written."""
    written = {op.value: op for op in ops if op.kind == "write"}
    seen: dict[int, str | None] = {0: None}
    for op in ops:
        if op.version is None or op.kind == "refused":
            continue
        if seen.setdefault(op.version, op.value) != op.value:
            yield f"{op} disagrees about the value of version {op.version}: {seen[op.version]}"
        if op.kind == "write" and op.expect is not None and op.version != op.expect + 1:
            yield f"{op} followed another version than it demanded"
        if op.kind == "read" and op.version:
            source = written.get(op.value)
            if source is None or (op.ended is not None and source.began > op.ended):
                yield f"{op} shows what nobody had written"
            elif source.version not in (None, op.version):
                yield f"{op} shows a value under another version than {source}"


def _order(ops: list[Op]) -> Iterator[str]:
    """A sweep over time: the floor is the highest version of all that has ended."""
    done = sorted((op for op in ops if op.ended is not None), key=lambda op: op.began)
    ends = sorted((op for op in done if op.version is not None), key=lambda op: op.ended or 0.0)
    writes = sorted((op for op in ops if op.kind == "write"), key=lambda op: op.began)
    floor, source, position = 0, None, 0
    for op in done:
        while position < len(ends) and (ends[position].ended or 0.0) < op.began:
            if (ends[position].version or 0) > floor:
                floor, source = ends[position].version or 0, ends[position]
            position += 1
        if op.kind == "read" and (op.version or 0) < floor:
            yield f"STALE: {op} after {source}"
        if op.kind == "write" and (op.version or 0) <= floor:
            yield f"{op} did not follow {source}"
        if op.kind == "refused" and op.expect == floor and not _could_have_moved(op, floor, writes):
            yield f"{op} was refused although version {floor} was there all the time"


def _could_have_moved(op: Op, floor: int, writes: list[Op]) -> bool:
    return any(
        write.began <= (op.ended or 0.0) and (write.version is None or write.version > floor)
        for write in writes
        if write is not op
    )
