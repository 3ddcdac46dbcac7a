"""sys/internal/ui: the look-ups that clients make before they use a mount. To a stranger it does not exist."""

from typing import Any

from node.api.vault.auth_mounts import auth_entries
from node.api.vault.mount_config import ENTRIES, ENTRY, entry, folder
from node.api.vault.mounts import AUTH, builtin, secret_entries
from node.core.core import Core
from node.core.fields import Field, Kind, in_path
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
            spends=False,
            anonymous=lambda request: request.token is None,
            summary="Lists the mounts that the token may use; without one, those that show themselves to all.",
            answers={
                Operation.READ: (
                    Field("auth", Kind.OBJECT, "Auth methods, by their path.", members=ENTRIES),
                    Field("secret", Kind.OBJECT, "Secret engines, by their path.", members=ENTRIES),
                )
            },
        ),
        Route(
            "sys/internal/ui/mounts/{path...}",
            {Operation.READ: _preflight},
            acl=False,
            spends=False,
            summary="Tells which mount a path lies in.",
            fields=(in_path("path", "A path of a secret or an auth method."),),
            answers={Operation.READ: (*ENTRY, Field("path", Kind.STRING, "Of the mount."))},
        ),
        Route(
            "sys/internal/ui/resultant-acl",
            {Operation.READ: _resultant_acl},
            summary="Tells what the token may do.",
            answers={
                Operation.READ: (
                    Field("root", Kind.BOOLEAN, "Whether it may do everything."),
                    Field("exact_paths", Kind.OBJECT, "Capabilities by path."),
                    Field("glob_paths", Kind.OBJECT, "Capabilities by the beginning of a path."),
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
