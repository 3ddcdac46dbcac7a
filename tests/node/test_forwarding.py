"""Writes that are carried to another region: what their answers prove."""

import pytest

from node.regions.forwarding import settles


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503, 504])
def test_a_refusal_after_a_lost_answer_proves_nothing(status: int) -> None:
    assert settles(status, unknown=False)
    assert not settles(status, unknown=True)


@pytest.mark.parametrize("status", [200, 204])
def test_a_success_settles_a_write_however_often_it_was_sent(status: int) -> None:
    assert settles(status, unknown=True)
