"""sys/mounts, sys/remount and the look-ups that clients make before they use a mount.

A move is done when it is acknowledged; its "migration id" only spells out what moved, so that every node can
answer for it.
"""

import base64
import binascii
import json
import os
import uuid
from typing import Any

from node import VERSION
from node.auth.fields import duration_ns, text
from node.core.core import Core
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest, NodeError, NotFound, OutcomeUnknown, PermissionDenied
from node.store import CommandRejected, Store
from storage.command import MountMove, MountPut, MountRemove, MountTune, Reason
from storage.rows import Mount

PATH_BYTES_MAX = 512
DESCRIPTION_BYTES_MAX = 4096
TTL_DEFAULT_S = 2_764_800  # what a lease TTL of 0 stands for: 768 h
SECOND_NS = 1_000_000_000
RESERVED = ("sys/", "auth/", "cubbyhole/", "identity/", "audit/")
TUNE = "/tune"

_ONLY_V2 = 'only version 2 of the kv engine is offered here: type "kv-v2", or "kv" with options.version "2"'
_MOVED = "The mount has moved. Its status can be asked for under the returned migration_id."


def routes() -> list[Route]:
    """The paths of the system table that are about mounts."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    return [
        Route("sys/mounts", {read: _list}, shape=Shape.DOUBLE),
        Route("sys/mounts/{path...}", {read: _get, update: _post, delete: _remove}, shape=Shape.DOUBLE),
        Route("sys/remount", {update: _move}, sudo=True, shape=Shape.DOUBLE),
        Route("sys/remount/status/{id}", {read: _move_status}),
        Route("sys/internal/ui/mounts", {read: _visible}, acl=False),
        Route("sys/internal/ui/mounts/{path...}", {read: _preflight}, acl=False),
        Route("sys/internal/ui/resultant-acl", {read: _resultant_acl}),
    ]


# --- what there is ---


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_entries(core))


def _entries(core: Core) -> dict[str, Any]:
    entries = {mount.path: entry(mount) for mount in core.unsealed.reads.mounts()}
    return dict(sorted((entries | {"sys/": _system_entry(core)}).items()))


async def _get(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        return _get_tuning(core, path.removesuffix(TUNE))
    found = _entries(core).get(_folder(path))
    if found is None:
        raise InvalidRequest(f"No secret engine mount at {_folder(path)}")
    return Response(data=found)


def entry(mount: Mount) -> dict[str, Any]:
    """A mount as clients know it. The CLI insists on a string for options.version."""
    return {
        "accessor": mount.accessor,
        "config": {
            "default_lease_ttl": mount.default_lease_ttl_ns // SECOND_NS,
            "force_no_cache": False,
            "max_lease_ttl": mount.max_lease_ttl_ns // SECOND_NS,
        },
        "deprecation_status": "supported",
        "description": mount.description,
        "external_entropy_access": False,
        "local": False,
        "options": {"version": str(mount.version)},
        "plugin_version": "",
        "running_plugin_version": f"v{VERSION}+builtin",
        "running_sha256": "",
        "seal_wrap": False,
        "type": mount.kind,
        "uuid": mount.mount_id,
    }


def _system_entry(core: Core) -> dict[str, Any]:
    identity = core.lifecycle.cluster_id
    system = Mount("sys/", identity, f"system_{identity[:8]}", "system", 0, "system endpoints", 0, 0, {})
    return entry(system) | {"options": None}


async def _visible(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Only the mounts under which the token may do something."""
    acl = _acl(core, request)
    secret = {path: found for path, found in _entries(core).items() if acl.reaches(path)}
    return Response(data={"auth": {}, "secret": secret})


