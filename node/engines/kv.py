"""The KV engine, version 2: versions of secrets under data/, and what may be done to a version.

Paths, shapes and texts are those of Vault's kv-v2 API. Values travel as JSON text from the store into the
answer; only a patch and subkeys look inside. How they get into the log: kv_writes.py; how they are found:
kv_reads.py. Metadata, lists and the mount's configuration: kv_metadata.py.
"""

import os
from typing import Any

import msgspec

from node.auth.fields import integer, mapping, strings
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, in_query
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Handler, Route
from node.engines import kv_metadata
from node.engines.kv_reads import find, metadata, version_metadata
from node.engines.kv_values import decode, encode, merge_patch, without_leaves
from node.engines.kv_writes import CAS_MISMATCH, CAS_REQUIRED, BegunPut, Writer, submit
from node.errors import InvalidRequest, NodeError, NotFound
from node.store import Store
from storage.cache import CachedValue
from storage.command import KvDelete, KvDestroy, KvUndelete

REQUEST_ID_BYTES = 16
VERSION_MAX = 2**53  # no key has more versions; larger numbers from a client name none

_CLI = {
    Operation.READ: "get",
    Operation.UPDATE: "put",
    Operation.PATCH: "patch",
    Operation.DELETE: "delete",
    Operation.LIST: "list",
    Operation.SCAN: "scan",
}
_PATH = in_path("path", "Where the secret is.")
_VERSION = in_query("version", Kind.INTEGER, "Which version; the latest if none is named.")
_DATA = (
    Field("data", Kind.OBJECT, "The secret's keys and values."),
    Field(
        "options", Kind.OBJECT, "cas: the number that the current version must have; 0: there must be none."
    ),
)
_WRITTEN = (
    Field("version", Kind.INTEGER, "The number of this version."),
    Field("created_time", Kind.STRING, "When it was written."),
    Field("deletion_time", Kind.STRING, "When it is or was deleted; empty if never."),
    Field("destroyed", Kind.BOOLEAN, "Whether it is gone for ever."),
    Field("custom_metadata", Kind.OBJECT, "Of the secret."),
)
_VALUE = (
    Field("data", Kind.OBJECT, "The secret's keys and values; null once deleted."),
    Field("metadata", Kind.OBJECT, "Of this version."),
)


def routes() -> list[Route]:
    """The paths of a mount, relative to it."""
    data = _Data(Writer())
    return [
        Route(
            "data/{path...}",
            {
                Operation.READ: _read,
                Operation.UPDATE: data.put,
                Operation.PATCH: data.patch,
                Operation.DELETE: _delete_latest,
            },
            exists=kv_metadata.exists,
            at_once=_read_at_once,
            begins=data.begin_put,
            summary="Writes a new version of a secret, reads one, deletes the latest.",
            fields=(_PATH, _VERSION, *_DATA),
            answers={Operation.READ: _VALUE, Operation.UPDATE: _WRITTEN, Operation.PATCH: _WRITTEN},
        ),
        _of_versions("delete", _delete_versions, "Marks versions deleted."),
        _of_versions("undelete", _undelete, "Takes the deletion mark off versions."),
        _of_versions("destroy", _destroy, "Destroys versions for ever."),
        Route(
            "subkeys/{path...}",
            {Operation.READ: _subkeys},
            summary="The keys of a secret, without its values.",
            fields=(_PATH, _VERSION, in_query("depth", Kind.INTEGER, "How deep; 0 for all of it.")),
            answers={
                Operation.READ: (Field("subkeys", Kind.OBJECT, "With null for every value."), _VALUE[1])
            },
        ),
        *kv_metadata.routes(),
        *(
            Route(
                root,
                dict.fromkeys((Operation.READ, Operation.UPDATE, Operation.PATCH, Operation.DELETE), _root),
                listed=False,
            )
            for root in ("data", "delete", "undelete", "destroy")
        ),
        *(
            Route(root, {Operation.READ: _nothing, Operation.DELETE: _nothing}, listed=False)
            for root in ("data/", "subkeys/")
        ),
        Route("", dict.fromkeys(_CLI, _versionless), listed=False),
        Route("{path...}", dict.fromkeys(_CLI, _versionless), listed=False),
    ]


