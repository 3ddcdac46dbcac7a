"""Copies of a state that regions fetch: made in their own time, handed out in pieces, few at once."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from node.errors import InvalidRequest, NoQuorum
from node.regions import copies as copies_module
from node.regions.copies import COPIES_MAX, PIECE_BYTES, Copies

STATE = bytes(range(256)) * 5000  # more than one piece


class Disk:
    """Makes a copy when it is told to."""

    def __init__(self) -> None:
        self.go, self.problem = asyncio.Event(), False

    async def take(self, path: Path) -> int:
        await self.go.wait()
        if self.problem:
            raise OSError("no space")
        await asyncio.to_thread(path.write_bytes, STATE)
        return 1


async def test_a_copy_that_takes_longer_than_a_request_is_asked_for_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(copies_module, "COPY_WAIT_S", 0.01)
    disk = Disk()
    copies = Copies(tmp_path, disk.take)
    identity = copies.begin()
    assert await copies.described(identity) == {"id": identity}
    with pytest.raises(InvalidRequest):
        copies.piece(identity, 0)
    disk.go.set()
    monkeypatch.setattr(copies_module, "COPY_WAIT_S", 30.0)
    told = await copies.described(identity)
    assert (told["bytes"], told["sha256"]) == (len(STATE), hashlib.sha256(STATE).hexdigest())
    pieces = [copies.piece(identity, at) for at in range(0, len(STATE), PIECE_BYTES)]
    assert (b"".join(pieces), len(pieces)) == (STATE, 2)
    copies.forget(identity)
    assert list(tmp_path.iterdir()) == []


async def test_few_copies_are_made_at_once_and_one_that_fails_makes_room(tmp_path) -> None:
    disk = Disk()
    copies = Copies(tmp_path, disk.take)
    made = [copies.begin() for _ in range(COPIES_MAX)]
    with pytest.raises(NoQuorum, match="too many"):
        copies.begin()
    disk.problem = True
    disk.go.set()
    for identity in made:
        with pytest.raises(NoQuorum, match="could not be made"):
            await copies.described(identity)
    assert copies.begin()
    await copies.close()
    assert list(tmp_path.iterdir()) == []
