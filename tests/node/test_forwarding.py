"""Writes that are carried to another region: what their answers prove."""

import pytest

from node.regions.forwarding import certificates, settles, superseded, told
from storage.rows import Epoch


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
