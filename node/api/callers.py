"""Who asks, where a request's headers say nothing else: the callers that the lanes serve."""

from dataclasses import dataclass

from node import errors
from node.api.head import read_head
from node.api.plain import PlainRequest
from node.audit.record import Asker
from node.auth.identity import live
from node.core.core import Core
from node.core.request import Consistency
from node.policy.acl import ACL, NOTHING
from node.store import Store
from storage.rows import Token
from storage.secret import Secret

TARGET_CHARACTERS_MAX = 512  # the lanes remember targets; longer ones take the ordinary way

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
    epoch: int = -1  # of the store, when `row` and `acl` were looked up
    row: Token | None = None
    acl: ACL = NOTHING
    who: Asker | None = None  # as the audit log names the token's holder


def caller_of(core: Core, raw: PlainRequest, store: Store) -> Caller:
    """Who the headers say is asking, for as long as the connection repeats them."""
    caller: Caller | None = raw.memo.get("caller")
    if caller is None or caller.store is not store:
        caller = raw.memo["caller"] = _meet(core, raw, store)
    return caller


def admit(core: Core, caller: Caller, remote: str, now_ns: int) -> Token | None:
    """The token's row if its holder is let in at once, with no use to spend; caller.acl says what it may do.

    What was found is good until anything but values changes in the store, or the token expires.
    """
    store = caller.store
    epoch = store.epoch
    if caller.epoch != epoch:
        caller.row = core.tokens.permit_at_once(store, caller.digest, remote, now_ns)
        caller.acl = NOTHING if caller.row is None else core.acl(caller.row)
        caller.epoch = epoch
    return live(caller.row, now_ns)


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
