"""sys/auth: which auth methods are where, how they are tuned, and which of their users are locked.

An auth method is a mount under auth/. The token store is one that is always there: it has a row of its own only once
it was tuned.
"""

import dataclasses
import hashlib
import uuid
from typing import Any

from node.api.vault import mounts
from node.api.vault.mount_config import ENTRIES, ENTRY_OR_TUNING, check_path, entry, folder, tuning
from node.api.vault.mounts import AUTH, TUNE
from node.auth.methods.catalog import TOKEN
from node.auth.methods.lockout import Lockout
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, in_query, named
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest
from node.store import Store
from storage.command import MountPut
from storage.rows import Mount

TOKEN_PATH = f"{AUTH}{TOKEN}/"
_OF_MOUNT = (
    Field("mount_accessor"),
    Field("counts", Kind.INTEGER),
    Field("alias_identifiers", Kind.STRINGS, "Their names."),
)
_OF_NAMESPACE = (
    *named(Kind.STRING, "namespace_id namespace_path"),
    Field("counts", Kind.INTEGER),
    Field("mount_accessors", Kind.OBJECTS, "Where they log in.", members=_OF_MOUNT),
)
_LOCKED = (
    Field("by_namespace", Kind.OBJECTS, "Of which there is one.", members=_OF_NAMESPACE),
    Field("total", Kind.INTEGER, "How many are locked."),
)


def routes(lockout: Lockout) -> list[Route]:
    """The table of this module."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    locked = _LockedUsers(lockout)
    return [
        Route(
            "sys/auth",
            {read: _list},
            shape=Shape.DOUBLE,
            summary="Lists the auth methods.",
            answers={read: ENTRIES},
        ),
        Route(
            "sys/auth/{path...}",
            {read: _get, update: _post, delete: _remove},
            twin="sys/mounts/auth/{path...}",
            sudo=True,
            shape=Shape.DOUBLE,
            summary="Enables, shows, tunes and disables an auth method.",
            fields=mounts.FIELDS,
            answers={read: ENTRY_OR_TUNING},
        ),
        Route(
            "sys/mounts/auth/{path...}",
            {read: _get, update: _tune_only, delete: _not_here},
            twin="sys/auth/{path...}",
            shape=Shape.DOUBLE,
            summary="Shows and tunes an auth method.",
            fields=mounts.FIELDS,
            answers={read: ENTRY_OR_TUNING},
        ),
        Route(
            "sys/locked-users",
            {read: locked.list},
            summary="Lists users who are locked out.",
            fields=(in_query("mount_accessor", Kind.STRING, "Of one auth method's mount alone."),),
            answers={read: _LOCKED},
        ),
        Route(
            "sys/locked-users/{accessor}/unlock/{name}",
            {update: locked.unlock},
            summary="Lets a locked user log in again.",
            fields=(
                in_path("accessor", "Of the auth method's mount."),
                in_path("name", "Of the user."),
            ),
        ),
    ]


# --- what there is ---


def token_mount(store: Store, cluster_id: str) -> Mount:
    """The mount of the token store. Its accessor and id are the cluster's."""
    tuned = mounts.at(store, TOKEN_PATH)
    mark = hashlib.sha256(f"{TOKEN_PATH}{cluster_id}".encode()).digest()
    always = Mount(
        path=TOKEN_PATH,
        mount_id=str(uuid.UUID(bytes=mark[4:20])),
        accessor=f"auth_token_{mark[:4].hex()}",
        kind=TOKEN,
        version=0,
        description="token based credentials",
        default_lease_ttl_ns=0,
        max_lease_ttl_ns=0,
        details={"builtin": True, "config": {"token_type": "default-service"}},
    )
    return tuned or always


def auth_mounts(core: Core) -> list[Mount]:
    """Every auth method, the token store included."""
    token = token_mount(core.unsealed, core.lifecycle.cluster_id)
    others = (mount for mount in core.unsealed.mounts() if mount.path.startswith(AUTH))
    return [token, *(mount for mount in others if mount.path != TOKEN_PATH)]