def _of_versions(name: str, handler: Handler, summary: str) -> Route:
    return Route(
        f"{name}/{{path...}}",
        {Operation.UPDATE: handler},
        exists=kv_metadata.exists,
        summary=summary,
        fields=(_PATH, Field("versions", Kind.STRINGS, "Their numbers.", required=True)),
    )


class _Data:
    """The writes of data/, which share a writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        value = encode(_data(request))
        return await self._put(core, request, params["path"], lambda: value)

    def begin_put(self, core: Core, request: Request, params: dict[str, str]) -> BegunPut | None:
        """put() in steps, where its first one needs no waiting. Raises what put() raises before it proposes."""
        value, cas = encode(_data(request)), _cas(request.data)
        mount_id, path, value_bytes_max = (
            request.served_by.mount_id,
            params["path"],
            core.settings.value_bytes_max,
        )
        if len(value) > value_bytes_max or not self._writer.claim(mount_id, path):
            return None
        request_id = request.request_id or os.urandom(REQUEST_ID_BYTES)
        store = core.unsealed
        return BegunPut(
            writer=self._writer,
            store=store,
            mount_id=mount_id,
            path=path,
            request_id=request_id,
            cas=cas,
            plaintext=value,
            value_bytes_max=value_bytes_max,
            decided=store.position,
            respond=_written,
        )

    async def patch(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """JSON merge patch (RFC 7396) of the latest version."""
        path, changes, cas = params["path"], _data(request), _cas(request.data)
        store, mount_id = core.unsealed, request.served_by.mount_id

        def value() -> bytes:
            found = find(store, mount_id, path, 0)
            if not isinstance(found, CachedValue):
                _check_cas(store, mount_id, path, found.version, cas)
                raise _Answer(Response(status=404, data=version_metadata(found)))
            current = decode(found.value)
            return encode(changes if changes is None else merge_patch(current, changes))

        try:
            return await self._put(core, request, path, value, patch=True)
        except NotFound:
            return Response(status=404, body=b"")
        except _Answer as answer:
            return answer.response

    async def _put(
        self, core: Core, request: Request, path: str, value: Any, *, patch: bool = False
    ) -> Response:
        made = await self._writer.put(
            core.unsealed,
            mount_id=request.served_by.mount_id,
            path=path,
            request_id=request.request_id,
            cas=_cas(request.data),
            value=value,
            value_bytes_max=core.settings.value_bytes_max,
            patch=patch,
        )
        return _written(made)


def _written(made: dict[str, Any]) -> Response:
    """The answer to a write, from what the machine tells of the new version."""
    return Response(data=metadata(**made))


def _check_cas(store: Store, mount_id: str, path: str, version: int, cas: int | None) -> None:
    """What the machine says of a write, where there is nothing to write. Raises InvalidRequest."""
    if cas is not None and cas != version:
        raise InvalidRequest(CAS_MISMATCH)
    key = store.kv_key(mount_id, path)
    if cas is None and (store.reads.kv_config(mount_id).cas_required or (key and key.cas_required)):
        raise InvalidRequest(CAS_REQUIRED)


class _Answer(Exception):
    """Ends a write with an answer that is no error to the client's libraries."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    found = find(core.unsealed, request.served_by.mount_id, params["path"], _version(request))
    if isinstance(found, CachedValue):
        return Response(data=_data_of(found))
    return Response(status=404, data={"data": None, "metadata": version_metadata(found)})


