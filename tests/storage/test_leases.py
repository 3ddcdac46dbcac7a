"""Leases in the state machine: when they fall due, and that none is forgotten before it is taken back."""

import pytest
from support.state import MINUTE, SECOND, T0, Node, mount, sealed, token

from storage import command as c
from storage.outcome import Reason, Rejected


@pytest.fixture
def node():
    node = Node()
    node.ok(mount())
    yield node
    node.machine.close()


def lease(
    name: str, *, owner: str | None = None, expires_ns: int = T0 + MINUTE, time_ns: int = T0
) -> c.LeasePut:
    digest = owner.encode() if owner else None
    return c.LeasePut(time_ns, name, "m1", digest, MINUTE, expires_ns, T0 + 10 * MINUTE, True, sealed(name))


def due(node: Node, now_ns: int) -> list[str]:
    return [each.lease_id for each in node.reads.leases_due(now_ns, 100)]


def test_a_lease_falls_due_when_it_expires(node):
    node.ok(lease("kv/a/1"))
    assert due(node, T0 + MINUTE - 1) == []
    assert due(node, T0 + MINUTE) == ["kv/a/1"]
    assert node.reads.lease("kv/a/1").value == sealed("kv/a/1")


def test_a_renewed_lease_falls_due_later_and_a_dead_one_is_not_renewed(node):
    node.ok(lease("kv/a/1"))
    node.ok(c.LeaseRenew(T0 + SECOND, "kv/a/1", MINUTE, T0 + SECOND + MINUTE))
    assert due(node, T0 + MINUTE) == []
    late = c.LeaseRenew(T0 + 3 * MINUTE, "kv/a/1", MINUTE, T0 + 4 * MINUTE)
    assert node.do(late) == Rejected(Reason.NO_SUCH_LEASE)
    node.ok(lease("kv/a/2", expires_ns=T0 + 9 * MINUTE))
    node.ok(c.LeasesEnd(T0, "kv/a/2", exact=True, limit=10))
    assert node.do(c.LeaseRenew(T0, "kv/a/2", MINUTE, T0 + MINUTE)) == Rejected(Reason.NO_SUCH_LEASE)


@pytest.mark.parametrize("end", [c.TokenRevoke(T0, b"t"), c.TokenRevoke(T0, b"t", orphan_children=True)])
def test_a_lease_ends_with_its_token_but_is_not_forgotten(node, end):
    node.ok(token("t"))
    node.ok(lease("kv/a/1", owner="t"))
    node.ok(lease("kv/a/2"))
    node.ok(end)
    assert due(node, T0) == ["kv/a/1"]
    assert node.reads.lease("kv/a/1").ending


def test_a_lease_ends_with_an_ancestor_of_its_token_and_by_expiry(node):
    node.ok(token("parent", expires_ns=T0 + SECOND))
    node.ok(token("child", "parent"))
    node.ok(lease("kv/a/1", owner="child"))
    node.ok(c.TokensExpire(T0 + SECOND, 10))
    assert due(node, T0 + SECOND) == ["kv/a/1"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (lease("kv/a/1"), Reason.LEASE_EXISTS),
        (lease("kv/b/1", owner="gone"), Reason.NO_SUCH_TOKEN),
        (c.LeasePut(T0, "x", "m9", None, 0, T0, T0, True, sealed()), Reason.NO_SUCH_MOUNT),
    ],
)
def test_a_lease_needs_its_mount_and_its_token(node, command, reason):
    node.ok(lease("kv/a/1"))
    assert node.do(command) == Rejected(reason)


def test_leases_are_ended_by_prefix_in_steps(node):
    for number in range(5):
        node.ok(lease(f"kv/a/{number}"))
    node.ok(lease("kv/ab/1"))
    assert node.ok(c.LeasesEnd(T0, "kv/a/", exact=False, limit=3)) == {"ended": 3}
    assert node.ok(c.LeasesEnd(T0, "kv/a/", exact=False, limit=3)) == {"ended": 2}
    assert due(node, T0) == [f"kv/a/{number}" for number in range(5)]


def test_a_failure_puts_off_and_the_last_one_gives_up_until_somebody_asks(node):
    node.ok(lease("kv/a/1"))
    node.ok(c.LeasesEnd(T0, "kv/a/1", exact=True, limit=1))
    first = c.LeaseFailed(T0, "kv/a/1", 0, "down", T0 + MINUTE, irrevocable=False)
    assert node.ok(first) == {"recorded": 1}
    assert node.ok(first) == {"recorded": 0}, "two who tried at once count as one"
    assert (due(node, T0), due(node, T0 + MINUTE)) == ([], ["kv/a/1"])
    node.ok(c.LeaseFailed(T0, "kv/a/1", 1, "still down", T0 + MINUTE, irrevocable=True))
    assert due(node, T0 + MINUTE) == []
    assert [each.problem for each in node.reads.leases_irrevocable(10)] == ["still down"]
    assert node.ok(c.LeasesEnd(T0, "kv/", exact=False, limit=10)) == {"ended": 1}
    assert due(node, T0) == ["kv/a/1"]


def test_what_is_removed_leaves_no_key_behind(node):
    node.ok(lease("kv/a/1"))
    node.ok(lease("kv/a/2"))
    assert node.ok(c.LeasesRemove(T0, ("kv/a/1", "kv/none"))) == {"removed": 1}
    node.ok(c.MountRemove(T0, "kv/"))
    assert node.reads.lease_list("") == []
    keys = node.machine._db.all("SELECT wrapped_key FROM data_keys")
    assert all(not any(key) for (key,) in keys)


def test_leases_are_listed_by_folder(node):
    for name in ("kv/creds/a/1", "kv/creds/a/2", "kv/issue/b/3"):
        node.ok(lease(name))
    assert node.reads.lease_list("") == ["kv/"]
    assert node.reads.lease_list("kv") == ["creds/", "issue/"]
    assert node.reads.lease_list("kv/creds/a/", after="1") == ["2"]
    assert node.reads.lease_counts(irrevocable=False) == {"m1": 3}
