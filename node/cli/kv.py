"""`strongroom kv ...`: secrets of key-value engines, of both versions."""

from collections.abc import Mapping
from typing import Any

import click

from node.cli.arguments import key_values
from node.cli.client import Client
from node.cli.flags import INTEGER, Group, flag
from node.cli.generic import no_value, print_list, told, trimmed
from node.cli.kv_mount import Key, locate, mount_flag, only_version_2, versions_of
from node.cli.output import LOCAL_ERROR, REMOTE_ERROR, LocalError, Output, RemoteError
from node.cli.paths import SECRET_KEY
from node.cli.remote import Prints, remote
from node.cli.secret_output import (
    envelope,
    print_field,
    print_map_field,
    print_secret,
    print_warnings,
    section,
    titled,
)

NO_CAS = -1


@click.group(cls=Group, lazy={"metadata": "node.cli.kv_metadata:metadata"})
def kv() -> None:
    """Read and write secrets.

    \b
    strongroom kv put -mount=secret app user=ann password=@file
    strongroom kv get -mount=secret app
    strongroom kv get -mount=secret -field=password app
    """


@kv.command()
@click.argument("key", type=SECRET_KEY)
@click.argument("data", nargs=-1, metavar="[K=V]...")
@flag("cas", INTEGER, default=NO_CAS, help="Only if this is the current version; 0: only if there is none.")
@mount_flag
@remote(Prints.FIELDS)
def put(client: Client, out: Output, key: str, data: tuple[str, ...], cas: int, mount: str | None) -> int:
    """Write a secret: key=value, key=@file, key=-, @file.json, or - for JSON on stdin."""
    if not data:
        raise LocalError("Must supply data")
    body = key_values(data)
    place = locate(client, key, mount)
    path = place.path("data")
    if place.v2:
        body = {"data": body, "options": {"cas": cas} if cas > NO_CAS else {}}
    answer = client.call("PUT", path, body, doing=f"Error writing data to {path}")
    return _written(out, answer, path)


def _written(out: Output, answer: Any, path: str) -> int:
    """What version 2 tells about the version that a write made."""
    if answer is None or out.field is not None or not out.table or answer.get("wrap_info"):
        return told(out, answer, f"Success! Data written to: {path}")
    print_warnings(envelope(answer))
    click.echo(section("Secret Path", path) + "\n")
    click.echo(titled("Metadata", answer.get("data") or {}))
    return 0


@kv.command()
@click.argument("key", type=SECRET_KEY)
@flag("version", INTEGER, default=0, help="This version instead of the newest.")
@mount_flag
@remote(Prints.FIELDS)
def get(client: Client, out: Output, key: str, version: int, mount: str | None) -> int:
    """Read a secret."""
    place = locate(client, key, mount)
    path = place.path("data")
    query = {"version": str(version)} if place.v2 and version > 0 else None
    found = client.read(path, query=query, doing=f"Error reading {path}")
    if found is None:
        return _nothing(place, path)
    if not out.table or found.get("wrap_info") or out.field is not None:
        return _field(out, found, path, v2=place.v2) if out.field is not None else print_secret(out, found)
    print_warnings(envelope(found))
    data = found.get("data") or {}
    if not place.v2:
        click.echo(titled("Data", data))
        return 0
    click.echo(section("Secret Path", path) + "\n")
    if data.get("metadata"):
        click.echo(titled("Metadata", data["metadata"]) + "\n")
    if data.get("data") is not None:
        click.echo(titled("Data", data["data"]))
    return 0


def _nothing(place: Key, path: str) -> int:
    """Says so; and names a mistake that many make once, because the API's path has a word more."""
    code = no_value(path)
    if place.v2 and place.below.startswith("data/"):
        meant = f"-mount={place.mount.rstrip('/')} {place.below.removeprefix('data/')}"
        click.echo(f'The key is named without "data/": strongroom kv get {meant}', err=True)
    return code


