"""sys/audit: where records go, and how a value looks in them. What is recorded where is the configuration's to say."""

from typing import Any

from node.auth.fields import text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest

_FROM_CONFIGURATION = (  # as OpenBao words it
    "cannot enable audit device via API; use declarative, config-based audit device management instead"
)
_PATH = in_path("path", "The name of an audit device.")

_DEVICE = (
    *named(Kind.STRING, "type path description"),
    Field("local", Kind.BOOLEAN, "Always: each node has its own."),
    Field("options", Kind.STRING_MAP, "The file."),
)


def routes() -> list[Route]:
    """The table of this module."""
    read, update = Operation.READ, Operation.UPDATE
    return [
        Route(
            "sys/audit",
            {read: _list},
            sudo=True,
            shape=Shape.DOUBLE,
            summary="The audit devices that the configuration names.",
            answers={read: (of_any_name(Kind.OBJECT, "A device, by its path.", *_DEVICE),)},
        ),
        Route(
            "sys/audit/{path...}",
            {update: _refuse, Operation.DELETE: _remove},
            sudo=True,
            local=True,
            summary="Refused: audit devices are named in the configuration.",
            fields=(_PATH,),
        ),
        Route(
            "sys/audit-hash/{path...}",
            {update: _hash},
            local=True,
            shape=Shape.DOUBLE,
            summary="How a value looks in the records of a device.",
            fields=(_PATH, Field("input", Kind.STRING, "The value.", required=True)),
            answers={update: (Field("hash", Kind.STRING, "As it stands in the records."),)},
        ),
    ]


def _devices(core: Core) -> dict[str, Any]:
    """The first file is called "file/", others by their number."""
    devices = {}
    for number, path in enumerate(core.settings.audit_files, 1):
        name = "file/" if number == 1 else f"file-{number}/"
        devices[name] = {
            "description": "",
            "local": True,
            "options": {"file_path": str(path)},
            "path": name,
            "type": "file",
        }
    return devices


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_devices(core))


async def _refuse(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest(_FROM_CONFIGURATION)


async def _remove(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Removing what is not there succeeds, as in Vault; what is there cannot be removed by anybody's token."""
    if _name(params) in _devices(core):
        raise InvalidRequest("cannot disable audit device via API; take it out of the configuration instead")
    return Response(NO_CONTENT)


async def _hash(core: Core, request: Request, params: dict[str, str]) -> Response:
    if _name(params) not in _devices(core):
        raise InvalidRequest(f'unknown audit backend "{_name(params)}"')
    value = text(request.data.get("input"), "input")
    if not value:
        raise InvalidRequest('the "input" parameter is empty')
    return Response(data={"hash": core.audit.hash(value)})


def _name(params: dict[str, str]) -> str:
    return params["path"].rstrip("/") + "/"
