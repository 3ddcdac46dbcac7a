"""`strongroom secrets ...`: which secrets engines there are."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import Group, switch
from node.cli.mounts import (
    config_flags,
    enable_body,
    enable_flags,
    mounts_of,
    move,
    place,
    print_mounts,
    tune,
    tune_body,
)
from node.cli.output import Output
from node.cli.remote import Prints, remote

_BRIEF = (
    ("Type", lambda mount: mount["type"]),
    ("Accessor", lambda mount: mount["accessor"]),
    ("Description", lambda mount: mount["description"]),
)
_OWN = (("Force No Cache", lambda mount: bool(mount["config"].get("force_no_cache"))),)


@click.group(cls=Group)
def secrets() -> None:
    """Enable, list, tune, move and disable secrets engines."""


@secrets.command("list")
@switch("detailed", help="Show everything.")
@remote(Prints.FORMATS)
def list_(client: Client, out: Output, detailed: bool) -> int:
    """List the secrets engines."""
    found = client.call("GET", "sys/mounts", doing="Error listing secrets engines")
    return print_mounts(out, mounts_of(found), detailed=detailed, brief=_BRIEF, own=_OWN)


@secrets.command()
@click.argument("type_", metavar="TYPE")
@enable_flags
@config_flags
@switch("force-no-cache", hidden=True)
@remote()
def enable(client: Client, type_: str, force_no_cache: bool, **said: Any) -> int:
    """Enable a secrets engine: kv, kv-v2, ..."""
    where = place(said["path"], type_)
    body = enable_body(type_, said, force_no_cache=force_no_cache)
    client.call("POST", f"sys/mounts/{where.rstrip('/')}", body, doing="Error enabling")
    click.echo(f"Success! Enabled the {body['type']} secrets engine at: {where}")
    return 0


@secrets.command("tune")
@click.argument("path")
@config_flags
@remote()
def tune_(client: Client, path: str, **said: Any) -> int:
    """Change the settings of a secrets engine; what is not named stays."""
    where = place(path, "")
    return tune(client, "secrets engine", where, where, tune_body(said))


@secrets.command("move")
@click.argument("source")
@click.argument("destination")
@remote()
def move_(client: Client, source: str, destination: str) -> int:
    """Move a secrets engine to another path. Its leases are revoked."""
    return move(client, "secrets engine", source, destination)


@secrets.command()
@click.argument("path")
@remote()
def disable(client: Client, path: str) -> int:
    """Disable a secrets engine. ALL its data goes."""
    where = place(path, "")
    doing = f"Error disabling secrets engine at {where}"
    client.call("DELETE", f"sys/mounts/{where.rstrip('/')}", doing=doing)
    click.echo(f"Success! Disabled the secrets engine (if it existed) at: {where}")
    return 0
