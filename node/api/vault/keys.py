"""sys/rotate and sys/key-status: the key that encrypts, its age and its use."""

from typing import Any

from node import key_rotation
from node.auth.fields import SECOND_NS, boolean, duration_ns, go_duration, integer, rfc3339
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest
from node.view import View, write
from storage.keyring import WRAPS_PER_TERM_MAX

_CONFIG = (
    Field("enabled", Kind.BOOLEAN, "Whether the key is replaced by itself."),
    Field("interval", Kind.DURATION, "After how long; 0 for never by age."),
    Field("max_operations", Kind.INTEGER, "After how many encryptions."),
)
_CONFIGURED = (
    Field("interval", Kind.ANY, 'A duration, as in "48h0m0s"; the number 0 for never by age.'),
    *_CONFIG[::2],
)
_STATUS = (
    Field("term", Kind.INTEGER, "The number of the key that encrypts."),
    Field("install_time", Kind.STRING, "Since when."),
    Field("encryptions", Kind.INTEGER, "How often it was used."),
)


def routes() -> list[Route]:
    """The table of this module."""
    read, update = Operation.READ, Operation.UPDATE
    again = "Encrypt with a new key from now on; what was encrypted stays readable."
    return [
        *(
            Route(path, {update: _rotate}, sudo=True, summary=again)
            for path in ("sys/rotate", "sys/rotate/keyring")
        ),
        *(
            Route(
                path,
                {read: _read_config, update: _write_config},
                sudo=True,
                summary="When the key is replaced by itself.",
                fields=_CONFIG,
                answers={read: _CONFIGURED},
            )
            for path in ("sys/rotate/config", "sys/rotate/keyring/config")
        ),
        Route(
            "sys/key-status",
            {read: _status},
            shape=Shape.DOUBLE,
            summary="The key that encrypts, its age and its use.",
            answers={read: _STATUS},
        ),
    ]


async def _rotate(core: Core, request: Request, params: dict[str, str]) -> Response:
    await key_rotation.rotate(core.unsealed, request_id=request.request_id)
    return Response(NO_CONTENT)


async def _status(core: Core, request: Request, params: dict[str, str]) -> Response:
    store = core.unsealed
    term = key_rotation.newest(store)
    return Response(
        data={"term": term.term, "install_time": rfc3339(term.created_ns), "encryptions": store.wraps}
    )


async def _read_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    found = key_rotation.configured(core.unsealed)
    return Response(
        data={
            "enabled": found.enabled,
            "interval": go_duration(found.interval_s * SECOND_NS) if found.interval_s else 0,
            "max_operations": found.operations_max,
        }
    )


async def _write_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Change what is given. A number of operations out of range becomes the nearest in range, as in Vault."""
    store, data = core.unsealed, request.data
    before = key_rotation.configured(store)
    interval_s = before.interval_s
    if data.get("interval") is not None:
        interval_s = duration_ns(data["interval"], "interval") // SECOND_NS
    if interval_s and interval_s < key_rotation.INTERVAL_MIN_S:
        raise InvalidRequest("interval must be greater or equal to 24h0m0s")
    operations, warnings = before.operations_max, []
    if data.get("max_operations") is not None:
        wanted = integer(data["max_operations"], "max_operations")
        operations = min(max(wanted, key_rotation.OPERATIONS_MIN), WRAPS_PER_TERM_MAX)
        if operations != wanted:
            warnings.append(f"max_operations was out of range; it is {operations}")
    enabled: Any = data.get("enabled")
    after = key_rotation.Rotation(
        enabled=before.enabled if enabled is None else boolean(enabled, "enabled"),
        interval_s=interval_s,
        operations_max=operations,
    )
    await write(
        store, View(store, key_rotation.VIEW).put(key_rotation.PATH, after), request_id=request.request_id
    )
    return Response(warnings=warnings) if warnings else Response(NO_CONTENT)
