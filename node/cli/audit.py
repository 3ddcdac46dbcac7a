"""`strongroom audit ...`: where records of every request are written. Devices are set up in the configuration."""

import click

from node.cli.arguments import key_values
from node.cli.client import Client
from node.cli.flags import Group, flag, switch
from node.cli.mounts import place
from node.cli.output import REMOTE_ERROR, Output, table
from node.cli.remote import Prints, remote


@click.group(cls=Group)
def audit() -> None:
    """Look at the audit devices."""


@audit.command("list")
@switch("detailed", help="Show everything.")
@remote(Prints.FORMATS)
def list_(client: Client, out: Output, detailed: bool) -> int:
    """List the audit devices."""
    body = client.call("GET", "sys/audit", doing="Error listing audits")
    data = body.get("data", body) if isinstance(body, dict) else {}
    devices = {path: device for path, device in sorted(data.items()) if isinstance(device, dict)}
    if not out.table:
        out.value({path: {key: device.get(key) for key in _FIELDS} for path, device in devices.items()})
        return 0
    if not devices:
        click.echo("No audit devices are enabled.")
        return REMOTE_ERROR
    if not detailed:
        rows = [[path, device.get("type"), device.get("description")] for path, device in devices.items()]
        click.echo(table(("Path", "Type", "Description"), rows))
        return 0
    details = [
        [
            path,
            device.get("type"),
            device.get("description"),
            "local" if device.get("local") else "replicated",
            " ".join(f"{key}={value}" for key, value in sorted((device.get("options") or {}).items())),
        ]
        for path, device in devices.items()
    ]
    click.echo(table(("Path", "Type", "Description", "Replication", "Options"), details))
    return 0


@audit.command()
@click.argument("type_", metavar="TYPE")
@click.argument("options", nargs=-1, metavar="[K=V]...")
@flag("path", help="Where; by default its type.")
@flag("description", default="", help="What it is for.")
@switch("local", help="Not replicated to other regions.")
@remote()
def enable(
    client: Client, type_: str, options: tuple[str, ...], path: str | None, description: str, local: bool
) -> int:
    """Enable an audit device, on servers that take one from their API: file file_path=... ."""
    where = place(path, type_)
    body = {"type": type_, "description": description, "options": key_values(options), "local": local}
    client.call("PUT", f"sys/audit/{where.rstrip('/')}", body, doing="Error enabling audit device")
    click.echo(f"Success! Enabled the {type_} audit device at: {where}")
    return 0


@audit.command()
@click.argument("path")
@remote()
def disable(client: Client, path: str) -> int:
    """Disable an audit device, on servers that let their API do that."""
    where = place(path, "")
    client.call("DELETE", f"sys/audit/{where.rstrip('/')}", doing="Error disabling audit device")
    click.echo(f"Success! Disabled audit device (if it was enabled) at: {where}")
    return 0


_FIELDS = ("type", "description", "options", "local", "path")
