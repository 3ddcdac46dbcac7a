"""Who asks, where a request's headers say nothing else: the callers that the lanes serve."""

from dataclasses import dataclass

from node import errors
from node.api.head import read_head
from node.api.plain import PlainRequest
from node.audit.record import Asker
from node.core.core import Core
from node.core.request import Consistency
from node.store import Store
from storage.secret import Secret

# Headers that only say who asks, or say nothing that any answer depends on. Others take the ordinary way.
_INDIFFERENT = frozenset(
    {
        *(
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "accept-language",
            "connection",
            "content-length",
        ),
        *("content-type", "cache-control", "pragma"),
        *("x-vault-token", "authorization", "x-vault-request"),
    }
)


@dataclass(slots=True)
class Caller:
    """What a connection's header block says of who asks; without a token the ordinary way answers."""

    store: Store
    token: Secret | None
    digest: bytes
    content_type: str = ""
    who: Asker | None = None  # as the audit log names the token's holder


def caller_of(core: Core, raw: PlainRequest, store: Store) -> Caller:
    """Who the headers say is asking, for as long as the connection repeats them."""
    caller: Caller | None = raw.memo.get("caller")
    if caller is None or caller.store is not store:
        caller = raw.memo["caller"] = _meet(core, raw, store)
    return caller


def _meet(core: Core, raw: PlainRequest, store: Store) -> Caller:
    nobody = Caller(store, None, b"")
    if not all(name.lower() in _INDIFFERENT for name in raw.headers):
        return nobody
    try:
        head = read_head(raw)
    except errors.NodeError:
        return nobody
    if not head.token or head.consistency is not Consistency.FRESH or head.wrap_ttl_ns:
        return nobody
    token = Secret(head.token)
    return Caller(store, token, core.tokens.digest(store, token), head.content_type)
