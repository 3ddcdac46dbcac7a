"""Listing: sorted, deduplicated, by index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.state import Node, mount, put

NAMES = st.text(alphabet="ab-/0é\U0001f511", min_size=1, max_size=6)


@pytest.fixture
def node():
    node = Node()
    node.ok(mount())
    yield node
    node.machine.close()


def fill(node: Node, *paths: str) -> None:
    for path in paths:
        node.ok(put(path, 1))


def children(paths: set[str], folder: str) -> list[str]:
    """The children of a folder, worked out the plain way."""
    inside = (path[len(folder) :] for path in paths if path.startswith(folder))
    return sorted({name if "/" not in name else name[: name.index("/") + 1] for name in inside} - {""})


def test_a_folder_lists_its_children_once_each(node):
    fill(node, "a", "a/x", "a/y/z", "a-b", "b/1", "b/2", "c")
    assert node.reads.kv_list("m1", "") == ["a", "a-b", "a/", "b/", "c"]
    assert node.reads.kv_list("m1", "a/") == node.reads.kv_list("m1", "a") == ["x", "y/"]
    assert node.reads.kv_list("m1", "nothing/") == []
    assert node.reads.kv_list("other", "") == []
    assert node.reads.kv_scan("m1", "") == ["a", "a-b", "a/x", "a/y/z", "b/1", "b/2", "c"]
    assert node.reads.kv_scan("m1", "a/") == ["x", "y/z"]
    assert node.reads.kv_scan("m1", "", after="a/x", limit=2) == ["a/y/z", "b/1"]


def test_pages_go_on_where_the_last_one_ended(node):
    fill(node, "a", "a/x", "a-b", "b/1", "b/2", "c", "d/e/f")
    for limit in (1, 2, 3, 10):
        collected, after = [], ""
        while page := node.reads.kv_list("m1", "", after, limit):
            assert len(page) <= limit
            collected += page
            after = page[-1]
        assert collected == ["a", "a-b", "a/", "b/", "c", "d/"]
    assert node.reads.kv_list("m1", "", limit=0) == []


@given(
    paths=st.sets(NAMES, max_size=40),
    folder=st.sampled_from(["", "a/", "b/a/", "é/"]),
    after=NAMES | st.just(""),
)
def test_lists_agree_with_the_plain_way(paths, folder, after):
    node = Node()
    node.ok(mount())
    node.ok(mount("next/", "m2"))
    fill(node, *paths)
    node.ok(put("a/zzz", 1, mount_id="m2"))
    expected = children(paths, folder)
    listed = node.reads.kv_list("m1", folder)
    assert [name for name in listed if name] == expected
    assert node.reads.kv_list("m1", folder, after) == [name for name in listed if name > after]
    assert node.reads.kv_scan("m1", folder) == sorted(
        p[len(folder) :] for p in paths if p.startswith(folder) and p != folder
    )
    node.machine.close()


def test_a_big_folder_costs_a_step_not_a_scan(node):
    """Counted in the instructions of SQLite's virtual machine, not in time."""
    fill(node, "a", "z")
    for number in range(3000):
        node.ok(put(f"big/{number:05}", 1))
    fill(node, *(f"zz/{number}" for number in range(3000)))
    node.machine.commit()
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = node.machine._db._connection
    connection.set_progress_handler(count, 1)
    assert node.reads.kv_list("m1", "") == ["a", "big/", "z", "zz/"]
    assert node.reads.kv_list("m1", "a/") == []
    assert node.reads.kv_scan("m1", "a/") == []
    listing, steps = steps, 0
    assert node.reads.kv_version("m1", "big/02999") is not None
    connection.set_progress_handler(None, 0)
    assert listing < 3000
    assert steps < 100
