"""HTTP in front of the core: parse, call the pipeline, render. Nothing is decided here that a policy decides.

bytes -> protocol.py -> paths.py, body.py -> Request -> node.core.pipeline -> vault/render.py -> bytes
"""

import asyncio
import base64
import binascii
import functools
import hashlib
import json
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time

from node import errors
from node.api import paths
from node.api.body import BodyReader
from node.api.plain import PlainRequest
from node.api.protocol import Refused, Server
from node.api.vault import render
from node.api.vault.render import Rendered
from node.core import pipeline
from node.core.core import Core
from node.core.request import Consistency, Operation, Request, Shape
from node.store import Store
from node.telemetry.logs import where
from node.telemetry.metrics import now
from storage.secret import Secret

TOKEN = "X-Vault-Token"  # noqa: S105 - a header's name
NAMESPACE = "X-Vault-Namespace"
WRAP_TTL = "X-Vault-Wrap-TTL"
INDEX = "X-Vault-Index"
INCONSISTENT = "X-Vault-Inconsistent"
REQUEST_ID = "X-Strongroom-Request-Id"
CONSISTENCY = "X-Strongroom-Consistency"
BEARER = "bearer "
MERGE_PATCH = "application/merge-patch+json"

REQUEST_ID_BYTES = 16
INDEX_CHARACTERS_MAX = 512
INDEX_MAX = 2**63 - 1

_ONCE = (TOKEN, hdrs.AUTHORIZATION, NAMESPACE, WRAP_TTL, INDEX, INCONSISTENT, REQUEST_ID, CONSISTENCY)
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
_READS = frozenset({Operation.READ, Operation.LIST, Operation.SCAN})
_LISTINGS = frozenset({Operation.LIST, Operation.SCAN})
_WITH_BODY = frozenset({Operation.UPDATE, Operation.PATCH})
_HEAD_PATHS = frozenset({"sys/health"})
_BASE_HEADERS = {"Cache-Control": "no-store", "Server": "strongroom"}
_HSTS = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}

_log = structlog.get_logger(__name__)


def make_server(core: Core, *, tls: bool) -> Server:
    """The protocol factory of a listener: `await loop.create_server(make_server(core, tls=...), ...)`.

    Call inside the running loop. `tls` only adds Strict-Transport-Security to the answers. Stop it with drain().
    """
    return Server(
        Gateway(core, tls=tls),
        header_bytes_max=core.settings.header_bytes_max,
        connections_max=core.settings.connections_max,
    )


