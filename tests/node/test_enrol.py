"""A joining node and the answers that it may get."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from node import enrol


async def answer_in_pieces(pieces: list[bytes]) -> dict[str, object]:
    """What enrol makes of an HTTP answer whose body arrives in these pieces: the next once the last was read."""
    go_on = asyncio.Event()

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces[:1]:
            await response.write(piece)
        await go_on.wait()
        for piece in pieces[1:]:
            await response.write(piece)
        return response

    async with (
        RawTestServer(serve) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/")) as answer,
    ):
        reading = asyncio.create_task(enrol._body(answer))
        while not (answer.content.total_bytes or reading.done()):
            await asyncio.sleep(0)  # until the first piece has come alone
        go_on.set()
        return await reading


async def test_an_answer_in_pieces_is_read_whole() -> None:
    body = json.dumps({"data": {"certificate": "x" * 1000}}).encode()
    found = await answer_in_pieces([body[:10], body[10:500], body[500:]])
    assert found == {"data": {"certificate": "x" * 1000}}


async def test_an_endless_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        await answer_in_pieces([b" " * (enrol.ANSWER_BYTES_MAX + 1), b"{}"])


async def test_an_answer_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected"):
        await answer_in_pieces([b"[1]"])
