"""The writes by which a drill measures: one small entry that counts up, and goes by itself if nobody removes it."""

import re

from node.core.core import Core
from node.core.request import Request
from node.drills.history import VIEW
from node.errors import InvalidRequest, NotFound, TooBusy
from node.view import View, write

PROBES_MAX = 16
PROBE_LIFETIME_NS = 3600 * 10**9
NUMBER_MAX = 1 << 31
_FOLDER = "probe/"
_NAME = re.compile(r"[a-z0-9]{1,32}")


async def put(core: Core, request: Request, name: str, number: int) -> None:
    """Write a number. Raises InvalidRequest, TooBusy; else as Store.submit()."""
    store, view = core.unsealed, View(core.unsealed, VIEW)
    if _NAME.fullmatch(name) is None or not 0 <= number <= NUMBER_MAX:
        raise InvalidRequest("a probe's name has 1 to 32 of a-z and 0-9, and its number is no negative one")
    names = view.scan(_FOLDER, limit=PROBES_MAX + 1)
    if name not in names and len(names) >= PROBES_MAX:
        raise TooBusy(f"{PROBES_MAX} probes are there already; each goes an hour after its last write")
    command = view.put(_FOLDER + name, {"number": number}, expires_ns=store.now_ns() + PROBE_LIFETIME_NS)
    await write(store, command, request_id=request.request_id)


def get(core: Core, name: str) -> int:
    """The newest number. Raises NotFound."""
    item = View(core.unsealed, VIEW).get(_FOLDER + name)
    if item is None:
        raise NotFound
    number: int = item.value["number"]
    return number


async def remove(core: Core, request: Request, name: str) -> None:
    """Nothing is there afterwards."""
    view = View(core.unsealed, VIEW)
    await write(core.unsealed, view.delete(_FOLDER + name), request_id=request.request_id)
