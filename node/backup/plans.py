"""When snapshots are taken by themselves: what the API keeps in the store under a name."""

import re
from typing import Any

import msgspec

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.errors import InvalidRequest
from node.store import Store
from node.view import View

VIEW = "own:snapshots"
PLANS_MAX = 16
INTERVAL_S_MIN = 10
RETAIN_MAX = 1000
RETAIN_DEFAULT = 1
PREFIX_DEFAULT = "strongroom-snapshot"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a plan and of its files: never a path


class Plan(msgspec.Struct, frozen=True):
    """One schedule. Where the files go is each node's configuration, and nobody else's."""

    interval_s: int
    retain: int = RETAIN_DEFAULT
    file_prefix: str = PREFIX_DEFAULT
    local_max_space: int = 0  # bytes of all its files together; 0: no limit

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Plan":
        """From the body of a request. Raises InvalidRequest."""
        if str(data.get("storage_type") or "local") != "local":
            raise InvalidRequest('storage_type must be "local": snapshots are kept on the nodes\' own disks')
        if data.get("path_prefix"):
            raise InvalidRequest(
                "path_prefix is not taken from the API: snapshot_dir in the node's configuration is the directory"
            )
        interval_s = fields.duration_ns(data.get("interval") or 0, "interval") // SECOND_NS
        if interval_s < INTERVAL_S_MIN:
            raise InvalidRequest(f"interval is required, and at least {INTERVAL_S_MIN}s")
        retain = fields.integer(data.get("retain") or RETAIN_DEFAULT, "retain")
        if not 1 <= retain <= RETAIN_MAX:
            raise InvalidRequest(f"retain must lie between 1 and {RETAIN_MAX}")
        space = fields.integer(data.get("local_max_space") or 0, "local_max_space")
        if space < 0:
            raise InvalidRequest("local_max_space cannot be negative")
        return cls(
            interval_s, retain, _named(data.get("file_prefix") or PREFIX_DEFAULT, "file_prefix"), space
        )

    def shown(self) -> dict[str, Any]:
        """As the API answers it."""
        return {
            "interval": self.interval_s,
            "retain": self.retain,
            "file_prefix": self.file_prefix,
            "storage_type": "local",
            "local_max_space": self.local_max_space,
        }


def _named(told: object, what: str) -> str:
    if not isinstance(told, str) or not _NAME.fullmatch(told):
        raise InvalidRequest(f"{what} must be 1 to 64 letters, digits, - and _")
    return told


class Plans:
    """The plans of one store, by name."""

    def __init__(self, store: Store) -> None:
        self._store, self._view = store, View(store, VIEW)

    def names(self) -> list[str]:
        return self._view.children(limit=PLANS_MAX)

    def get(self, name: str) -> Plan | None:
        item = self._view.get(name)
        return msgspec.convert(item.value, Plan) if item is not None else None

    async def put(self, name: str, plan: Plan) -> None:
        """Raises InvalidRequest; else as Store.submit()."""
        _named(name, "the name")
        names = self.names()
        if name not in names and len(names) >= PLANS_MAX:
            raise InvalidRequest(f"there are at most {PLANS_MAX} plans")
        for other in names:
            if other != name and (known := self.get(other)) and known.file_prefix == plan.file_prefix:
                raise InvalidRequest(
                    f"file_prefix is that of {other} already: each plan counts its own files"
                )
        await self._store.submit(self._view.put(name, msgspec.to_builtins(plan)))

    async def delete(self, name: str) -> None:
        await self._store.submit(self._view.delete(name))
