"""A stand-in for a server's API: answers what a test says, and remembers what it was asked."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.ports import free_ports

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
LOST: Reply = (0, None)  # the connection ends without an answer


@dataclass
class StubApi:
    """`replies` maps "METHOD /v1/path" to (status, JSON[, headers]), or to a function of the token that says so.

    `asked` holds (method, path, body, token).
    """

    address: str
    replies: dict[str, Reply | Callable[[str | None], Reply]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)  # of the same requests
    ports: list[int] = field(default_factory=list)  # of the connections that they came on


def dead_address() -> str:
    """Of an API at which nobody listens, nor will."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@contextmanager
def stub_api(
    replies: Mapping[str, Reply | Callable[[str | None], Reply]] | None = None,
    *,
    certificate: Path | None = None,
    keep_alive: bool = False,
    client_ca: Path | None = None,
) -> Iterator[StubApi]:
    """Serve on a free loopback port; over TLS as `localhost` when a PEM file is given."""
    stub = StubApi("", dict(replies or {}))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw) if raw else None
            stub.headers.append(dict(self.headers.items()))
            stub.ports.append(self.client_address[1])
            stub.asked.append((self.command, self.path, body, self.headers.get("X-Vault-Token")))
            reply = stub.replies.get(f"{self.command} {self.path}", (404, {"errors": []}))
            status, answer, *more = reply(self.headers.get("X-Vault-Token")) if callable(reply) else reply
            if status == 0:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = (
                b""
                if answer is None
                else answer
                if isinstance(answer, bytes)
                else json.dumps(answer).encode()
            )
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    stub.address = f"{'https://localhost' if certificate else 'http://127.0.0.1'}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
