"""The check of rights sees what it must see."""

import pytest

from chaos.guards.ledger import Access, Ledger, at_most


def judged(began: int, ended: int, status: int | None) -> list[str]:
    """Given from 10 to 20, and from 40 on; each change takes 2."""
    ledger = Ledger()
    ledger.change("s", 40, 42, given=True)
    ledger.change("s", 10, 12, given=True)
    ledger.change("s", 20, 22, given=False)
    ledger.access("s", Access("GET x", "n1", began, ended, status))
    return ledger.violations()


@pytest.mark.parametrize(("began", "ended"), [(13, 19), (50, 60)])
def test_who_has_a_right_may_use_it_and_is_not_refused(began: int, ended: int) -> None:
    assert judged(began, ended, 200) == judged(began, ended, 503) == judged(began, ended, None) == []
    assert "REFUSED" in judged(began, ended, 403)[0]


def test_who_has_lost_it_is_refused() -> None:
    assert judged(23, 39, 403) == judged(23, 39, None) == []
    assert "GRANTED" in judged(23, 39, 200)[0]


@pytest.mark.parametrize(("began", "ended"), [(5, 15), (13, 20), (21, 25), (23, 40), (13, 50), (41, 50)])
def test_while_a_right_changes_both_answers_are_right(began: int, ended: int) -> None:
    assert judged(began, ended, 200) == judged(began, ended, 403) == []


@pytest.mark.parametrize(
    ("statuses", "wrong"),
    [
        ([200, 200, 403], False),
        ([200, None, 403], False),
        ([200, 503, 400], False),
        ([200], False),
        ([200, 200, 204], True),
        ([200, 403, 403], True),
        ([None, 403, 403], True),
    ],
)
def test_what_works_twice_works_twice(statuses: list[int | None], wrong: bool) -> None:
    assert bool(at_most(2, statuses)) is wrong
