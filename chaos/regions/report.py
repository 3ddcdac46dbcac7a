"""What a rehearsal of regions amounts to, as figures and as lines. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from chaos.history import Fault
from chaos.regions.run import FIRST_WRITE, Result
from chaos.regions.splits import STEPS_BACK
from chaos.report import SHOWN_VIOLATIONS_MAX, figures, silences

GAP_S_MAX = 5.0  # without an acknowledged write around a switchover: p99
TAKE_OVER_S_MAX = 10.0  # from the command to the first acknowledged write
STEP_BACK_S_MAX = 10.0  # from a healed link until the old primary orders nothing
SWITCHOVER_GAP = "longest time without a write"
LIMITS_S = {SWITCHOVER_GAP: GAP_S_MAX, FIRST_WRITE: TAKE_OVER_S_MAX, STEPS_BACK: STEP_BACK_S_MAX}


def summary(result: Result) -> dict[str, Any]:
    """Everything that a machine would want to read; times in seconds."""
    found, plan = figures(result.history), result.plan
    times = {what: spread(values) for what, values in sorted(times_of(result).items())}
    return {
        "mode": plan.mode,
        "seed": plan.seed,
        "regions": plan.regions,
        "nodes": plan.nodes,
        "faults": len(result.history.faults),
        "acknowledged": found.acknowledged,
        "writes_per_s": round(found.writes_per_s, 1),
        "after_a_retry": found.retried,
        "never_learnt": found.unknown,
        "application_calls": result.calls,
        "set_aside": sum(len(each.set_aside) for each in result.findings.promotions),
        "acknowledged_and_set_aside": result.lost,
        "written_again": sum(each.version is not None for each in result.findings.replays),
        "times_s": times,
        "too_slow": slow(times),
        "violations": [f"{each.kind}: {each.detail}" for each in result.verdict.violations],
        "good": result.verdict.good,
    }


def times_of(result: Result) -> dict[str, list[float]]:
    """What the run measured, and the silences around switchovers."""
    times = dict(result.findings.times_s)
    switched = [each for each in result.history.faults if each.kind == "switchover"]
    if switched:
        times[SWITCHOVER_GAP] = _silences(result, switched)
    return times


def _silences(result: Result, faults: Sequence[Fault]) -> list[float]:
    answered = sorted(each.completed_ns for each in result.history.writes if each.index and each.completed_ns)
    return silences(answered, sorted(faults, key=lambda fault: fault.start_ns))


def spread(values: Sequence[float]) -> dict[str, float]:
    """n, p50, p99 and max; of few values the 99th percentile is the greatest."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": round(_percentile(ordered, 50), 3),
        "p99": round(_percentile(ordered, 99), 3),
        "max": round(ordered[-1], 3) if ordered else 0.0,
    }


def slow(times: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What took longer than is promised."""
    return [
        f"{what}: p99 {times[what]['p99']} s, promised are {limit:g} s"
        for what, limit in LIMITS_S.items()
        if what in times and times[what]["p99"] > limit
    ]


def lines(told: Mapping[str, Any]) -> list[str]:
    """The summary for people."""
    where = f"{told['regions']} regions of {told['nodes']} nodes"
    outcomes = f"after a retry {told['after_a_retry']}, never learnt {told['never_learnt']}"
    text = [
        f"{told['mode']}: seed {told['seed']}, {where}, {told['faults']} faults",
        f"acknowledged {told['acknowledged']} ({told['writes_per_s']:.0f}/s), {outcomes}",
        f"calls of applications: {told['application_calls']}",
    ]
    if told["set_aside"] or told["mode"] in ("kills", "splits"):
        text.append(
            f"set aside {told['set_aside']} commands, {told['acknowledged_and_set_aside']} of them acknowledged writes;"
            f" written again {told['written_again']}"
        )
    for what, each in told["times_s"].items():
        limit = f" (promised {LIMITS_S[what]:g})" if what in LIMITS_S else ""
        text.append(
            f"{what}: p50 {each['p50']:.3f} s, p99 {each['p99']:.3f} s, max {each['max']:.3f} s,"
            f" n {each['n']:.0f}{limit}"
        )
    found = told["violations"]
    text.append(f"violations: {len(found)}")
    text += [f"  {each}" for each in found[:SHOWN_VIOLATIONS_MAX]]
    hidden = len(found) - SHOWN_VIOLATIONS_MAX
    text += [f"  and {hidden} more"] if hidden > 0 else []
    return [*text, *(f"too slow: {each}" for each in told["too_slow"])]


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0
