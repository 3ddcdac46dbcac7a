"""Copies of a state that regions fetch: made in their own time, handed out in pieces, few at once."""

import asyncio
import gc
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.patience import PATIENCE_S

from node.errors import InvalidRequest, NoQuorum
from node.regions import arrival as arrival_module
from node.regions import copies as copies_module
from node.regions.arrival import Arrival, Asker
from node.regions.copies import COPIES_MAX, PIECE_BYTES, Copies
from node.regions.links import Answer, Interrupted, Unreachable

STATE = bytes(range(256)) * 5000  # more than one piece
US = Asker("us", 5)


class Disk:
    """Makes a copy when it is told to."""

    def __init__(self, state: bytes = STATE) -> None:
        self.state = state
        self.go, self.problem = asyncio.Event(), False
        self.position, self.first = 10, 1

    def history_first(self) -> int:
        return self.first

    async def take(self, path: Path) -> int:
        await self.go.wait()
        if self.problem:
            raise OSError("no space")
        await asyncio.to_thread(path.write_bytes, self.state)
        return 1


async def test_a_copy_that_takes_longer_than_a_request_is_asked_for_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(copies_module, "COPY_WAIT_S", 0.01)
    disk = Disk()
    copies = Copies(tmp_path, disk.take, disk)
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
    copies = Copies(tmp_path, disk.take, disk)
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


