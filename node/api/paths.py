"""The one normaliser of request paths. Everything behind it sees canonical names only, decoded exactly once.

A path that another reader (a proxy, a policy, a person) could take for a different one is never evaluated:
relative and empty segments are answered with a redirect to the path they stand for, as Go's mux does, and
escapes that hide a separator or a dot are refused.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec

PREFIX = "/v1/"
QUERY_FIELDS_MAX = 32

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ORDINARY = re.compile(r"[A-Za-z0-9/_-]+")  # means what it says
_PLAIN = re.compile(r"/v1(?:/[A-Za-z0-9_-]+)+")  # ... and is canonical
_HIDDEN = re.compile(r"%2[EeFf]")  # "." and "/"
_SAFE = "/!$&'()*+,-.:;=@_~"
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


class BadPath(ValueError):
    """The request target has more than one reading, or none. The message is for the caller."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Ask for this instead; percent-encoded, with the query."""

    location: str


class Target(msgspec.Struct, frozen=True):
    """A canonical target: `path` is what comes after "/v1/", None if the target lies outside it."""

    path: str | None
    query: dict[str, str]


def parse(target: str) -> Target | Redirect:
    """The meaning of an HTTP request target in origin form. Raises BadPath."""
    if _PLAIN.fullmatch(target):
        return Target(target[len(PREFIX) :], {})
    escaped, _, query = target.partition("?")
    if not escaped.startswith("/") or "#" in target:
        raise BadPath("malformed request target")
    path = _decode(escaped)
    clean = _clean(path)
    if clean != path:
        return Redirect(quote(clean, safe=_SAFE) + (f"?{query}" if query else ""))
    if not path.startswith(PREFIX):
        return Target(None, {})
    return Target(path[len(PREFIX) :], parse_query(query) if query else {})


def parse_query(query: str) -> dict[str, str]:
    """A query string with every name at most once. Raises BadPath."""
    if _ESCAPE.search(query):
        raise BadPath("malformed query")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise BadPath("malformed query") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadPath("a query parameter is given twice")
    return fields


def parse_bool(text: str) -> bool:
    """As Go's ParseBool, with "" for false. Raises BadPath."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadPath("")


def _decode(escaped: str) -> str:
    if _ORDINARY.fullmatch(escaped):
        return escaped
    if "%" in escaped:
        if _ESCAPE.search(escaped):
            raise BadPath("malformed percent-encoding in the path")
        if _HIDDEN.search(escaped):
            raise BadPath("an encoded dot or slash in the path is not supported")
    try:
        path = unquote_to_bytes(escaped.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise BadPath("the path is not valid UTF-8") from None
    if not path.isprintable():
        raise BadPath("the path contains unprintable characters")
    return path


def _clean(path: str) -> str:
    """path.Clean of Go's net/http: no empty, "." or ".." segments; a trailing slash stays."""
    if "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    directory = path.endswith(("/", "/.", "/.."))
    return "/" + "/".join(kept) + ("/" if directory and kept else "")
