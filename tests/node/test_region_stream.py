"""What regions tell each other: whose history is the beginning of whose, and what is not even read."""

import asyncio
import contextlib
import os
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import call, opened, order
from support.patience import PATIENCE_S

from node.core.request import Operation
from node.regions.stream import (
    BATCH_BYTES_MAX,
    PULL_BYTES_MAX,
    Batch,
    Frames,
    Question,
    Standing,
    answers,
    framed,
    joined,
    judge,
    pack,
    unpack,
)
from node.regions.throttle import Throttle
from storage.rows import Epoch

EPOCHS = [Epoch(1, "eu", 10), Epoch(2, "us", 100), Epoch(3, "eu", 200)]


def asker(epoch: int, region: str, position: int) -> Standing:
    return Standing("asia", "secondary", epoch, region, position)


@pytest.mark.parametrize(
    ("who", "verdict"),
    [
        (asker(3, "eu", 250), ("ok", 0)),
        (asker(3, "eu", 200), ("ok", 0)),
        (asker(2, "us", 199), ("ok", 0)),
        (asker(2, "us", 200), ("diverged", 200)),  # it holds a command that eu's third epoch replaced
        (asker(1, "eu", 99), ("ok", 0)),
        (asker(1, "eu", 150), ("diverged", 100)),
        (asker(2, "asia", 150), ("diverged", 100)),  # two regions began the second epoch
        (asker(3, "eu", 300), ("behind", 0)),  # this node is not where its own region is
        (asker(4, "us", 10), ("superseded", 0)),
    ],
)
def test_histories_agree_as_far_as_their_epochs_do(who: Standing, verdict: tuple[str, int]) -> None:
    assert judge(EPOCHS, 250, who) == verdict


def test_a_batch_comes_back_as_it_was() -> None:
    batch = Batch("ok", asker(1, "eu", 3), 0, ((b"r" * 16, b"command"),))
    assert unpack(pack(batch)) == batch


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not compressed",
        zlib.compress(b"\xc1"),
        zlib.compress(bytes(BATCH_BYTES_MAX + 1)),
        pack(Batch("ok", asker(1, "eu", 3)))[:-4],
    ],
    ids=["nothing", "plain", "no msgpack", "bomb", "cut"],
)
def test_what_is_no_batch_is_refused_within_bounds(sent: bytes) -> None:
    with pytest.raises(ValueError, match="batch"):
        unpack(sent)


def ok(first: int, *commands: bytes) -> Batch:
    position = first + len(commands)
    return Batch("ok", asker(1, "eu", position), 0, tuple((b"r" * 16, each) for each in commands), first)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_come_out_of_a_stream_however_it_is_cut(size: int) -> None:
    sent = [ok(1, b"a", b"b"), ok(3), ok(3, b"c")]
    data = b"".join(framed(each) for each in sent)
    frames, got = Frames(), []
    for start in range(0, len(data), size):
        got += frames.take(data[start : start + size])
    assert got == sent


def test_a_frame_that_claims_to_be_huge_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="too long"):
        list(Frames().take(b"\xff\xff\xff\xff"))


def test_batches_that_wait_become_one_as_long_as_they_follow_each_other_and_are_small() -> None:
    one, two, three = list(joined(iter([ok(1, b"a"), ok(2, b"b"), ok(7, b"c"), ok(8), ok(8, b"d")])))[:3]
    assert one == ok(1, b"a", b"b")
    assert (two, three) == (ok(7, b"c"), ok(8))
    large = b"x" * (PULL_BYTES_MAX - 1)
    assert list(joined(iter([ok(1, large), ok(2, b"ab")]))) == [ok(1, large), ok(2, b"ab")]
    gone = Batch("gone", asker(1, "eu", 2))
    assert list(joined(iter([ok(1, b"a"), gone]))) == [ok(1, b"a"), gone]


@pytest.mark.parametrize(
    ("ours", "theirs", "position", "verdict"),
    [
        # two regions that were promoted at once: the later name prevails, whoever began earlier
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1), (2, "asia", 90)], 120, ("diverged", 90)),
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1), (2, "asia", 110)], 120, ("diverged", 100)),
        ([(1, "eu", 1), (2, "asia", 90)], [(1, "eu", 1), (2, "us", 100)], 120, ("superseded", 0)),
        # the one that lost has handed over to another one meanwhile, and so has the one that prevailed
        (
            [(1, "eu", 1), (2, "us", 100), (3, "eu", 150)],
            [(1, "eu", 1), (2, "asia", 90), (3, "au", 140)],
            200,
            ("diverged", 90),
        ),
        # one name, one number, and yet not the same epoch
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1), (2, "us", 90)], 95, ("diverged", 90)),
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1)], 99, ("ok", 0)),
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1)], 100, ("diverged", 100)),
        ([(1, "eu", 1), (2, "us", 100)], [(1, "eu", 1), (2, "us", 100)], 300, ("behind", 0)),
    ],
)
def test_histories_part_where_the_first_of_two_epochs_begins(
    ours: list[Any], theirs: list[Any], position: int, verdict: tuple[str, int]
) -> None:
    known = tuple(Epoch(*each) for each in theirs)
    who = asker(known[-1].epoch, known[-1].region, position)
    assert judge([Epoch(*each) for each in ours], 250, who, known) == verdict


async def test_what_is_sent_keeps_to_its_bandwidth_whoever_sends_it(tmp_path: Path) -> None:
    rate = 2_000_000
    throttle = Throttle(rate)
    async with opened(tmp_path) as core:
        await order(core)
        at = core.unsealed.position
        for number in range(3):
            value = {"v": os.urandom(150_000).hex()}
            await call(core, Operation.UPDATE, f"secret/data/{number}", {"data": value})
        began, sent, got, frames = time.monotonic(), 0, 0, Frames()
        copies = asyncio.gather(*(throttle.let_pass(50_000) for _ in range(4)))
        async with contextlib.aclosing(
            answers(core.unsealed, Question(asker(1, "eu", at)), throttle)
        ) as pieces:
            async for piece in pieces:
                assert len(piece) <= throttle.slice_bytes
                sent += len(piece)
                got += sum(len(batch.commands) for batch in frames.take(piece))
                if got == 3:
                    break
        await copies
        # the last piece is on its way when it is handed on
        assert time.monotonic() - began >= (sent + 200_000 - throttle.slice_bytes) / rate


async def test_without_a_limit_nothing_waits() -> None:
    throttle = Throttle(0)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(throttle.let_pass(1 << 40) for _ in range(10)))
