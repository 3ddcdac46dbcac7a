"""The KV engine, version 1: a path holds one value, the body that was written.

It keeps values as version 2 does, with a window of one version, so that a mount becomes version 2 by saying so and
no write can fall between the two. Semantics and texts: Vault's kv (version 1) API.
"""

from typing import Any

from node.auth.fields import SECOND_NS, duration_ns
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import Kind, in_path, of_any_name
from node.core.request import NO_CONTENT, Lease, Operation, Request, Response
from node.core.router import Route
from node.engines import kv_metadata
from node.engines.kv_values import decode, encode
from node.engines.kv_writes import Writer, place, submit
from node.errors import InvalidRequest, NotFound
from storage.command import KvMetadataDelete
from storage.rows import Mount

VERSIONS_KEPT = 1
_TTL_FIELDS = (
    "ttl",
    "lease",
)  # in a secret they say for how long a reader may keep it; the first that is there counts


def routes() -> list[Route]:
    """The paths of a mount, relative to it."""
    values = _Values(Writer())
    lists = {Operation.LIST: kv_metadata.list_keys, Operation.SCAN: kv_metadata.scan_keys}
    root = {Operation.READ: _nothing, Operation.UPDATE: _no_path, Operation.DELETE: _nothing_to_do, **lists}
    return [
        Route(
            "{path...}",
            {Operation.READ: _read, Operation.UPDATE: values.put, Operation.DELETE: _delete, **lists},
            exists=kv_metadata.exists,
            summary="Reads, writes, deletes and lists secrets: a body is the secret.",
            fields=(in_path("path", "Where the secret is."), *kv_metadata.PAGE),
            answers={Operation.READ: (of_any_name(Kind.ANY, "What was written."),)},
        ),
        Route("", root, listed=False),
    ]


class _Values:
    """The writes, which share a writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        if not request.data:
            raise InvalidRequest("missing data fields")
        value = encode(request.data)
        await self._writer.put(
            core.unsealed,
            mount_id=request.served_by.mount_id,
            path=params["path"],
            request_id=request.request_id,
            cas=None,
            value=lambda: value,
            value_bytes_max=core.settings.value_bytes_max,
        )
        return Response(status=NO_CONTENT)


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    store, mount, path = core.unsealed, request.served_by, params["path"]
    version = store.reads.kv_version(mount.mount_id, path)
    if version is None or version.value is None:
        raise NotFound
    data = decode(store.open(place(mount.mount_id, path, version.version), version.value))
    return Response(data=data, lease=Lease(duration_s=_lease_duration_s(core, mount, data)))


async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    store = core.unsealed
    command = KvMetadataDelete(
        time_ns=store.now_ns(), mount_id=request.served_by.mount_id, path=params["path"]
    )
    await submit(store, command, request_id=request.request_id)
    return Response(status=NO_CONTENT)


async def _nothing(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise NotFound


async def _nothing_to_do(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(status=NO_CONTENT)


async def _no_path(core: Core, request: Request, params: dict[str, str]) -> Response:
    raise InvalidRequest("missing path")


def _lease_duration_s(core: Core, mount: Mount, data: dict[str, Any]) -> int:
    """What the secret itself says, if that is a duration, or else the mount's default."""
    default = limits(core.settings, mount).default_ns // SECOND_NS
    said = next((data[name] for name in _TTL_FIELDS if data.get(name)), None)
    try:
        return duration_ns(said, "ttl") // SECOND_NS or default
    except InvalidRequest:
        return default
