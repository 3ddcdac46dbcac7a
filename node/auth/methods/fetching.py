"""One request to somebody else's HTTP API, bounded in time and size; redirects are not followed."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from node.outgoing import Connector

DOCUMENT_BYTES_MAX = 1024 * 1024
FETCH_TIMEOUT_S = 5.0


class FetchError(Exception):
    """There was no answer that could be used. The message is for operators."""


async def exchange(
    url: str,
    *,
    ca_pem: str = "",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    statuses: tuple[int, ...] = (200,),
) -> Any:
    """The JSON that a GET, or a POST of `body`, is answered with. `ca_pem` "" means the usual CAs. FetchError."""
    if not url.startswith(("https://", "http://")):
        raise FetchError("not an address of HTTP")
    if not (ca_pem or "").isascii():
        raise FetchError("the CA is no PEM")
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            aiohttp.ClientSession(connector=Connector()) as session,
            session.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                headers=headers,
                ssl=ssl.create_default_context(cadata=ca_pem or None),
                allow_redirects=False,
            ) as response,
        ):
            if response.status not in statuses:
                raise FetchError(f"status {response.status} from {url}")
            return json.loads(await _content(response, url))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
        raise FetchError(f"{type(error).__name__} from {url}") from None


async def _content(response: aiohttp.ClientResponse, url: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > DOCUMENT_BYTES_MAX:
            raise FetchError(f"more than {DOCUMENT_BYTES_MAX} bytes from {url}")
    return bytes(content)
