"""Asking another region: over mutual TLS, any of its nodes, the nearest one first.

Time-outs are for what happens at both ends. What the way takes comes on top: three round trips for an answer over a new
connection, two of them until it is open.
"""

import ssl
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from node.outgoing import Connector
from node.regions.authority import link_name
from node.regions.nearness import ROUND_TRIP_S_MAX, Nearness

ANSWER_BYTES_MAX = 40 * 1024 * 1024  # the largest answer that the API gives
CONNECT_TIMEOUT_S = 3.0
PROBLEM_BYTES_MAX = 512  # of an answer that is an error
CONNECTIONS_MAX = 512  # more than worker.CARRIED_MAX: none of the few questions of its own waits for one
OPENING_ROUND_TRIPS, ROUND_TRIPS = 2, 3  # of TCP and TLS 1.3; and with a question


class Unreachable(Exception):
    """No node of the region could be connected to: certainly nothing was sent."""


class Interrupted(Exception):
    """The request was sent, and no whole answer came: it may have been carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered: which one, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    address: str = ""
    took_s: float = 0.0


class Links:
    """The links from this node to all other regions."""

    def __init__(self, client_tls: ssl.SSLContext, cluster_id: str, *, source: str = "") -> None:
        """`source`: the address of this machine that links leave from; "" leaves it to the kernel."""
        connector = Connector(client_tls, source=source, connections_max=CONNECTIONS_MAX)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._cluster_id = cluster_id
        self.nearness: dict[str, Nearness] = defaultdict(Nearness)  # by region

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
        patient: bool = False,
    ) -> Answer:
        """One request to any node of the region; the next one is tried only while nothing was sent.

        `path` begins with "/v1/"; `timeout_s` is without what the way takes, as it was measured. `patient`: it may be
        the longest that there is. Raises Unreachable or Interrupted.
        """
        nearness = self.nearness[region]
        for address in nearness.order(addresses):
            self._check_open()
            round_trip_s = ROUND_TRIP_S_MAX if patient else nearness.allowed_s(address)
            timeout = aiohttp.ClientTimeout(
                total=timeout_s + ROUND_TRIPS * round_trip_s,
                connect=min(CONNECT_TIMEOUT_S, timeout_s) + OPENING_ROUND_TRIPS * round_trip_s,
            )
            try:
                return await self._ask(region, address, path, method, body, headers or {}, timeout)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                nearness.no_help(address)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                nearness.no_help(address)
                raise Interrupted(f"{region} at {address}: {type(error).__name__}") from error
        raise _nobody(region, addresses)

    async def stream(
        self, region: str, addresses: tuple[str, ...], path: str, *, body: bytes, silence_s: float
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """The pieces of an answer without an end, of any node of the region, with its address; none for `silence_s`,
        and what the way takes, is an end too.

        Raises Unreachable or Interrupted.
        """
        nearness = self.nearness[region]
        for address in nearness.order(addresses):
            self._check_open()
            round_trip_s = nearness.allowed_s(address)
            timeout = aiohttp.ClientTimeout(
                connect=CONNECT_TIMEOUT_S + OPENING_ROUND_TRIPS * round_trip_s,
                sock_read=silence_s + round_trip_s,
            )
            try:
                async with self._request(region, address, path, "POST", body, {}, timeout) as answer:
                    if answer.status != HTTPStatus.OK:
                        told = await answer.content.read(PROBLEM_BYTES_MAX)
                        problem = told.decode(errors="replace").strip()
                        nearness.no_help(address)
                        raise Interrupted(f"{region} at {address} answered HTTP {answer.status}: {problem}")
                    async for piece in answer.content.iter_any():
                        yield address, piece
                    return
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                nearness.no_help(address)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                nearness.no_help(address)
                raise Interrupted(f"{region} at {address}: {type(error).__name__}") from error
        raise _nobody(region, addresses)

    async def _ask(
        self,
        region: str,
        address: str,
        path: str,
        method: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> Answer:
        began = time.monotonic()
        async with self._request(region, address, path, method, body, headers, timeout) as answer:
            data = b""
            async for piece in answer.content.iter_any():
                data += piece
                if len(data) > ANSWER_BYTES_MAX:
                    raise ValueError("the answer is too long")
            return Answer(answer.status, answer.headers, data, address, time.monotonic() - began)

    def _request(
        self,
        region: str,
        address: str,
        path: str,
        method: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            method,
            f"https://{address}{path}",
            data=body or None,
            headers=dict(headers),
            timeout=timeout,
            server_hostname=link_name(region, self._cluster_id),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    def _check_open(self) -> None:
        """Who asks several times may find that this node has parted from the others meanwhile."""
        if self._session.closed:
            raise Unreachable("this node's links to other regions are closed")

    async def close(self) -> None:
        await self._session.close()


def _nobody(region: str, addresses: tuple[str, ...]) -> Unreachable:
    return Unreachable(
        f"no node of region {region} could be reached at {', '.join(addresses) or 'any address'}"
    )
