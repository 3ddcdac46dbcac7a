"""sys/internal/specs/openapi: everything that this server answers, as the caller's mounts have it."""

from node.core import openapi
from node.core.core import Core
from node.core.fields import Field, Kind, in_query, named
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Route

_SERVERS = Field("servers", Kind.OBJECTS, members=(Field("url"),))


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/internal/specs/openapi",
            {Operation.READ: _document},
            acl=False,
            spends=False,
            anonymous=lambda request: request.token is None,
            audited=False,
            shape=Shape.RAW,
            summary="This description of the API, with the mounts that the token reaches.",
            answers={
                Operation.READ: (Field("openapi"), *named(Kind.OBJECT, "info paths components"), _SERVERS)
            },
            fields=(
                in_query(
                    "generic_mount_paths", Kind.BOOLEAN, "Name mounts by a parameter instead of their paths."
                ),
            ),
        )
    ]


async def _document(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Without a token, only what is the same everywhere."""
    entries = [("", route) for route in core.system.routes]
    generic = request.query.get("generic_mount_paths", "").lower() in {"1", "t", "true"}
    if request.token_row is not None:
        acl, seen = core.acl(request.token_row), set()
        for mount in core.unsealed.reads.mounts():
            table = core.engines.get(mount.engine)
            if table is None or not acl.reaches(mount.path) or (generic and mount.engine in seen):
                continue
            seen.add(mount.engine)
            under = f"{{{mount.kind}_mount_path}}/" if generic else mount.path
            entries += [(under, route) for route in table.routes]
    return Response(data=openapi.document(entries))