async def _preflight(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The mount that a path lies in; a stranger to it cannot tell whether there is one."""
    path = _folder(params["path"])
    found = core.unsealed.reads.mount_for(path)
    if found is not None and _acl(core, request).reaches(found.path):
        return Response(data=entry(found) | {"path": found.path})
    if path.startswith("sys/") and _acl(core, request).reaches("sys/"):
        return Response(data=_system_entry(core) | {"path": "sys/"})
    raise PermissionDenied(
        "preflight capability check returned 403, please ensure client's policies grant access to path"
        f' "{path}"'
    )


async def _resultant_acl(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"root": _acl(core, request).root})


def _acl(core: Core, request: Request) -> Any:
    assert request.token_row is not None
    return core.acl(request.token_row)


# --- changes ---


async def _post(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        return await _tune(core, request, path.removesuffix(TUNE))
    return await _mount(core, request, path)


async def _mount(core: Core, request: Request, name: str) -> Response:
    store, data, path = core.unsealed, request.data, _folder(name)
    if path.startswith(RESERVED):
        raise InvalidRequest(f'cannot mount "{path}"')
    _check_path(path)
    _check_kind(data)
    config = _object(data.get("config"), "config")
    default, longest = _ttls(config)
    if longest and (default or 0) > longest:
        raise InvalidRequest("given default lease TTL greater than given max lease TTL")
    command = MountPut(
        time_ns=store.now_ns(),
        path=path,
        mount_id=str(uuid.uuid4()),
        accessor=f"kv_{os.urandom(4).hex()}",
        kind="kv",
        version=2,
        description=_description(data.get("description")),
        default_lease_ttl_ns=default or 0,
        max_lease_ttl_ns=longest or 0,
    )
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise _refusal(error, store, path) from None
    return Response(status=NO_CONTENT)


async def _remove(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, path = core.unsealed, _folder(params["path"])
    if path.startswith(RESERVED):
        raise InvalidRequest(f'cannot unmount "{path}"')
    await store.submit(MountRemove(time_ns=store.now_ns(), path=path), request_id=request.request_id)
    return Response(status=NO_CONTENT)


def _get_tuning(core: Core, name: str) -> Response:
    path = _folder(name)
    mount = _at(core.unsealed, path)
    if mount is None:
        raise InvalidRequest(f'cannot fetch sysview for path "{path}"')
    return Response(
        data={
            "default_lease_ttl": mount.default_lease_ttl_ns // SECOND_NS or TTL_DEFAULT_S,
            "description": mount.description,
            "force_no_cache": False,
            "max_lease_ttl": mount.max_lease_ttl_ns // SECOND_NS or TTL_DEFAULT_S,
            "options": {"version": str(mount.version)},
        }
    )


async def _tune(core: Core, request: Request, name: str) -> Response:
    store, data, path = core.unsealed, request.data, _folder(name)
    mount = _at(store, path)
    if mount is None:
        raise InvalidRequest(f'tune of path "{path}" failed: no mount entry found')
    options = _object(data.get("options"), "options")
    if "version" in options and text(options["version"], "version") != str(mount.version):
        raise InvalidRequest("cannot change the version of a mount: " + _ONLY_V2)
    default, longest = _ttls(data)
    effective = (default if default is not None else mount.default_lease_ttl_ns) // SECOND_NS
    bound = (longest if longest is not None else mount.max_lease_ttl_ns) // SECOND_NS
    if bound and effective > bound:
        raise InvalidRequest(
            f"backend max lease TTL of {bound} would be less than backend default lease TTL of {effective}"
        )
    command = MountTune(
        time_ns=store.now_ns(),
        path=path,
        description=_description(data["description"]) if data.get("description") is not None else None,
        default_lease_ttl_ns=default,
        max_lease_ttl_ns=longest,
    )
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise _refusal(error, store, path) from None
    return Response(status=NO_CONTENT)


async def _move(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, data = core.unsealed, request.data
    source, target = (_folder(text(data.get(name), name).strip("/")) for name in ("from", "to"))
    if "/" in (source, target):
        raise InvalidRequest("both 'from' and 'to' path must be specified as a string")
    if source.startswith(RESERVED):
        raise InvalidRequest(f'cannot remount "{source}"')
    if target.startswith(RESERVED):
        raise InvalidRequest(f"cannot remount to destination {target}")
    _check_path(target)
    command = MountMove(time_ns=store.now_ns(), source=source, target=target)
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise _refusal(error, store, target, source=source) from None
    return Response(data={"migration_id": _migration_id(source, target)}, warnings=[_MOVED])


async def _move_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    try:
        source, target = json.loads(base64.urlsafe_b64decode(params["id"]))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise NotFound from None
    if not isinstance(target, str) or _at(core.unsealed, target) is None:
        raise NotFound
    info = {"source_mount": source, "target_mount": target, "status": "success"}
    return Response(data={"migration_id": params["id"], "migration_info": info})


def _migration_id(source: str, target: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([source, target]).encode()).decode()


# --- parts ---


def _at(store: Store, path: str) -> Mount | None:
    mount = store.reads.mount_for(path)
    return mount if mount is not None and mount.path == path else None


def _folder(path: str) -> str:
    return path if path.endswith("/") else path + "/"


def _check_path(path: str) -> None:
    """A mount's path must be one that a request line can ask for and that a policy can name."""
    segments = path.removesuffix("/").split("/")
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"a mount's path has at most {PATH_BYTES_MAX} bytes")
    if not path.isprintable() or any(segment in ("", ".", "..") for segment in segments):
        raise InvalidRequest("a mount's path has no empty or relative segments and no unprintable characters")
    if "*" in path or "+" in path:
        raise InvalidRequest(
            'a mount\'s path has no "*" and no "+": in policies they stand for something else'
        )


def _check_kind(data: dict[str, Any]) -> None:
    kind = data.get("type")
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest("backend type must be specified as a string")
    if kind not in ("kv", "kv-v2"):
        raise InvalidRequest(f"plugin not found in the catalog: {kind}")
    version = text(_object(data.get("options"), "options").get("version"), "version")
    if version != "2" and (version or kind != "kv-v2"):
        raise InvalidRequest(_ONLY_V2)


def _ttls(data: dict[str, Any]) -> tuple[int | None, int | None]:
    """Default and longest lease TTL in nanoseconds; None where nothing, or "", was sent, 0 for "system"."""
    return _ttl(data, "default_lease_ttl"), _ttl(data, "max_lease_ttl")


def _ttl(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is None or value == "":
        return None
    return 0 if value == "system" else duration_ns(value, name)


def _description(value: Any) -> str:
    described = text(value, "description")
    if len(described.encode()) > DESCRIPTION_BYTES_MAX:
        raise InvalidRequest(f"a description has at most {DESCRIPTION_BYTES_MAX} bytes")
    return described


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f'error converting input for field "{name}": expected a map')
    return value


def _refusal(
    error: CommandRejected, store: Store, path: str, *, source: str = ""
) -> NodeError | CommandRejected:
    if error.reason == Reason.PATH_IN_USE:
        taken = next(
            (
                each.path
                for each in store.reads.mounts()
                if each.path.startswith(path) or path.startswith(each.path)
            ),
            path,
        )
        return InvalidRequest(
            f'path already in use at "{taken}"' if source else f"path is already in use at {taken}"
        )
    if error.reason == Reason.NO_SUCH_MOUNT:
        return InvalidRequest(f'no matching mount at "{source or path}"')
    if error.reason == Reason.STALE:
        return OutcomeUnknown("this node's clock is too far behind; an earlier attempt may have succeeded")
    return error