class Link:
    """To a node that hands copies out; it breaks before the piece at `breaks_at`."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.breaks_at = copies, -1
        self.loses = 0  # so many answers to who has a copy made
        self.slice_bytes, self.spares_from = (
            PIECE_BYTES,
            0,
        )  # pieces from that offset on are no longer than that
        self.pieces: list[int] = []

    async def ask(
        self, region: str, addresses: tuple[str, ...], path: str, *, body: bytes, **_: Any
    ) -> Answer:
        asked = msgspec.json.decode(body)
        offset = asked.get("offset")
        if self.breaks_at >= 0 and offset is not None and offset >= self.breaks_at:
            raise Unreachable("it is cut")
        try:
            return Answer(200, {}, await self._answer(asked, offset))
        except InvalidRequest:
            return Answer(400, {}, b"{}")

    async def _answer(self, asked: dict[str, Any], offset: int | None) -> bytes:
        identity = asked.get("id") or self.copies.begin(asked["asker"], asked["position"])
        if asked.get("done"):
            self.copies.forget(identity)
            return b"{}"
        if self.loses and "id" not in asked:
            self.loses -= 1
            raise Interrupted("the answer is lost")
        if offset is None:
            return msgspec.json.encode(await self.copies.described(identity))
        piece = self.copies.piece(
            identity, offset, self.slice_bytes if offset >= self.spares_from else PIECE_BYTES
        )
        self.pieces.append(offset)
        return piece


@pytest.fixture
async def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(arrival_module, "PIECE_PAUSE_S", 0.0)
    (tmp_path / "there").mkdir()
    disk = Disk()
    disk.go.set()
    return Link(Copies(tmp_path / "there", disk.take, disk))


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


async def fetched(arrival: Arrival, link: Link, told: list[int]) -> None:
    await arrival.fetch(link, "eu", ("a:1",), US, lambda each: told.append(each.bytes))  # type: ignore[arg-type]


async def test_a_copy_goes_on_where_its_link_was_cut(tmp_path: Path, link: Link) -> None:
    told: list[int] = []
    arrival, link.breaks_at = Arrival(tmp_path / "here.db"), PIECE_BYTES
    for _ in range(3):
        with pytest.raises(Unreachable):
            await fetched(arrival, link, told)
    link.breaks_at = -1
    await fetched(arrival, link, told)
    assert (tmp_path / "here.db").read_bytes() == STATE
    assert link.pieces == [0, PIECE_BYTES], "no piece travelled twice"
    assert told == [PIECE_BYTES, len(STATE)]
    assert list((tmp_path / "there").iterdir()) == [], "its source is told that it arrived"


class BusyLink(Link):
    """Answers the pieces that were asked for together once `together` are: the latest one first."""

    def __init__(self, copies: Copies, together: int) -> None:
        super().__init__(copies)
        self.together, self.most = together, 0
        self.waiting: list[asyncio.Event] = []

    async def _answer(self, asked: dict[str, Any], offset: int | None) -> bytes:
        if offset:  # the first one tells how quick the link is
            mine = asyncio.Event()
            self.waiting.append(mine)
            self.most = max(self.most, len(self.waiting))
            if len(self.waiting) >= self.together:
                asyncio.get_running_loop().call_soon(self.waiting[-1].set)
            await mine.wait()
            self.waiting.remove(mine)
            for each in self.waiting[-1:]:
                each.set()
        return await super()._answer(asked, offset)


@pytest.mark.parametrize(("quick_s", "together"), [(30.0, 2), (0.0, 1)], ids=["quick", "slow"])
async def test_pieces_travel_together_where_the_link_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_s: float, together: int
) -> None:
    monkeypatch.setattr(arrival_module, "QUICK_PIECE_S", quick_s)
    (tmp_path / "there").mkdir()
    disk = Disk(b"".join(bytes([number]) * PIECE_BYTES for number in range(5)))
    disk.go.set()
    link = BusyLink(Copies(tmp_path / "there", disk.take, disk), together)
    async with asyncio.timeout(PATIENCE_S):
        await fetched(Arrival(tmp_path / "here.db"), link, [])
    assert (tmp_path / "here.db").read_bytes() == disk.state
    assert sorted(link.pieces) == list(range(0, len(disk.state), PIECE_BYTES)), "no piece travelled twice"
    assert (link.pieces == sorted(link.pieces), link.most) == (together == 1, together)


async def test_a_source_that_begins_to_spare_its_link_gives_shorter_pieces(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    disk = Disk(b"".join(bytes([number]) * PIECE_BYTES for number in range(5)))
    disk.go.set()
    link = Link(Copies(tmp_path / "there", disk.take, disk))
    link.slice_bytes, link.spares_from = 700_000, PIECE_BYTES + 1
    await fetched(Arrival(tmp_path / "here.db"), link, [])
    assert (tmp_path / "here.db").read_bytes() == disk.state


async def one_piece_fetched(path: Path, link: Link) -> None:
    """By a process that is gone: then the link was cut, and works again."""
    link.breaks_at = PIECE_BYTES
    with pytest.raises(Unreachable):
        await fetched(Arrival(path), link, [])
    link.breaks_at = -1


async def test_a_copy_goes_on_where_the_process_was_killed_that_fetched_it(
    tmp_path: Path, link: Link
) -> None:
    await one_piece_fetched(tmp_path / "here.db", link)
    (tmp_path / "here.db.0123456789abcdef.part").write_bytes(b"of another copy")
    told: list[int] = []
    await fetched(Arrival(tmp_path / "here.db"), link, told)
    assert (tmp_path / "here.db").read_bytes() == STATE
    assert link.pieces == [0, PIECE_BYTES], "no piece travelled twice"
    assert names(tmp_path) == ["here.db", "there"]


async def test_what_a_power_failure_left_of_a_copy_is_not_taken_for_its_beginning(
    tmp_path: Path, link: Link
) -> None:
    await one_piece_fetched(tmp_path / "here.db", link)
    (part,) = (each for each in names(tmp_path) if each.endswith(".part"))
    (tmp_path / part).write_bytes(bytes(PIECE_BYTES))
    arrival = Arrival(tmp_path / "here.db")
    with pytest.raises(Interrupted, match="damaged"):
        await fetched(arrival, link, [])
    await fetched(arrival, link, [])
    assert (tmp_path / "here.db").read_bytes() == STATE


async def test_whoever_goes_on_for_a_region_gets_the_copy_that_was_made_for_it(
    tmp_path: Path, link: Link
) -> None:
    """A leader that died would else leave one behind, which keeps others from being made."""
    link.breaks_at = PIECE_BYTES
    with pytest.raises(Unreachable):
        await fetched(Arrival(tmp_path / "dead.db"), link, [])
    link.breaks_at = -1
    assert link.copies.progress("us") == (PIECE_BYTES, len(STATE))
    await fetched(Arrival(tmp_path / "here.db"), link, [])
    assert link.pieces == [0, 0, PIECE_BYTES]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("position", "first"), [(11, 1), (5, 12)], ids=["region-is-ahead", "history-begins-later"]
)
async def test_a_copy_that_is_of_no_use_any_more_is_not_handed_out(
    tmp_path: Path, position: int, first: int
) -> None:
    disk = Disk()
    disk.go.set()
    copies = Copies(tmp_path, disk.take, disk)
    made = copies.begin("us", 5)
    await copies.described(made)
    assert copies.begin("us", 5) == made
    disk.first, disk.position = first, 20
    again = copies.begin("us", position)
    assert again != made
    await copies.described(again)
    assert names(tmp_path) == [f"region-{again}.db"]


async def test_lost_answers_leave_no_copies_behind(tmp_path: Path, link: Link) -> None:
    """Each would take the place of another one until it is old."""
    arrival, link.loses = Arrival(tmp_path / "here.db"), 2 * COPIES_MAX
    for _ in range(link.loses):
        with pytest.raises(Interrupted, match="lost"):
            await fetched(arrival, link, [])
    await fetched(arrival, link, [])
    assert (tmp_path / "here.db").read_bytes() == STATE
    assert list((tmp_path / "there").iterdir()) == []


async def test_a_copy_that_fails_when_nobody_listens_any_more_is_no_bug(tmp_path: Path) -> None:
    """What reaches nobody stops the node."""
    bugs: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
    disk = Disk()
    copies = Copies(tmp_path, disk.take, disk)
    _ = copies.begin()
    (making,) = copies._making.values()
    disk.problem = True
    disk.go.set()
    await asyncio.wait({making})
    del making
    copies.expire(0.0)
    gc.collect()
    assert bugs == []


async def test_a_copy_that_its_source_has_forgotten_begins_anew(tmp_path: Path, link: Link) -> None:
    arrival, link.breaks_at = Arrival(tmp_path / "here.db"), PIECE_BYTES
    with pytest.raises(Unreachable):
        await fetched(arrival, link, [])
    link.copies.expire(used_before=float("inf"))
    link.breaks_at = -1
    with pytest.raises(Interrupted, match="any more"):
        await fetched(arrival, link, [])
    await fetched(arrival, link, [])
    assert (tmp_path / "here.db").read_bytes() == STATE
    assert link.pieces == [0, 0, PIECE_BYTES]


async def test_a_copy_that_nobody_wants_any_more_leaves_nothing_behind(tmp_path: Path, link: Link) -> None:
    arrival, link.breaks_at = Arrival(tmp_path / "here.db"), PIECE_BYTES
    with pytest.raises(Unreachable):
        await fetched(arrival, link, [])
    link.breaks_at = -1
    await arrival.give_up(link)  # type: ignore[arg-type]
    assert not (tmp_path / "here.db").exists()
    assert list((tmp_path / "there").iterdir()) == []
