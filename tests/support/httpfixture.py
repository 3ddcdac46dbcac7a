"""A real listener on a loopback port in front of a real Core, and a client that sends exactly these bytes."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.corefixture import ROOT_TOKEN, opened
from support.patience import PATIENCE_S

from node.api.http import make_server
from node.core.core import Core


@dataclass
class Answer:
    """One parsed HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Wire:
    """One TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    token: str = ""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer; raises IncompleteReadError or ConnectionError when the peer has closed."""
        async with asyncio.timeout(PATIENCE_S):
            top = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            status = int(top[0].split()[1])
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in top[1:] if line)}
            length = 0 if head or status == 204 else int(headers.get("content-length", 0))
            return Answer(status, headers, await self.reader.readexactly(length))

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        await self.send(request(method, path, body, headers={"X-Vault-Token": self.token} | (headers or {})))
        return await self.answer(head=method == "HEAD")

    async def closed(self) -> bool:
        """Waits until the peer closes; whether it did so without another byte."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def request(method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of one request."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items() if value]
    if data:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@dataclass
class Site:
    """A listener."""

    core: Core
    host: str
    port: int
    server: Any
    token: str = ""
    tls: ssl.SSLContext | None = None
    wires: list[Wire] = field(default_factory=list)

    async def connect(self, token: str | None = None) -> Wire:
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        wire = Wire(reader, writer, self.token if token is None else token)
        self.wires.append(wire)
        return wire

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serve(
    core: Core,
    *,
    token: str = "",
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Site]:
    """Listen on an ephemeral loopback port until the end of the block."""
    server = make_server(core, tls=server_tls is not None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=server_tls)
    port = listener.sockets[0].getsockname()[1]
    site = Site(core, "127.0.0.1", port, server, token, client_tls)
    try:
        yield site
    finally:
        for wire in site.wires:
            await wire.close()
        listener.close()
        await server.drain(5.0)
        await listener.wait_closed()


@contextlib.asynccontextmanager
async def dev_core(data_dir: Path, **changes: Any) -> AsyncIterator[tuple[Core, str]]:
    """corefixture's core and its root token; `changes` are Settings fields."""
    async with opened(data_dir, **changes) as core:
        yield core, ROOT_TOKEN
