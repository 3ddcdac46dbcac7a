"""What other processes compare before they answer from what they remember: it moves with every change."""

from pathlib import Path

from support.state import Node, mount, put

from storage import command as c


class Recorder:
    def __init__(self) -> None:
        self.told: list[object] = []
        self.state = (0, 0, 0)

    def touched(self, mount_id: str, path: str) -> None:
        self.told.append((mount_id, path))

    def cleared(self) -> None:
        self.told.append("cleared")

    def moved(self, position: int, clock_ns: int, epoch: int) -> None:
        self.state = (position, clock_ns, epoch)


def watched(path: Path | None = None) -> tuple[Node, Recorder]:
    node, recorder = Node(path), Recorder()
    node.ok(mount())
    node.machine.mark(recorder)
    return node, recorder


def test_a_value_that_changes_is_named_and_nothing_else_is_void() -> None:
    node, marks = watched()
    position, _, epoch = marks.state
    node.ok(put("a", 1))
    assert marks.told == [("m1", "a")]
    assert marks.state == (position + 1, node.machine.clock_ns, epoch)
    node.ok(c.KvDelete(node.machine.clock_ns, "m1", "a", ()))
    assert marks.told == [("m1", "a")] * 2
    assert marks.state[0] == position + 2


def test_what_may_touch_permissions_moves_the_epoch() -> None:
    node, marks = watched()
    before = marks.state[2]
    node.ok(c.PolicyPut(node.machine.clock_ns, "mine", "x"))
    assert marks.state[2] > before


def test_another_state_voids_everything(tmp_path: Path) -> None:
    source, _ = watched(tmp_path / "source.db")
    source.ok(put("a", 1))
    source.machine.commit()
    source.machine.snapshot(tmp_path / "snapshot")
    source.machine.close()
    node, marks = watched(tmp_path / "state.db")
    before = marks.state[2]
    node.machine.restore(tmp_path / "snapshot")
    assert marks.told == ["cleared"]
    assert marks.state[2] > before
    assert marks.state[0] == node.machine.position
    node.machine.close()
