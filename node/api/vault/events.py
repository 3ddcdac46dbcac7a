"""sys/events/subscribe: what happens to secrets, as it happens. The connection itself: node/api/events.py."""

from collections.abc import Mapping

from node.auth.fields import SECOND_NS, boolean, duration_ns
from node.core.core import Core
from node.core.fields import Kind, in_path, in_query
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Route
from node.errors import InvalidRequest, NotYet
from node.events import cursor as cursors
from node.events.cursor import Cursor
from node.events.filters import compile_filter, event_types
from node.events.subscription import Form, Subscription

NAMESPACES = frozenset({"", "/", "root", "root/", "*"})
_ASK = (
    "ask with `Accept: text/event-stream`, or open a WebSocket (`Upgrade: websocket`) with ?json=true:"
    " events have no other form here"
)


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/events/subscribe/{event_type...}",
            {Operation.READ: _subscribe},
            shape=Shape.RAW,
            summary="Tells what happens to secrets, as it happens, over a WebSocket or as server-sent events.",
            fields=(
                in_path("event_type", "The events' type; * stands for anything: kv-v2/data-*."),
                in_query(
                    "json", Kind.BOOLEAN, "CloudEvents in JSON: the only form that a WebSocket gets here."
                ),
                in_query(
                    "after", Kind.STRING, "The id of the last event that was heard, or an X-Vault-Index."
                ),
                in_query(
                    "filter",
                    Kind.STRING,
                    'An expression: data_path == "secret/data/x".',
                ),
                in_query("namespaces", Kind.STRING, "The root namespace, which is the only one."),
                in_query("timeout", Kind.DURATION, "End the subscription after this time."),
            ),
            media_type="text/event-stream",
        )
    ]


async def _subscribe(core: Core, request: Request, params: dict[str, str]) -> Response:
    query, row = request.query, request.token_row
    assert row is not None, "the route asks for a token"
    if request.wrap_ttl_ns:
        raise InvalidRequest("a stream of events cannot be wrapped")
    if request.form not in tuple(Form):
        raise InvalidRequest(_ASK)
    if request.form == Form.WEBSOCKET and not boolean(query.get("json"), "json"):
        raise InvalidRequest("events come as JSON only: add ?json=true")
    if query.get("namespaces", "") not in NAMESPACES:
        raise InvalidRequest("there is no namespace but the root namespace")
    stream = core.events.stream
    subscription = Subscription(
        request=request,
        form=Form(request.form),
        pattern=params["event_type"],
        types=event_types(params["event_type"]),
        filter=compile_filter(query.get("filter", "")),
        row=row,
        acl=core.acl(row),
        cursor=await _cursor(core, query, stream.cluster),
        limit_s=duration_ns(query.get("timeout"), "timeout") / SECOND_NS,
    )
    core.events.take_place()
    request.has_place = True
    return Response(subscription=subscription)


async def _cursor(core: Core, query: Mapping[str, str], cluster: str) -> Cursor | None:
    """Where the caller stands, once this node has come as far. Raises InvalidRequest, NotYet."""
    if not query.get("after"):
        return None
    cursor, store = cursors.parse(query["after"]), core.unsealed
    if cursor.cluster == cluster and store.position < cursor.position:
        if not cursors.is_ours(cursor, store.reads.epochs()):
            return cursor
        if not await store.wait_for(cursor.position, core.settings.index_wait_s):
            raise NotYet
    return cursor
