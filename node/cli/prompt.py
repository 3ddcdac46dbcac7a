"""Asking a person for a secret, without showing it."""

import sys

import click

from node.cli.client import Client
from node.cli.output import LocalError, RemoteError

LINE_CHARS_MAX = 8192


def ask_hidden(client: Client, title: str, *, doing: str) -> str:
    """A secret from the terminal. Raises RemoteError where nobody can be asked."""
    if not client.interactive or not sys.stdin.isatty():
        raise RemoteError(
            f'{doing}: nobody can be asked here for the {title}; give it as an argument, "-" reads a pipe.'
        )
    told: str = click.prompt(f"{title} (will be hidden)", hide_input=True, err=True)
    return told.strip()


def secret_line(told: str | None, title: str, *, interactive: bool = True) -> str:
    """A secret from the argument, a hidden prompt (nothing told, at a terminal), or a pipe's first line."""
    if told and told != "-":
        return told
    if told is None and interactive and sys.stdin.isatty():
        line: str = click.prompt(f"{title} (will be hidden)", hide_input=True, err=True)
    else:
        line = sys.stdin.readline(LINE_CHARS_MAX)
    if not line.strip():
        raise LocalError(f"{title} was expected on standard input, which is empty.")
    return line.strip()
