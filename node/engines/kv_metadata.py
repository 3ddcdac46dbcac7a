"""The KV engine, version 2: a key's metadata, lists of keys, and the mount's configuration."""

from typing import Any

from node.auth.fields import boolean, duration_ns, go_duration, integer, mapping, rfc3339, text
from node.core.core import Core
from node.core.fields import LISTED, Field, Kind, in_path, in_query, of_any_name
from node.core.paging import page
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.engines.kv_writes import refusal, submit
from node.errors import InvalidRequest, NotFound
from node.store import CommandRejected, Store
from storage.command import KvConfigPut, KvMetadataDelete, KvMetadataPut
from storage.outcome import Reason
from storage.rows import KvKey

CUSTOM_KEYS_MAX = 64
CUSTOM_KEY_BYTES_MAX = 128
CUSTOM_VALUE_BYTES_MAX = 512
VERSIONS_KEPT_MAX = 2**31 - 1
DETAILED_KEYS_MAX = 1_000  # each takes two look-ups

_SETTINGS = ("max_versions", "cas_required", "delete_version_after", "custom_metadata")

_CAS_MANDATED = '"cas_required" set to false, but is mandated by backend config. This value will be ignored.'
ROOT_WARNING = "Non-listing operations on the root of a K/V v2 mount are not supported."


_PATH = in_path("path", "Where the secret is.")
_DETAILED = "Lists secrets with their metadata."
PAGE = (
    in_query("after", Kind.STRING, "Of a list: only what comes after this name."),
    in_query("limit", Kind.INTEGER, "Of a list: at most so many."),
)
_CONFIG = (
    Field("max_versions", Kind.INTEGER, "How many versions are kept; 0 for the default of 10."),
    Field("cas_required", Kind.BOOLEAN, "Whether every write must name the current version."),
    Field("delete_version_after", Kind.ANY, "A duration: new versions are deleted after it."),
)
_METADATA = (
    *_CONFIG,
    Field("custom_metadata", Kind.OBJECT, "What clients want to know of it, strings by name."),
)
_NOT_OFFERED = (
    Field("metadata_cas_required", Kind.BOOLEAN, "Always false."),
    Field("current_metadata_version", Kind.INTEGER, "Always 0."),
)
_METADATA_READ = (
    *_METADATA,
    *_NOT_OFFERED,
    Field("created_time", Kind.STRING, "When the first version was written."),
    Field("updated_time", Kind.STRING, "When it last changed."),
    Field("current_version", Kind.INTEGER, "The latest version; 0 if there is none."),
    Field("oldest_version", Kind.INTEGER, "The oldest one that is kept."),
    Field("versions", Kind.OBJECT, "Of each version, by its number: created_time, deletion_time, destroyed."),
)


def routes() -> list[Route]:
    """The paths of a mount that are not about values, relative to it."""
    lists = {Operation.LIST: list_keys, Operation.SCAN: scan_keys}
    detailed = {Operation.LIST: _list_detailed, Operation.SCAN: _scan_detailed}
    refused = dict.fromkeys((Operation.READ, Operation.UPDATE, Operation.PATCH, Operation.DELETE), _root)
    info = Field(
        "key_info",
        Kind.OBJECT,
        "By name; empty for a folder.",
        members=(of_any_name(Kind.OBJECT, "", *_METADATA_READ),),
    )
    told: dict[str, Any] = {"summary": _DETAILED, "answers": dict.fromkeys(detailed, (LISTED, info))}
    return [
        Route(
            "metadata/{path...}",
            {
                Operation.READ: _read,
                Operation.UPDATE: _put,
                Operation.PATCH: _patch,
                Operation.DELETE: _delete,
                **lists,
            },
            exists=exists,
            summary="What a secret is besides its values; forgets it with all its versions; lists secrets.",
            fields=(_PATH, *_METADATA, *PAGE),
            answers={Operation.READ: _METADATA_READ},
        ),
        Route("metadata", {**refused, **lists}, listed=False),
        Route(
            "metadata/",
            {Operation.READ: _nothing, Operation.DELETE: _nothing, **lists},
            listed=False,
        ),
        Route("detailed-metadata/{path...}", detailed, fields=(_PATH, *PAGE), **told),
        Route("detailed-metadata/", detailed, fields=PAGE, **told),
        Route("detailed-metadata", detailed, listed=False),
        Route(
            "config",
            {Operation.READ: _read_config, Operation.UPDATE: _put_config},
            summary="What holds for all secrets of the mount.",
            fields=_CONFIG,
            answers={Operation.READ: (*_CONFIG, *_NOT_OFFERED[:1])},
        ),
    ]


