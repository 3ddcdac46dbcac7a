"""`strongroom lease ...`: look up, renew and revoke what was issued for a time."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, Group, flag, switch
from node.cli.generic import trimmed
from node.cli.output import LocalError, Output
from node.cli.remote import Prints, remote
from node.cli.secret_output import print_secret
from node.cli.values import Duration

_FORCED = """\
Warning! Force-removing leases can cause the store to become out of sync with
secret engines!"""


@click.group(cls=Group)
def lease() -> None:
    """Look up, renew and revoke leases."""


@lease.command()
@click.argument("lease_id", metavar="ID")
@remote(Prints.FORMATS)
def lookup(client: Client, out: Output, lease_id: str) -> int:
    """Show what the server knows about a lease."""
    doing = f"error looking up lease id {lease_id}"
    return print_secret(out, client.call("PUT", "sys/leases/lookup", {"lease_id": lease_id}, doing=doing))


@lease.command()
@click.argument("lease_id", metavar="ID")
@flag("increment", DURATION, aliases=["i"], help="For how long; the server may grant less.")
@remote(Prints.FORMATS)
def renew(client: Client, out: Output, lease_id: str, increment: Duration | None) -> int:
    """Renew a lease."""
    body: dict[str, Any] = {"increment": increment.seconds if increment else 0, "lease_id": lease_id}
    return print_secret(out, client.call("PUT", "sys/leases/renew", body, doing=f"Error renewing {lease_id}"))


@lease.command()
@click.argument("lease_id", metavar="ID")
@switch("prefix", help="Revoke all leases whose ids begin with ID.")
@switch("force", aliases=["f"], help="Forget them even if they cannot be revoked; needs -prefix.")
@switch("sync", help="Wait until it is done.")
@remote()
def revoke(client: Client, lease_id: str, prefix: bool, force: bool, sync: bool) -> int:
    """Revoke a lease, or all below a prefix."""
    if force and not prefix:
        raise LocalError("Specifying -force requires also specifying -prefix")
    named = trimmed(lease_id)
    if force:
        click.echo(_FORCED, err=True)
        doing = f"Error force revoking leases with prefix {named}"
        client.call("PUT", f"sys/leases/revoke-force/{named}", doing=doing)
        click.echo(f"Success! Force revoked any leases with prefix: {named}")
        return 0
    what = "leases with prefix" if prefix else "lease"
    path = f"sys/leases/{'revoke-prefix' if prefix else 'revoke'}/{named}"
    client.call("PUT", path, {"sync": sync}, doing=f"Error revoking {what} {named}")
    if not sync:
        click.echo("All revocation operations queued successfully!")
    elif prefix:
        click.echo(f"Success! Revoked any leases with prefix: {named}")
    else:
        click.echo(f"Success! Revoked lease: {named}")
    return 0
