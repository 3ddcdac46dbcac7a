"""`strongroom token ...`: make, look up, renew and revoke tokens."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, NATURAL, PAIR, Group, flag, switch
from node.cli.generic import trimmed
from node.cli.output import LocalError, Output, RemoteError
from node.cli.remote import Prints, remote
from node.cli.secret_output import print_secret
from node.cli.values import Duration


@click.group(cls=Group)
def token() -> None:
    """Make, look up, renew and revoke tokens."""


@token.command()
@flag("policy", multiple=True, help="A policy of the token; repeatable. Without, it has all of yours.")
@flag("ttl", DURATION, help="How long it lives, unless it is renewed.")
@flag("explicit-max-ttl", DURATION, help="How long it lives at most.")
@flag("period", DURATION, help="Renewed within this time it lives for ever.")
@flag("display-name", default="", help="What it is called in leases and the audit log.")
@flag("use-limit", NATURAL, default=0, help="How often it can be used.  [default: no limit]")
@flag("metadata", PAIR, multiple=True, help="A note in the audit log, key=value; repeatable.")
@flag("id", help="The token itself, instead of a random one.")
@flag("role", help="Make it as this role says.")
@flag("type", default="service", help="service or batch.  [default: service]")
@flag("entity-alias", default="", help="The identity that it belongs to; needs -role.")
@switch("renewable", default=True, help="It can be renewed; -renewable=false says no.")
@switch("orphan", help="It has no parent, and outlives yours.")
@switch("no-default-policy", help="Without the default policy.")
@remote(Prints.FIELDS)
def create(client: Client, out: Output, **said: Any) -> int:
    """Make a token.

    \b
    strongroom token create -policy=app -ttl=1h
    strongroom token create -policy=app -period=24h -orphan -field=token
    """
    path = f"auth/token/create/{trimmed(said['role'])}" if said["role"] else "auth/token/create"
    return print_secret(out, client.call("POST", path, _create_body(said), doing="Error creating token"))


def _create_body(said: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"policies": list(said["policy"])} if said["policy"] else {}
    for name in ("ttl", "explicit_max_ttl", "period"):
        body[name] = said[name] or Duration(0)
    body |= {"display_name": said["display_name"], "num_uses": said["use_limit"]}
    body |= {"renewable": said["renewable"], "type": said["type"], "entity_alias": said["entity_alias"]}
    optional = {
        "id": said["id"],
        "meta": dict(said["metadata"]),
        "no_parent": said["orphan"],
        "no_default_policy": said["no_default_policy"],
    }
    return body | {key: value for key, value in optional.items() if value}


@token.command()
@click.argument("which", required=False, metavar="[TOKEN | ACCESSOR]")
@switch("accessor", help="It is an accessor, not a token.")
@remote(Prints.FIELDS)
def lookup(client: Client, out: Output, which: str | None, accessor: bool) -> int:
    """Show what the server knows about a token; yours, if none is named."""
    doing = "Error looking up token"
    if accessor:
        body = {"accessor": _needed(which, "-accessor")}
        return print_secret(out, client.call("POST", "auth/token/lookup-accessor", body, doing=doing))
    if which is None:
        return print_secret(out, client.call("GET", "auth/token/lookup-self", doing=doing))
    return print_secret(out, client.call("POST", "auth/token/lookup", {"token": which.strip()}, doing=doing))


def _needed(which: str | None, flag_: str) -> str:
    if which is None:
        raise LocalError(f"Not enough arguments with {flag_} (expected 1, got 0)")
    return which.strip()


@token.command()
@click.argument("which", required=False, metavar="[TOKEN | ACCESSOR]")
@switch("accessor", help="It is an accessor, not a token.")
@flag("increment", DURATION, aliases=["i"], help="For how long; the server may grant less.")
@remote(Prints.FORMATS)
def renew(client: Client, out: Output, which: str | None, accessor: bool, increment: Duration | None) -> int:
    """Renew a token; yours, if none is named."""
    body: dict[str, Any] = {"increment": increment.seconds if increment else 0}
    if accessor:
        path, body = "auth/token/renew-accessor", {"accessor": _needed(which, "-accessor")} | body
    elif which is None:
        path = "auth/token/renew-self"
    else:
        path, body["token"] = "auth/token/renew", which.strip()
    return print_secret(out, client.call("PUT", path, body, doing="Error renewing token"))


@token.command()
@click.argument("which", required=False, metavar="[TOKEN | ACCESSOR | PATH]")
@switch("self", variable="own", help="Revoke the token that you use.")
@switch("accessor", help="It is an accessor, not a token.")
@flag("mode", default="", help='"orphan": its children live on; "path": all that were issued below PATH.')
@remote()
def revoke(client: Client, which: str | None, own: bool, accessor: bool, mode: str) -> int:
    """Revoke a token and its children."""
    _check_revoke(which, own=own, accessor=accessor, mode=mode)
    named = (which or "").strip()
    path, body = {
        "orphan": ("auth/token/revoke-orphan", {"token": named}),
        "path": (f"sys/leases/revoke-prefix/{trimmed(named)}", None),
    }.get(mode, ("auth/token/revoke", {"token": named}))
    if own:
        path, body = "auth/token/revoke-self", None
    elif accessor:
        path, body = "auth/token/revoke-accessor", {"accessor": named}
    client.call("PUT", path, body, doing="Error revoking token")
    click.echo("Success! Revoked token (if it existed)")
    return 0


def _check_revoke(which: str | None, *, own: bool, accessor: bool, mode: str) -> None:
    """Refuses what makes no sense together. Raises LocalError."""
    if mode not in ("", "orphan", "path"):
        raise LocalError(f"Invalid mode: {mode}")
    if own and which is not None:
        raise LocalError("Too many arguments with -self (expected 0, got 1)")
    if not own and which is None:
        raise LocalError("Not enough arguments (expected 1 or -self, got 0)")
    if own and accessor:
        raise LocalError("Cannot use -self with -accessor!")
    for set_, name in ((own, "-self"), (accessor, "-accessor")):
        if set_ and mode:
            raise LocalError(f"Cannot use {name} with -mode={mode}!")


@token.command()
@click.argument("words", nargs=-1, required=True, metavar="[TOKEN] PATH")
@remote(Prints.FORMATS)
def capabilities(client: Client, out: Output, words: tuple[str, ...]) -> int:
    """Show what a token may do at PATH; yours, if none is named."""
    if len(words) > 2:
        raise LocalError(f"Too many arguments (expected 1-2, got {len(words)})")
    doing = "Error listing capabilities"
    if len(words) == 1:
        body = {"path": words[0], "token": client.token or ""}
        found = client.call("POST", "sys/capabilities-self", body, doing=doing)
    else:
        found = client.call("POST", "sys/capabilities", {"path": words[1], "token": words[0]}, doing=doing)
    granted = ((found or {}).get("data") or found or {}).get("capabilities")
    if granted is None:
        raise RemoteError("The server did not say.")
    out.show(sorted(granted), ", ".join(sorted(granted)))
    return 0