class Gateway:
    """Answers every request of a listener."""

    def __init__(self, core: Core, *, tls: bool) -> None:
        self._core = core
        self._headers = _BASE_HEADERS | (_HSTS if tls else {})
        self._head = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        self._bodies = BodyReader(
            body_bytes_max=core.settings.body_bytes_max, json_depth_max=core.settings.json_depth_max
        )
        self._index = IndexHeader()

    async def __call__(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer one of aiohttp's requests."""
        call, rendered = await self._exchange(raw)
        response = web.Response(
            status=rendered.status, body=rendered.body or None, headers=self._all_headers(rendered)
        )
        if call.close:
            response.force_close()
        return response

    async def plain(self, raw: PlainRequest) -> tuple[bytes, bool]:
        """Answer a plain request: the bytes to send, and whether to close the connection then."""
        call, rendered = await self._exchange(raw)
        head = [_status_line(rendered.status), self._head]
        head += [f"{name}: {value}\r\n" for name, value in rendered.headers.items()]
        if self._core.store is not None:
            head.append(f"{INDEX}: {self._index_value(self._core.store)}\r\n")
        if rendered.status != HTTPStatus.NO_CONTENT:
            head.append(f"Content-Length: {len(rendered.body)}\r\n")
        if call.close:
            head.append("Connection: close\r\n")
        head.append(f"Date: {rfc822_formatted_time()}\r\n\r\n")
        return "".join(head).encode() + rendered.body, call.close

    async def _exchange(self, raw: "Raw") -> tuple["_Call", Rendered]:
        """Never raises for what a client sent, nor for a bug: that is a 500 with its request id in the log."""
        core, began = self._core, now()
        call = _Call(raw, render.new_request_id())
        core.metrics.request_started()
        try:
            rendered = await self._answer(call)
        except Refused as refusal:
            call.close = refusal.close
            rendered = render.message(refusal.status, refusal.message)
        except errors.NodeError as error:
            call.close = isinstance(error, errors.BodyTooLarge)
            rendered = render.failure(error)
        except ConnectionError:
            call.close = True  # the client is gone; this goes nowhere
            rendered = render.message(HTTPStatus.BAD_REQUEST, "")
        except Exception as error:  # noqa: BLE001 - the boundary: a bug must not take the connection's answer with it
            _log.error("request failed", request_id=call.id, error=type(error).__name__, where=where(error))
            rendered = render.message(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error (request {call.id})")
        finally:
            core.metrics.request_finished()
        core.metrics.observe(call.operation, rendered.status, now() - began)
        return call, rendered

    async def _answer(self, call: "_Call") -> Rendered:
        target = _target(call.raw)
        if isinstance(target, paths.Redirect):
            return Rendered(HTTPStatus.TEMPORARY_REDIRECT, b"", {"Location": target.location})
        if target.path is None:
            return render.message(HTTPStatus.NOT_FOUND, "")
        request = _request(call, target)
        if request.operation in _WITH_BODY:
            if request.path.endswith("/"):
                raise errors.InvalidRequest("cannot write to a path ending in '/'")
            if isinstance(call.raw, PlainRequest):
                request.data, request.has_body = self._bodies.parse(call.raw.body)
            else:
                request.data, request.has_body = await self._bodies.read(call.raw)
        await _wait_for_index(self._core, call.raw)
        try:
            async with asyncio.timeout(self._core.settings.request_timeout_s):
                response, match = await pipeline.handle(self._core, request)
        except TimeoutError:
            if request.operation in _READS:
                raise errors.TooBusy("the request took too long") from None
            raise errors.OutcomeUnknown from None
        return render.answer(
            response, request_id=request.id, shape=match.route.shape if match is not None else Shape.LOGICAL
        )

    def _all_headers(self, rendered: Rendered) -> dict[str, str]:
        headers = self._headers | rendered.headers
        if self._core.store is not None:
            headers[INDEX] = self._index_value(self._core.store)
        return headers

    def _index_value(self, store: Store) -> str:
        return self._index.value(self._core.lifecycle.cluster_id, store.applied_index)


@functools.lru_cache(maxsize=128)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


Raw = web.BaseRequest | PlainRequest


@dataclass(slots=True)
class _Call:
    """One exchange, as far as the answer needs it."""

    raw: Raw
    id: str
    operation: str = "none"
    close: bool = False


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


def _target(raw: Raw) -> paths.Target | paths.Redirect:
    try:
        return paths.parse(raw.raw_path)
    except paths.BadPath as error:
        raise errors.InvalidRequest(str(error)) from None


def _request(call: _Call, target: paths.Target) -> Request:
    raw = call.raw
    assert target.path is not None
    head = _head(raw)
    operation = _operation(raw.method, target)
    call.operation = operation.value
    if operation is Operation.PATCH:
        _check_patch_type(raw)
    path = target.path
    if operation in _LISTINGS and not path.endswith("/"):
        path += "/"  # what a policy's "folder/*" is meant to cover, as in Vault
    return Request(
        id=call.id,
        operation=operation,
        path=path,
        query=target.query,
        token=Secret(head.token) if head.token else None,
        remote=raw.remote or "",
        request_id=_request_id(raw, operation, path, head.token),
        consistency=head.consistency,
        content_type=head.content_type,
    )


@dataclass(slots=True)
class _Head:
    """What the headers of a request say, once they are known to say it once."""

    token: bytes
    consistency: Consistency
    content_type: str


def _head(raw: Raw) -> _Head:
    if isinstance(raw, PlainRequest) and "head" in raw.memo:
        known: _Head = raw.memo["head"]
        return known
    _check_headers(raw)
    head = _Head(_token(raw), _consistency(raw), raw.headers.get(hdrs.CONTENT_TYPE, ""))
    if isinstance(raw, PlainRequest):
        raw.memo["head"] = head
    return head


def _operation(method: str, target: paths.Target) -> Operation:
    operation = _OPERATIONS.get(method)
    if operation is None or (method == "HEAD" and target.path not in _HEAD_PATHS):
        raise errors.Unsupported
    if method != "GET":
        return operation
    try:
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
    if WRAP_TTL in headers:
        raise errors.InvalidRequest("response wrapping is not offered")


def _check_patch_type(raw: Raw) -> None:
    given = raw.headers.get(hdrs.CONTENT_TYPE)
    if not given:
        raise errors.InvalidRequest("mime: no media type")
    if given.partition(";")[0].strip().lower() != MERGE_PATCH:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"PATCH requires Content-Type of {MERGE_PATCH}")


def _token(raw: Raw) -> bytes:
    token = raw.headers.get(TOKEN, "")
    if not token:
        authorization = raw.headers.get(hdrs.AUTHORIZATION, "")
        if authorization[: len(BEARER)].lower() == BEARER:
            token = authorization[len(BEARER) :].strip()
    return token.encode("utf-8", "surrogateescape")


def _request_id(raw: Raw, operation: Operation, path: str, token: bytes) -> bytes:
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


def _consistency(raw: Raw) -> Consistency:
    try:
        return Consistency(raw.headers.get(CONSISTENCY, Consistency.FRESH))
    except ValueError:
        raise errors.InvalidRequest(f'{CONSISTENCY} must be "fresh" or "stale-ok"') from None


async def _wait_for_index(core: Core, raw: Raw) -> None:
    """Hold the request until this node has applied what the caller has seen elsewhere. Raises NotYet."""
    header, store = raw.headers.get(INDEX), core.store
    if header is None or store is None:
        return
    cluster, index = _parse_index(header)
    if cluster != core.lifecycle.cluster_id:
        raise errors.InvalidRequest(f"{INDEX} is of another cluster")
    if store.applied_index >= index:
        return
    if raw.headers.get(INCONSISTENT, "") == "forward-active-node":
        await store.fresh()
    else:
        await store.wait_applied(index, core.settings.index_wait_s)
    if store.applied_index < index:
        raise errors.NotYet


def _parse_index(header: str) -> tuple[str, int]:
    garbage = errors.InvalidRequest(f"error parsing {INDEX} header")
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
