"""What the main process and a worker say to each other waits in bounded memory, and shows nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from support.patience import PATIENCE_S, eventually

from node.workers import messages
from node.workers.messages import Ask, Channel, Told, ToMain, ToWorker

COUNT = 64
ANSWER = bytes(1 << 20)


@asynccontextmanager
async def channel(
    kind: Any, take: Callable[[Channel, Any], None], hold: Callable[[bool], None] | None = None
) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """One end, and the socket of the other."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    found = Channel(kind, lambda frame: take(found, frame), lambda: None, hold)
    await asyncio.get_running_loop().create_unix_connection(lambda: found, sock=ours)
    with theirs:
        yield found, theirs
        found.close()


def frame(content: ToWorker | ToMain) -> bytes:
    body = messages.encode(content)
    return len(body).to_bytes(messages.LENGTH_BYTES, "big") + body


def unsent(found: Channel) -> int:
    assert found._transport is not None
    return found._transport.get_write_buffer_size()


async def taken_from(theirs: socket.socket, kind: Any, count: int) -> list[Any]:
    """So many frames."""
    found: list[Any] = []
    end = asyncio.Event()

    def take(_: Channel, told: Any) -> None:
        found.append(told)
        if len(found) == count:
            end.set()

    other = Channel(kind, lambda told: take(other, told), lambda: None, lambda _: None)
    await asyncio.get_running_loop().create_unix_connection(lambda: other, sock=theirs.dup())
    async with asyncio.timeout(PATIENCE_S):
        await end.wait()
    other.close()
    return found


async def test_who_does_not_take_answers_is_answered_no_more_until_it_does() -> None:
    """All that it asks came in one piece: what has been read already waits, too."""
    asked = 0

    def answer(end: Channel, ask: Ask) -> None:
        nonlocal asked
        asked += 1
        end.send(Told(ask.connection, ANSWER, False))

    async with channel(ToMain, answer) as (end, theirs):
        await asyncio.get_running_loop().sock_sendall(
            theirs, b"".join(frame(Ask(number, b"GET")) for number in range(COUNT))
        )
        await eventually(lambda: asked, "the first answer")
        assert asked < COUNT / 2
        assert unsent(end) <= messages.UNTAKEN_BYTES_MAX + 2 * len(ANSWER)
        told = await taken_from(theirs, ToWorker, COUNT)
        assert [each.connection for each in told] == list(range(COUNT))
        assert {each.answer for each in told} == {ANSWER}


async def test_a_worker_hears_that_it_asks_more_than_is_read_and_still_takes_answers() -> None:
    held: list[bool] = []
    told: list[Told] = []
    async with channel(ToWorker, lambda _, each: told.append(each), held.append) as (end, theirs):
        asked = 0
        while not held:
            end.send(Ask(asked, ANSWER))
            asked += 1
            assert asked < COUNT, "it was never told"
        await asyncio.get_running_loop().sock_sendall(theirs, frame(Told(1, b"answer", False)))
        await eventually(lambda: told, "an answer")
        assert len(await taken_from(theirs, ToMain, asked)) == asked
        await eventually(lambda: held == [True, False], "it may ask again")


async def test_frames_arrive_whole_however_they_are_cut() -> None:
    sent = [Told(number, bytes([number]) * 300 * number, number % 2 == 0) for number in range(20)]
    came: list[Told] = []
    data = b"".join(map(frame, sent))
    async with channel(ToWorker, lambda _, each: came.append(each)) as (end, _):
        for step in (1, 3, 1000, len(data)):
            came.clear()
            for at in range(0, len(data), step):
                end.data_received(data[at : at + step])
            assert came == sent


@pytest.mark.parametrize(
    "kind", [*messages.ToWorker.__args__, *messages.ToMain.__args__, messages.Answerer, messages.Entry]
)
def test_no_frame_shows_what_is_in_it(kind: type[msgspec.Struct]) -> None:
    secret = "hvs.hidden"
    values = [secret] * len(kind.__struct_fields__)
    assert "hidden" not in repr(kind(*values))
