"""What every command shares on its way out: exit codes, errors as sentences, tables, JSON, YAML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from node.cli.values import dump_yaml, dumps

LOCAL_ERROR = 1
REMOTE_ERROR = 2
NO_COMMAND = 127
FORMATS = ("table", "json", "yaml", "raw")
COLUMN_GAP = "    "


class LocalError(Exception):
    """This machine's or the caller's mistake: flags, files, processes. A sentence for the user."""

    exit_code = LOCAL_ERROR


class RemoteError(Exception):
    """The server refused, failed or cannot be reached: a sentence for the user. status 0: no answer."""

    exit_code = REMOTE_ERROR

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Output:
    """How the user wants the answer: -format and -field."""

    form: str = "table"
    field: str | None = None

    @property
    def table(self) -> bool:
        """For people; the other forms are for programs, and carry nothing else."""
        return self.form == "table"

    def value(self, value: Any) -> None:
        """JSON or YAML of anything."""
        click.echo(dump_yaml(value) if self.form == "yaml" else dumps(value), nl=self.form != "yaml")

    def say(self, sentence: str) -> None:
        """A sentence for people."""
        if self.table:
            click.echo(sentence)

    def show(self, value: Any, text: str) -> None:
        """`text` for people, `value` for programs."""
        if self.table:
            click.echo(text)
        else:
            self.value(value)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "n/a", gap: str = COLUMN_GAP
) -> str:
    """Aligned columns; what is None or empty is shown as `empty`."""
    cells = [list(headings), ["-" * len(heading) for heading in headings]]
    cells += [[_cell(cell, empty) for cell in row] for row in rows]
    return columns(cells, gap)


def columns(cells: Sequence[Sequence[str]], gap: str = COLUMN_GAP) -> str:
    """Rows of the same length, aligned."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    return "\n".join(
        gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """A two-column table, as `vault status` prints."""
    return table(("Key", "Value"), rows)


def _cell(cell: object, empty: str) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    return ("" if cell is None else str(cell).strip()) or empty


def heading(title: str, width: int) -> str:
    """A title between equals signs, about as wide as what is below it."""
    signs = width - len(title) - 2
    half = (4 if signs <= 0 else signs + signs % 2) // 2
    return f"{'=' * half} {title} {'=' * half}"
