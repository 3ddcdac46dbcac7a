"""sys/mounts: which secret engines are where, and how they are tuned."""

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from node.api.vault.mount_config import (
    ENTRIES,
    ENTRY_OR_TUNING,
    LISTS,
    check_path,
    check_ttls,
    description,
    entry,
    folder,
    new_details,
    object_of,
    ttls,
    tuned_details,
    tuning,
)
from node.auth.fields import text
from node.core import fields
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.engines import catalog, kv_v1
from node.errors import InvalidRequest, NodeError
from node.leases.manager import end_with_mount
from node.store import CommandRejected, Store
from node.view import write
from storage.command import (
    AnyCommand,
    EntryDelete,
    KvConfigPut,
    KvMetadataDelete,
    MountPut,
    MountRemove,
    MountTune,
    batch,
)
from storage.outcome import Reason
from storage.rows import Mount

RESERVED = ("sys/", "auth/", "cubbyhole/", "identity/", "audit/")
AUTH = "auth/"  # auth methods are mounts under this
TUNE = "/tune"
EMPTY_STEP_MAX = 1_000  # keys or entries removed at a time
EMPTY_STEP_BYTES_MAX = 200_000  # of their paths

_UPGRADED = (
    "The mount is version 2 of the kv engine from now on: its secrets are under data/ and have versions. Policies and"
    " clients that name the old paths have to follow."
)


def routes() -> list[Route]:
    """The paths of the system table that are about mounts."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    return [
        Route(
            "sys/mounts",
            {read: _list},
            shape=Shape.DOUBLE,
            summary="Lists the mounted secret engines.",
            answers={read: ENTRIES},
        ),
        Route(
            "sys/mounts/{path...}",
            {read: _get, update: _post, delete: _remove},
            shape=Shape.DOUBLE,
            summary="Mounts, shows, tunes and unmounts a secret engine.",
            fields=FIELDS,
            answers={read: ENTRY_OR_TUNING},
        ),
    ]


FIELDS = (
    fields.in_path("path", "Where it is mounted; with /tune behind it, how it is tuned."),
    Field("type", Kind.STRING, "Which engine: kv, kv-v2, ..."),
    Field("description", Kind.STRING, "For people."),
    Field("config", Kind.OBJECT, "default_lease_ttl, max_lease_ttl, listing_visibility, ..."),
    Field("options", Kind.OBJECT, "Options of the engine: the version of kv."),
    Field("local", Kind.BOOLEAN, "Kept and shown, without effect."),
    Field("seal_wrap", Kind.BOOLEAN, "Kept and shown, without effect: everything is encrypted."),
    Field("external_entropy_access", Kind.BOOLEAN, "Kept and shown, without effect."),
    Field("listing_visibility", Kind.STRING, "Tune: unauth shows the mount to those without a token."),
    Field("token_type", Kind.STRING, "Tune: which tokens an auth method gives."),
    Field("default_lease_ttl", Kind.ANY, "Tune: how long leases and tokens live at first."),
    Field("max_lease_ttl", Kind.ANY, "Tune: how long they live with all renewals."),
    Field("user_lockout_config", Kind.OBJECT, "Tune: after how many wrong passwords a user has to wait."),
    *(Field(name, Kind.STRINGS, "Tune: a list of names.") for name in LISTS),
)


# --- what there is ---


def secret_entries(core: Core) -> dict[str, Any]:
    """Every secret engine by its path, as clients know it, those that are always there included."""
    shown = [mount for mount in core.unsealed.reads.mounts() if not mount.path.startswith(AUTH)]
    entries = {mount.path: entry(mount) for mount in [*shown, *builtin(core)]}
    return dict(sorted(entries.items()))


def builtin(core: Core) -> list[Mount]:
    """The mounts that nobody makes and nobody removes. Their names follow from the cluster's."""
    return [
        _builtin(core, "cubbyhole", "cubbyhole", "per-token private secret storage", local=True),
        _builtin(core, "identity", "identity", "identity store", passes="Authorization"),
        _builtin(
            core,
            "sys",
            "system",
            "system endpoints used for control, policy and debugging",
            passes="Accept",
            seal_wrap=True,
        ),
    ]


