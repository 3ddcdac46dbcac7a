"""Entries of views: revisions, expiry, and what goes with a token or a mount."""

import pytest
from support.state import SECOND, T0, Node, mount, sealed, token

from storage import command as c
from storage.outcome import Reason, Rejected

VIEW = "sys:test"


def put(path, *, view=VIEW, text="value", time_ns=T0, **fields):
    return c.EntryPut(time_ns, view, path, sealed(text), **fields)


@pytest.fixture
def node():
    return Node()


def test_what_was_written_last_is_read(node):
    node.ok(put("a", text="one"))
    node.ok(put("a", text="two", time_ns=T0 + SECOND))
    entry = node.reads.entry(VIEW, "a")
    assert entry.value == sealed("two")
    assert (entry.created_ns, entry.updated_ns) == (T0, T0 + SECOND)
    assert node.reads.entry("sys:other", "a") is None


def test_a_write_may_demand_the_revision_that_it_saw(node):
    first = node.ok(put("a", expect=0))["revision"]
    assert node.do(put("a", expect=0)) == Rejected(Reason.REVISION_MISMATCH)
    second = node.ok(put("a", expect=first))["revision"]
    assert second > first
    assert node.do(c.EntryDelete(T0, VIEW, "a", expect=first)) == Rejected(Reason.REVISION_MISMATCH)
    assert node.ok(c.EntryDelete(T0, VIEW, "a", expect=second)) == {"removed": 1}


def test_a_revision_is_never_used_again_after_a_removal(node):
    first = node.ok(put("a"))["revision"]
    node.ok(c.EntryDelete(T0, VIEW, "a"))
    node.ok(put("a"))
    assert node.do(put("a", expect=first)) == Rejected(Reason.REVISION_MISMATCH)


def test_a_prefix_is_taken_literally(node):
    for path in ("a/x", "a/y", "ab", "a%", "A/x"):
        node.ok(put(path))
    assert node.ok(c.EntriesDelete(T0, VIEW, "a/")) == {"removed": 2}
    assert node.reads.entry_scan(VIEW, "") == ["A/x", "a%", "ab"]


def test_entries_expire_oldest_first(node):
    for second in (3, 1, 2):
        node.ok(put(f"e{second}", expires_ns=T0 + second * SECOND))
    node.ok(put("stays"))
    assert node.ok(c.EntriesExpire(T0 + 3 * SECOND, 2)) == {"removed": 2}
    assert node.reads.entry_list(VIEW, "") == ["e3", "stays"]
    assert node.reads.entries_due(T0 + 3 * SECOND)
    assert not node.reads.entries_due(T0 + 2 * SECOND)


def test_what_a_token_owns_goes_with_it_and_with_its_parent(node):
    node.ok(token("parent"))
    node.ok(token("child", "parent"))
    node.ok(put("of-parent", owner=b"parent"))
    node.ok(put("of-child", owner=b"child"))
    node.ok(c.TokenRevoke(T0, b"child"))
    assert node.reads.entry_list(VIEW, "") == ["of-parent"]
    assert node.do(put("of-child", owner=b"child")) == Rejected(Reason.NO_SUCH_TOKEN)
    node.ok(c.TokenRevoke(T0, b"parent", orphan_children=True))
    assert node.reads.entry_list(VIEW, "") == []


def test_a_mount_takes_its_entries_with_it(node):
    assert node.do(put("a", view="m1")) == Rejected(Reason.NO_SUCH_MOUNT)
    node.ok(mount())
    node.ok(put("a", view="m1"))
    node.ok(c.MountRemove(T0, "kv/"))
    assert node.reads.entry("m1", "a") is None
    assert node.do(put("a", view="m1")) == Rejected(Reason.NO_SUCH_MOUNT)


def test_folders_are_listed_as_those_of_keys_are(node):
    for path in ("b", "a/1", "a/2", "c/d/e"):
        node.ok(put(path))
    assert node.reads.entry_list(VIEW, "") == ["a/", "b", "c/"]
    assert node.reads.entry_list(VIEW, "a") == ["1", "2"]
    assert node.reads.entry_list(VIEW, "", after="a/", limit=1) == ["b"]
