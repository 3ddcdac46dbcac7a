"""This node's ends of the links between regions: connections out, and a listener for those that come in."""

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from node import pki
from node.config import Settings
from node.regions import authority
from node.regions.links import Links
from node.store import Store

CERTIFY_EVERY_S = 24 * 3600.0  # certificates of links are good for authority.LIFETIME
CLOCK_SET_S = 60.0  # a wall clock that moved by more on its own was set, or stood still

log = structlog.get_logger("regions")


class Listening(Protocol):
    """A listener that is open."""

    async def drain(self, timeout: float) -> None: ...


Listen = Callable[[str, ssl.SSLContext], Awaitable[Listening]]


class Ends:
    """Open while there is an authority that regions share; its certificates are made anew in time."""

    def __init__(self, store: Store, settings: Settings, cluster_id: str, listen: Listen) -> None:
        self._store, self._settings, self._cluster_id = store, settings, cluster_id
        self.links: Links | None = None
        self.problem = ""  # why other regions cannot reach this node
        self._tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._certified_at = self._clock_s = 0.0
        self.group = b""  # the certificate of the authority under which links were opened
        self._serve: Listening | None = None
        self._listen = listen

    def changed(self) -> bool:
        """Whether this cluster left the regions that it has links to, and founded others."""
        ca = authority.authority(self._store)
        return self.links is not None and ca is not None and ca.certificate != self.group

    async def open(self) -> None:
        """Links out, once there is an authority, and the listener in, as soon as its address can be bound."""
        ca = authority.authority(self._store)
        if ca is None:
            return
        if self._tls is None or self._is_due():
            own = authority.certify(ca, self._store.region()[0], self._cluster_id)
            self._tls = self._tls or authority.contexts(ca, own)
            for context in self._tls:
                pki.load_credentials(context, own)  # for handshakes from now on
            self._certified_at, self.group = time.monotonic(), ca.certificate
            self._clock_s = _clock_s()
        if self.links is None:
            self.links = Links(self._tls[1], self._cluster_id, source=self._settings.link_source)
        if self._serve is None and self._settings.link_bind_address:
            await self._bind(self._settings.link_bind_address, self._tls[0])

    def _is_due(self) -> bool:
        """Also at once when the clock was set: a certificate of the future is refused until then."""
        aged = time.monotonic() - self._certified_at > CERTIFY_EVERY_S
        return aged or abs(_clock_s() - self._clock_s) > CLOCK_SET_S

    async def _bind(self, address: str, tls: ssl.SSLContext) -> None:
        """A node that other regions cannot reach serves its clients all the same, says so, and tries again."""
        try:
            self._serve = await self._listen(address, tls)
        except OSError as error:
            problem = f"{address} cannot be bound for other regions: {error.strerror or error}"
            if problem != self.problem:
                log.warning("other regions cannot reach this node", address=address, reason=problem)
            self.problem = problem
            return
        if self.problem:
            log.info("other regions can reach this node", address=address)
        self.problem = ""

    async def close(self) -> None:
        """open() begins anew."""
        serve, links = self._serve, self.links
        self.links = self._serve = self._tls = None
        self.problem = ""
        if serve is not None:
            await serve.drain(0)
        if links is not None:
            await links.close()


def _clock_s() -> float:
    """How far the wall clock is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()
