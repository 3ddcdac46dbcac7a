"""Where the names of a folder lead: looked up once for all of them, where one route answers them all."""

import re
from dataclasses import dataclass

from node.api import paths
from node.core.core import Core
from node.core.router import Route
from node.store import Store
from storage.rows import Mount

FOLDERS_MAX = 4096
_TARGET = re.compile(r"(/v1/(?:[A-Za-z0-9_-]+/)+)([A-Za-z0-9_-]+)")  # means what it says


@dataclass(frozen=True, slots=True)
class Folder:
    """A request's path is `path` and a name; its route's one parameter is `rest` and the name."""

    path: str
    mount: Mount
    route: Route
    parameter: str
    rest: str


class Folders:
    """Folders by target, as long as the mounts stay as they are."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[str, Folder | None] = {}
        self._mounts: tuple[Store, int] | None = None  # whose folders those are

    def find(self, store: Store, target: str) -> tuple[Folder, str] | None:
        """The folder and the name in it that a target of ordinary characters means; None: ask the router."""
        parts = _TARGET.fullmatch(target)
        if parts is None:
            return None
        mounts = (store, store.generation("mounts"))
        if mounts != self._mounts or len(self._known) >= FOLDERS_MAX:
            self._known.clear()
            self._mounts = mounts
        where, name = parts.groups()
        if where not in self._known:
            self._known[where] = self._look_up(store, where[len(paths.PREFIX) :])
        folder = self._known[where]
        return None if folder is None else (folder, name)

    def _look_up(self, store: Store, path: str) -> Folder | None:
        mount = store.mount_for(path)
        if mount is None or self._core.system.reached(path):
            return None
        tail = self._core.engines[mount.engine].tail(path[len(mount.path) :])
        return None if tail is None else Folder(path, mount, *tail)
