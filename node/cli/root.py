"""The tree of commands, and how each ends. Importing it must stay cheap: a command's module is loaded when it is used.

Exit codes: 0 ok, 1 local error (flags, files), 2 remote error (the server refused or cannot be reached), 127 no such
command. `status` and `cluster status` say more with theirs; see docs/cli.md.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from node import API_VERSION
from node.cli.dry_run import Shown
from node.cli.flags import Group
from node.cli.output import LOCAL_ERROR, NO_COMMAND, LocalError, RemoteError

_COMMANDS = {
    "audit": "node.cli.audit:audit",
    "auth": "node.cli.auth:auth",
    "chaos": "chaos.cli:chaos",
    "cluster": "node.cli.cluster:cluster",
    "completion": "node.cli.misc:completion",
    "delete": "node.cli.generic:delete",
    "drill": "node.cli.drill:drill",
    "events": "node.cli.events:events",
    "kv": "node.cli.kv:kv",
    "lease": "node.cli.lease:lease",
    "list": "node.cli.generic:list_",
    "local": "node.cli.local:local",
    "login": "node.cli.login:login",
    "operator": "node.cli.operator:operator",
    "patch": "node.cli.generic:patch",
    "path-help": "node.cli.generic:path_help",
    "policy": "node.cli.policy:policy",
    "print": "node.cli.misc:print_",
    "read": "node.cli.generic:read",
    "region": "node.cli.region:region",
    "scan": "node.cli.generic:scan",
    "secrets": "node.cli.secrets:secrets",
    "server": "node.cli.server:server",
    "status": "node.cli.status:status",
    "token": "node.cli.token:token",
    "unwrap": "node.cli.generic:unwrap",
    "version": "node.cli.misc:version",
    "version-history": "node.cli.status:version_history",
    "write": "node.cli.generic:write",
}


class _NoCommand(click.UsageError):
    exit_code = NO_COMMAND


class _Root(Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            raise _NoCommand(f"No such command '{args[0]}'.", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Root, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "-help", "--help"]})
@click.version_option(API_VERSION, "-version", "-v", "--version", message="Strongroom v%(version)s")
def strongroom() -> None:
    """A replicated secret store that a team runs itself, for Vault clients.

    \b
    strongroom server -dev                   try it out in one process
    strongroom local up                      try it out with three nodes
    strongroom server -config strongroom.hcl run a node
    """


def run(arguments: Sequence[str]) -> int:
    """Do one command and return its exit code; errors end as one sentence on stderr, never as a traceback."""
    try:
        if any(not _is_text(argument) for argument in arguments):
            raise LocalError("An argument is not UTF-8 text; give bytes in base64, or in a file.")
        result: Any = strongroom.main(list(arguments), prog_name="strongroom", standalone_mode=False)
        sys.stdout.flush()
    except Shown as e:
        click.echo(str(e))
        return 0
    except click.ClickException as e:
        e.show()
        return NO_COMMAND if isinstance(e, _NoCommand) else LOCAL_ERROR
    except click.Abort:
        click.echo("Stopped.", err=True)
        return LOCAL_ERROR
    except LocalError as e:
        click.echo(f"Error: {e}", err=True)
        return e.exit_code
    except RemoteError as e:
        click.echo(str(e), err=True)
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


def _is_text(argument: str) -> bool:
    """Whether what the shell gave was UTF-8."""
    return not any("\ud800" <= each <= "\udfff" for each in argument)
