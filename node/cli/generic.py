"""`read`, `write`, `patch`, `delete`, `list`, `scan`, `unwrap`, `path-help`: the API's verbs, at any path."""

import sys
from dataclasses import replace
from typing import Any

import click

from node.cli.arguments import key_values, query_values
from node.cli.client import Client
from node.cli.flags import INTEGER, Command, flag, switch
from node.cli.output import REMOTE_ERROR, LocalError, Output, RemoteError, table
from node.cli.paths import API_PATH
from node.cli.remote import Prints, remote
from node.cli.secret_output import envelope, print_secret, print_warnings
from node.cli.values import Duration

WRAP_TTL = Duration.of_seconds(
    5 * 60
)  # what sys/wrapping/wrap gets if nothing is said: without a TTL it wraps nothing


@click.command(cls=Command)
@click.argument("path", type=API_PATH)
@click.argument("query", nargs=-1, metavar="[K=V]...")
@remote(Prints.RAW)
def read(client: Client, out: Output, path: str, query: tuple[str, ...]) -> int:
    """Read what is at PATH.

    \b
    strongroom read secret/data/app
    strongroom read -field=ttl auth/token/lookup-self
    """
    path, asked = trimmed(path), query_values(query)
    if out.form == "raw":
        answer = client.send("GET", path, query=asked)
        if answer.status != 404:
            client.checked(
                replace(answer, body=answer.body or {}), "GET", path, doing=f"Error reading {path}"
            )
            return _raw(answer.content)
    found = client.read(path, query=asked, doing=f"Error reading {path}")
    if found is None:
        return no_value(path)
    return print_secret(out, found)


def _raw(content: bytes) -> int:
    """The bytes of an answer as they came, and a newline."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content + b"\n")
    sys.stdout.buffer.flush()
    return 0


@click.command(cls=Command)
@click.argument("path", type=API_PATH)
@click.argument("data", nargs=-1, metavar="[K=V]...")
@switch("force", aliases=["f"], help="Write without data.")
@remote(Prints.FIELDS)
def write(client: Client, out: Output, path: str, data: tuple[str, ...], force: bool) -> int:
    """Write data to PATH: key=value, key=@file, key=-, @file.json, or - for JSON on stdin.

    \b
    strongroom write auth/userpass/users/ann password=-
    strongroom write -f sys/rotate
    """
    return _change(client, out, "PUT", path, data, force=force)


@click.command(cls=Command)
@click.argument("path", type=API_PATH)
@click.argument("data", nargs=-1, metavar="[K=V]...")
@switch("force", aliases=["f"], help="Patch without data.")
@remote(Prints.FIELDS)
def patch(client: Client, out: Output, path: str, data: tuple[str, ...], force: bool) -> int:
    """Change some fields of what is at PATH (an HTTP PATCH)."""
    return _change(client, out, "PATCH", path, data, force=force)


def _change(
    client: Client, out: Output, method: str, path: str, data: tuple[str, ...], *, force: bool
) -> int:
    if not data and not force:
        raise LocalError("Must supply data or use -force")
    path, body = trimmed(path), key_values(data)
    if path == "sys/wrapping/wrap" and not client.wrap_ttl:
        client = replace(client, wrap_ttl=WRAP_TTL)
    answer = client.call(method, path, body or None, doing=f"Error writing data to {path}")
    return told(out, answer, f"Success! Data written to: {path}")


@click.command(cls=Command)
@click.argument("path", type=API_PATH)
@click.argument("query", nargs=-1, metavar="[K=V]...")
@remote(Prints.FIELDS)
def delete(client: Client, out: Output, path: str, query: tuple[str, ...]) -> int:
    """Delete what is at PATH."""
    path, asked = trimmed(path), query_values(query)
    answer = client.call("DELETE", path, query=asked, doing=f"Error deleting {path}")
    return told(out, answer, f"Success! Data deleted (if it existed) at: {path}")


def told(out: Output, answer: Any, otherwise: str) -> int:
    """The answer of a write, or a sentence where the server had nothing to say."""
    if answer is None:
        out.say(otherwise)
        return 0
    return print_secret(out, answer)


@click.command("list", cls=Command)
@click.argument("path", type=API_PATH)
@flag("after", help="Begin behind this key.")
@flag("limit", INTEGER, default=-1, help="At most so many.")
@remote(Prints.FORMATS)
def list_(client: Client, out: Output, path: str, after: str | None, limit: int) -> int:
    """List the keys below PATH."""
    return print_list(client, out, trimmed(path), "list", doing="Error listing", after=after, limit=limit)


@click.command(cls=Command)
@click.argument("path", type=API_PATH)
@flag("after", help="Begin behind this key.")
@flag("limit", INTEGER, default=-1, help="At most so many.")
@remote(Prints.FORMATS)
def scan(client: Client, out: Output, path: str, after: str | None, limit: int) -> int:
    """List the keys below PATH and below its folders."""
    return print_list(client, out, trimmed(path), "scan", doing="Error scanning", after=after, limit=limit)


def print_list(
    client: Client,
    out: Output,
    path: str,
    verb: str,
    *,
    doing: str,
    after: str | None = None,
    limit: int = -1,
) -> int:
    """`verb` (list or scan) of a path, printed; exit code 2 if nothing is there."""
    query = (
        {verb: "true"} | ({"after": after} if after else {}) | ({"limit": str(limit)} if limit > 0 else {})
    )
    found = client.read(path, query=query, doing=f"{doing} {path}")
    keys = ((found or {}).get("data") or {}).get("keys")
    if not keys:
        if out.table:
            print_warnings(envelope(found))
            return no_value(path)
        out.value({})
        return REMOTE_ERROR
    if not out.table:
        out.value(keys)
        return 0
    print_warnings(envelope(found))
    click.echo(table(("Keys",), [[key] for key in sorted(keys)]))
    return 0


@click.command(cls=Command)
@click.argument("token", required=False)
@remote(Prints.FIELDS)
def unwrap(client: Client, out: Output, token: str | None) -> int:
    """Unwrap what a one-time TOKEN holds; without TOKEN the client's own token is the one."""
    own = token is None or token == client.token
    asking = client if own or client.token else replace(client, token=token)
    body = None if own or asking is not client else {"token": token}
    answer = asking.call("PUT", "sys/wrapping/unwrap", body, doing="Error unwrapping")
    if not answer:
        raise RemoteError("Could not find wrapped response")
    return print_secret(out, answer)


@click.command("path-help", cls=Command)
@click.argument("path", type=API_PATH)
@remote(Prints.FORMATS)
def path_help(client: Client, out: Output, path: str) -> int:
    """Show the server's own help for PATH."""
    path = trimmed(path)
    answer = client.call("GET", path, query={"help": "1"}, doing="Error retrieving help")
    text = answer.get("help") if isinstance(answer, dict) else None
    if text is None:
        raise RemoteError(f"The server has no help for {path}.")
    out.show(
        {key: answer[key] for key in ("help", "see_also", "openapi") if key in answer}, str(text).rstrip("\n")
    )
    return 0


def trimmed(path: str) -> str:
    """A path without the slashes and blanks around it."""
    return path.strip().strip("/")


def no_value(path: str) -> int:
    """Says that nothing is at a path. Returns the exit code."""
    click.echo(f"No value found at {path}", err=True)
    return REMOTE_ERROR
