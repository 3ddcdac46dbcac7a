"""Where the names of a folder lead: looked up once for all of them, where one route answers them all."""

import re
from dataclasses import dataclass, field

from node.api import paths
from node.api.vault import render
from node.audit.record import FolderReads
from node.core import pipeline
from node.core.core import Core
from node.core.request import Operation, Request
from node.core.router import Route
from node.policy.acl import ACL
from node.store import Store
from storage.rows import Mount

FOLDERS_MAX = 4096
ACLS_MAX = 64  # of one folder
_SOME_NAME = render.new_request_id()  # what no path holds
_TARGET = re.compile(r"(/v1/(?:[A-Za-z0-9_-]+/)+)([A-Za-z0-9_-]+)")  # means what it says


@dataclass(slots=True)
class Folder:
    """A request's path is `path` and a name; its route's one parameter is `rest` and the name.

    What is the same for every name is asked once.
    """

    path: str
    mount: Mount
    route: Route
    parameter: str
    rest: str
    _permitted: dict[ACL, bool | None] = field(default_factory=dict)  # None: it depends on the name
    _reads: FolderReads | None = None

    def request(self, name: str) -> Request:
        """A read of this name, by nobody yet."""
        return Request("", Operation.READ, self.path + name, mount=self.mount)

    def permits(self, acl: ACL, request: Request) -> bool:
        """pipeline.permits() for a request of request()."""
        if acl not in self._permitted:
            if len(self._permitted) >= ACLS_MAX:
                self._permitted.clear()
            alike = acl.decides_alike(self.path)
            self._permitted[acl] = pipeline.permits(acl, request, self.route) if alike else None
        permitted = self._permitted[acl]
        return pipeline.permits(acl, request, self.route) if permitted is None else permitted

    def reads(self, core: Core) -> FolderReads:
        """What audit records say of all reads here."""
        if self._reads is None or self._reads.hasher is not core.audit.hasher:
            self._reads = core.audit.prepare_folder(self.request(_SOME_NAME), _SOME_NAME)
        return self._reads


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
