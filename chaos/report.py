"""What a run amounts to, as figures and as lines. Pure."""

import itertools
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.checker import Verdict
from chaos.history import Fault, History, Outcome

SHOWN_VIOLATIONS_MAX = 20
KINDS = ("lost", "twice", "gap", "phantom", "disordered", "refused", "stale", "diverged", "stuck", "died")


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts of a run; gaps in seconds."""

    acknowledged: int
    retried: int  # acknowledged only after another attempt under the same request id
    unknown: int  # never learnt
    writes_per_s: float
    leader_gaps_s: tuple[
        float, ...
    ]  # without an acknowledged write, for each fault that took the leader alone
    all_gaps_s: tuple[float, ...]  # the same for every fault


def figures(history: History) -> Figures:
    """Count a history."""
    times = sorted(w.completed_ns for w in history.writes if w.outcome is Outcome.OK and w.completed_ns)
    span_s = (times[-1] - times[0]) / 1e9 if len(times) > 1 else 0.0
    faults = sorted(history.faults, key=lambda fault: fault.start_ns)
    gaps = silences(times, faults)
    return Figures(
        acknowledged=len(times),
        retried=sum(write.outcome is Outcome.OK and write.attempts > 1 for write in history.writes),
        unknown=sum(write.outcome is Outcome.INFO for write in history.writes),
        writes_per_s=len(times) / span_s if span_s else 0.0,
        leader_gaps_s=tuple(
            gap for gap, fault in zip(gaps, faults, strict=True) if fault.kind == "kill leader"
        ),
        all_gaps_s=tuple(gaps),
    )


def silences(times_ns: Sequence[int], faults: Sequence[Fault]) -> list[float]:
    """For each fault the longest silence, in seconds, between it and the next fault (both sorted by time).

    Answers on their way when the fault struck may still arrive, so the silence need not begin with the fault.
    """
    gaps = []
    for number, fault in enumerate(faults):
        end = faults[number + 1].start_ns if number + 1 < len(faults) else None
        last = len(times_ns) if end is None else bisect_left(times_ns, end)
        inside = times_ns[bisect_left(times_ns, fault.start_ns) : last]
        points = [fault.start_ns, *inside, *([end] if end is not None else [])]
        gaps.append(max((b - a for a, b in itertools.pairwise(points)), default=0) / 1e9)
    return gaps


def lines(history: History, verdict: Verdict) -> list[str]:
    """The report, a line each."""
    found = figures(history)
    verdicts = ", ".join(f"{kind} {verdict.count(kind)}" for kind in KINDS)
    text = [
        f"seed {history.seed}, {history.nodes} nodes, {len(history.faults)} faults",
        f"acknowledged {found.acknowledged} ({found.writes_per_s:.0f}/s), after a retry {found.retried}",
        f"outcome never learnt {found.unknown}, reads answered {len(history.reads)}",
        f"violations: {verdicts}",
        f"without writes after the leader was killed: {_spread(found.leader_gaps_s)}",
        f"without writes after any fault: {_spread(found.all_gaps_s)}",
    ]
    shown = [f"  {v.kind}: {v.detail}" for v in verdict.violations[:SHOWN_VIOLATIONS_MAX]]
    hidden = len(verdict.violations) - len(shown)
    return [*text, *shown, *([f"  and {hidden} more"] if hidden else [])]


def _spread(gaps: Sequence[float]) -> str:
    if not gaps:
        return "-"
    return f"p50 {statistics.median(gaps):.2f} s, max {max(gaps):.2f} s, n {len(gaps)}"
