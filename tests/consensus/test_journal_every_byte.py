"""A small journal, damaged in every way that one byte or one cut can: it is refused, or it is what was written.

What may pass is a torn tail: the newest file without its last frame (or, if the file was cut, its last frames). Every
frame before it is there, unchanged. No damage yields an entry, a term or a vote that was not written.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ciphers import AesCipher
from support.journals import OWNER, create, entry, segments

from consensus.errors import Corrupt
from consensus.journal import HardState, Recovered
from consensus.recovery import HEAD_NAME, recover

SEGMENT_BYTES = 768
State = tuple[tuple[tuple[bytes, int, int], ...], HardState]


class Written:
    """A closed journal in three files; `states[n]` is what it held after n group commits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        journal = create(directory, segment_bytes=SEGMENT_BYTES)
        entries: list[tuple[bytes, int, int]] = []
        hard = HardState(0, None)
        self.states: list[State] = [((), hard)]
        for index in range(1, 13):
            entries.append(entry(index, index // 5 + 1, size=40))
            journal.append(entries[-1])
            if index % 4 == 0:
                hard = HardState(index // 4 + 2, "n2" if index > 4 else "n1")
                journal.set_hard_state(hard)
            if index % 2 == 0:
                journal.sync()
                self.states.append((tuple(entries), hard))
        journal.close()
        self.whole = self.states[-1]
        assert len(segments(directory)) >= 3

    def found(self) -> State:
        recovered: Recovered = recover(self.directory, owner=OWNER, cipher=AesCipher())[0]
        return tuple(recovered.entries), recovered.hard


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("journal") / "log")


def damaged(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Every byte with one bit, all bits or a neighbour flipped, and as zero."""
    original = path.read_bytes()
    for position, byte in enumerate(original):
        for what, value in (("bit", byte ^ (1 << position % 8)), ("byte", byte ^ 0xFF), ("zero", 0)):
            if value != byte:
                yield what, position, original[:position] + bytes([value]) + original[position + 1 :]


@pytest.mark.parametrize("which", [0, 1, -1, HEAD_NAME])
def test_every_byte(written: Written, which: int | str) -> None:
    files = segments(written.directory)
    path = written.directory / which if isinstance(which, str) else files[which]
    original, refused = path.read_bytes(), 0
    try:
        for what, position, data in damaged(path):
            path.write_bytes(data)
            try:
                state = written.found()
            except Corrupt:
                refused += 1
                continue
            allowed = [written.whole]
            if path == files[-1]:
                allowed.append(written.states[-2])  # the last frame is taken for a torn one
            assert state in allowed, (what, position)
    finally:
        path.write_bytes(original)
    assert refused > 100 or which == HEAD_NAME
    assert written.found() == written.whole


def test_every_cut(written: Written) -> None:
    files = segments(written.directory)
    for path in (*files, written.directory / HEAD_NAME):
        original = path.read_bytes()
        try:
            for length in range(len(original)):
                path.write_bytes(original[:length])
                try:
                    state = written.found()
                except Corrupt:
                    continue
                assert state in written.states, (path.name, length)
                assert path == files[-1] or state == written.whole, (path.name, length)
        finally:
            path.write_bytes(original)
    assert written.found() == written.whole
