"""A command that is newer than the cluster's feature level is nothing to anybody, until every node knows the level."""

from pathlib import Path

import pytest
from support.state import KEY, T0, Node

from storage import command as c
from storage.errors import Incompatible
from storage.machine import Machine
from storage.outcome import Reason, Rejected


def node_put(node_id: str, level: int) -> c.NodePut:
    return c.NodePut(T0, node_id, "eu", f"https://{node_id}", f"{node_id}:1", "", f"{level}.0", level)


def at(known_level: int, path: Path | None = None) -> Node:
    """A node of the release that knows so much."""
    node = Node()
    node.machine.close()
    node.machine = Machine.open(path, key=KEY, known_level=known_level)
    return node


def test_the_level_is_raised_when_every_node_knows_it_and_not_before() -> None:
    node = at(2)
    node.ok(node_put("n1", 2))
    node.ok(node_put("n2", 1))
    assert node.do(c.LevelRaise(T0, 2)) == Rejected(Reason.LEVEL_UNKNOWN)
    assert node.machine.level == 1
    node.ok(node_put("n2", 2))
    node.ok(c.LevelRaise(T0, 2))
    assert node.machine.level == 2
    node.ok(c.LevelRaise(T0, 1))
    assert node.machine.level == 2, "it is never lowered"


def test_a_node_that_does_not_know_the_level_cannot_enter_any_more() -> None:
    node = at(2)
    node.ok(node_put("n1", 2))
    node.ok(c.LevelRaise(T0, 2))
    assert node.do(node_put("n2", 1)) == Rejected(Reason.LEVEL_UNKNOWN)
    assert [row.node_id for row in node.reads.nodes()] == ["n1"]


def test_an_old_and_a_new_node_make_the_same_of_a_command_that_came_too_early() -> None:
    """The old one does not know its bytes; the new one does, and must not act on them."""
    probe, unknown = c.LevelProbe(T0), b"\x01\x92\x7f\xff"  # to a node of the past both are the like of this
    old, new = at(1), at(2)
    for node in (old, new):
        node.ok(node_put("n1", 2))
        for command in (probe, unknown, c.batch(T0, probe), c.batch(T0, c.PolicyPut(T0, "p", ""), probe)):
            assert node.do(command) == Rejected(Reason.MALFORMED)
        assert node.reads.policies() == []
    assert old.machine.state_digest() == new.machine.state_digest()
    new.ok(c.LevelRaise(T0, 2))
    new.ok(c.LevelProbe(T0))


def test_the_level_of_a_batch_is_that_of_its_newest_command() -> None:
    assert c.level_of(c.PolicyPut(T0, "p", "")) == 1
    assert c.level_of(c.batch(T0, c.PolicyPut(T0, "p", ""), c.LevelProbe(T0))) == 2
    assert max(c.LEVELS.values()) == c.LEVEL + 1, "one command is of the next release, and only for tests"


def test_an_older_release_does_not_open_what_a_newer_one_wrote(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    node = at(2, path)
    node.ok(node_put("n1", 2))
    node.ok(c.LevelRaise(T0, 2))
    node.machine.commit()
    node.machine.snapshot(tmp_path / "snapshot")
    node.machine.close()
    with pytest.raises(Incompatible, match="feature level 2, this release knows 1"):
        Machine.open(path, key=KEY)
    late = at(1, tmp_path / "late.db")
    before = late.machine.state_digest()
    with pytest.raises(Incompatible):
        late.machine.restore(tmp_path / "snapshot")
    assert (late.machine.applied_index, late.machine.state_digest()) == (0, before)
    late.ok(c.PolicyPut(T0, "still works", ""))
    late.machine.close()
    again = Machine.open(path, key=KEY, known_level=2)
    assert again.level == 2
    again.close()


def test_a_node_that_is_told_of_a_level_that_it_does_not_know_stops() -> None:
    """It had told the others of a newer release, and runs an older one again: it must not guess."""
    node = at(1)
    node.ok(node_put("n1", 2))
    with pytest.raises(Incompatible):
        node.do(c.LevelRaise(T0, 2))
    with pytest.raises(RuntimeError, match="unusable"):
        node.do(c.PolicyPut(T0, "p", ""))
