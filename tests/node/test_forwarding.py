"""Writes that are carried to another region: what their answers prove."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.patience import PATIENCE_S

from node.errors import NotPrimary
from node.regions import forwarding
from node.regions.forwarding import _pursue, certificates, settles, superseded, told
from node.regions.links import Answer
from storage.rows import Epoch, Region


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503, 504])
def test_a_refusal_after_a_lost_answer_proves_nothing(status: int) -> None:
    assert settles(status, unknown=False)
    assert not settles(status, unknown=True)


@pytest.mark.parametrize("status", [200, 204])
def test_a_success_settles_a_write_however_often_it_was_sent(status: int) -> None:
    assert settles(status, unknown=True)


EU, US, BACK = Epoch(1, "eu", 10), Epoch(2, "us", 100), Epoch(3, "eu", 200)


@pytest.mark.parametrize(
    ("source", "position", "before", "after", "arrived", "is_lost"),
    [
        ("eu", 99, [EU], [EU], True, False),
        ("eu", 99, [EU], [EU], False, False),  # late, but its region still orders writes
        ("eu", 99, [EU], [EU, US], True, False),  # it travelled before the other region took over
        ("eu", 100, [EU], [EU, US], True, True),  # another command stands there
        ("eu", 150, [EU], [EU, US], False, True),
        ("us", 150, [EU], [EU], False, False),  # the new primary answered sooner than its epoch arrived here
        ("us", 150, [EU], [EU, US], True, False),
        ("us", 250, [EU, US], [EU, US, BACK], True, True),
    ],
)
def test_an_answer_that_was_overtaken_by_a_promotion_is_not_passed_on(
    source, position, before, after, arrived, is_lost
) -> None:
    assert superseded(source, position, before, after, arrived=arrived) is is_lost


def test_what_a_client_has_shown_travels_his_own_certificate_first() -> None:
    assert certificates(None) == certificates("") == ()
    shown = [b"own" * 400, b"middle" * 300, b"root" * 300]
    assert certificates(told(shown)) == tuple(shown)
    large = [b"own" * 1000, b"middle" * 300, b"root" * 1000]
    assert certificates(told(large)) == tuple(large[:2]), "a header has room for so much"


class Busy:
    """A region's worker whose primary answers in its own time."""

    was_removed = changing = False

    def __init__(self) -> None:
        self.carried, self.asked = asyncio.Semaphore(2), 0
        self.go_on = asyncio.Event()

    def primary(self) -> Region:
        return Region("eu", (), ("eu:1",), 0)

    def was_demoted(self, _: Region) -> bool:
        return False

    has_lost = was_demoted

    async def ask(self, *_: Any, **__: Any) -> Answer:
        self.asked += 1
        await self.go_on.wait()
        return Answer(204, {}, b"")


async def test_no_more_is_carried_at_once_than_leaves_room_for_keeping_in_touch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A region that cannot be asked how it is counts as lost, and with it all that was under way there."""
    busy = Busy()
    core: Any = SimpleNamespace(regions=busy, store=None)
    raw: Any = SimpleNamespace(raw_path="/v1/secret/data/a", method="POST")
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        carried = [group.create_task(_pursue(core, raw, {}, b"")) for _ in range(5)]
        while busy.asked < 2:
            await asyncio.sleep(0)
        monkeypatch.setattr(forwarding, "FORWARD_TIMEOUT_S", 0.1)
        with pytest.raises(NotPrimary, match="nothing was written: this node carries"):
            await _pursue(core, raw, {}, b"")
        assert busy.asked == 2
        busy.go_on.set()
    assert [each.result()[1].status for each in carried] == [204] * 5
