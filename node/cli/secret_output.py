"""An answer's envelope, printed: as a table for people, whole for programs, or one field of it.

The forms, their order and their spelling are those of Vault's tools, because scripts read them.
"""

import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from node.cli.output import LOCAL_ERROR, Output, heading, pairs
from node.cli.values import dumps, go_time, quoted_list, short_duration, shown, sorted_deeply, table_value

WARNING_WIDTH = 78
_ENVELOPE = frozenset({"request_id", "data", "auth", "wrap_info", "lease_id"})
_AUTH = ("client_token", "accessor", "policies", "token_policies", "identity_policies", "metadata", "orphan",
         "entity_id", "lease_duration", "renewable", "mfa_requirement")  # fmt: skip
_WRAP = ("token", "accessor", "ttl", "creation_time", "creation_path", "wrapped_accessor")
_WRAP_DEFAULTS = {"ttl": 0, "wrapped_accessor": ""}
_AUTH_FIELDS = {"token": "client_token", "token_accessor": "accessor", "token_duration": "lease_duration",
                "token_renewable": "renewable", "token_policies": "token_policies",
                "identity_policies": "identity_policies", "policies": "policies"}  # fmt: skip
_WRAP_FIELDS = {"wrapping_token": "token", "wrapping_accessor": "accessor", "wrapping_token_ttl": "ttl",
                "wrapping_token_creation_time": "creation_time", "wrapping_token_creation_path": "creation_path",
                "wrapped_accessor": "wrapped_accessor"}  # fmt: skip


def envelope(body: Mapping[str, Any] | None) -> dict[str, Any]:
    """An answer in the order in which programs get it; one that came without an envelope gets one."""
    told = dict(body or {})
    if told and not _ENVELOPE & told.keys():
        told = {"data": told}
    wrapped, auth = told.get("wrap_info"), told.get("auth")
    whole: dict[str, Any] = {
        "request_id": told.get("request_id", ""),
        "lease_id": told.get("lease_id", ""),
        "lease_duration": told.get("lease_duration", 0),
        "renewable": told.get("renewable", False),
        "data": sorted_deeply(told.get("data")),
        "warnings": told.get("warnings"),
    }
    if auth:
        whole["auth"] = {key: sorted_deeply(auth.get(key)) for key in _AUTH}
    if wrapped:
        whole["wrap_info"] = {key: wrapped.get(key, _WRAP_DEFAULTS.get(key)) for key in _WRAP}
    return whole


def print_secret(out: Output, body: Mapping[str, Any] | None) -> int:
    """The whole answer, or the field that -field names. Returns the exit code."""
    whole = envelope(body)
    if out.field is not None:
        if out.table:
            print_warnings(whole)
        return print_field(out, whole)
    if not out.table:
        out.value(whole)
        return 0
    print_warnings(whole)
    if rows := _rows(whole):
        click.echo(pairs(rows))
    return 0


def print_warnings(whole: Mapping[str, Any]) -> None:
    """What the server wants a person to know, on stderr."""
    if not (warnings := whole.get("warnings")):
        return
    click.echo("WARNING! The following warnings were returned from the server:\n", err=True)
    for warning in warnings:
        lines = textwrap.wrap(
            f"* {warning}", WARNING_WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False
        )
        click.echo("\n".join(lines) + "\n", err=True)


def _rows(whole: Mapping[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if whole["lease_duration"]:
        lasts = short_duration(whole["lease_duration"])
        if whole["lease_id"]:
            rows += [
                ("lease_id", whole["lease_id"]),
                ("lease_duration", lasts),
                ("lease_renewable", whole["renewable"]),
            ]
        else:
            rows.append(("refresh_interval", lasts))
    if auth := whole.get("auth"):
        rows += _auth_rows(auth)
    if wrapped := whole.get("wrap_info"):
        rows += _wrap_rows(wrapped)
    return rows + data_rows(whole["data"])


def _auth_rows(auth: Mapping[str, Any]) -> list[tuple[str, object]]:
    lasts = short_duration(auth["lease_duration"]) if auth["lease_duration"] else "∞"
    rows: list[tuple[str, object]] = [
        ("token", auth["client_token"]),
        ("token_accessor", auth["accessor"]),
        ("token_duration", lasts),
        ("token_renewable", bool(auth["renewable"])),
    ]
    rows += [(name, quoted_list(auth[name])) for name in ("token_policies", "identity_policies", "policies")]
    return rows + [(f"token_meta_{key}", shown(value)) for key, value in (auth["metadata"] or {}).items()]


def _wrap_rows(wrapped: Mapping[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("wrapping_token:", wrapped["token"]),
        ("wrapping_accessor:", wrapped["accessor"]),
        ("wrapping_token_ttl:", short_duration(wrapped["ttl"])),
        ("wrapping_token_creation_time:", go_time(wrapped["creation_time"])),
        ("wrapping_token_creation_path:", wrapped["creation_path"]),
    ]
    return rows + (
        [("wrapped_accessor:", wrapped["wrapped_accessor"])] if wrapped["wrapped_accessor"] else []
    )


def data_rows(data: Any) -> list[tuple[str, object]]:
    """The fields of a map, in order, as a table shows them."""
    if not isinstance(data, Mapping):
        return []
    return [(key, table_value(key, data[key])) for key in sorted(data)]


def section(title: str, text: str) -> str:
    """A line under a heading that is about as wide."""
    return f"{heading(title, len(text))}\n{text}"


def titled(title: str, data: Mapping[str, Any]) -> str:
    """A table of a map under a heading that is about as wide."""
    width = max((len(key) for key in data), default=0) + len("    Value")
    return f"{heading(title, width)}\n{pairs(data_rows(data))}" if data else heading(title, width)


def raw_field(whole: Mapping[str, Any], field: str) -> Any:
    """What -field=`field` means in an answer; None where it is not there."""
    data = whole.get("data") or {}
    for part, names in (("auth", _AUTH_FIELDS), ("wrap_info", _WRAP_FIELDS)):
        if (found := whole.get(part)) and field in names:
            return found[names[field]]
    if field == "data" and data.get("data") is None:
        return data or None
    if field == "refresh_interval":
        return whole["lease_duration"]
    return data.get(field)


def print_field(out: Output, whole: Mapping[str, Any]) -> int:
    """-field of an answer. Returns the exit code."""
    assert out.field is not None
    return print_bare(out, raw_field(whole, out.field), "secret")


def print_map_field(out: Output, found: Mapping[str, Any]) -> int:
    """-field of a map of the answer. Returns the exit code."""
    assert out.field is not None
    return print_bare(out, found.get(out.field), "map")


def print_bare(out: Output, value: Any, where: str) -> int:
    """One value without a newline behind it, so that it can be piped on."""
    if value is None:
        click.echo(f'Field "{out.field}" not present in {where}', err=True)
        return LOCAL_ERROR
    if out.form == "yaml":
        out.value(value)
        return 0
    newline = sys.stdout.isatty()
    click.echo(dumps(value) if out.form == "json" else shown(value), nl=newline)
    return 0
