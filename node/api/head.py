"""The heads of requests and answers: what a request's headers say, and the bytes before an answer's body."""

import base64
import binascii
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time

from node import errors
from node.api import client_chain, paths
from node.api.plain import PlainRequest
from node.api.vault.render import JSON
from node.auth.fields import SECOND_NS, duration_ns, go_duration
from node.core.request import Consistency, Operation, Request
from storage.secret import Secret

TOKEN = "X-Vault-Token"  # noqa: S105 - a header's name
NAMESPACE = "X-Vault-Namespace"
WRAP_TTL = "X-Vault-Wrap-TTL"
WRAP_FORMAT = "X-Vault-Wrap-Format"
INDEX = "X-Vault-Index"
INCONSISTENT = "X-Vault-Inconsistent"
REQUEST_ID = "X-Strongroom-Request-Id"
CONSISTENCY = "X-Strongroom-Consistency"
STALENESS = "X-Strongroom-Staleness-Ms"
BEARER = "bearer "

WRAP_TTL_MAX_NS = 768 * 3600 * SECOND_NS
REQUEST_ID_BYTES = 16
INDEX_CHARACTERS_MAX = 512
TOPS_CACHED_MAX = 256
INDEX_MAX = 2**63 - 1

_ONCE = (
    TOKEN,
    hdrs.AUTHORIZATION,
    NAMESPACE,
    WRAP_TTL,
    WRAP_FORMAT,
    INDEX,
    INCONSISTENT,
    REQUEST_ID,
    CONSISTENCY,
)
_ROOT_NAMESPACE = frozenset({"", "/", "root", "root/"})
_OPERATIONS = {
    "GET": Operation.READ,
    "HEAD": Operation.READ,
    "LIST": Operation.LIST,
    "SCAN": Operation.SCAN,
    "POST": Operation.UPDATE,
    "PUT": Operation.UPDATE,
    "PATCH": Operation.PATCH,
    "DELETE": Operation.DELETE,
}
LISTINGS = frozenset({Operation.LIST, Operation.SCAN})
_HEAD_PATHS = frozenset({"sys/health"})
_LENGTH = b"Content-Length: %d\r\n"
_ALWAYS = {"Cache-Control": "no-store", "Server": "strongroom"}
_HSTS = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}  # RFC 6797: never without TLS

