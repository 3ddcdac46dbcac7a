"""What a cluster promised, held against what it did. Pure: a history and the nodes' states in, a verdict out.

Every acknowledged write is on every node, as it was acknowledged; every write happened at most once,
whatever its client repeated; versions have no gaps; the log indexes agree with real time; no read was
stale; all nodes are equal. One rule a function, each linear in the history but for a sort.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos import registers
from chaos.history import History, Outcome, Write

SHOWN_CHARS_MAX = 32  # of a value: more than it takes to tell it from others


@dataclass(frozen=True, slots=True)
class NodeState:
    """All that one node has, read from its own state after the cluster healed and its log was applied."""

    node: str
    applied_index: int | None
    digest: str | None
    values: Mapping[str, Mapping[int, str]]  # key -> version -> value


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which, and the evidence."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found; `violations` is empty when every promise was kept."""

    violations: tuple[Violation, ...]

    @property
    def good(self) -> bool:
        return not self.violations

    def count(self, kind: str) -> int:
        return sum(violation.kind == kind for violation in self.violations)


def check(history: History, states: Sequence[NodeState], *, unplaced: Collection[str] = ()) -> Verdict:
    """Hold the history against the final states of all nodes.

    `unplaced`: request ids of writes whose log index says nothing about their order.
    """
    if not states:
        raise ValueError("without a node's state nothing can be checked")
    acknowledged = [write for write in history.writes if write.outcome is Outcome.OK]
    found = [
        *_lost(acknowledged, states),
        *_twice(acknowledged, states),
        *_gaps(states),
        *_phantoms(history.writes, states),
        *_disordered([write for write in acknowledged if write.request_id not in unplaced]),
        *_refused(history.writes),
        *_stale(history),
        *_diverged(states),
    ]
    return Verdict(tuple(found))


def _lost(acknowledged: Sequence[Write], states: Sequence[NodeState]) -> Iterator[Violation]:
    """Every acknowledged write is on every node, with the version and the value that were acknowledged."""
    for write in acknowledged:
        if write.version is None:
            yield Violation("lost", f"{_name(write)} was acknowledged without a version")
            continue
        if write.expect is not None and write.version != write.expect + 1:
            yield Violation("gap", f"{_name(write)} follows version {write.expect}")
        for state in states:
            value = state.values.get(write.key, {}).get(write.version)
            if value is None:
                yield Violation("lost", f"{_name(write)} is not on {state.node}")
            elif value != write.value:
                yield Violation("lost", f"{_name(write)} is another value on {state.node}")


def _twice(acknowledged: Sequence[Write], states: Sequence[NodeState]) -> Iterator[Violation]:
    """No value stands at two versions, and no version was promised to two writes."""
    for state in states:
        for key, versions in state.values.items():
            for value, count in Counter(versions.values()).items():
                if count > 1:
                    yield Violation(
                        "twice", f"{key}: a value was written {count} times on {state.node}: {value:.32}"
                    )
    promised = Counter((write.key, write.version) for write in acknowledged)
    for (key, version), count in promised.items():
        if count > 1:
            yield Violation("twice", f"{key} version {version} was promised to {count} writes")


def _gaps(states: Sequence[NodeState]) -> Iterator[Violation]:
    """The versions of a key are 1, 2, 3 and so on."""
    for state in states:
        for key, versions in state.values.items():
            if sorted(versions) != list(range(1, len(versions) + 1)):
                yield Violation("gap", f"{key} has versions {sorted(versions)} on {state.node}")


def _phantoms(writes: Sequence[Write], states: Sequence[NodeState]) -> Iterator[Violation]:
    """Every value was written by somebody, to that key, and not by a write that certainly failed."""
    possible: dict[str, set[str]] = defaultdict(set)
    for write in writes:
        if write.outcome is not Outcome.FAIL:
            possible[write.key].add(write.value)
    for state in states:
        for key, versions in state.values.items():
            for version, value in versions.items():
                if value not in possible[key]:
                    yield Violation(
                        "phantom", f"{key} version {version} on {state.node} was written by nobody"
                    )


def _disordered(acknowledged: Sequence[Write]) -> Iterator[Violation]:
    """A write that was acknowledged before another began has the smaller log index."""
    indexed = [write for write in acknowledged if write.index is not None]
    if len(indexed) < len(acknowledged):
        yield Violation("disordered", f"{len(acknowledged) - len(indexed)} answers carry no log index")
    by_answer = sorted(indexed, key=lambda write: write.completed_ns or 0)
    newest: Write | None = None  # the greatest index among those answered so far
    answered = 0
    for write in sorted(indexed, key=lambda write: write.invoked_ns):
        while answered < len(by_answer) and (by_answer[answered].completed_ns or 0) < write.invoked_ns:
            candidate = by_answer[answered]
            if newest is None or (candidate.index or 0) > (newest.index or 0):
                newest = candidate
            answered += 1
        if newest is not None and (write.index or 0) <= (newest.index or 0):
            yield Violation("disordered", f"{_name(write)} began after {_name(newest)} was acknowledged")


def _refused(writes: Sequence[Write]) -> Iterator[Violation]:
    """Each path has one writer with a valid token: nothing that it asks may be refused, nor refused later."""
    for write in writes:
        if write.status is not None and 400 <= write.status < 500:
            again = "repeated under its request id, " if write.outcome is Outcome.INFO else ""
            yield Violation("refused", f"{_name(write)}: {again}answered {write.status}")


def _stale(history: History) -> Iterator[Violation]:
    """No read shows less than anybody had been told before it began, nor what nobody wrote."""
    read = {each.key for each in history.reads}
    ops = [
        registers.Op(
            "write", w.key, w.node, w.invoked_ns, w.completed_ns if w.outcome is Outcome.OK else None,
            w.version, _short(w.value), w.expect,
        )
        for w in history.writes
        if w.key in read and w.outcome is not Outcome.FAIL
    ]  # fmt: skip
    ops += [
        registers.Op("read", r.key, r.node, r.invoked_ns, r.completed_ns, r.version, _short(r.value))
        for r in history.reads
    ]
    for text in registers.violations(ops):
        yield Violation("stale", text)


def _short(value: str | None) -> str | None:
    return value if value is None else value[:SHOWN_CHARS_MAX]


def _diverged(states: Sequence[NodeState]) -> Iterator[Violation]:
    """All nodes hold the same, at the same index."""
    first = states[0]
    for state in states[1:]:
        pair = f"{first.node} and {state.node}"
        if state.applied_index != first.applied_index:
            yield Violation("diverged", f"{pair} applied {first.applied_index} and {state.applied_index}")
        if state.digest != first.digest:
            yield Violation("diverged", f"{pair} have different state digests")
        for key in sorted({*first.values, *state.values}):
            if dict(first.values.get(key, {})) != dict(state.values.get(key, {})):
                yield Violation("diverged", f"{pair} differ in {key}")


def _name(write: Write) -> str:
    index = "" if write.index is None else f" (index {write.index})"
    return f"{write.key} version {write.version}{index}"
