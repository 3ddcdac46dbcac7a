"""`strongroom kv metadata ...`: what version 2 keeps about a secret beside its versions."""

from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import DURATION, INTEGER, PAIR, Group, flag, switch
from node.cli.generic import no_value, told
from node.cli.kv_mount import Key, locate, mount_flag, only_version_2
from node.cli.output import LOCAL_ERROR, Output
from node.cli.paths import SECRET_KEY
from node.cli.remote import Prints, remote
from node.cli.secret_output import print_secret, section, titled
from node.cli.values import Duration

UNSAID = -1
_V1 = "Metadata not supported on KV Version 1"

_cas_required = switch(
    "cas-required", default=None, help="Every write must name the version that it replaces."
)
_custom = flag("custom-metadata", PAIR, multiple=True, help="A note about the secret; repeatable.")
_delete_after = flag("delete-version-after", DURATION, help="How long a version lives.")
_max_versions = flag("max-versions", INTEGER, default=UNSAID, help="How many versions are kept.")


@click.group(cls=Group)
def metadata() -> None:
    """Read and change what is known about a secret."""


@metadata.command()
@click.argument("key", type=SECRET_KEY)
@mount_flag
@remote(Prints.FORMATS)
def get(client: Client, out: Output, key: str, mount: str | None) -> int:
    """Show the metadata of a secret and of its versions."""
    place = locate(client, key, mount)
    if (code := only_version_2(place, _V1, LOCAL_ERROR)) is not None:
        return code
    path = place.path("metadata")
    found = client.read(path, doing=f"Error reading {path}")
    if found is None:
        return no_value(path)
    if not out.table or found.get("wrap_info"):
        return print_secret(out, found)
    data = dict(found.get("data") or {})
    versions = data.pop("versions", None) or {}
    click.echo(section("Metadata Path", path) + "\n")
    click.echo(titled("Metadata", data))
    for number in sorted(versions, key=int):
        click.echo("\n" + titled(f"Version {number}", versions[number]))
    return 0


@metadata.command()
@click.argument("key", type=SECRET_KEY)
@_cas_required
@_custom
@_delete_after
@_max_versions
@mount_flag
@remote(Prints.FORMATS)
def put(client: Client, out: Output, key: str, mount: str | None, **settings: Any) -> int:
    """Write the metadata of a secret; custom metadata that is not named goes."""
    place = locate(client, key, mount)
    return _changed(client, out, "PUT", place, _settings(**settings))


@metadata.command()
@click.argument("key", type=SECRET_KEY)
@_cas_required
@_custom
@_delete_after
@_max_versions
@flag("remove-custom-metadata", multiple=True, help="A note to remove; repeatable.")
@mount_flag
@remote(Prints.FORMATS)
def patch(
    client: Client,
    out: Output,
    key: str,
    mount: str | None,
    remove_custom_metadata: tuple[str, ...],
    **settings: Any,
) -> int:
    """Change the metadata of a secret; what is not named stays."""
    body = _settings(**settings)
    if remove_custom_metadata:
        body["custom_metadata"] = body.get("custom_metadata", {}) | dict.fromkeys(remove_custom_metadata)
    return _changed(client, out, "PATCH", locate(client, key, mount), body)


def _settings(
    *,
    cas_required: bool | None,
    custom_metadata: tuple[tuple[str, str], ...],
    delete_version_after: Duration | None,
    max_versions: int,
) -> dict[str, Any]:
    """The body of a change: only what was said."""
    body: dict[str, Any] = {}
    if cas_required is not None:
        body["cas_required"] = cas_required
    if custom_metadata:
        body["custom_metadata"] = dict(custom_metadata)
    if delete_version_after is not None and delete_version_after >= 0:
        body["delete_version_after"] = delete_version_after
    if max_versions > UNSAID:
        body["max_versions"] = max_versions
    return body


def _changed(client: Client, out: Output, method: str, place: Key, body: dict[str, Any]) -> int:
    if (code := only_version_2(place, _V1, LOCAL_ERROR)) is not None:
        return code
    path = place.path("metadata")
    answer = client.call(method, path, body, doing=f"Error writing data to {path}")
    return told(out, answer, f"Success! Data written to: {path}")


@metadata.command()
@click.argument("key", type=SECRET_KEY)
@mount_flag
@remote()
def delete(client: Client, key: str, mount: str | None) -> int:
    """Remove a secret with all its versions, for good."""
    place = locate(client, key, mount)
    if (code := only_version_2(place, _V1, LOCAL_ERROR)) is not None:
        return code
    path = place.path("metadata")
    client.call("DELETE", path, doing=f"Error deleting {path}")
    click.echo(f"Success! Data deleted (if it existed) at: {path}")
    return 0
