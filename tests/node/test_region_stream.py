"""What regions tell each other: whose history is the beginning of whose, and what is not even read."""

import zlib

import pytest

from node.regions.stream import BATCH_BYTES_MAX, Batch, Standing, judge, pack, unpack
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
