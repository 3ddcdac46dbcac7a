"""`strongroom chaos ...`: rehearsals and simulations of failures."""

import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from chaos.fuzz import attack
from chaos.simulator.defects import DEFECTS
from chaos.simulator.many import Summary, simulate
from chaos.simulator.play import Played, play
from node.cli.flags import INTEGER, Group, IntegerType, flag, switch
from node.cli.output import LOCAL_ERROR, Output, pairs
from node.cli.remote import printing

PROGRESS_S = 1.0  # on a terminal: one line, written again and again
PROGRESS_LINE_S = 30.0  # elsewhere: another line
SIGNALLED = 128  # and the signal's number: what shells report
SEEDS = 1000
FRAMES = 200_000
_POSITIVE = IntegerType(minimum=1)


@click.group(cls=Group)
def chaos() -> None:
    """Break a cluster on purpose, and check every promise."""


@chaos.command("simulate")
@flag("seeds", _POSITIVE, default=SEEDS, help=f"How many histories to play.  [default: {SEEDS}]")
@flag("first", INTEGER, default=1, help="The first of the seeds.  [default: 1]")
@flag("seed", INTEGER, help="Play this one only.")
@switch("twice", help="Play each seed twice: both must be the same history.")
@flag("workers", _POSITIVE, help="Processes.  [default: one a processor]")
@flag("defect", click.Choice(sorted(DEFECTS)), help="Put a mistake into the code, to see that it is found.")
@printing
def simulate_command(
    out: Output,
    seeds: int,
    first: int,
    seed: int | None,
    twice: bool,
    workers: int | None,
    defect: str | None,
) -> int:
    """Play whole clusters on virtual time, one history a seed, with every fault that the seed draws.

    Ends with 1 at the first broken promise, and says how to see it again. SIGINT and SIGTERM end it with what has
    been counted so far.
    """
    played = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    with _until_signalled() as signals:
        summary = simulate(
            played,
            twice=twice,
            defect=defect or "",
            workers=workers if seed is None else 1,
            tell=_progress(len(played)),
            stop=lambda: bool(signals),
        )
    again = None if summary.failed is None else play(summary.failed.seed, defect=defect or "")
    report = _report(summary, again)
    out.show(report, pairs([(key.replace("_", " "), _shown(value)) for key, value in report.items()]))
    if summary.failed is not None:
        option = f" -defect={defect}" if defect else ""
        out.say(f"\nSee it again: strongroom chaos simulate -seed={summary.failed.seed}{option}")
    if not summary.good:
        return LOCAL_ERROR
    return SIGNALLED + signals[0] if summary.stopped else 0


@chaos.command("fuzz")
@flag("frames", _POSITIVE, default=FRAMES, help=f"How many frames to send.  [default: {FRAMES}]")
@flag("seed", INTEGER, default=1, help="What the frames are drawn from.  [default: 1]")
@printing
def fuzz_command(out: Output, frames: int, seed: int) -> int:
    """Send bad frames to the Raft ports of a cluster made for it, with and without a valid certificate.

    Ends with 1 if anything changed, anything ended, or memory grew.
    """
    logging.disable(logging.CRITICAL)  # every refused connection is one of ours
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(attack(Path(directory), frames=frames, seed=seed))
    report = {
        "frames": dict(sorted(result.frames.items())),
        "refused": dict(sorted(result.refused.items())),
        "memory_growth_mib": round(result.memory_growth_bytes / (1 << 20), 1),
        "wrong": result.wrong,
    }
    out.show(report, pairs([(key.replace("_", " "), _shown(value)) for key, value in report.items()]))
    return LOCAL_ERROR if result.wrong else 0


@contextmanager
def _until_signalled() -> Iterator[list[int]]:
    """The SIGINTs and SIGTERMs that come meanwhile."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def _progress(total: int) -> Callable[[Summary], None]:
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def tell(summary: Summary) -> None:
        nonlocal last
        if time.monotonic() - last < (PROGRESS_S if terminal else PROGRESS_LINE_S):
            return
        last = time.monotonic()
        line = (
            f"{summary.seeds} of {total} seeds, {0 if summary.good else 1} failed,"
            f" {summary.simulated_s / 3600:.2f} simulated hours in {summary.elapsed_s:.0f} s"
        )
        click.echo(f"\r{line}" if terminal else line, err=True, nl=not terminal)

    return tell


def _report(summary: Summary, again: Played | None) -> dict[str, Any]:
    elapsed_s = max(summary.elapsed_s, 1e-9)
    report: dict[str, Any] = {
        "seeds": summary.seeds,
        "stopped_before_the_end": summary.stopped,
        "simulated_hours": round(summary.simulated_s / 3600, 3),
        "elapsed_s": round(summary.elapsed_s, 1),
        "seeds_per_second": round(summary.seeds / elapsed_s, 1),
        "simulated_hours_per_hour": round(summary.simulated_s / elapsed_s, 1),
        "seen": dict(sorted(summary.seen.items())),
        "seeds_that_differ_when_repeated": summary.diverged,
        "first_failure": None,
    }
    if summary.failed is not None and again is not None:
        report["first_failure"] = {
            "seed": summary.failed.seed,
            "what": summary.failed.failure,
            "after_s": round(summary.failed.simulated_s, 3),
            "the_same_when_repeated": again.trace == summary.failed.trace,
            "where": summary.failed.where,
        }
    return report


def _shown(value: Any) -> object:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {each}" for key, each in value.items() if key != "where")
    return value if value not in (None, []) else "none"