def _read_at_once(
    store: Store, request: Request, params: dict[str, str]
) -> tuple[CachedValue, dict[str, Any]] | None:
    """_read(), where there is something to read."""
    try:
        found = find(store, request.served_by.mount_id, params["path"], _version(request))
    except NodeError:
        return None
    return (found, _data_of(found)) if isinstance(found, CachedValue) else None


def _data_of(found: CachedValue) -> dict[str, Any]:
    return {"data": msgspec.Raw(found.value), "metadata": version_metadata(found.row)}


async def _subkeys(core: Core, request: Request, params: dict[str, str]) -> Response:
    depth = number(request.query.get("depth"), "depth")
    found = find(core.unsealed, request.served_by.mount_id, params["path"], _version(request))
    if not isinstance(found, CachedValue):
        return Response(status=404, data={"metadata": version_metadata(found), "subkeys": None})
    keys = without_leaves(decode(found.value), depth)
    return Response(data={"metadata": version_metadata(found.row), "subkeys": keys})


async def _delete_latest(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["path"], KvDelete, ())


async def _delete_versions(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["path"], KvDelete, _versions(request.data))


async def _undelete(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _change(core, request, params["path"], KvUndelete, _versions(request.data))


async def _destroy(core: Core, request: Request, params: dict[str, str]) -> Response:
    versions = _versions(request.data, missing="no version number provided")
    return await _change(core, request, params["path"], KvDestroy, versions)


async def _change(
    core: Core,
    request: Request,
    path: str,
    command: type[KvDelete | KvUndelete | KvDestroy],
    versions: tuple[int, ...] | None,
) -> Response:
    """`versions` None: those named cannot exist, so nothing is to do; () would mean the latest."""
    if path.endswith("/"):
        raise InvalidRequest("cannot delete a path ending in '/'")
    if versions is not None:
        store = core.unsealed
        change = command(
            time_ns=store.now_ns(), mount_id=request.served_by.mount_id, path=path, versions=versions
        )
        await submit(store, change, request_id=request.request_id)
    return Response(status=NO_CONTENT)


async def _root(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(status=404, warnings=[kv_metadata.ROOT_WARNING])


async def _nothing(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise NotFound


async def _versionless(core: Core, request: Request, params: dict[str, str]) -> Response:
    operation = Operation.UPDATE if request.operation is Operation.CREATE else request.operation
    warning = (
        "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to"
        f" use. If using the OpenBao CLI, use 'bao kv {_CLI[operation]}' for this operation."
    )
    return Response(status=404, warnings=[warning])


# --- what clients send ---


def number(value: Any, name: str) -> int:
    """An integer of the query or the body, as Vault complains about it."""
    try:
        return integer(value, name)
    except InvalidRequest as error:
        raise InvalidRequest(f"Field validation failed: {error.message}") from None


def _version(request: Request) -> int:
    """The version asked for; 0 means the latest, as does every negative number."""
    if not request.query:
        return 0
    version = max(number(request.query.get("version"), "version"), 0)
    if version > VERSION_MAX:
        raise NotFound
    return version


def _versions(data: dict[str, Any], *, missing: str = "No version number provided") -> tuple[int, ...] | None:
    items = strings(data.get("versions"), "versions")
    if not items:
        raise InvalidRequest(missing)
    numbers = {number(item, "versions") for item in items}
    return tuple(sorted(n for n in numbers if 0 < n <= VERSION_MAX)) or None


def _data(request: Request) -> dict[str, Any] | None:
    if "data" not in request.data:
        raise InvalidRequest("no data provided")
    return mapping(request.data["data"], "data")


def _cas(data: dict[str, Any]) -> int | None:
    options = mapping(data.get("options"), "options")
    if not options or "cas" not in options:
        return None
    try:
        cas = integer(options["cas"], "cas")
    except InvalidRequest:
        raise InvalidRequest("error parsing check-and-set parameter") from None
    if not 0 <= cas <= VERSION_MAX:
        raise InvalidRequest(CAS_MISMATCH)
    return cas
