"""sys/plugins/catalog: what can be mounted. All of it is built in; nothing can be added."""

from typing import Any

from node import VERSION
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest, NotFound

BUILTIN_VERSION = f"v{VERSION}+builtin"
_TYPE = in_path("type", "auth, database or secret.")
_NAME = in_path("name", "The name of a plugin.")

_ABOUT = (*named(Kind.STRING, "name version deprecation_status"), Field("builtin", Kind.BOOLEAN, "Always."))


def routes() -> list[Route]:
    """The table of this module."""
    read, listing = Operation.READ, Operation.LIST
    listed: dict[str, Any] = {"fields": (_TYPE,), "summary": "What of one type can be mounted."}
    return [
        Route(
            "sys/plugins/catalog",
            {read: _all},
            summary="What can be mounted.",
            answers={
                read: (
                    Field("auth", Kind.STRINGS, "Auth methods."),
                    Field("database", Kind.STRINGS, "Database plugins."),
                    Field("secret", Kind.STRINGS, "Secret engines."),
                    Field("detailed", Kind.OBJECTS, "All of them.", members=(*_ABOUT, Field("type"))),
                )
            },
        ),
        Route("sys/plugins/catalog/{type}", {listing: _of_type}, sudo=True, **listed),
        Route("sys/plugins/catalog/{type}/", {listing: _of_type}, sudo=True, **listed),
        Route(
            "sys/plugins/catalog/{type}/{name}",
            {read: _one, Operation.UPDATE: _refuse, Operation.DELETE: _refuse},
            sudo=True,
            summary="One of them.",
            fields=(_TYPE, _NAME),
            answers={
                read: (
                    *_ABOUT,
                    *named(Kind.STRING, "command sha256"),
                    *named(Kind.BOOLEAN, "declarative oci"),
                    Field("args", Kind.STRINGS),
                )
            },
        ),
    ]


def _names(core: Core) -> dict[str, list[str]]:
    engines = {name.partition("-v")[0] for name in core.engines.keys() - core.methods.keys()}
    return {
        "auth": sorted(name.removeprefix("auth/") for name in core.methods),
        "database": [],
        "secret": sorted(engines - {"generic"}),
    }


def _told(kind: str, name: str) -> dict[str, Any]:
    return {
        "builtin": True,
        "deprecation_status": "supported",
        "name": name,
        "type": kind,
        "version": BUILTIN_VERSION,
    }


async def _all(core: Core, request: Request, params: dict[str, str]) -> Response:
    names = _names(core)
    detailed = [_told(kind, name) for kind, found in names.items() for name in found]
    return Response(data={**names, "detailed": detailed})


async def _of_type(core: Core, request: Request, params: dict[str, str]) -> Response:
    names = _names(core)
    if params["type"] not in names:
        raise InvalidRequest(f'"{params["type"]}" is no type of plugin')
    return Response(data={"keys": names[params["type"]]})


async def _one(core: Core, request: Request, params: dict[str, str]) -> Response:
    kind, name = params["type"], params["name"]
    if name not in _names(core).get(kind, ()):
        raise NotFound
    told = _told(kind, name)
    del told["type"]
    return Response(
        data=told | {"args": None, "command": "", "declarative": False, "oci": False, "sha256": ""}
    )


async def _refuse(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("plugins are built in: none can be added or removed")
