"""Writes that are carried to another region: what their answers prove, and which requests travel at all."""

import pytest

from node.core.request import Operation, Request
from node.regions.forwarding import settles
from node.regions.placing import belongs_to_the_primary


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503, 504])
def test_a_refusal_after_a_lost_answer_proves_nothing(status: int) -> None:
    assert settles(status, unknown=False)
    assert not settles(status, unknown=True)


@pytest.mark.parametrize("status", [200, 204])
def test_a_success_settles_a_write_however_often_it_was_sent(status: int) -> None:
    assert settles(status, unknown=True)


@pytest.mark.parametrize(
    ("operation", "path", "travels"),
    [
        (Operation.UPDATE, "secret/data/a", True),
        (Operation.DELETE, "secret/data/a", True),
        (Operation.UPDATE, "auth/approle/login", True),
        (Operation.UPDATE, "sys/policies/acl/p", True),
        (Operation.READ, "secret/data/a", False),
        (Operation.UPDATE, "sys/capabilities-self", False),
        (Operation.UPDATE, "auth/token/lookup", False),
        (Operation.UPDATE, "sys/unseal", False),
        (Operation.UPDATE, "sys/regions/promote", False),
        (Operation.UPDATE, "sys/regions/switchover", True),
        (Operation.UPDATE, "sys/drills/history", True),
        (Operation.UPDATE, "sys/storage/raft/remove-peer", False),
    ],
)
def test_what_is_about_a_region_alone_stays_there(operation: Operation, path: str, travels: bool) -> None:
    assert belongs_to_the_primary(Request("id", operation, path)) == travels