def _field(out: Output, found: Mapping[str, Any], path: str, *, v2: bool) -> int:
    """-field of a secret: of its data, which version 2 keeps one level deeper."""
    whole = envelope(found)
    if not v2 or "wrap_info" in whole:
        return print_field(out, whole)
    data = (whole["data"] or {}).get("data")
    if data is None:
        click.echo(f"No data found at {path}", err=True)
        return REMOTE_ERROR
    if out.field == "data" and "data" not in data:
        return print_field(out, whole)
    return print_map_field(out, data)


@kv.command("list")
@click.argument("path", type=SECRET_KEY, required=False)
@mount_flag
@remote(Prints.FORMATS)
def list_(client: Client, out: Output, path: str | None, mount: str | None) -> int:
    """List the secrets below PATH."""
    return _listed(client, out, path, mount, "list", "Error listing")


@kv.command()
@click.argument("path", type=SECRET_KEY, required=False)
@mount_flag
@remote(Prints.FORMATS)
def scan(client: Client, out: Output, path: str | None, mount: str | None) -> int:
    """List the secrets below PATH and below its folders."""
    return _listed(client, out, path, mount, "scan", "Error scanning")


def _listed(client: Client, out: Output, path: str | None, mount: str | None, verb: str, doing: str) -> int:
    if path is None and not mount:
        raise LocalError("Not enough arguments (expected 1, got 0)")
    return print_list(client, out, locate(client, path or "", mount).path("metadata"), verb, doing=doing)


@kv.command()
@click.argument("key", type=SECRET_KEY)
@click.argument("data", nargs=-1, metavar="[K=V]...")
@flag("cas", INTEGER, default=0, help="Only if this is the current version.")
@flag(
    "method",
    help='"patch": one request; "rw": read, change and write.  [default: patch, or rw where it is unknown]',
)
@flag("remove-data", multiple=True, help="A field to remove; repeatable.")
@mount_flag
@remote(Prints.FIELDS)
def patch(
    client: Client,
    out: Output,
    key: str,
    data: tuple[str, ...],
    cas: int,
    method: str | None,
    remove_data: tuple[str, ...],
    mount: str | None,
) -> int:
    """Change some fields of a secret, and keep the others."""
    if method not in (None, "", "patch", "rw"):
        raise RemoteError(f"Unsupported method provided to -method flag: {method}")
    if not data and not remove_data:
        raise LocalError("Must supply data")
    changes = key_values(data) | dict.fromkeys(remove_data)
    place = locate(client, key, mount)
    if not place.v2:
        raise RemoteError("K/V engine mount must be version 2 for patch support")
    path = place.path("data")
    if method == "rw":
        return _read_then_write(client, out, path, changes)
    body = {"data": changes, "options": {"cas": cas} if cas > 0 else {}}
    answer = client.send("PATCH", path, body)
    if answer.status == 405 and not method:
        return _read_then_write(client, out, path, changes)
    return _written(out, client.checked(answer, "PATCH", path, doing=f"Error writing data to {path}"), path)


def _read_then_write(client: Client, out: Output, path: str, changes: Mapping[str, Any]) -> int:
    """The same for those who may read and write, but not patch. Another's write in between is not lost."""
    found = client.read(path, doing=f"Error doing pre-read at {path}")
    data = ((found or {}).get("data") or {}).get("data")
    if not isinstance(data, dict):
        return no_value(path)
    assert found is not None
    merged = {
        key: value for key, value in {**data, **changes}.items() if key not in changes or value is not None
    }
    body = {"data": merged, "options": {"cas": found["data"]["metadata"]["version"]}}
    return _written(out, client.call("PUT", path, body, doing=f"Error writing data to {path}"), path)


