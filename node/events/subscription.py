"""One subscriber: who it is, what it wants, and how far it has come."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from node.core.request import Request
from node.events import encoding
from node.events.cursor import Cursor
from node.events.filters import Filter
from node.policy.acl import ACL
from storage.rows import Token

UNSENT_BYTES_MAX = 256 * 1024  # on its connection; what comes then waits in the ring


class Form(StrEnum):
    """What its connection speaks."""

    SSE = "sse"
    WEBSOCKET = "websocket"


class End(StrEnum):
    """Why a subscription ended."""

    CLIENT = "the client went away"
    REVOKED = "the token is not valid any more"
    FORBIDDEN = "the token's policies do not allow this subscription any more"
    SEALED = "this node is sealed"
    STOPPING = "this node is stopping"
    CUT_OFF = "this node has lost its cluster"
    SLOW = "the client takes too little"
    LIMIT = "the time asked for is over"


@dataclass(frozen=True, eq=False, slots=True)
class Interest:
    """Subscribers with the same rights who want the same: an event is decided upon once for all of them."""

    types: frozenset[str]
    filter: Filter
    acl: ACL


@dataclass(eq=False, slots=True)
class Subscription:
    """Made by the route's handler, begun and ended by the stream, fed by it through `transport`."""

    request: Request
    form: Form
    pattern: str
    types: frozenset[str]
    filter: Filter
    row: Token
    acl: ACL
    limit_s: float = 0.0  # for how long it is asked for; 0: until one side has enough
    cursor: Cursor | None = None  # what it was told elsewhere; None: it begins now
    transport: asyncio.Transport | None = None
    lineage: tuple[bytes, ...] = ()  # digests of the token and of those with which it goes
    interest: Interest | None = None
    checked: int = -1  # which state of rights its own were looked up in
    place: int = 0  # in the ring: before it is nothing to be told, except to one that has to read again
    behind: bool = True
    reason: str = "window"  # why it has to read again, if its place in the ring is gone
    stalled_at: float | None = None  # since when it has taken nothing
    sent: int = 0
    ended: "asyncio.Future[End]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_full(self) -> bool:
        """Whether its connection holds as much as it may."""
        assert self.transport is not None
        return self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX

    def write(self, data: bytes, count: int = 1) -> None:
        """Whole frames of its form."""
        assert self.transport is not None
        if not self.transport.is_closing():
            self.transport.write(data)
            self.sent += count

    def end(self, why: End) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    def frame(self, document: bytes, cursor: Cursor, name: str = "") -> bytes:
        """A document as this connection carries it."""
        if self.form is Form.SSE:
            return encoding.sse(document, cursor, name)
        return encoding.text_frame(document)

    def heartbeat(self, cursor: Cursor | None) -> bytes:
        """A sign of life; with a cursor it says that everything before was told."""
        return encoding.sse_heartbeat(cursor) if self.form is Form.SSE else encoding.PING
