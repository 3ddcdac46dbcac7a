"""A request and its answer, free of HTTP: what the pipeline, the engines and the audit log speak of."""

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from storage.rows import Mount, Token
from storage.secret import Secret

if TYPE_CHECKING:
    from node.events.subscription import Subscription


class Operation(enum.StrEnum):
    """What is asked for; the audit log and the policies use these words."""

    __hash__ = str.__hash__  # the one of enums is written in Python, and every request needs it

    READ = "read"
    LIST = "list"
    SCAN = "scan"  # a recursive list
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    HELP = "help"  # what the path takes and answers; granted to every token, as in Vault


class Consistency(enum.StrEnum):
    """What a read demands of this node's view (header X-Strongroom-Consistency)."""

    FRESH = "fresh"  # sees everything acknowledged anywhere in the region before the request
    LINEARIZABLE = (
        "linearizable"  # the same, confirmed by a quorum: without leases, so without trust in clocks
    )
    BOUNDED = (
        "max-staleness"  # sees everything acknowledged longer ago than a bound; older state is not shown
    )
    STALE_OK = "stale-ok"  # whatever this node has; the answer carries its index and how old it may be


class Shape(enum.StrEnum):
    """How a response is laid out on the wire (wire rules of the Vault API)."""

    LOGICAL = "logical"  # the envelope {request_id, ..., data, ..., auth}
    DOUBLE = "double"  # the envelope, and data's keys at the top level too (sys/mounts and friends)
    RAW = "raw"  # data alone, no envelope (sys/health, sys/init, ...)


OF_THE_PROTOCOL = frozenset({"list", "scan", "help"})  # of a query: they say what is asked, not of what


class Request(msgspec.Struct):
    """One request. The pipeline fills in operation (create or update), mount and token row."""

    id: str
    operation: Operation
    path: str  # canonical, without "/v1/" and without a leading slash
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    query: Mapping[str, str] = msgspec.field(default_factory=dict)
    token: Secret | None = None
    remote: str = ""
    client_chain: Callable[[], Sequence[bytes]] = (
        tuple  # certificates that TLS has verified: DER, its own first
    )
    link: bool = False  # another region sent it
    patient: bool = False  # it has no deadline (Route.patient, or a body that is a file)
    alone: bool = False  # the region that orders writes cannot be asked: answered from here, or not at all
    request_id: bytes = b""  # 16 bytes: the identity under which a write is applied at most once
    attempt: int = 0  # how often it had to be begun again, because what it read had changed
    consistency: Consistency = Consistency.FRESH
    staleness_s: float = 0.0  # the bound of Consistency.BOUNDED
    as_of: float | None = None  # monotonic seconds: what was acknowledged before is in the view that is shown
    content_type: str = ""
    has_body: bool = False
    upload: AsyncIterator[bytes] | None = None  # the body of a route that takes files (Route.upload)
    form: str = ""  # in which a subscription is asked for: node/events/subscription.py
    has_place: bool = (
        False  # among the subscribers, until its answer is over (node/api/http.py gives it back)
    )
    wrap_ttl_ns: int = 0  # for how long the answer is to be put away, instead of being sent; 0: it is sent
    paged: bool = False  # the query's `after` and `limit` were heeded (node/core/paging.py)
    mount: Mount | None = None
    token_row: Token | None = None
    audited: object = None  # what node/audit/ keeps between the record of the request and that of the answer

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What policies' rules about parameters look at: the body, or the query of a read."""
        if self.operation is not Operation.READ or not self.query:
            return self.data
        return {name: value for name, value in self.query.items() if name not in OF_THE_PROTOCOL}

    @property
    def served_by(self) -> Mount:
        """The mount that the request goes to. For its own engine or method only: others have none."""
        assert self.mount is not None, "a path of a mount"
        return self.mount


@dataclass(frozen=True, slots=True)
class Lease:
    """For how long an answer is good, as the envelope says it. Without an id there is nothing to renew or revoke."""

    duration_s: int
    id: str = ""
    renewable: bool = False


@dataclass(frozen=True, slots=True)
class WrapInfo:
    """Where an answer went that its caller asked to have wrapped."""

    token: Secret
    accessor: str
    ttl_s: int
    creation_time: str  # RFC 3339
    creation_path: str
    wrapped_accessor: str = ""  # of the token or secret id inside


class Response(msgspec.Struct):
    """One answer. data=None with status 204 is an empty body."""

    status: int = 200
    data: dict[str, Any] | None = None
    auth: dict[str, Any] | None = None
    warnings: list[str] | None = None
    lease: Lease | None = None
    wrap_info: WrapInfo | None = None  # the answer itself is put away
    request_id: str = ""  # of the request that it answers, where that is an earlier one
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    shape: Shape | None = None  # None: the route's
    body: bytes | None = None  # a body that is not JSON (metrics), with its Content-Type in headers
    stream: AsyncIterator[bytes] | None = None  # a body of any size, with its Content-Type in headers
    subscription: "Subscription | None" = None  # events, for as long as it lasts


NO_CONTENT = 204
