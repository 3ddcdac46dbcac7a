"""How a node connects to others as an HTTP client."""

import asyncio
import ssl
from typing import Any

import aiohttp
from aiohttp.client_reqrep import ClientRequest

CONNECTIONS_MAX = 100


class Connector(aiohttp.TCPConnector):
    """aiohttp's, but the event loop makes the sockets itself.

    aiohttp connects a socket and hands it to the loop. If the other side resets that connection at once, uvloop 0.23
    closes it before it has noted whose the socket is, and the socket closes its number a second time later: by then
    that is another connection of the node. A loop that makes its own socket closes it once.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, source: str = "", connections_max: int = CONNECTIONS_MAX
    ) -> None:
        """`source`: the address of this machine that connections leave from; "" leaves it to the kernel."""
        super().__init__(limit=connections_max, ssl=True if tls is None else tls)
        self._source = (source, 0) if source else None

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: ClientRequest,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> Any:
        host, port = addr_infos[0][4][:2]  # the caller tries the next one
        create: Any = asyncio.get_running_loop().create_connection
        try:
            async with asyncio.timeout(timeout.sock_connect):
                return await create(*args, **kwargs, host=host, port=port, local_addr=self._source)
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except TimeoutError as error:
            if error.errno is None:
                raise
            raise client_error(req.connection_key, error) from error
        except OSError as error:
            raise client_error(req.connection_key, error) from error
