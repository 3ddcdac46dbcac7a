"""What secrets engines and auth methods have in common: they are enabled, tuned, moved, listed and disabled."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, INTEGER, PAIR, F, flag, switch
from node.cli.generic import trimmed
from node.cli.output import LocalError, Output, RemoteError, table
from node.cli.remote import Prints, remote
from node.cli.secret_output import envelope, print_warnings
from node.cli.values import Duration, shown

MOVE_POLL_S = 0.1
MOVE_TIMEOUT_S = 600.0
_ORDER = ("uuid", "type", "description", "accessor", "config", "options", "local", "seal_wrap",
          "external_entropy_access", "plugin_version", "running_plugin_version", "running_sha256",
          "deprecation_status")  # fmt: skip
_CONFIG_ORDER = ("default_lease_ttl", "max_lease_ttl", "force_no_cache", "audit_non_hmac_request_keys",
                 "audit_non_hmac_response_keys", "listing_visibility", "passthrough_request_headers",
                 "allowed_response_headers", "token_type")  # fmt: skip
_LISTS = ("audit_non_hmac_request_keys", "audit_non_hmac_response_keys", "passthrough_request_headers",
          "allowed_response_headers")  # fmt: skip
_WITHOUT_LEASES = frozenset({"system", "cubbyhole"})


Columns = tuple[tuple[str, Callable[[Mapping[str, Any]], object]], ...]


@dataclass(frozen=True)
class Kind:
    """What differs between secrets engines and auth methods."""

    what: str  # one of them, for people
    at: str  # their path
    listing: str  # what goes wrong when they are listed
    brief: Columns  # of the short list
    own: Columns  # of the detailed list, besides what both have
    ends: str  # what ends with one, and with a move of it

    @property
    def one(self) -> str:
        return f"{'an' if self.what[0] in 'aeiou' else 'a'} {self.what}"


def add_commands(group: click.Group, kind: Kind) -> None:
    """list, move and disable."""

    @group.command("list", help=f"List the {kind.what}s.")
    @switch("detailed", help="Show everything.")
    @remote(Prints.FORMATS)
    def list_(client: Client, out: Output, detailed: bool) -> int:
        found = mounts_of(client.call("GET", kind.at, doing=kind.listing))
        return print_mounts(out, found, detailed=detailed, brief=kind.brief, own=kind.own)

    @group.command("move", help=f"Move {kind.one} to another path. {kind.ends}")
    @click.argument("source")
    @click.argument("destination")
    @remote()
    def move_(client: Client, source: str, destination: str) -> int:
        return move(client, kind.what, source, destination)

    @group.command("disable", help=f"Disable {kind.one}. {kind.ends}")
    @click.argument("path")
    @remote()
    def disable(client: Client, path: str) -> int:
        where = place(path, "")
        doing = f"Error disabling {kind.what} at {where}"
        client.call("DELETE", f"{kind.at}/{where.rstrip('/')}", doing=doing)
        click.echo(f"Success! Disabled the {kind.what} (if it existed) at: {where}")
        return 0


def enable_flags(command: F) -> F:
    """The flags that only enabling takes."""
    for decorate in (
        switch("external-entropy-access", hidden=True),
        flag("plugin-name", hidden=True),
        switch("seal-wrap", help="Encrypt critical values under the seal too, where the server can."),
        switch("local", help="Not replicated to other regions."),
        flag("path", help="Where; by default its type."),
    ):
        command = decorate(command)
    return command


def config_flags(command: F) -> F:
    """The flags that enabling and tuning take."""
    for decorate in (
        flag("plugin-version", hidden=True),
        flag("version", INTEGER, default=0, help="The engine's version."),
        flag("options", PAIR, multiple=True, help="An option of the engine, key=value; repeatable."),
        flag("listing-visibility", help='"unauth" shows it to everybody; "hidden" does not.'),
        flag("allowed-response-headers", multiple=True, help="A header that it may answer with; repeatable."),
        flag("passthrough-request-headers", multiple=True, help="A header that it gets; repeatable."),
        flag(
            "audit-non-hmac-response-keys",
            multiple=True,
            help="An answer's key audited in clear; repeatable.",
        ),
        flag(
            "audit-non-hmac-request-keys", multiple=True, help="A request's key audited in clear; repeatable."
        ),
        flag("max-lease-ttl", DURATION, help="The longest lifetime of what it issues."),
        flag("default-lease-ttl", DURATION, help="The usual lifetime of what it issues."),
        flag("description", help="What it is for."),
    ):
        command = decorate(command)
    return command


def _common(said: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that is left out when nothing was said."""
    found: dict[str, Any] = {name: list(said[name]) for name in _LISTS if said[name]}
    for name in ("listing_visibility", "plugin_version", "token_type"):
        if said.get(name):
            found[name] = said[name]
    return found


def _options(said: Mapping[str, Any]) -> dict[str, str] | None:
    found = dict(said["options"]) | ({"version": str(said["version"])} if said["version"] > 0 else {})
    return found or None


def enable_body(kind: str, said: Mapping[str, Any], *, force_no_cache: bool = False) -> dict[str, Any]:
    """What enabling sends; `said`: the flags."""
    config = {
        "options": None,
        "default_lease_ttl": said["default_lease_ttl"] or Duration(0),
        "max_lease_ttl": said["max_lease_ttl"] or Duration(0),
        "force_no_cache": force_no_cache,
    }
    return {
        "type": said["plugin_name"] or kind if kind == "plugin" else kind,
        "description": said["description"] or "",
        "config": config | _common(said),
        "local": said["local"],
        "seal_wrap": said["seal_wrap"],
        "external_entropy_access": said["external_entropy_access"],
        "options": _options(said),
    }


