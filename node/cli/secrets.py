"""`strongroom secrets ...`: which secrets engines there are."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import Group, switch
from node.cli.mounts import (
    Kind,
    add_commands,
    config_flags,
    enable_body,
    enable_flags,
    place,
    tune,
    tune_body,
)
from node.cli.remote import remote

_BRIEF = (
    ("Type", lambda mount: mount["type"]),
    ("Accessor", lambda mount: mount["accessor"]),
    ("Description", lambda mount: mount["description"]),
)
_OWN = (("Force No Cache", lambda mount: bool(mount["config"].get("force_no_cache"))),)


@click.group(cls=Group)
def secrets() -> None:
    """Enable, list, tune, move and disable secrets engines."""


@secrets.command()
@click.argument("type_", metavar="TYPE")
@enable_flags
@config_flags
@switch("force-no-cache", hidden=True)
@remote()
def enable(client: Client, type_: str, force_no_cache: bool, **said: Any) -> int:
    """Enable a secrets engine: kv, kv-v2, pki or transit."""
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


add_commands(
    secrets,
    Kind(
        "secrets engine",
        "sys/mounts",
        "Error listing secrets engines",
        _BRIEF,
        _OWN,
        "A move revokes its leases; ALL its data goes when it is disabled.",
    ),
)
