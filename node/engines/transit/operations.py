"""What all uses of keys have in common: one input or many, a key whose next version may be due, their routes."""

import asyncio
from collections.abc import Callable
from typing import Any

from node.auth.fields import integer, text
from node.core.fields import Field, Kind, in_path
from node.core.request import Operation, Request, Response
from node.core.router import Exists, Handler, Route
from node.engines.shelf import Shelf
from node.engines.transit import keys
from node.engines.transit.keyring import Key, find
from node.errors import InvalidRequest, NodeError, NotPrimary

BATCH_ITEMS_MAX = 5_000
THREAD_ITEMS_MIN = 32  # so many symmetric operations, and any asymmetric one, are done off the event loop

Item = dict[str, Any]
Work = Callable[[Item], Item]

Fields = tuple[Field, ...]

NAME = in_path("name", "The key.")
BATCH = Field("batch_input", Kind.ANY, "Several at once: an array of objects with the same fields.")
VERSION = Field("key_version", Kind.INTEGER, "Which version to use; 0 for the latest.")


def plural(name: str) -> Fields:
    """An answer to one input, or to each of a batch."""
    return (Field(name), Field("batch_results", Kind.OBJECTS, "In the order of the batch."))


def route(
    pattern: str,
    handler: Handler,
    summary: str,
    fields: Fields,
    made: Fields,
    *,
    exists: Exists | None = None,
) -> Route:
    """Using a key writes nothing, but where it is made by that, or its next version is due."""
    return Route(
        pattern,
        {Operation.UPDATE: handler},
        local=True,
        exists=exists,
        summary=summary,
        fields=fields,
        answers={Operation.UPDATE: made},
    )


async def run(request: Request, work: Work, *, off_loop: bool, strict: bool) -> Response:
    """Do `work` for the request, or for each item of its batch; `strict`: a failed item makes the whole a 400."""
    batch = request.data.get("batch_input")
    if batch is None:
        return Response(data=await asyncio.to_thread(work, request.data) if off_loop else work(request.data))
    if not isinstance(batch, list) or not all(isinstance(item, dict) for item in batch):
        raise InvalidRequest("batch_input must be an array of objects")
    if not batch:
        raise InvalidRequest("missing batch input to process")
    if len(batch) > BATCH_ITEMS_MAX:
        raise InvalidRequest(f"a batch has at most {BATCH_ITEMS_MAX} items")

    def all_items() -> list[Item]:
        return [_item(work, item) for item in batch]

    many = off_loop or len(batch) >= THREAD_ITEMS_MIN
    results = await asyncio.to_thread(all_items) if many else all_items()
    status = 200
    if strict and any("error" in result for result in results):
        partial = integer(request.data.get("partial_failure_response_code"), "partial_failure_response_code")
        all_failed = all("error" in result for result in results)
        status = partial if partial and not all_failed else 400
        if not 200 <= status < 500:
            raise InvalidRequest("partial_failure_response_code is no status that a client can choose")
    return Response(status=status, data={"batch_results": results})


def _item(work: Work, item: Item) -> Item:
    reference = (
        {"reference": text(item.get("reference"), "reference")} if _is_text(item.get("reference")) else {}
    )
    try:
        return work(item) | {"reference": ""} | reference
    except NodeError as error:
        return {"error": error.message, "reference": ""} | reference


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


async def fresh(view: Shelf, request: Request, key: Key) -> Key:
    """The key, with a new version if its time has come. Who cannot make one, or is too late, uses what is there.

    Raises NotPrimary where another region can be asked to make it.
    """
    if not key.is_due(view.store.now_ns()):
        return key
    try:
        return await keys.rotated(view, key)
    except NodeError as error:
        if isinstance(error, NotPrimary) and not request.alone:
            raise
        return find(view, key.name)
