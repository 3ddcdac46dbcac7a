"""`strongroom chaos ...`: rehearsals and simulations of failures."""

import asyncio
import logging
import sys
import tempfile
import time
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

PROGRESS_S = 1.0
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

    Ends with 1 at the first broken promise, and says how to see it again.
    """
    played = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    tell = _progress(len(played)) if out.table and sys.stderr.isatty() else lambda _: None
    summary = simulate(
        played, twice=twice, defect=defect or "", workers=workers if seed is None else 1, tell=tell
    )
    again = None if summary.failed is None else play(summary.failed.seed, defect=defect or "")
    report = _report(summary, again)
    out.show(report, pairs([(key.replace("_", " "), _shown(value)) for key, value in report.items()]))
    if summary.failed is not None:
        option = f" -defect={defect}" if defect else ""
        out.say(f"\nSee it again: strongroom chaos simulate -seed={summary.failed.seed}{option}")
    return 0 if summary.good else LOCAL_ERROR


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


def _progress(total: int) -> Any:
    last = time.monotonic()

    def tell(summary: Summary) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            click.echo(f"\r{summary.seeds} of {total} seeds", err=True, nl=False)

    return tell


def _report(summary: Summary, again: Played | None) -> dict[str, Any]:
    elapsed_s = max(summary.elapsed_s, 1e-9)
    report: dict[str, Any] = {
        "seeds": summary.seeds,
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
