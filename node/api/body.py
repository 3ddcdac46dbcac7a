"""A request's body: bounded in bytes, in time and in shape before any object is built from it."""

import asyncio
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from node.api.protocol import Refused
from node.errors import BodyTooLarge, InvalidRequest, TooBusy

BODY_TIMEOUT_S = 30.0
JSON_VALUES_MAX = 100_000  # members and elements, of all objects and arrays together
BUFFERED_BYTES_MAX = 256 * 1024 * 1024  # bodies being received, of all connections together
NUMBER_CHARACTERS_MAX = 1024

_INVALID = "failed to decode JSON input: "
# A string that does not end runs to the end of the text, so that no byte is looked at twice.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)|[\[{]|[\]}]|,', re.DOTALL)
_HALF = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_OTHER_HALF = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPED = re.compile(rb"%b%b|(?P<half>%b|%b)|\\." % (_HALF, _OTHER_HALF, _HALF, _OTHER_HALF), re.DOTALL)


class BodyReader:
    """Reads JSON bodies for all connections of a server, within one allowance of memory."""

    def __init__(self, *, body_bytes_max: int, json_depth_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._json_depth_max = json_depth_max
        self._buffered_bytes = 0

    async def read(self, request: web.BaseRequest) -> tuple[dict[str, Any], bool]:
        """The object in the body, and whether there was a body: an empty one counts as {}.

        Raises InvalidRequest, BodyTooLarge (before anything is read, where the length is announced), TooBusy,
        Refused (408: too slow; 415; 417).
        """
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(415, "compressed request bodies are not supported", close=True)
        if (request.content_length or 0) > self._body_bytes_max:
            raise BodyTooLarge
        await _expect(request)
        if not request.body_exists:
            return {}, False
        return self.parse(await self._receive(request))

    async def stream(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body piece by piece, for whoever bounds its size. Raises Refused (400, 408, 415, 417)."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(415, "compressed request bodies are not supported", close=True)
        await _expect(request)
        while piece := await self._piece(request):
            yield piece

    async def _piece(self, request: web.BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await request.content.readany()
        except TimeoutError:
            raise Refused(408, "the request body did not arrive in time", close=True) from None
        except RequestPayloadError:
            raise Refused(400, "malformed request body", close=True) from None

    def parse(self, data: bytes) -> tuple[dict[str, Any], bool]:
        """read() for a body that is here already, whole and small."""
        if self._buffered_bytes + len(data) > BUFFERED_BYTES_MAX:
            raise TooBusy("too many request bodies are being received")
        return (parse(data, depth_max=self._json_depth_max), True) if data else ({}, False)

    async def _receive(self, request: web.BaseRequest) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while chunk := await request.content.readany():
                    size += len(chunk)
                    self._buffered_bytes += len(chunk)
                    if size > self._body_bytes_max:
                        raise BodyTooLarge
                    if self._buffered_bytes > BUFFERED_BYTES_MAX:
                        raise TooBusy("too many request bodies are being received")
                    chunks.append(chunk)
        except TimeoutError:
            raise Refused(408, "the request body did not arrive in time", close=True) from None
        except RequestPayloadError:
            raise Refused(400, "malformed request body", close=True) from None
        finally:
            self._buffered_bytes -= size
        return b"".join(chunks)


async def _expect(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Refused(417, "unknown expectation", close=True)
    if request.body_exists:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer; the real one is still to be written


def parse(data: bytes, *, depth_max: int) -> dict[str, Any]:
    """The JSON object in `data`; of duplicate keys the last wins, as in Go. Raises InvalidRequest.

    Numbers come as int or float, or as Decimal where a float would not give back the digits as written.
    """
    if len(data) < 16 and data.strip() == b"null":  # what the Go client sends for no fields at all
        return {}
    check_shape(data, depth_max=depth_max)
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:  # its text names positions and types, never content
        raise InvalidRequest(_INVALID + (_half_pair(data) or str(error))) from None
    except (ValueError, RecursionError):
        raise InvalidRequest(_INVALID + "invalid text or number") from None


def _half_pair(data: bytes) -> str:
    """What is wrong with the first escaped half of a surrogate pair: the decoder takes it for a text that ends early.

    It stands for no character. Go puts U+FFFD in its place; a secret is kept as it was sent, or refused.
    """
    for found in _ESCAPED.finditer(data):
        if found["half"]:
            return f"half of a surrogate pair is no character (byte {found.start()})"
    return ""


def check_shape(data: bytes, *, depth_max: int) -> None:
    """Refuse nesting or a count of values that would be expensive to build. Raises InvalidRequest."""
    opened = data.count(b"{") + data.count(b"[")
    if opened <= depth_max and opened + data.count(b",") <= JSON_VALUES_MAX:
        return
    depth = values = 0
    for match in _TOKEN.finditer(data):
        first = data[match.start()]
        if first == 0x22:
            if match.end() - match.start() < 2 or data[match.end() - 1] != 0x22:
                raise InvalidRequest(_INVALID + "a string does not end")
            continue
        if first in b"]}":
            depth -= 1
            continue
        values += 1
        if first in b"[{":
            depth += 1
            if depth > depth_max:
                raise InvalidRequest(f"{_INVALID}nested more than {depth_max} levels deep")
        if values > JSON_VALUES_MAX:
            raise InvalidRequest(f"{_INVALID}more than {JSON_VALUES_MAX} values")


def _number(text: str) -> float | Decimal:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise ValueError("a number is too long")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return value if repr(value) == text else Decimal(text)


_decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any], float_hook=_number)
