"""`strongroom operator diagnose`: would this node start, and what is not as it should be?"""

import os
from pathlib import Path

import click

from node.cli.flags import Command, flag
from node.cli.output import Output

FAILURES, WARNINGS = 1, 2
_MARKS = {"ok": "[ success ]", "warn": "[ warning ]", "fail": "[ failure ]", "skipped": "[ skipped ]"}


@click.command(cls=Command)
@flag(
    "config",
    click.Path(path_type=Path),
    multiple=True,
    variable="configs",
    help="A file or a directory; repeatable.",
)
@flag("format", click.Choice(["table", "json", "yaml"]), default="table", variable="form")
def diagnose(configs: tuple[Path, ...], form: str) -> int:
    """Look at all that a node needs, on the node's own machine, as its own user. Changes nothing.

    Exit code 0: all is well, 1: something fails, 2: there are warnings.
    """
    from node.diagnose.finding import Level, worst
    from node.diagnose.run import diagnose as look

    found = look(configs, os.environ)
    verdict = worst(found)
    lines = []
    for finding in found:
        lines.append(f"{_MARKS[finding.level]} {finding.check}: {finding.message}")
        if finding.advice:
            lines.append(f"{'':12}-> {finding.advice}")
    shown = {
        "status": verdict.value,
        "checks": [
            {"name": f.check, "status": f.level.value, "message": f.message, "advice": f.advice}
            for f in found
        ],
    }
    Output(form).show(shown, "\n".join(lines))
    return {Level.FAIL: FAILURES, Level.WARN: WARNINGS}.get(verdict, 0)
