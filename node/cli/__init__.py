"""The `strongroom` command. Importing it must stay cheap: each command's module is loaded when it is used.

Exit codes: 0 ok, 1 local error (flags, files), 2 remote error (the server refused or cannot be reached).
`status` and `cluster status` say more with theirs; see docs/cli.md.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from node.cli.output import LOCAL_ERROR, LocalError, RemoteError

_COMMANDS = {
    "cluster": "node.cli.cluster:cluster",
    "local": "node.cli.local:local",
    "operator": "node.cli.operator:operator",
    "server": "node.cli.server:server",
    "status": "node.cli.status:status",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (target := _COMMANDS.get(cmd_name)) is None:
            return None
        module, _, name = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "-help", "--help"]})
@click.version_option(
    None, "-version", "--version", package_name="strongroom", message="strongroom %(version)s"
)
def strongroom() -> None:
    """A replicated secret store that a team runs itself, for Vault clients.

    \b
    strongroom server -dev                   try it out in one process
    strongroom local up                      try it out with three nodes
    strongroom server -config strongroom.hcl
    """


def run(arguments: Sequence[str]) -> int:
    """Do one command and return its exit code; errors end as one sentence on stderr, never as a traceback."""
    try:
        result: Any = strongroom.main(list(arguments), prog_name="strongroom", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return LOCAL_ERROR
    except click.Abort:
        click.echo("Stopped.", err=True)
        return LOCAL_ERROR
    except (LocalError, RemoteError) as e:
        click.echo(f"Error: {e}", err=True)
        return e.exit_code
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter complains at its exit
        return LOCAL_ERROR
    except OSError as e:
        click.echo(f"Error: {e.filename or 'the operating system'}: {e.strerror or e}.", err=True)
        return LOCAL_ERROR
    return result if isinstance(result, int) else 0


def main() -> None:
    """The entry point of the distribution."""
    sys.exit(run(sys.argv[1:]))
