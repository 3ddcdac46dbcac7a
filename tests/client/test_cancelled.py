"""Callers of the client for asyncio that are cancelled, as time-outs do it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from strongroom import AsyncClient, Token
from support.patience import PATIENCE_S

SECRET = b'{"data": {"data": {"v": "1"}, "metadata": {"version": 1}}}'


class Answer(httpx.AsyncByteStream):
    """Takes its time to give its connection back."""

    def __init__(self) -> None:
        self.ending, self.go_on, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield SECRET

    async def aclose(self) -> None:
        self.ending.set()
        await self.go_on.wait()
        self.ended.set()


class Transport(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.answer = Answer()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=self.answer)


async def test_who_is_cancelled_leaves_no_connection_behind() -> None:
    """There are a hundred: where each time-out may cost one, none is left some day."""
    transport = Transport()
    async with asyncio.timeout(PATIENCE_S):
        client = AsyncClient("https://n1:1", Token("s.t"), transport=transport)
        reading = asyncio.create_task(client.kv.get("app"))
        await transport.answer.ending.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        transport.answer.go_on.set()
        await transport.answer.ended.wait()
        await client.aclose()
