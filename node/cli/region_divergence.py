"""`strongroom region divergence`: what a region ordered and the history does not have; written again, or discarded."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from node.cli import region_authors
from node.cli.client import Client, needed
from node.cli.flags import Command, flag
from node.cli.output import Output, table
from node.cli.remote import Prints, remote

FILE = click.Path(path_type=Path)
EVERYTHING = "all"  # no entry is called like this
SOME_REFUSED = 2


@click.command(cls=Command)
@flag(
    "replay", default="", help='Write this entry again, where writes are ordered; "all": each, oldest first.'
)
@flag("discard", default="", help='Forget this entry; "all": each of them.')
@flag("audit", FILE, multiple=True, help="An audit file of this region's nodes: who wrote what; repeatable.")
@remote(Prints.FORMATS)
def divergence(client: Client, out: Output, replay: str, discard: str, audit: tuple[Path, ...]) -> int:
    """List what this region ordered and the history does not have; write an entry again, or discard it.

    Exit code 2 if of all entries some are refused.
    """
    if replay and discard:
        raise click.UsageError("-replay and -discard are done one after the other")
    if EVERYTHING in (replay, discard):
        return _each(client, out, "POST" if replay else "DELETE")
    if replay:
        told = needed(client.call("POST", _path(replay), {}), "data")
        out.show(
            told,
            f"Success! {told['path']} has version {told['version']}."
            if told["path"]
            else f"Success! Nobody had written anything in {replay}: it is forgotten.",
        )
        return 0
    if discard:
        client.call("DELETE", _path(discard))
        click.echo(f"Success! {discard} is forgotten.")
        return 0
    entries = _entries(client)
    if audit:
        authors = region_authors.find(entries, audit)
        for each in entries:
            each["by"] = authors.get(each["id"])
    out.show(entries, _listed(entries, with_authors=bool(audit)))
    return 0


def _path(entry: str) -> str:
    return f"sys/regions/divergence/{entry}"


def _each(client: Client, out: Output, method: str) -> int:
    """One after the other, whatever becomes of each. Where the server is no help any more it ends, says what was done,
    and raises RemoteError.
    """
    found: list[dict[str, Any]] = []
    refused, entries = 0, _entries(client)
    try:
        for entry in entries:
            outcome, is_refused = _one(client, method, entry)
            refused += is_refused
            found.append({"id": entry["id"], "path": _place(entry), "outcome": outcome})
    finally:
        rows = [[each["id"], each["path"], each["outcome"]] for each in found]
        out.show(found, table(("Entry", "Path", "Outcome"), rows, empty="-"))
    return SOME_REFUSED if refused else 0


def _one(client: Client, method: str, entry: dict[str, Any]) -> tuple[str, bool]:
    """What became of an entry, and whether it was refused. Raises RemoteError."""
    path = _path(entry["id"])
    answer = client.send(method, path, {})
    if answer.status == HTTPStatus.BAD_REQUEST:
        return "; ".join(answer.told), True
    if answer.status == HTTPStatus.NOT_FOUND:
        return "gone already", False
    told = client.checked(answer, method, path)
    return _outcome(needed(told, "data")) if method == "POST" else "discarded", False


def _outcome(told: dict[str, Any]) -> str:
    return f"version {told['version']}" if told["path"] else "nothing to be written: forgotten"


def _entries(client: Client) -> list[dict[str, Any]]:
    """All of them: the server tells so many at a time."""
    entries: list[dict[str, Any]] = []
    after = ""
    while True:
        told = needed(client.call("GET", "sys/regions/divergence", query={"after": after}), "data")
        entries += told["entries"]
        after = told["next"]
        if not after:
            return entries


def _listed(entries: list[dict[str, Any]], *, with_authors: bool) -> str:
    headings = ["Entry", "Time", "Kind", "Path", "Version"]
    rows = [[each["id"], each["time"], each["kind"], _place(each), each.get("version")] for each in entries]
    if with_authors:
        headings += ["By", "Accessor", "From"]
        for row, each in zip(rows, entries, strict=True):
            by = each["by"] or {}
            row += [by.get("display_name"), by.get("accessor"), by.get("remote_address")]
    return table(headings, rows, empty="-")


def _place(entry: dict[str, Any]) -> str:
    """Where it is, as far as there is a place; of several at once, what they are."""
    return str(
        f"{entry.get('mount') or ''}{entry.get('path') or ''}"
        or entry.get("name")
        or ", ".join(entry.get("kinds", ()))
    )