Raw = web.BaseRequest | PlainRequest


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a request say, once they are known to say it once."""

    token: bytes
    consistency: Consistency
    staleness_s: float
    content_type: str
    wrap_ttl_ns: int


def read_head(raw: Raw) -> Head:
    """The headers of a request, checked once for as long as a connection repeats them. Raises NodeError."""
    if isinstance(raw, PlainRequest) and "head" in raw.memo:
        known: Head = raw.memo["head"]
        return known
    _check_headers(raw)
    head = Head(_token(raw), *_consistency(raw), raw.headers.get(hdrs.CONTENT_TYPE, ""), _wrap_ttl_ns(raw))
    if isinstance(raw, PlainRequest):
        raw.memo["head"] = head
    return head


def operation_of(method: str, target: paths.Target) -> Operation:
    """What is asked for. Raises Unsupported, InvalidRequest."""
    operation = _OPERATIONS.get(method)
    if operation is None or (method == "HEAD" and target.path not in _HEAD_PATHS):
        raise errors.Unsupported
    if method != "GET" or not target.query:
        return operation
    try:
        if paths.parse_bool(target.query.get("help", "")):
            return Operation.HELP
        if paths.parse_bool(target.query.get("list", "")):
            return Operation.LIST
        if paths.parse_bool(target.query.get("scan", "")):
            return Operation.SCAN
    except paths.BadPath:
        raise errors.InvalidRequest from None
    return operation


def _check_headers(raw: Raw) -> None:
    """What would be ambiguous, or silently mean something else than the caller hopes, is refused."""
    headers = raw.headers
    for name in _ONCE:
        if name in headers and len(headers.getall(name)) > 1:
            raise errors.InvalidRequest(f"the header {name} is given twice")
    if headers.get(NAMESPACE, "") not in _ROOT_NAMESPACE:
        raise errors.NotFound("namespace not found")


def _token(raw: Raw) -> bytes:
    token = raw.headers.get(TOKEN, "")
    if not token:
        authorization = raw.headers.get(hdrs.AUTHORIZATION, "")
        if authorization[: len(BEARER)].lower() == BEARER:
            token = authorization[len(BEARER) :].strip()
    return token.encode("utf-8", "surrogateescape")


def _wrap_ttl_ns(raw: Raw) -> int:
    """For how long the answer is to be wrapped, 0 for not at all. Raises InvalidRequest."""
    given = raw.headers.get(WRAP_TTL, "")
    if not given:
        return 0
    try:
        ttl_ns = duration_ns(given, WRAP_TTL)
    except errors.InvalidRequest:
        problem = f'time: invalid duration "{given[:64]}"'
        if given.startswith("-"):
            problem = "requested wrap ttl cannot be negative"
        raise errors.InvalidRequest(f"error parsing {WRAP_TTL} header: {problem}") from None
    if ttl_ns > WRAP_TTL_MAX_NS:
        raise errors.InvalidRequest(
            f"error parsing {WRAP_TTL} header: the longest lifetime is {go_duration(WRAP_TTL_MAX_NS)}"
        )
    if ttl_ns and raw.headers.get(WRAP_FORMAT, "").lower() == "jwt":
        raise errors.InvalidRequest("wrapping tokens in JWT format are not offered by this server")
    return ttl_ns


def request_of(raw: Raw, target: paths.Target, operation: Operation, request_id: str) -> Request:
    """The request that these headers and this target make, without its body. Raises NodeError."""
    assert target.path is not None
    head, path = read_head(raw), target.path
    if operation in LISTINGS and not path.endswith("/"):
        path += "/"  # what a policy's "folder/*" is meant to cover, as in Vault
    return Request(
        id=request_id,
        operation=operation,
        path=path,
        query=target.query,
        token=Secret(head.token) if head.token else None,
        remote=raw.remote or "",
        client_chain=partial(client_chain.verified, raw.transport),
        request_id=request_identity(raw, operation, path, head.token),
        consistency=head.consistency,
        staleness_s=head.staleness_s,
        content_type=head.content_type,
        wrap_ttl_ns=head.wrap_ttl_ns,
    )


def request_identity(raw: Raw, operation: Operation, path: str, token: bytes) -> bytes:
    """The identity of a write: the caller's id bound to who asks and what for; b"" if none was given.

    Unbound, one caller's id could claim the outcome of another's write, or stop it from happening.
    """
    given = raw.headers.get(REQUEST_ID)
    if given is None:
        return b""
    try:
        identity = bytes.fromhex(given)
    except ValueError:
        identity = b""
    if len(given) != 2 * REQUEST_ID_BYTES or len(identity) != REQUEST_ID_BYTES:
        raise errors.InvalidRequest(f"{REQUEST_ID} must be {2 * REQUEST_ID_BYTES} hexadecimal digits")
    digest = hashlib.sha256(identity)
    for part in (token, operation.encode(), path.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()[:REQUEST_ID_BYTES]


def _consistency(raw: Raw) -> tuple[Consistency, float]:
    """What the caller demands of a read, and the bound in seconds of "max-staleness=DURATION"."""
    kind, given, bound = raw.headers.get(CONSISTENCY, Consistency.FRESH).partition("=")
    try:
        consistency = Consistency(kind)
        if bool(given) is not (consistency is Consistency.BOUNDED) or (given and not bound):
            raise ValueError("only max-staleness has a bound")
    except ValueError:
        raise errors.InvalidRequest(
            f'{CONSISTENCY} must be "fresh", "linearizable", "max-staleness=DURATION" or "stale-ok"'
        ) from None
    return consistency, duration_ns(bound, Consistency.BOUNDED) / SECOND_NS


def staleness(request: Request) -> dict[str, str]:
    """How old the answer to a read that accepts old state can be, counted until now; nothing for others."""
    if request.consistency not in (Consistency.STALE_OK, Consistency.BOUNDED):
        return {}
    if request.as_of is None:
        return {STALENESS: "unknown"}
    return {STALENESS: str(math.ceil((time.monotonic() - request.as_of) * 1000))}


def parse_index(header: str) -> tuple[str, int]:
    """(cluster id, index) of an X-Vault-Index header. Raises InvalidRequest."""
    garbage = errors.InvalidRequest(f'failed to decode "{INDEX}"')
    if len(header) > INDEX_CHARACTERS_MAX:
        raise garbage
    try:
        fields = json.loads(base64.b64decode(header, validate=True))
        cluster, value = fields["cluster"], fields["value"]
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        raise garbage from None
    if not (isinstance(cluster, str) and isinstance(value, str) and value.isascii() and value.isdigit()):
        raise garbage
    if len(value) > len(str(INDEX_MAX)):
        raise garbage
    return cluster, int(value)


class IndexHeader:
    """X-Vault-Index of answers: base64 of {"cluster", "value"}, computed once an index."""

    def __init__(self) -> None:
        self._key: tuple[str, int] = ("", -1)
        self._value = ""

    def value(self, cluster_id: str, index: int) -> str:
        if self._key != (cluster_id, index):
            text = f'{{"cluster":"{cluster_id}","value":"{index}"}}'  # a UUID and a number: nothing to escape
            self._value = base64.b64encode(text.encode()).decode()
            self._key = (cluster_id, index)
        return self._value


PHRASES = {int(status): status.phrase for status in HTTPStatus}  # a caller may ask for a status of its own


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


class AnswerHead:
    """The heads of a listener's answers. What start() gives is the same on all: it is kept for all."""

    def __init__(self, place: Callable[[], tuple[str, int] | None], *, tls: bool) -> None:
        """`place`: the store's id and how far its state is, None while there is no store."""
        self._place = place
        self._own = _HSTS if tls else {}
        self._own_lines = _lines(self._own)
        self._index = IndexHeader()
        self._tops: dict[tuple[object, ...], bytes] = {}
        self._json = self.start(HTTPStatus.OK, {hdrs.CONTENT_TYPE: JSON}, None)
        self._moment: tuple[int, tuple[str, int] | None] = (-1, None)
        self._moving = b""

    def fields(self, headers: Mapping[str, str]) -> dict[str, str]:
        """All headers of an answer but those that aiohttp adds."""
        fields = _ALWAYS | self._own | dict(headers)
        place = self._place()
        if place is not None and INDEX not in headers:
            fields[INDEX] = self._index.value(*place)
        return fields

    def start(
        self, status: int, headers: Mapping[str, str], length: int | None, *, close: bool = False
    ) -> bytes:
        """What does not change from one such answer to the next, for a body of `length` bytes (None: for none)."""
        content = b"" if length is None else _LENGTH % length
        return b"%b%b%b" % (self._top(status, headers), content, b"Connection: close\r\n" if close else b"")

    def start_json(self, length: int) -> bytes:
        """start() of a 200 with JSON: of most answers."""
        return self._json + _LENGTH % length

    def _top(self, status: int, headers: Mapping[str, str]) -> bytes:
        known = (status, *headers.items())
        top = self._tops.get(known)
        if top is None:
            if len(self._tops) >= TOPS_CACHED_MAX:
                self._tops.clear()
            top = f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n{_lines(_ALWAYS | dict(headers))}".encode()
            self._tops[known] = top
        return top

    def end(self, told: str = "") -> bytes:
        """What is the listener's own, or changes with the time and the state, and the end of the head.

        `told`: an index that is not our own.
        """
        if told:
            return f"{self._own_lines}{INDEX}: {told}\r\nDate: {rfc822_formatted_time()}\r\n\r\n".encode()
        place, second = self._place(), int(time.time())
        if self._moment != (second, place):
            line = "" if place is None else f"{INDEX}: {self._index.value(*place)}\r\n"
            self._moment = (second, place)
            self._moving = f"{self._own_lines}{line}Date: {rfc822_formatted_time()}\r\n\r\n".encode()
        return self._moving
