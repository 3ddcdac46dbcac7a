"""How far a region says that it is behind: never less than it is."""

import time

import pytest

from node.regions.contacts import Contact
from node.regions.control import CONTACT_FRESH_S, lag_seconds
from node.regions.stream import Standing


def primary(position: int) -> Standing:
    return Standing("eu", "primary", 1, "eu", position)


def contact_of(*answers: tuple[int, float]) -> Contact:
    """After answers: (position of the primary, seconds since it was asked)."""
    now = time.monotonic()
    contact = Contact(primary(0), now - 3600)
    for position, asked_s in answers:
        contact.standing = primary(position)
        contact.answered(now - asked_s)
    return contact


def test_a_region_that_holds_what_it_just_heard_of_is_level() -> None:
    contact = contact_of((10, 0.2))
    contact.reached(10)
    assert lag_seconds(contact, 0) == 0


def test_without_contact_it_may_lack_all_since_it_last_asked() -> None:
    contact = contact_of((10, CONTACT_FRESH_S + 1))
    contact.reached(10)
    assert lag_seconds(contact, 0) == pytest.approx(CONTACT_FRESH_S + 1, abs=0.1)


def test_an_answer_that_came_late_tells_of_the_time_when_it_was_asked_for() -> None:
    contact = contact_of((10, 30.0))  # the network held it back, and the primary went on
    contact.reached(10)
    assert lag_seconds(contact, 0) == pytest.approx(30, abs=0.1)


def test_a_primary_that_does_not_answer_now_may_have_ordered_more_a_moment_ago() -> None:
    contact = contact_of((10, 0.5))
    contact.reached(10)
    assert lag_seconds(contact, 0, in_touch=False) == pytest.approx(0.5, abs=0.1)


def test_a_region_that_always_lags_by_the_same_tells_that_and_not_more() -> None:
    contact = contact_of(*((100 + n, 10 - n) for n in range(10)))
    contact.reached(105)
    assert lag_seconds(contact, 4) == pytest.approx(5, abs=0.1)


def test_a_region_that_was_never_level_does_not_know() -> None:
    contact = contact_of((10, 0.2))
    contact.reached(9)
    assert lag_seconds(contact, 1) is None