def auth_entries(core: Core) -> dict[str, Any]:
    """Every auth method by its path below auth/, as clients know it."""
    shown = {mount.path.removeprefix(AUTH): entry(mount) for mount in auth_mounts(core)}
    return dict(sorted(shown.items()))


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=auth_entries(core))


async def _get(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        wanted = AUTH + folder(path.removesuffix(TUNE))
        if wanted == TOKEN_PATH:
            shown = tuning(token_mount(core.unsealed, core.lifecycle.cluster_id), core.settings)
            return Response(data=shown)
        return mounts.read_tuning(core, wanted)
    found = auth_entries(core).get(folder(path))
    if found is None:
        raise InvalidRequest(f"No auth engine at {folder(path)}")
    return Response(data=found)


# --- changes ---


async def _post(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        return await _tune(core, request, path.removesuffix(TUNE))
    return await _enable(core, request, AUTH + folder(path))


async def _tune_only(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if not path.endswith(TUNE):
        raise InvalidRequest(f'cannot mount "{AUTH}{folder(path)}"')
    return await _tune(core, request, path.removesuffix(TUNE))


async def _not_here(core: Core, request: Request, params: dict[str, str]) -> Response:
    """An auth method is disabled at sys/auth."""
    raise InvalidRequest(f'cannot unmount "{AUTH}{folder(params["path"])}"')


async def _enable(core: Core, request: Request, path: str) -> Response:
    store, data = core.unsealed, request.data
    kind = data.get("type")
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest("backend type must be specified as a string")
    if kind == TOKEN:
        raise InvalidRequest("token credential backend cannot be instantiated")
    if kind not in core.methods:
        raise InvalidRequest(f"plugin not found in the catalog: {kind}")
    if path.startswith(TOKEN_PATH):
        raise InvalidRequest(f"path is already in use at {TOKEN}/")
    check_path(path)
    await mounts.change(store, request, path, mounts.new_mount(store, data, path=path, kind=kind, version=0))
    return Response(NO_CONTENT)


async def _tune(core: Core, request: Request, name: str) -> Response:
    path = AUTH + folder(name)
    if path == TOKEN_PATH:
        if request.data.get("token_type"):
            raise InvalidRequest("'token_type' cannot be set for 'token' or 'ns_token' auth mounts")
        await _keep_token_mount(core)
    return await mounts.tune(core, request, path)


async def _keep_token_mount(core: Core) -> None:
    """Give the token store a row, so that there is something to tune."""
    store = core.unsealed
    if mounts.at(store, TOKEN_PATH) is not None:
        return
    always = dataclasses.asdict(token_mount(store, core.lifecycle.cluster_id))
    await store.submit(MountPut(time_ns=store.now_ns(), **always))


async def _remove(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Disable, with everything in it; the tokens that it gave go too. An absent method is a success."""
    path = AUTH + folder(params["path"])
    if path == TOKEN_PATH:
        raise InvalidRequest("token credential backend cannot be disabled")
    await mounts.remove(core, request, path)
    return Response(NO_CONTENT)


class _LockedUsers:
    """sys/locked-users."""

    def __init__(self, lockout: Lockout) -> None:
        self._lockout = lockout

    async def list(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        wanted = request.query.get("mount_accessor", "") or request.data.get("mount_accessor", "")
        locked = {
            mount.accessor: await self._lockout.locked(core.unsealed, mount)
            for mount in auth_mounts(core)
            if wanted in ("", mount.accessor)
        }
        by_mount = [
            {"mount_accessor": accessor, "counts": len(names), "alias_identifiers": names}
            for accessor, names in sorted(locked.items())
            if names
        ]
        total = sum(len(names) for names in locked.values())
        namespace = {
            "namespace_id": "root",
            "namespace_path": "",
            "counts": total,
            "mount_accessors": by_mount,
        }
        return Response(data={"by_namespace": [namespace] if total else [], "total": total})

    async def unlock(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """Nobody by this name being locked is a success."""
        mount = next((each for each in auth_mounts(core) if each.accessor == params["accessor"]), None)
        if mount is not None:
            await self._lockout.unlock(core.unsealed, mount, params["name"].lower())
        return Response(NO_CONTENT)