@kv.command()
@click.argument("key", type=SECRET_KEY)
@flag("versions", multiple=True, help="These versions instead of the newest, as in 1,2.")
@mount_flag
@remote(Prints.FIELDS)
def delete(client: Client, out: Output, key: str, versions: tuple[str, ...], mount: str | None) -> int:
    """Delete the newest version of a secret, or those named; in version 2 undelete brings them back."""
    place = locate(client, key, mount)
    path, chosen = place.path("data"), versions_of(versions)
    doing = f"Error deleting {path}"
    if place.v2 and chosen:
        answer = client.call("PUT", place.path("delete"), {"versions": chosen}, doing=doing)
    else:
        answer = client.call("DELETE", path, doing=doing)
    return told(out, answer, f"Success! Data deleted (if it existed) at: {path}")


@kv.command()
@click.argument("key", type=SECRET_KEY)
@flag("versions", multiple=True, help="Which, as in 1,2.")
@mount_flag
@remote(Prints.FORMATS)
def undelete(client: Client, out: Output, key: str, versions: tuple[str, ...], mount: str | None) -> int:
    """Bring deleted versions back."""
    return _by_version(client, out, key, versions, mount, "undelete")


@kv.command()
@click.argument("key", type=SECRET_KEY)
@flag("versions", multiple=True, help="Which, as in 1,2.")
@mount_flag
@remote(Prints.FORMATS)
def destroy(client: Client, out: Output, key: str, versions: tuple[str, ...], mount: str | None) -> int:
    """Remove the data of versions for good."""
    return _by_version(client, out, key, versions, mount, "destroy")


def _by_version(
    client: Client, out: Output, key: str, versions: tuple[str, ...], mount: str | None, verb: str
) -> int:
    if not (chosen := versions_of(versions)):
        raise LocalError(f'No versions provided, use the "-versions" flag to specify the version to {verb}.')
    place = locate(client, key, mount)
    code = only_version_2(place, f"{verb.capitalize()} not supported on KV Version 1", LOCAL_ERROR)
    if code is not None:
        return code
    path = place.path(verb)
    answer = client.call("PUT", path, {"versions": chosen}, doing=f"Error writing data to {path}")
    return told(out, answer, f"Success! Data written to: {path}")


@kv.command()
@click.argument("key", type=SECRET_KEY)
@flag("version", INTEGER, default=0, help="Which version to write again.")
@mount_flag
@remote(Prints.FORMATS)
def rollback(client: Client, out: Output, key: str, version: int, mount: str | None) -> int:
    """Write an old version again, as a new one."""
    if version <= 0:
        raise LocalError("Version flag must be specified")
    place = locate(client, key, mount)
    code = only_version_2(place, "K/V engine mount must be version 2 for rollback support", REMOTE_ERROR)
    if code is not None:
        return code
    path = place.path("data")
    current = _metadata(client.read(path, doing=f"Error doing pre-read at {path}"))
    wanted = client.read(path, query={"version": str(version)}, doing=f"Error doing pre-read at {path}")
    if current is None or wanted is None or (old := _metadata(wanted)) is None:
        return no_value(path)
    for field, word in (("deletion_time", "deleted"), ("destroyed", "destroyed")):
        if old.get(field):
            raise RemoteError(f"Cannot roll back to a version that has been {word}")
    body = {"data": wanted["data"]["data"], "options": {"cas": current["version"]}}
    return print_secret(out, client.call("PUT", path, body, doing=f"Error writing data to {path}"))


def _metadata(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return ((found or {}).get("data") or {}).get("metadata")


@kv.command("enable-versioning")
@click.argument("path")
@remote(Prints.FORMATS)
def enable_versioning(client: Client, out: Output, path: str) -> int:
    """Make a version 1 engine at PATH a version 2 engine."""
    where = trimmed(path)
    body = {
        "options": {"version": "2"},
        "default_lease_ttl": "",
        "max_lease_ttl": "",
        "force_no_cache": False,
    }
    answer = client.call(
        "POST", f"sys/mounts/{where}/tune", body, doing=f"Error tuning secrets engine {where}"
    )
    print_warnings(envelope(answer))
    out.say(f"Success! Tuned the secrets engine at: {where}/")
    return 0
