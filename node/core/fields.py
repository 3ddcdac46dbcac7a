"""What a route says of its inputs and answers: read by `?help=1`, by the OpenAPI document and by the pipeline.

A declared body field is checked before its handler runs, so that a value of the wrong type is a 400 that names the
field, whatever the handler would have made of it. The handler still converts: see node/auth/fields.py.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from node.auth import fields as convert
from node.core.request import Operation


class Kind(enum.Enum):
    """The types of the API. On the wire many are loose: see node/auth/fields.py."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DURATION = "duration"  # seconds, or a Go duration: 3600, "3600", "1h"
    STRINGS = "strings"  # an array, or a comma list
    STRING_MAP = "string map"
    OBJECT = "object"
    OBJECTS = "objects"  # an array of objects
    ANY = "any"


class Place(enum.Enum):
    """Where a field is looked for."""

    PATH = "path"
    QUERY = "query"
    BODY = "body"  # of an answer: `data`
    ENVELOPE = "envelope"  # of an answer: beside `data`


ANY_NAME = "*"  # a member whose name the caller chose, or that a mount's path is
REMARK_CHARACTERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a route, or one member of an answer's data."""

    name: str
    kind: Kind = Kind.STRING
    summary: str = ""
    required: bool = False
    place: Place = Place.BODY
    operations: frozenset[Operation] | None = None  # None: all that take a field of this place
    members: "tuple[Field, ...]" = ()  # of an object, or of each object of an array


def in_path(name: str, summary: str) -> Field:
    """A segment of the path."""
    return Field(name, Kind.STRING, summary, required=True, place=Place.PATH)


def in_query(name: str, kind: Kind, summary: str) -> Field:
    """A parameter behind the question mark."""
    return Field(name, kind, summary, place=Place.QUERY)


def named(kind: Kind, names: str) -> tuple[Field, ...]:
    """Members of one kind whose names, separated by spaces, say it all."""
    return tuple(Field(name, kind) for name in names.split())


def of_any_name(kind: Kind, summary: str = "", *members: Field) -> Field:
    """All members that have no other declaration."""
    return Field(ANY_NAME, kind, summary, members=members)


def told(declared: Iterable[Field]) -> tuple[Field, ...]:
    """What a body takes, as it is read back: durations are seconds then."""
    return tuple(
        dataclasses.replace(
            each,
            kind=Kind.INTEGER if each.kind is Kind.DURATION else each.kind,
            required=False,
            operations=None,
        )
        for each in declared
        if each.place is Place.BODY
    )


def like(example: Mapping[str, Any]) -> tuple[Field, ...]:
    """Members named, and typed, as those of an object that holds a value of each."""
    return tuple(Field(name, _KINDS.get(type(value), Kind.ANY)) for name, value in example.items())


def of_struct(kind: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The members of a structure, as it is laid out in JSON."""
    return _of_type("", inspect.type_info(kind)).members


def _of_type(name: str, info: Any) -> Field:
    if isinstance(info, inspect.UnionType):  # with None: everything in an answer may be null
        return _of_type(name, next(each for each in info.types if not isinstance(each, inspect.NoneType)))
    if isinstance(info, inspect.StructType):
        return Field(
            name, Kind.OBJECT, members=tuple(_of_type(each.encode_name, each.type) for each in info.fields)
        )
    if isinstance(info, inspect.VarTupleType | inspect.ListType):
        item = _of_type(name, info.item_type)
        plural = {Kind.STRING: Kind.STRINGS, Kind.OBJECT: Kind.OBJECTS}
        return dataclasses.replace(item, kind=plural.get(item.kind, Kind.ANY))
    return Field(name, _PLAIN.get(type(info), Kind.ANY))


_PLAIN: Mapping[type, Kind] = {
    inspect.IntType: Kind.INTEGER,
    inspect.FloatType: Kind.NUMBER,
    inspect.BoolType: Kind.BOOLEAN,
    inspect.StrType: Kind.STRING,
    inspect.LiteralType: Kind.STRING,
}
_KINDS: Mapping[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    str: Kind.STRING,
    list: Kind.STRINGS,
    dict: Kind.OBJECT,
}
LISTED = Field("keys", Kind.STRINGS, "Names, in order; what ends with a slash has more below it.")
ABOUT_LISTED = Field("key_info", Kind.OBJECT, "By name.")
AUTH = Field("auth", Kind.OBJECT, "The token, and what it may.", place=Place.ENVELOPE)


_CHECKS: Mapping[Kind, Callable[[Any, str], object]] = {
    Kind.STRING: convert.text,
    Kind.INTEGER: convert.integer,
    Kind.BOOLEAN: convert.boolean,
    Kind.DURATION: convert.duration_ns,
    Kind.STRINGS: convert.strings,
    Kind.STRING_MAP: convert.string_map,
    Kind.OBJECT: convert.mapping,
}


def check(declared: Iterable[Field], data: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a body field whose value cannot be of its kind. Absence is the handler's matter."""
    for each in declared:
        if each.place is Place.BODY and each.kind in _CHECKS and each.name in data:
            _CHECKS[each.kind](data[each.name], each.name)


def unremarked(declared: Iterable[Field], path: Iterable[str]) -> frozenset[str]:
    """The names of parameters about which `remarks` has nothing to say."""
    return frozenset(each.name for each in declared).difference(path)


def remarks(declared: Iterable[Field], path: Iterable[str], given: Iterable[str]) -> list[str]:
    """Warnings about parameters that have no effect: unknown ones, and those whose values are in the path already.

    `path` has the names of the path's parameters, `given` those of the body, or of the query where there is no body.
    A field that another operation of the route takes is known. The words are those of Vault's framework.
    """
    names, captured = set(given), set(path)
    known = unremarked(declared, ())
    found = []
    unknown = set() if ANY_NAME in known else names - known - captured
    if unknown:
        found.append(f"Endpoint ignored these unrecognized parameters: {_list(unknown)}")
    if names & captured:
        found.append(
            "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: "
            + _list(names & captured)
        )
    return found


def _list(names: Iterable[str]) -> str:
    text = " ".join(sorted(names))
    return f"[{text if len(text) <= REMARK_CHARACTERS_MAX else text[:REMARK_CHARACTERS_MAX] + '...'}]"
