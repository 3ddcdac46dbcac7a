"""`strongroom policy ...`: who may do what."""

import sys
from pathlib import Path
from typing import Any

import click

from node.cli.arguments import key_values
from node.cli.client import Client, needed
from node.cli.flags import Command, Group, flag
from node.cli.output import REMOTE_ERROR, LocalError, Output, RemoteError, table
from node.cli.paths import API_PATH
from node.cli.prompt import secret_line
from node.cli.remote import Prints, remote

POLICY_BYTES_MAX = 1024 * 1024


@click.group(cls=Group)
def policy() -> None:
    """Write, read and delete policies."""


@policy.command("list")
@remote(Prints.FORMATS)
def list_(client: Client, out: Output) -> int:
    """List the policies."""
    found = client.call("GET", "sys/policies/acl", query={"list": "true"}, doing="Error listing policies")
    names = sorted(((found or {}).get("data") or {}).get("keys") or ())
    out.show(names, "\n".join(names))
    return 0


@policy.command()
@click.argument("name")
@remote(Prints.FORMATS)
def read(client: Client, out: Output, name: str) -> int:
    """Print a policy."""
    lowered = name.strip().lower()
    found = client.read(f"sys/policies/acl/{lowered}", doing=f"Error reading policy named {lowered}")
    rules = ((found or {}).get("data") or {}).get("policy")
    if not rules:
        click.echo(f"No policy named: {name}", err=True)
        return REMOTE_ERROR
    out.show({"policy": rules}, rules.strip())
    return 0


@policy.command()
@click.argument("name")
@click.argument("path")
@remote()
def write(client: Client, name: str, path: str) -> int:
    """Write a policy from a file; "-" reads it from stdin.

    \b
    strongroom policy write app app.hcl
    """
    lowered = name.strip().lower()
    rules = _from_stdin() if path == "-" else _from_file(path)
    client.call("PUT", f"sys/policies/acl/{lowered}", {"policy": rules}, doing="Error uploading policy")
    if lowered != name:
        click.echo(f'Policy name was converted from "{name}" to "{lowered}"', err=True)
    click.echo(f"Success! Uploaded policy: {lowered}")
    return 0


def _from_stdin() -> str:
    rules = sys.stdin.read(POLICY_BYTES_MAX + 1)
    return _short_enough(rules)


def _from_file(path: str) -> str:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            return _short_enough(file.read(POLICY_BYTES_MAX + 1))
    except OSError as e:
        raise RemoteError(f"Error opening policy file: open {path}: {(e.strerror or str(e)).lower()}") from e
    except UnicodeDecodeError as e:
        raise RemoteError(f"Error opening policy file: {path} is not UTF-8 text") from e


def _short_enough(rules: str) -> str:
    if len(rules) > POLICY_BYTES_MAX:
        raise LocalError(f"The policy is longer than {POLICY_BYTES_MAX} characters.")
    return rules


@policy.command()
@click.argument("name")
@remote()
def delete(client: Client, name: str) -> int:
    """Delete a policy: who had rights by it only has none now."""
    lowered = name.strip().lower()
    client.call("DELETE", f"sys/policies/acl/{lowered}", doing=f"Error deleting {lowered}")
    click.echo(f"Success! Deleted policy: {lowered}")
    return 0


@policy.command()
@click.argument("operation")
@click.argument("path", type=API_PATH)
@click.argument("data", nargs=-1, metavar="[K=V]...")
@flag("policy", multiple=True, variable="policies", help="Who has this policy; repeatable.")
@flag("token", variable="whose", help='Who has this token; "-": from stdin.')
@flag("accessor", help="Who has the token of this accessor.")
@remote(Prints.FORMATS)
def explain(
    client: Client,
    out: Output,
    operation: str,
    path: str,
    data: tuple[str, ...],
    policies: tuple[str, ...],
    whose: str | None,
    accessor: str | None,
) -> int:
    """Say whether OPERATION (read, list, create, ...) of PATH is allowed, and by which rule of which policy.

    Without a flag it is about your own token. Exit code 0: allowed, 2: not.

    \b
    strongroom policy explain read secret/data/app -policy=app
    """
    body: dict[str, Any] = {"operation": operation, "path": path}
    if data:
        body["data"] = key_values(data)
    if policies:
        body["policies"] = list(policies)
    if whose is not None:
        body["token"] = secret_line(whose, "Token")
    if accessor is not None:
        body["accessor"] = accessor
    answer = client.call("PUT", "sys/policies/explain", body, doing="Error explaining")
    found = answer["data"]
    allowed = bool(needed(found, "allowed"))
    out.show(found, _explanation(found, allowed=allowed))
    return 0 if allowed else REMOTE_ERROR


def _explanation(found: dict[str, Any], *, allowed: bool) -> str:
    lines = [f"{'Allowed' if allowed else 'Not allowed'}: {found.get('reason')}."]
    if unknown := found.get("unknown_policies"):
        lines.append(f"These policies do not exist: {', '.join(unknown)}.")
    rules = [(each, decides) for part, decides in _PARTS for each in found.get(part) or ()]
    rows = [
        [each.get("policy"), each.get("path"), ", ".join(each.get("capabilities") or ()), decides]
        for each, decides in rules
    ]
    return "\n".join(lines) + (
        f"\n\n{table(('Policy', 'Path', 'Capabilities', 'Decides'), rows)}" if rows else ""
    )


_PARTS = (("deciding_rules", True), ("other_matching_rules", False))


@policy.command("fmt", cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
def fmt(path: Path) -> int:
    """Write a policy file anew, in the usual form. Comments stay where they are."""
    from node.cli.policy_format import formatted  # here, because a parser is slow to load

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = (getattr(e, "strerror", None) or "not UTF-8 text").lower()
        raise LocalError(f"Error reading source file: open {path}: {reason}") from e
    new = formatted(text)
    if new != text:
        path.write_text(new, encoding="utf-8")
    click.echo(f"Success! Formatted policy: {path}")
    return 0