def _builtin(core: Core, path: str, kind: str, about: str, *, passes: str = "", **flags: bool) -> Mount:
    mark = hashlib.sha256(f"{path}/{core.lifecycle.cluster_id}".encode()).digest()
    config = {"passthrough_request_headers": [passes]} if passes else {}
    return Mount(
        path=f"{path}/",
        mount_id=str(uuid.UUID(bytes=mark[4:20])),
        accessor=f"{kind}_{mark[:4].hex()}",
        kind=kind,
        version=0,
        description=about,
        default_lease_ttl_ns=0,
        max_lease_ttl_ns=0,
        details={"builtin": True, "config": config} | flags,
    )


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=secret_entries(core))


async def _get(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        return read_tuning(core, folder(path.removesuffix(TUNE)))
    found = secret_entries(core).get(folder(path))
    if found is None:
        raise InvalidRequest(f"No secret engine mount at {folder(path)}")
    return Response(data=found)


def read_tuning(core: Core, path: str) -> Response:
    """How the mount at `path` (an auth method's begins with "auth/") is tuned. Raises InvalidRequest."""
    mount = at(core.unsealed, path) or next((each for each in builtin(core) if each.path == path), None)
    if mount is None:
        raise InvalidRequest(f'cannot fetch sysview for path "{path}"')
    return Response(data=tuning(mount, core.settings))


# --- changes ---


async def _post(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = params["path"]
    if path.endswith(TUNE):
        return await tune(core, request, folder(path.removesuffix(TUNE)))
    return await _mount(core, request, folder(path))


async def _mount(core: Core, request: Request, path: str) -> Response:
    store, data = core.unsealed, request.data
    if path.startswith(RESERVED):
        raise InvalidRequest(f'cannot mount "{path}"')
    check_path(path)
    kind = data.get("type")
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest("backend type must be specified as a string")
    version = text(object_of(data.get("options"), "options").get("version"), "options")
    engine = catalog.engine(kind, version)
    if kind == "kv-v1":
        data = {**data, "options": {**object_of(data.get("options"), "options"), "version": "1"}}
    command = new_mount(store, data, path=path, kind=engine.kind, version=engine.version)
    commands: list[AnyCommand] = [command]
    if command.kind in ("kv", "generic") and command.version == 1:
        commands.append(_window(store, command.mount_id, kv_v1.VERSIONS_KEPT))
    await change(store, request, path, *commands)
    return Response(status=NO_CONTENT)


def new_mount(store: Store, data: Mapping[str, Any], *, path: str, kind: str, version: int) -> MountPut:
    """The command that mounts what a request asks for at `path`. Raises InvalidRequest."""
    auth = path.startswith(AUTH)
    default, longest = ttls(object_of(data.get("config"), "config"))
    if longest and (default or 0) > longest:
        raise InvalidRequest("given default lease TTL greater than given max lease TTL")
    return MountPut(
        time_ns=store.now_ns(),
        path=path,
        mount_id=str(uuid.uuid4()),
        accessor=f"{AUTH.replace('/', '_') if auth else ''}{kind}_{os.urandom(4).hex()}",
        kind=kind,
        version=version,
        description=description(data.get("description")),
        default_lease_ttl_ns=default or 0,
        max_lease_ttl_ns=longest or 0,
        details=new_details(data, auth=auth),
    )


async def _remove(core: Core, request: Request, params: dict[str, str]) -> Response:
    path = folder(params["path"])
    if path.startswith(RESERVED):
        raise InvalidRequest(f'cannot unmount "{path}"')
    await remove(core, request, path)
    return Response(status=NO_CONTENT)


async def remove(core: Core, request: Request, path: str) -> None:
    """Unmount what is at `path`, with everything in it. An absent mount is a success.

    A large mount is emptied in steps first, so that no command holds up the log of all; who asks again after an
    interruption goes on where it ended.
    """
    store = core.unsealed
    mount = at(store, path)
    if mount is not None:
        await end_with_mount(store, core.revokers, path)
        await _empty(store, mount.mount_id)
    await store.submit(MountRemove(time_ns=store.now_ns(), path=path), request_id=request.request_id)


async def _empty(store: Store, mount_id: str) -> None:
    """Remove what a mount holds, as long as there is a full step of it."""
    while len(paths := store.reads.kv_scan(mount_id, "", "", EMPTY_STEP_MAX)) == EMPTY_STEP_MAX:
        for some in _of_bounded_size(paths):
            now_ns = store.now_ns()
            await write(store, *(KvMetadataDelete(now_ns, mount_id, path) for path in some))
    while len(paths := store.reads.entry_scan(mount_id, "", "", EMPTY_STEP_MAX)) == EMPTY_STEP_MAX:
        for some in _of_bounded_size(paths):
            now_ns = store.now_ns()
            await write(store, *(EntryDelete(now_ns, mount_id, path) for path in some))


def _of_bounded_size(paths: list[str]) -> Iterator[list[str]]:
    """The paths in groups that fit a command, however long they are."""
    group: list[str] = []
    size = 0
    for path in paths:
        group.append(path)
        size += len(path.encode())
        if size >= EMPTY_STEP_BYTES_MAX:
            yield group
            group, size = [], 0
    if group:
        yield group


async def tune(core: Core, request: Request, path: str) -> Response:
    """Change how the mount at `path` (an auth method's begins with "auth/") is tuned."""
    store, data, auth = core.unsealed, request.data, path.startswith(AUTH)
    if any(each.path == path for each in builtin(core)):
        raise InvalidRequest(f"cannot tune parameter {next(iter(sorted(data)), 'options')} of {path}")
    mount = at(store, path)
    if mount is None:
        raise InvalidRequest(f'tune of path "{path}" failed: no mount entry found')
    if data.get("token_type") and not auth:
        raise InvalidRequest("'token_type' can only be modified on auth mounts")
    upgrade = _upgrades(mount, text(object_of(data.get("options"), "options").get("version"), "options"))
    default, longest = ttls(data)
    check_ttls(mount, default, longest)
    command = MountTune(
        time_ns=store.now_ns(),
        path=path,
        description=description(data["description"]) if data.get("description") is not None else None,
        default_lease_ttl_ns=default,
        max_lease_ttl_ns=longest,
        details=tuned_details(mount, data, auth=auth),
        version=2 if upgrade else None,
    )
    window = [_window(store, mount.mount_id, 0)] if upgrade else []
    await change(store, request, path, command, *window)
    return Response(warnings=[_UPGRADED]) if upgrade else Response(status=NO_CONTENT)


def _upgrades(mount: Mount, version: str) -> bool:
    """Whether a tune asks for version 2 of a mount that is version 1. Raises InvalidRequest."""
    if not version or mount.kind != "kv":
        return False
    if version not in catalog.KV_VERSIONS:
        raise InvalidRequest(f"invalid version provided: {version}")
    if int(version) < mount.version:
        raise InvalidRequest(f"cannot downgrade mount from version {mount.version}")
    return int(version) > mount.version


def _window(store: Store, mount_id: str, versions: int) -> KvConfigPut:
    """How many versions a mount keeps of each key: version 1 of kv keeps one, and so is version 2 with less."""
    return KvConfigPut(time_ns=store.now_ns(), mount_id=mount_id, max_versions=versions)


# --- parts ---


def at(store: Store, path: str) -> Mount | None:
    """The mount with exactly this path."""
    mount = store.reads.mount_for(path)
    return mount if mount is not None and mount.path == path else None


async def change(store: Store, request: Request, path: str, *commands: AnyCommand) -> None:
    """Submit changes of the mount at `path`, all or none, under the request's identity. Raises InvalidRequest."""
    command = commands[0] if len(commands) == 1 else batch(store.now_ns(), *commands)
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise refusal(error, store, path) from None


def refusal(
    error: CommandRejected, store: Store, path: str, *, source: str = ""
) -> NodeError | CommandRejected:
    """A refused change as the caller's error; `source`: of a move to `path`."""
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
            f'path already in use at "{taken}"'
            if source
            else f"path is already in use at {taken.removeprefix(AUTH)}"
        )
    if error.reason == Reason.NO_SUCH_MOUNT:
        return InvalidRequest(f'no matching mount at "{source or path}"')
    return error