def exists(core: Core, request: Request, params: dict[str, str]) -> bool:
    """Whether a write to this key would be an update."""
    return core.unsealed.kv_key(request.served_by.mount_id, params["path"]) is not None


async def _root(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(status=404, warnings=[ROOT_WARNING])


async def _nothing(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise NotFound


# --- one key ---


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, mount_id = core.unsealed, request.served_by.mount_id
    key = store.reads.kv_key(mount_id, params["path"])
    if key is None:
        raise NotFound
    return Response(data=_metadata(store, mount_id, key))


def _metadata(store: Store, mount_id: str, key: KvKey) -> dict[str, Any]:
    """OpenBao's check-and-set of metadata is not offered; its two fields say so."""
    versions = {
        str(each.version): {
            "created_time": rfc3339(each.created_ns),
            "deletion_time": rfc3339(each.deletion_ns) if each.deletion_ns else "",
            "destroyed": each.destroyed,
        }
        for each in store.reads.kv_versions(mount_id, key.path)
    }
    return {
        "cas_required": key.cas_required,
        "created_time": rfc3339(key.created_ns),
        "current_metadata_version": 0,
        "current_version": key.current_version,
        "custom_metadata": key.custom_metadata,
        "delete_version_after": go_duration(key.delete_version_after_ns),
        "max_versions": key.max_versions,
        "metadata_cas_required": False,
        "oldest_version": key.oldest_version,
        "updated_time": rfc3339(key.updated_ns),
        "versions": versions,
    }


async def _put(core: Core, request: Request, params: dict[str, str]) -> Response:
    custom = _custom_metadata(request.data)
    if custom is not None:
        _check_custom({name: value or "" for name, value in custom.items()})
    return await _submit(core, request, params["path"], custom=custom, patch=False)


async def _patch(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = core.unsealed.reads.kv_key(request.served_by.mount_id, params["path"])
    current = (key.custom_metadata if key is not None else None) or {}
    custom = _custom_metadata(request.data)
    if custom is not None:
        if request.data["custom_metadata"] is None:
            custom = dict.fromkeys(current)
        merged = {**current, **custom}
        _check_custom({name: value for name, value in merged.items() if value is not None})
    return await _submit(core, request, params["path"], custom=custom, patch=True)


async def _submit(
    core: Core, request: Request, path: str, *, custom: dict[str, str | None] | None, patch: bool
) -> Response:
    store, data, mount_id = core.unsealed, request.data, request.served_by.mount_id
    if boolean(data.get("metadata_cas_required"), "metadata_cas_required"):
        raise InvalidRequest("check-and-set of metadata is not offered")
    if not any(name in data for name in _SETTINGS):
        return Response(status=NO_CONTENT)  # nothing is said, so nothing is kept: no key comes to be
    lifetime = data.get("delete_version_after")
    cas_required = boolean(data["cas_required"], "cas_required") if "cas_required" in data else None
    command = KvMetadataPut(
        time_ns=store.now_ns(),
        mount_id=mount_id,
        path=path,
        max_versions=_versions_kept(data),
        cas_required=cas_required,
        delete_version_after_ns=(
            duration_ns(lifetime, "delete_version_after") if "delete_version_after" in data else None
        ),
        custom_metadata=custom,
        patch=patch,
    )
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        if error.reason == Reason.NO_SUCH_KEY:
            return Response(status=404, body=b"")
        raise refusal(error) from None
    if cas_required is False and store.reads.kv_config(mount_id).cas_required:
        return Response(warnings=[_CAS_MANDATED])
    return Response(status=NO_CONTENT)


async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, path = core.unsealed, params["path"]
    if path.endswith("/"):
        raise InvalidRequest("cannot delete a path ending in '/'")
    command = KvMetadataDelete(time_ns=store.now_ns(), mount_id=request.served_by.mount_id, path=path)
    await submit(store, command, request_id=request.request_id)
    return Response(status=NO_CONTENT)


# --- lists ---


async def list_keys(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": _keys(core, request, params)})


async def scan_keys(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": _keys(core, request, params, deep=True)})


async def _list_detailed(core: Core, request: Request, params: dict[str, str]) -> Response:
    return _detailed(core, request, params, deep=False)


async def _scan_detailed(core: Core, request: Request, params: dict[str, str]) -> Response:
    return _detailed(core, request, params, deep=True)


def _detailed(core: Core, request: Request, params: dict[str, str], *, deep: bool) -> Response:
    store, mount_id = core.unsealed, request.served_by.mount_id
    names = _keys(core, request, params, deep=deep, keys_max=DETAILED_KEYS_MAX)
    folder = _folder(params)
    info: dict[str, Any] = {}
    for name in names:
        key = None if name.endswith("/") else store.reads.kv_key(mount_id, folder + name)
        info[name] = {} if key is None else _metadata(store, mount_id, key)
    return Response(data={"key_info": info, "keys": names})


def _keys(
    core: Core, request: Request, params: dict[str, str], *, deep: bool = False, keys_max: int | None = None
) -> list[str]:
    """The names under a folder. Raises NotFound if there are none."""
    find = core.unsealed.reads.kv_scan if deep else core.unsealed.reads.kv_list
    mount_id, folder = request.served_by.mount_id, _folder(params)
    return page(core, request, lambda after, limit: find(mount_id, folder, after, limit), keys_max=keys_max)


def _folder(params: dict[str, str]) -> str:
    path = params.get("path", "")
    return path if not path or path.endswith("/") else path + "/"


# --- the mount ---


async def _read_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    config = core.unsealed.reads.kv_config(request.served_by.mount_id)
    return Response(
        data={
            "cas_required": config.cas_required,
            "delete_version_after": go_duration(config.delete_version_after_ns),
            "max_versions": config.max_versions,
            "metadata_cas_required": False,
        }
    )


async def _put_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, data = core.unsealed, request.data
    if boolean(data.get("metadata_cas_required"), "metadata_cas_required"):
        raise InvalidRequest("check-and-set of metadata is not offered")
    command = KvConfigPut(
        time_ns=store.now_ns(),
        mount_id=request.served_by.mount_id,
        max_versions=_versions_kept(data),
        cas_required=boolean(data["cas_required"], "cas_required") if "cas_required" in data else None,
        delete_version_after_ns=(
            _lifetime(data["delete_version_after"]) if "delete_version_after" in data else None
        ),
    )
    await submit(store, command, request_id=request.request_id)
    return Response(status=NO_CONTENT)


def _lifetime(value: Any) -> int:
    """Nanoseconds; at a mount a negative lifetime means that no version of it is ever deleted by age."""
    if isinstance(value, str) and value.strip().startswith("-"):
        return -duration_ns(value.strip()[1:], "delete_version_after")
    if isinstance(value, int) and value < 0:
        return -duration_ns(-value, "delete_version_after")
    return duration_ns(value, "delete_version_after")


# --- what clients send ---


def _versions_kept(data: dict[str, Any]) -> int | None:
    if "max_versions" not in data:
        return None
    try:
        kept = integer(data["max_versions"], "max_versions")
    except InvalidRequest as error:
        raise InvalidRequest(f"Field validation failed: {error.message}") from None
    if not 0 <= kept <= VERSIONS_KEPT_MAX:
        raise InvalidRequest('field "max_versions" is out of range')
    return kept


def _custom_metadata(data: dict[str, Any]) -> dict[str, str | None] | None:
    """What was sent: None if nothing was, {} for null."""
    if "custom_metadata" not in data:
        return None
    given = mapping(data["custom_metadata"], "custom_metadata")
    if given is None:
        return {}
    return {name: None if value is None else text(value, "custom_metadata") for name, value in given.items()}


def _check_custom(custom: dict[str, str]) -> None:
    """Vault's limits, in its words."""
    if len(custom) > CUSTOM_KEYS_MAX:
        raise _invalid(f"payload must contain at most {CUSTOM_KEYS_MAX} keys, provided {len(custom)}")
    for name, value in custom.items():
        if not 0 < len(name.encode()) <= CUSTOM_KEY_BYTES_MAX:
            raise _invalid(
                f'length of key "{name}" is {len(name.encode())} but must be 0 < len(key) <= {CUSTOM_KEY_BYTES_MAX}'
            )
        if not 0 < len(value.encode()) <= CUSTOM_VALUE_BYTES_MAX:
            raise _invalid(
                f'length of value for key "{name}" is {len(value.encode())} but must be'
                f" 0 < len(value) <= {CUSTOM_VALUE_BYTES_MAX}"
            )
        if not name.isprintable():
            raise _invalid(f'key "{name.encode("unicode_escape").decode()}" contains unprintable characters')
        if not value.isprintable():
            raise _invalid(f'value for key "{name}" contains unprintable characters')


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"1 error occurred:\n\t* custom_metadata validation failed: {what}\n\n")
