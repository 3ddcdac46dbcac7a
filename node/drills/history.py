"""Reports of drills, kept in the store: the newest ones, in every region."""

import secrets
from typing import Any

from node.auth.fields import rfc3339
from node.core.core import Core
from node.core.request import Request
from node.drills import report
from node.drills.report import Record, Report
from node.view import View, write

VIEW = "sys:drills"
REPORTS_MAX = 100
_FOLDER = "report/"


async def keep(core: Core, request: Request, told: Report) -> str:
    """Sign and keep a report, under the id that is returned; the oldest ones go. Raises as Store.submit() does."""
    store, row = core.unsealed, request.token_row
    # A repeated request finds the outcome of the first, which kept it under the same name.
    tail = request.request_id.hex()[:8] or secrets.token_hex(4)
    stamp = told.started[:19].replace("-", "").replace(":", "")
    record = Record(
        id=f"{stamp}Z-{told.drill}-{tail}",
        recorded=rfc3339(store.now_ns()),
        by=row.display_name if row is not None else "",
        entity_id=row.entity_id if row is not None else "",
        cluster_id=core.lifecycle.cluster_id,
        region=core.settings.region,
        node_id=core.settings.node_id,
        report=told,
    )
    kept = report.signed(record, store.root)
    view = View(store, VIEW)
    names = view.scan(_FOLDER)
    old = [view.delete(_FOLDER + name) for name in names[: max(0, len(names) + 1 - REPORTS_MAX)]]
    await write(store, view.put(_FOLDER + record.id, kept), *old, request_id=request.request_id)
    return record.id


def listed(core: Core) -> list[dict[str, Any]]:
    """Newest first."""
    view = View(core.unsealed, VIEW)
    items = (view.get(_FOLDER + name) for name in reversed(view.scan(_FOLDER)))
    return [item.value for item in items if item is not None]
