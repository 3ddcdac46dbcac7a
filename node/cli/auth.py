"""`strongroom auth ...`: which auth methods there are."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, NATURAL, Group, flag, switch
from node.cli.generic import trimmed
from node.cli.login import METHODS
from node.cli.mounts import (
    Kind,
    add_commands,
    config_flags,
    enable_body,
    enable_flags,
    mounts_of,
    place,
    tune,
    tune_body,
)
from node.cli.output import LocalError, RemoteError
from node.cli.remote import remote

_BRIEF = (
    ("Type", lambda mount: mount["type"]),
    ("Accessor", lambda mount: mount["accessor"]),
    ("Description", lambda mount: mount["description"]),
    ("Version", lambda mount: mount["plugin_version"]),
)
_OWN = (("Token Type", lambda mount: mount["config"].get("token_type", "")),)
_LOCKOUT = {
    "user_lockout_threshold": "lockout_threshold",
    "user_lockout_duration": "lockout_duration",
    "user_lockout_counter_reset_duration": "lockout_counter_reset_duration",
    "user_lockout_disable": "lockout_disable",
}


@click.group(cls=Group)
def auth() -> None:
    """Enable, list, tune, move and disable auth methods."""


@auth.command()
@click.argument("type_", metavar="TYPE")
@enable_flags
@config_flags
@flag("token-type", help="service or batch, for all of its tokens.")
@remote()
def enable(client: Client, type_: str, **said: Any) -> int:
    """Enable an auth method: userpass, approle, jwt, kubernetes or cert."""
    where = place(said["path"], type_)
    body = enable_body(type_, said)
    doing = f"Error enabling {body['type']} auth"
    client.call("POST", f"sys/auth/{where.rstrip('/')}", body, doing=doing)
    click.echo(f"Success! Enabled {body['type']} auth method at: {where}")
    return 0


@auth.command("tune")
@click.argument("path")
@config_flags
@flag("token-type", help="service or batch, for all of its tokens.")
@flag("user-lockout-threshold", NATURAL, help="After how many wrong passwords a user is locked out.")
@flag("user-lockout-duration", DURATION, help="For how long.")
@flag("user-lockout-counter-reset-duration", DURATION, help="After what time they are forgotten.")
@switch("user-lockout-disable", default=None, help="Lock nobody out.")
@remote()
def tune_(client: Client, path: str, **said: Any) -> int:
    """Change the settings of an auth method; what is not named stays."""
    where = place(path, "")
    body = tune_body(said)
    lockout = {key: said[name] for name, key in _LOCKOUT.items() if said[name] is not None}
    if lockout:
        body["user_lockout_config"] = {
            key: value if isinstance(value, bool) else str(value) for key, value in lockout.items()
        }
    return tune(client, "auth method", where, f"auth/{where}", body)


@auth.command("help")
@click.argument("method", metavar="TYPE_OR_PATH")
@remote()
def help_(client: Client, method: str) -> int:
    """Show what `login` needs for an auth method."""
    kind = trimmed(method)
    if kind not in METHODS:
        mounts = mounts_of(client.call("GET", "sys/auth", doing="Error listing auth methods"))
        if f"{kind}/" not in mounts:
            raise LocalError(f'No auth method available on the server at "{kind}/"')
        kind = mounts[f"{kind}/"]["type"]
    if kind not in METHODS:
        raise RemoteError(f'No method-specific CLI handler available for auth method "{kind}"')
    click.echo(METHODS[kind].help)
    return 0


add_commands(
    auth,
    Kind(
        "auth method",
        "sys/auth",
        "Error listing enabled authentications",
        _BRIEF,
        _OWN,
        "ALL tokens that one issued are revoked.",
    ),
)
