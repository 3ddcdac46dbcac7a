"""`strongroom print`, `version` and `completion`: what needs no server."""

import click

from node import API_VERSION
from node.cli.flags import Command, Group
from node.cli.output import LocalError
from node.cli.token_helper import current_token

SHELLS = ("bash", "zsh", "fish")


@click.group("print", cls=Group)
def print_() -> None:
    """Print what the commands use."""


@print_.command()
def token() -> None:
    """Print the token that the commands use."""
    click.echo(current_token() or "")


@click.command(cls=Command)
def version() -> None:
    """Print the version of this program."""
    click.echo(f"Strongroom v{API_VERSION}")


@click.command(cls=Command)
@click.argument("shell", metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print a script that completes commands in a shell, and flags, and paths of the server.

    \b
    eval "$(strongroom completion bash)"               in ~/.bashrc
    eval "$(strongroom completion zsh)"                in ~/.zshrc
    strongroom completion fish > ~/.config/fish/completions/strongroom.fish
    """
    from click.shell_completion import get_completion_class

    from node.cli.root import strongroom

    kind = get_completion_class(shell) if shell in SHELLS else None
    if kind is None:
        raise LocalError(f"There is completion for {', '.join(SHELLS)}, not for {shell}.")
    click.echo(kind(strongroom, {}, "strongroom", "_STRONGROOM_COMPLETE").source())
