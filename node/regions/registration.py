"""Since when a region is one of its store's: who is registered under its name later is somebody else.

A region that was removed while it was away may come back when another cluster goes by its name. Both would follow, and
a handover to that name would call both to order writes.
"""

from node.store import Store
from node.view import View
from storage import regions as roles
from storage.rows import Region

_VIEW, _PATH = "own:regions", "registered"


def is_ours(store: Store, registered: Region | None) -> bool:
    """Whether what is registered under this region's name, if anything is, is this region."""
    return registered is not None and _noted_ns(store) in (0, registered.created_ns)


async def note(store: Store, registered: Region | None) -> None:
    """For the leader. A region that orders writes may have begun to do so in another group than that of before."""
    if registered is None:
        return
    noted_ns = _noted_ns(store)
    if noted_ns == registered.created_ns or (noted_ns and store.region_role() != roles.PRIMARY):
        return
    await store.submit(View(store, _VIEW).put(_PATH, registered.created_ns))


def _noted_ns(store: Store) -> int:
    """0: not yet."""
    item = View(store, _VIEW).get(_PATH)
    return 0 if item is None else int(item.value)
