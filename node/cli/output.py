"""What every command shares on its way out: exit codes, errors as sentences, tables, JSON."""

import json
from collections.abc import Sequence
from typing import Any

import click

LOCAL_ERROR = 1
REMOTE_ERROR = 2

format_option = click.option(
    "-format",
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    envvar=["STRONGROOM_FORMAT", "VAULT_FORMAT"],
    help="How to print the answer.",
)


class LocalError(Exception):
    """This machine's or the caller's mistake: flags, files, processes. A sentence for the user."""

    exit_code = LOCAL_ERROR


class RemoteError(Exception):
    """The server refused, failed or cannot be reached: a sentence for the user. status 0: no answer."""

    exit_code = REMOTE_ERROR

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; None is shown as a dash."""
    cells = [list(headings)] + [["-" if cell is None else _word(cell) for cell in row] for row in rows]
    cells.insert(1, ["-" * len(heading) for heading in headings])
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """A two-column table, as `vault status` prints."""
    return table(("Key", "Value"), rows)


def _word(cell: object) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
