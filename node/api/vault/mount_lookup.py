"""sys/internal/ui: the look-ups that clients make before they use a mount. To a stranger it does not exist."""

from typing import Any

from node.api.vault.auth_mounts import auth_entries
from node.api.vault.mount_config import entry, folder
from node.api.vault.mounts import AUTH, builtin, secret_entries
from node.core import fields
from node.core.core import Core
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.errors import PermissionDenied

UNAUTHENTICATED = "unauth"


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/internal/ui/mounts",
            {Operation.READ: _visible},
            acl=False,
            anonymous=lambda request: request.token is None,
            summary="Lists the mounts that the token may use; without one, those that show themselves to all.",
        ),
        Route(
            "sys/internal/ui/mounts/{path...}",
            {Operation.READ: _preflight},
            acl=False,
            summary="Tells which mount a path lies in.",
            fields=(fields.in_path("path", "A path of a secret or an auth method."),),
        ),
        Route(
            "sys/internal/ui/resultant-acl",
            {Operation.READ: _resultant_acl},
            summary="Tells what the token may do.",
            answers={
                Operation.READ: (
                    fields.Field("root", fields.Kind.BOOLEAN, "Whether it may do everything."),
                    fields.Field("exact_paths", fields.Kind.OBJECT, "Capabilities by path."),
                    fields.Field(
                        "glob_paths", fields.Kind.OBJECT, "Capabilities by the beginning of a path."
                    ),
                )
            },
        ),
    ]


async def _visible(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the mounts under which the token may do something."""
    mounts = {"auth": auth_entries(core), "secret": secret_entries(core)}
    if request.token_row is None:
        return Response(
            data={
                kind: {path: _public(each) for path, each in found.items() if _is_public(each)}
                for kind, found in mounts.items()
            }
        )
    acl = _acl(core, request)
    under = {"auth": AUTH, "secret": ""}
    return Response(
        data={
            kind: {path: each for path, each in found.items() if acl.reaches(under[kind] + path)}
            for kind, found in mounts.items()
        }
    )


def _is_public(shown: dict[str, Any]) -> bool:
    return bool(shown["config"].get("listing_visibility") == UNAUTHENTICATED)


def _public(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: shown[name] for name in ("description", "options", "type")}


async def _preflight(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The mount that a path lies in."""
    path = folder(params["path"])
    found = core.unsealed.reads.mount_for(path)
    if found is None:
        found = next((mount for mount in builtin(core) if path.startswith(mount.path)), None)
    if found is not None and _acl(core, request).reaches(found.path):
        return Response(data=entry(found) | {"path": found.path.removeprefix(AUTH)})
    token = f"{AUTH}token/"
    if path.startswith(token) and _acl(core, request).reaches(token):
        return Response(data=auth_entries(core)["token/"] | {"path": "token/"})
    raise PermissionDenied(
        "preflight capability check returned 403, please ensure client's policies grant access to path"
        f' "{path}"'
    )


async def _resultant_acl(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_acl(core, request).described())


def _acl(core: Core, request: Request) -> Any:
    assert request.token_row is not None
    return core.acl(request.token_row)
