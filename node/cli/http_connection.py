"""How the bytes get there: plain or TLS, directly, through a proxy, or over a Unix socket."""

import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from node.cli.output import LocalError

Proxies = Mapping[str, str]  # "http" and "https" -> the proxy's URL


class _TlsConnection(http.client.HTTPSConnection):
    """TLS to a host under another name than the one it is reached by."""

    def __init__(self, *args: Any, server_name: str, context: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(*args, context=context, **kwargs)
        self._server_name, self._own_context = server_name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._own_context.wrap_socket(self.sock, server_hostname=self._server_name)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Connections:
    """Connections that can be used again by the same command: most commands ask twice, and TLS costs round trips."""

    def __init__(self) -> None:
        self._idle: dict[str, http.client.HTTPConnection] = {}

    def take(self, address: str) -> http.client.HTTPConnection | None:
        """An open connection to an address, which is the caller's now."""
        return self._idle.pop(address, None)

    def keep(self, address: str, connection: http.client.HTTPConnection) -> None:
        """Give one back whose answer was read to its end."""
        if (other := self._idle.pop(address, None)) is not None:
            other.close()
        self._idle[address] = connection

    def close(self) -> None:
        """End them."""
        while self._idle:
            self._idle.popitem()[1].close()


def open_connection(
    address: str,
    path: str,
    *,
    timeout: float,
    context: ssl.SSLContext | None,
    server_name: str | None,
    proxies: Proxies | None,
) -> tuple[http.client.HTTPConnection, str]:
    """A connection that is not made yet, and the request target to ask it for."""
    url = urlsplit(address)
    if url.scheme == "unix":
        return _UnixConnection(url.path, timeout=timeout), path
    host, port = url.hostname or "", url.port
    proxy = urlsplit((proxies or {}).get(url.scheme, ""))
    if url.scheme != "https":
        if proxy.hostname:
            through = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=timeout)
            return through, f"{address}{path}"
        return http.client.HTTPConnection(host, port, timeout=timeout), path
    trusted = context or ssl.create_default_context()
    reached = (proxy.hostname, proxy.port) if proxy.hostname else (host, port)
    connection: http.client.HTTPSConnection
    if server_name:
        connection = _TlsConnection(*reached, timeout=timeout, server_name=server_name, context=trusted)
    else:
        connection = http.client.HTTPSConnection(*reached, timeout=timeout, context=trusted)
    if proxy.hostname:
        connection.set_tunnel(host, port or 443)
    return connection, path


def tls_context(
    *,
    ca_cert: Any = None,
    ca_path: Any = None,
    client_cert: Any = None,
    client_key: Any = None,
    skip_verify: bool = False,
) -> ssl.SSLContext:
    """What a server's certificate is checked against, and what is shown to it.

    A CA file, else a directory of them, else the system's CAs, or (skip_verify) nothing. Raises LocalError.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_cert) if ca_cert else None)
        for file in sorted(ca_path.iterdir()) if ca_path and not ca_cert else ():
            context.load_verify_locations(str(file))
    except (OSError, ssl.SSLError) as e:
        raise LocalError(f"The CA certificate {ca_cert or ca_path} cannot be used: {e.strerror or e}.") from e
    if bool(client_cert) != bool(client_key):
        raise LocalError("A client certificate needs its key, and a key its certificate.")
    try:
        if client_cert:
            context.load_cert_chain(client_cert, client_key)
    except (OSError, ssl.SSLError) as e:
        raise LocalError(f"The client certificate {client_cert} cannot be used: {e.strerror or e}.") from e
    if skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
