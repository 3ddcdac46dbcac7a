"""Ordinary requests, read in one look: the way of nearly all of them, beside aiohttp's general one.

A request is plain when the bytes that came are exactly one complete, ordinary request: a known method, an
origin-form target under /v1/, one value a header, visible ASCII only, nothing that changes framing or the
connection, and a body that Content-Length accounts for to the byte. Whatever is not plain goes to aiohttp
untouched, and its connection with it for good: no byte is ever looked at by both, so there is nothing
that the two could read differently (RFC 9112, sections 6 and 11.2).
"""

import asyncio
import re
from typing import Any

import msgspec
from multidict import CIMultiDict

PLAIN_BYTES_MAX = 64 * 1024
HEADER_FIELDS_MAX = 32

# Snapshots are files of any size, and neither the history nor events end: aiohttp streams them.
_PATH = rb"/v1/(?!sys/storage/raft/snapshot|sys/regions/link/stream|sys/events/)[!-~]*"
_START = re.compile(rb"(GET|PUT|POST|PATCH|DELETE) (" + _PATH + rb") HTTP/1\.1\r\n")
_TARGET = re.compile(_PATH)
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([!-~](?:[ \t!-~]*[!-~])?)?[ \t]*")
HOST = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")  # RFC 3986, 3.2.2, and a port
_LENGTH = re.compile(r"[0-9]{1,6}")
_UNUSUAL = frozenset(
    {
        "transfer-encoding",
        "content-encoding",
        "expect",
        "upgrade",
        "te",
        "trailer",
        "proxy-connection",
        "keep-alive",
    }
)


class PlainRequest(msgspec.Struct):
    """One request, with the attributes of aiohttp's that are used here. `body` is all of it.

    `memo` is kept for as long as the connection repeats this header block: what was worked out from it.
    """

    method: str
    raw_path: str
    headers: CIMultiDict[str]
    remote: str
    body: bytes
    memo: dict[str, Any]
    transport: asyncio.BaseTransport | None = None


class PlainReader:
    """Reads the plain requests of one connection; its clients repeat their header block, so the last is kept."""

    __slots__ = (
        "_block",
        "_get_bytes_max",
        "_header_bytes_max",
        "_headers",
        "_length",
        "_memo",
        "_remote",
        "_tail",
        "_transport",
    )

    def __init__(
        self, remote: str, *, header_bytes_max: int, transport: asyncio.BaseTransport | None = None
    ) -> None:
        self._header_bytes_max = header_bytes_max
        self._transport = transport
        self._remote = remote
        self._get_bytes_max = min(header_bytes_max, PLAIN_BYTES_MAX)
        self._block = b""
        self._tail = b""  # how a GET with the same block ends
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._length = 0
        self._memo: dict[str, Any] = {}

    def read(self, data: bytes) -> PlainRequest | None:
        """The request that `data` is, or None if it is anything but one plain request."""
        tail = self._tail
        if tail and data.endswith(tail) and data.startswith(b"GET /v1/") and len(data) <= self._get_bytes_max:
            target = data[4 : -len(tail)]  # what is below, for the block that was read last
            if _TARGET.fullmatch(target):
                return PlainRequest(
                    "GET", target.decode(), self._headers, self._remote, b"", self._memo, self._transport
                )
        start = _START.match(data)
        if start is None or len(data) > PLAIN_BYTES_MAX:
            return None
        end = data.find(b"\r\n\r\n", start.end() - 2)
        if not 0 <= end <= self._header_bytes_max - 4:
            return None
        block = data[start.end() : end]
        if block != self._block and not self._learn(block):
            return None
        body = data[end + 4 :]
        if len(body) != self._length or (body and start[1] == b"GET"):
            return None
        return PlainRequest(
            start[1].decode(),
            start[2].decode(),
            self._headers,
            self._remote,
            body,
            self._memo,
            self._transport,
        )

    def _learn(self, block: bytes) -> bool:
        headers: CIMultiDict[str] = CIMultiDict()
        lines = block.split(b"\r\n")
        if len(lines) > HEADER_FIELDS_MAX:
            return False
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:
                return False
            name = field[1].decode()
            if name in headers or name.lower() in _UNUSUAL:
                return False
            headers[name] = (field[2] or b"").decode()
        host = headers.get("Host")
        if host is None or not HOST.fullmatch(host):
            return False
        if headers.get("Connection", "keep-alive").lower() != "keep-alive":
            return False
        length = headers.get("Content-Length", "0")
        if not _LENGTH.fullmatch(length):
            return False
        self._block, self._headers, self._length, self._memo = block, headers, int(length), {}
        self._tail = b"" if self._length else b" HTTP/1.1\r\n%b\r\n\r\n" % block
        return True
