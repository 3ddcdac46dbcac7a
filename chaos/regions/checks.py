"""What regions promise beyond a single one, held against what they did. Pure.

A promotion may cost what did not travel, and nothing else: each acknowledged write is in the history of the region
that took over, or in the list of what the old primary set aside. The rest is the checker of a single region
(chaos.checker), to whom a write that was set aside is one whose outcome is open.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from chaos.checker import NodeState, Violation
from chaos.history import History, Outcome, Write

MOUNT_PREFIX = "secret/"
ROUNDING_S = 0.001


@dataclass(frozen=True, slots=True)
class SetAside:
    """An entry of `region divergence`."""

    id: str
    epoch: int  # in which it was ordered
    position: int
    kind: str
    key: str  # as writers know it; "" if it is no secret
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One loss of a primary region; times are the driver's monotonic nanoseconds.

    `learnt_ns`: no write that begins later is acknowledged by the old primary alone, and no earlier one later than
    `answers_s` after it. Of a region that was dead that is the moment in which the promotion was acknowledged; one that
    was alive and cut off goes on until it has learnt of its successor.
    """

    old: str
    new: str
    first_asked_ns: int  # when an operator first asked for it
    asked_ns: int  # when the command that was carried out was given
    learnt_ns: int
    epoch: int  # that began
    position: int  # the first one of the new epoch
    lag_entries: int | None  # what it said would be lost; None: it did not know
    lag_seconds: float | None
    answers_s: float = 0.0  # how long answers may be under way that were given before
    set_aside: tuple[SetAside, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """An entry that was written again: the version that it got, or None and why not."""

    entry: SetAside
    version: int | None
    refusal: str = ""


def entries(told: Iterable[Mapping[str, object]]) -> tuple[SetAside, ...]:
    """The answer of sys/regions/divergence."""
    found = []
    for each in told:
        path, mount, version = each.get("path"), each.get("mount"), each.get("version")
        key = str(path) if mount == MOUNT_PREFIX and path is not None else ""
        number = version if isinstance(version, int) else None
        epoch, position = (int(str(each[name])) for name in ("epoch", "position"))
        found.append(SetAside(str(each["id"]), epoch, position, str(each["kind"]), key, number))
    return tuple(found)


def set_aside_of(
    history: History,
    promotions: Sequence[Promotion],
    replays: Sequence[Replayed],
    states: Sequence[NodeState],
) -> dict[str, Promotion]:
    """Request ids of acknowledged writes that were set aside, each with the promotion that cost it.

    An entry tells path and version, and of each path the writers write each version once. What the regions hold all
    the same was written by a retry in the new history, or again from the list: only the latter had been lost.
    """
    costs = {
        (entry.key, entry.version): promotion
        for promotion in promotions
        for entry in promotion.set_aside
        if entry.kind == "KvPut"
    }
    again = {(each.entry.key, each.entry.version) for each in replays if each.version is not None}
    found = {}
    for write in history.writes:
        promotion = costs.get((write.key, write.version))
        if write.outcome is not Outcome.OK or promotion is None:
            continue
        if (write.key, write.version) in again or not all(_holds(state, write) for state in states):
            found[write.request_id] = promotion
    return found


def without_losses(history: History, lost: Mapping[str, Promotion]) -> History:
    """The history for the checker of a single region: what was set aside is open, and so is what was built on it.

    A refusal of a check-and-set that follows a version which was set aside is right.
    """
    writes, broken = [], set()
    for write in history.writes:
        if write.request_id in lost:
            broken.add(write.key)
            writes.append(_open(write))
        elif write.key in broken and write.status == 400:
            writes.append(replace(write, status=None))
        else:
            writes.append(write)
    return replace(history, writes=tuple(writes))


def unplaced(history: History, promotions: Sequence[Promotion]) -> set[str]:
    """Request ids of writes that stand, but not necessarily at the position that was answered.

    A repetition is answered with where the answering node is, behind the write's own position. That may be in the
    history that was set aside, whose positions the new history has too: while the write itself travelled before, or was
    carried out by both primaries.
    """
    both: dict[tuple[str, int | None], int] = {}
    for entry in (entry for each in promotions for entry in each.set_aside):
        both[entry.key, entry.version] = min(
            entry.position, both.get((entry.key, entry.version), entry.position)
        )
    ranges = [(each.position, each.position + len(each.set_aside)) for each in promotions]
    found = set()
    for write in history.writes:
        if write.attempts > 1 and write.index is not None:
            carried_out = write.index >= both.get((write.key, write.version), math.inf)
            if carried_out or any(start <= write.index < end for start, end in ranges):
                found.add(write.request_id)
    return found


def _open(write: Write) -> Write:
    """The same, as if nobody had learnt what became of it."""
    return replace(write, outcome=Outcome.INFO, completed_ns=None, version=None, index=None, status=None)


def check_promotions(
    history: History,
    promotions: Sequence[Promotion],
    lost: Mapping[str, Promotion],
    replays: Sequence[Replayed],
    states: Sequence[NodeState],
) -> list[Violation]:
    """What the checker of a single region does not know of."""
    return [
        *_dual(history.writes, lost),
        *_understated(history.writes, lost),
        *_misnumbered(promotions),
        *_replayed_wrongly(history.writes, replays, states),
    ]


def _dual(writes: Sequence[Write], lost: Mapping[str, Promotion]) -> Iterator[Violation]:
    """Once the old primary must know of the promotion nobody is told any more that it wrote something."""
    for write in writes:
        promotion = lost.get(write.request_id)
        if promotion is not None and _late(write, promotion):
            after_s = ((write.completed_ns or 0) - promotion.learnt_ns) / 1e9
            yield Violation(
                "dual",
                f"{_name(write)} was acknowledged {after_s:.3f} s after {promotion.old} had been superseded by"
                f" {promotion.new}, at {write.node} first, and is with {promotion.old} alone",
            )


def _understated(writes: Sequence[Write], lost: Mapping[str, Promotion]) -> Iterator[Violation]:
    """A promotion says how much it costs: all of the last so many seconds. Nothing older may be gone."""
    for write in writes:
        promotion = lost.get(write.request_id)
        if promotion is None or promotion.lag_seconds is None:
            continue
        age_s = (promotion.asked_ns - (write.completed_ns or 0)) / 1e9
        if age_s > promotion.lag_seconds + ROUNDING_S:
            yield Violation(
                "understated",
                f"{_name(write)} was {age_s:.3f} s old when {promotion.new} was promoted, and is gone: the loss of"
                f" the last {promotion.lag_seconds} s was announced",
            )


def _misnumbered(promotions: Sequence[Promotion]) -> Iterator[Violation]:
    """What was set aside begins where the new epoch does, has no gap, and is no less than was announced."""
    for promotion in promotions:
        positions = [entry.position for entry in promotion.set_aside]
        wanted = list(range(promotion.position, promotion.position + len(positions)))
        if positions != wanted:
            yield Violation(
                "misnumbered",
                f"{promotion.old} set aside {len(positions)} commands, not those from {promotion.position} on:"
                f" {positions[:3]} to {positions[-1:]}",
            )
        if len(positions) < (promotion.lag_entries or 0):
            yield Violation(
                "misnumbered",
                f"{promotion.old} set aside {len(positions)} commands, {promotion.lag_entries} were known of",
            )


def _replayed_wrongly(
    writes: Sequence[Write], replays: Sequence[Replayed], states: Sequence[NodeState]
) -> Iterator[Violation]:
    """An entry that was written again stands where it stood, with the value that it had, unless it was refused."""
    values = {(write.key, write.version): write.value for write in writes if write.outcome is Outcome.OK}
    for replay in replays:
        entry = replay.entry
        if replay.version is None:
            continue
        if replay.version != entry.version:
            yield Violation("replay", f"{entry.key} version {entry.version} became version {replay.version}")
        value = values.get((entry.key, entry.version))
        for state in states:
            found = state.values.get(entry.key, {}).get(replay.version)
            if found is None or (value is not None and found != value):
                yield Violation(
                    "replay", f"{entry.key} version {replay.version}, written again, is not in {state.node}"
                )


def first_writes(
    history: History, promotions: Sequence[Promotion], lost: Mapping[str, Promotion]
) -> list[float]:
    """For each promotion the seconds from the operator's first word to the first write of the new epoch."""
    kept = [w for w in history.writes if w.outcome is Outcome.OK and w.request_id not in lost]
    found = []
    for promotion in promotions:
        answered = [
            write.completed_ns or 0
            for write in kept
            if (write.index or 0) >= promotion.position
            and (write.completed_ns or 0) > promotion.first_asked_ns
        ]
        if answered:
            found.append((min(answered) - promotion.first_asked_ns) / 1e9)
    return found


def check_applications(
    written: Mapping[str, Mapping[int, str]], errors: Sequence[str], states: Sequence[NodeState]
) -> list[Violation]:
    """Applications see no error, and lose nothing."""
    found = [Violation("application", error) for error in errors]
    for state in states:
        for key, versions in written.items():
            for version, value in versions.items():
                if state.values.get(key, {}).get(version) != value:
                    found.append(Violation("lost", f"{key} version {version} is not in {state.node}"))
    return found


def _late(write: Write, promotion: Promotion) -> bool:
    late_ns = promotion.learnt_ns + int(promotion.answers_s * 1e9)
    completed_ns = write.completed_ns or 0
    return completed_ns > late_ns or write.invoked_ns > promotion.learnt_ns


def _holds(state: NodeState, write: Write) -> bool:
    return state.values.get(write.key, {}).get(write.version or 0) == write.value


def _name(write: Write) -> str:
    return f"{write.key} version {write.version} (position {write.index})"