def tune_body(said: Mapping[str, Any]) -> dict[str, Any]:
    """What tuning sends: "" for a lifetime that stays, no description unless one was said."""
    lifetimes = {name: said[name] for name in ("default_lease_ttl", "max_lease_ttl")}
    body: dict[str, Any] = {"options": _options(said)}
    body |= {name: "" if value is None else value for name, value in lifetimes.items()}
    body["force_no_cache"] = False
    if said["description"] is not None:
        body["description"] = said["description"]
    return body | _common(said)


def place(path: str | None, kind: str) -> str:
    """Where something is enabled: a path with its slash."""
    where = trimmed(path or "") or trimmed(kind)
    if not where:
        raise LocalError("A path is needed.")
    return f"{where}/"


def tune(client: Client, what: str, path: str, where: str, body: Mapping[str, Any]) -> int:
    """Send a tuning and say so."""
    answer = client.call("POST", f"sys/mounts/{where}tune", body, doing=f"Error tuning {what} {path}")
    print_warnings(envelope(answer))
    click.echo(f"Success! Tuned the {what} at: {path}")
    return 0


def move(client: Client, what: str, source: str, destination: str, prefix: str = "") -> int:
    """Move a mount, and wait until it has moved."""
    from_, to = place(source, ""), place(destination, "")
    doing = f"Error moving {what} {from_} to {to}"
    body = {"from": f"{prefix}{from_}", "to": f"{prefix}{to}"}
    answer = client.call("POST", "sys/remount", body, doing=doing)
    migration = ((answer or {}).get("data") or {}).get("migration_id", "")
    with_id = f"{from_} to {to}, with migration ID {migration}"
    click.echo(f"Started moving {what} {with_id}")
    if not migration:
        return 0
    deadline = time.monotonic() + MOVE_TIMEOUT_S
    while (state := _state(client, migration, doing)) == "in-progress":
        if time.monotonic() > deadline:
            raise RemoteError(f"The outcome is unknown: {what} {with_id} is still being moved.")
        time.sleep(MOVE_POLL_S)
    if state != "success":
        raise RemoteError(f"Failure! Error moving {what} {with_id}")
    click.echo(f"Success! Finished moving {what} {with_id}")
    return 0


def _state(client: Client, migration: str, doing: str) -> str:
    found = client.call("GET", f"sys/remount/status/{migration}", doing=doing)
    return str(((found or {}).get("data") or {}).get("migration_info", {}).get("status", ""))


def mounts_of(body: Any) -> dict[str, dict[str, Any]]:
    """The mounts in an answer of sys/mounts or sys/auth, in order, each in the order of its fields."""
    data = body.get("data", body) if isinstance(body, dict) else {}
    found = {
        path: mount for path, mount in sorted(data.items()) if isinstance(mount, dict) and path.endswith("/")
    }
    return {path: _ordered(mount) for path, mount in found.items()}


def _ordered(mount: Mapping[str, Any]) -> dict[str, Any]:
    whole = {key: mount.get(key, "") for key in _ORDER}
    config = mount.get("config") or {}
    whole["config"] = {key: config[key] for key in _CONFIG_ORDER if key in config} | {
        key: config[key] for key in sorted(config) if key not in _CONFIG_ORDER
    }
    whole["options"] = mount.get("options")
    return whole


def print_mounts(
    out: Output,
    mounts: Mapping[str, Mapping[str, Any]],
    *,
    detailed: bool,
    brief: Columns,
    own: Columns = (),
) -> int:
    """A list of mounts; `brief`: the columns of the short list, `own`: what the detailed one has besides."""
    if not out.table:
        out.value(mounts)
        return 0
    shown_columns = _detailed(own) if detailed else brief
    rows = [[path, *(value(mount) for _, value in shown_columns)] for path, mount in mounts.items()]
    click.echo(table(("Path", *(title for title, _ in shown_columns)), rows))
    return 0


def _detailed(own: Columns) -> Columns:
    return (
        ("Plugin", lambda mount: mount["type"]),
        ("Accessor", lambda mount: mount["accessor"]),
        ("Default TTL", lambda mount: _lifetime(mount, "default_lease_ttl")),
        ("Max TTL", lambda mount: _lifetime(mount, "max_lease_ttl")),
        *own,
        ("Replication", lambda mount: "local" if mount["local"] else "replicated"),
        ("Seal Wrap", lambda mount: bool(mount["seal_wrap"])),
        ("External Entropy Access", lambda mount: bool(mount["external_entropy_access"])),
        ("Options", lambda mount: shown(mount["options"] or {})),
        ("Description", lambda mount: mount["description"]),
        ("UUID", lambda mount: mount["uuid"]),
        ("Version", lambda mount: mount["plugin_version"]),
        ("Running Version", lambda mount: mount["running_plugin_version"]),
        ("Running SHA256", lambda mount: mount["running_sha256"]),
        ("Deprecation Status", lambda mount: mount["deprecation_status"]),
    )


def _lifetime(mount: Mapping[str, Any], field: str) -> object:
    if mount["type"] in _WITHOUT_LEASES:
        return None
    return mount["config"].get(field) or "system"
