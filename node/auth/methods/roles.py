"""The roles of a mount, as most auth methods have them: kept at role/NAME, listed, shown, written and removed."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from node.auth.methods.method import keep
from node.core.core import Core
from node.core.paging import children
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Handler, payload
from node.errors import InvalidRequest, NotFound
from node.store import Store
from node.view import View
from storage.rows import Mount

NAME_CHARACTERS_MAX = 256

_FOLDER = "role/"
_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)


class _Role(Protocol):
    """What a role is, to the table of roles: a structure with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Role)


class Roles(Generic[T]):
    """Those of one method.

    `parameter` is that of the path, `changed` a role with what a request says (raises InvalidRequest), `shown` how it
    is answered; `folded`: all spellings of a name are one, which is in lower case.
    """

    def __init__(
        self,
        kind: Callable[[str], T],
        *,
        parameter: str,
        changed: Callable[[T, Mapping[str, Any]], T],
        shown: Callable[[T], dict[str, Any]],
        folded: bool,
    ) -> None:
        self._kind, self._parameter, self._folded = kind, parameter, folded
        self._changed, self._shown = changed, shown

    @property
    def listing(self) -> dict[Operation, Handler]:
        return {Operation.LIST: self._list}

    @property
    def one(self) -> dict[Operation, Handler]:
        return {Operation.READ: self._read, Operation.UPDATE: self._write, Operation.DELETE: self._delete}

    def names(self, core: Core, mount: Mount) -> list[str]:
        return View(core.unsealed, mount.mount_id).children(_FOLDER, limit=core.settings.list_keys_max)

    def find(self, store: Store, mount: Mount, name: str) -> T | None:
        """A role by its name."""
        item = View(store, mount.mount_id).get(self._path(name)) if "/" not in name else None
        return msgspec.json.decode(item.raw, type=self._kind) if item else None

    def _spelled(self, name: str) -> str:
        return name.lower() if self._folded else name

    def _path(self, name: str) -> str:
        return _FOLDER + self._spelled(name)

    async def _list(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        view = View(core.unsealed, request.served_by.mount_id)
        return payload(keys=children(core, request, view, _FOLDER))

    async def _read(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        role = self.find(core.unsealed, request.served_by, params[self._parameter])
        if role is None:
            raise NotFound
        return Response(data=self._shown(role))

    async def _write(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """Create or change; what is not said stays."""
        name = self._spelled(params[self._parameter])
        if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
            raise InvalidRequest(
                "invalid role name: letters, digits and . - _, the first and the last no punctuation"
            )
        known = self.find(core.unsealed, request.served_by, name)
        role: Any = self._changed(known or self._kind(name), request.data)
        await keep(core, request, self._path(name), role)
        return Response(NO_CONTENT)

    async def _delete(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        command = View(core.unsealed, request.served_by.mount_id).delete(self._path(params[self._parameter]))
        await core.unsealed.submit(command, request_id=request.request_id)
        return Response(NO_CONTENT)
