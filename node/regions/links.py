"""Asking another region: over mutual TLS, any of its nodes, the one that answered last first."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from node.outgoing import Connector
from node.regions.authority import link_name

ANSWER_BYTES_MAX = 40 * 1024 * 1024  # the largest answer that the API gives
CONNECT_TIMEOUT_S = 3.0
CONNECTIONS_MAX = 64


class Unreachable(Exception):
    """No node of the region could be connected to: certainly nothing was sent."""


class Interrupted(Exception):
    """The request was sent, and no whole answer came: it may have been carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Links:
    """The links from this node to all other regions."""

    def __init__(self, client_tls: ssl.SSLContext, cluster_id: str, *, source: str = "") -> None:
        """`source`: the address of this machine that links leave from; "" leaves it to the kernel."""
        connector = Connector(client_tls, source=source, connections_max=CONNECTIONS_MAX)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._cluster_id = cluster_id
        self._preferred: dict[str, str] = {}

    async def ask(
        self,
        region: str,
        addresses: tuple[str, ...],
        path: str,
        *,
        method: str = "POST",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Answer:
        """One request to any node of the region; the next one is tried only while nothing was sent.

        `path` begins with "/v1/". Raises Unreachable or Interrupted.
        """
        preferred = self._preferred.get(region, "")
        for address in sorted(addresses, key=lambda each: each != preferred):
            try:
                answer = await self._ask(region, address, path, method, body, headers or {}, timeout_s)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._preferred.pop(region, None)
                raise Interrupted(f"{region} at {address}: {type(error).__name__}") from error
            self._preferred[region] = address
            return answer
        raise Unreachable(
            f"no node of region {region} could be reached at {', '.join(addresses) or 'any address'}"
        )

    async def _ask(
        self,
        region: str,
        address: str,
        path: str,
        method: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        async with self._session.request(
            method,
            f"https://{address}{path}",
            data=body or None,
            headers=dict(headers),
            timeout=timeout,
            server_hostname=link_name(region, self._cluster_id),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            data = b""
            async for piece in answer.content.iter_any():
                data += piece
                if len(data) > ANSWER_BYTES_MAX:
                    raise ValueError("the answer is too long")
            return Answer(answer.status, answer.headers, data)

    async def close(self) -> None:
        await self._session.close()
