"""A snapshot arrives whole and verified, or not at all, and a crash at any moment is recovered from."""

import contextlib
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import msgpack
import pytest

from consensus.api import Applied, Member
from consensus.errors import Corrupt
from consensus.intake import PIECE_BYTES
from consensus.snapshot import Sender, SnapshotFiles, SnapshotMeta, SnapshotRefused

MEMBERS = (Member("n1", "h1:1"), Member("n2", "h2:2"))


class Machine:
    """A state machine whose whole state is `content` at `index`."""

    def __init__(self, content: bytes = b"", index: int = 0) -> None:
        self.content, self.index = content, index

    @property
    def applied_index(self) -> int:
        return self.index

    def snapshot(self, path: Path) -> int:
        with path.open("xb") as file:
            file.write(self.content)
        return self.index

    def stage(self, path: Path) -> None:
        raise NotImplementedError

    def unstage(self) -> None:
        raise NotImplementedError

    def restore(self, path: Path) -> None:
        self.content = path.read_bytes()

    def apply(self, index: int, request_id: bytes, command: bytes) -> Any:
        raise NotImplementedError

    def skip(self, index: int) -> None:
        raise NotImplementedError

    def outcome(self, request_id: bytes) -> Applied | None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def checkpoint(self) -> int:
        raise NotImplementedError


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 77]
BIG = content(3 * PIECE_BYTES + 77)

Part = tuple[int, bytes]


def at(index: int) -> tuple[int, tuple[Member, ...]]:
    return index // 10, MEMBERS


def source(directory: Path, data: bytes = BIG, index: int = 50) -> SnapshotFiles:
    snapshots = SnapshotFiles(directory, Machine(data, index))
    snapshots.take(at)
    return snapshots


def read_all(sender: Sender) -> bytes:
    return b"".join(data for _, data in parts_of(sender))


def parts_of(sender: Sender) -> list[Part]:
    offsets = range(0, sender.meta.size_bytes, PIECE_BYTES)
    return [(offset, sender.read(offset, PIECE_BYTES)) for offset in offsets]


class Sent:
    """A snapshot, cut into pieces."""

    def __init__(self, snapshots: SnapshotFiles) -> None:
        sender = snapshots.open_sender()
        assert sender is not None
        self.meta, self.parts = sender.meta, parts_of(sender)
        sender.close()

    def to(self, snapshots: SnapshotFiles) -> Path:
        receiver = snapshots.receiver()
        assert receiver.begin(self.meta.size_bytes, self.meta.sha256) == 0
        for part in self.parts:
            receiver.write(*part)
        return snapshots.arrived(receiver.finish(), self.meta)


def target(directory: Path, **options: int) -> SnapshotFiles:
    return SnapshotFiles(directory, Machine(), **options)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(source(tmp_path / "source"))


# ---- the way it should go


@pytest.mark.parametrize("size", SIZES)
def test_a_snapshot_arrives_as_it_was_taken(tmp_path: Path, size: int) -> None:
    data = content(size)
    snapshots = target(tmp_path / "b")
    sent = Sent(source(tmp_path / "a", data))
    path, meta = sent.to(snapshots), sent.meta
    assert path.read_bytes() == data
    assert (meta.index, meta.term, meta.members, meta.size_bytes) == (50, 5, MEMBERS, size)
    assert snapshots.pending_install() == (path, meta)
    assert target(tmp_path / "b").pending_install() == (path, meta)  # after a crash, too
    snapshots.done_install()
    assert snapshots.pending_install() is None
    assert target(tmp_path / "b").pending_install() is None
    assert list((tmp_path / "b").iterdir()) == []


def test_a_transfer_goes_on_where_a_restart_stopped_it(tmp_path: Path, sent: Sent) -> None:
    receiver = target(tmp_path / "b").receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])
    receiver.write(*sent.parts[1])
    snapshots = target(tmp_path / "b")
    receiver = snapshots.receiver()
    assert receiver.begin(sent.meta.size_bytes, sent.meta.sha256) == sent.parts[2][0]
    assert receiver.begin(sent.meta.size_bytes, sent.meta.sha256) == sent.parts[2][0]
    for part in sent.parts[2:]:
        receiver.write(*part)
    assert snapshots.arrived(receiver.finish(), sent.meta).read_bytes() == BIG


def test_the_beginning_of_another_file_is_dropped(tmp_path: Path, sent: Sent) -> None:
    snapshots = target(tmp_path / "b")
    receiver = snapshots.receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])
    other = Sent(source(tmp_path / "other", b"another"))
    assert receiver.begin(other.meta.size_bytes, other.meta.sha256) == 0
    receiver.write(*other.parts[0])
    assert snapshots.arrived(receiver.finish(), other.meta).read_bytes() == b"another"
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_what_a_power_cut_spoiled_of_a_beginning_is_found_and_dropped(tmp_path: Path, sent: Sent) -> None:
    receiver = target(tmp_path / "b").receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])
    part = next((tmp_path / "b").glob("*.part"))
    part.write_bytes(bytes(part.stat().st_size))
    snapshots = target(tmp_path / "b")
    receiver = snapshots.receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    for piece in sent.parts[1:]:
        receiver.write(*piece)
    with pytest.raises(SnapshotRefused, match="announced"):
        receiver.finish()
    assert sent.to(snapshots).read_bytes() == BIG


def test_a_closed_sender_gives_nothing_more(tmp_path: Path) -> None:
    sender = source(tmp_path / "a").open_sender()
    assert sender is not None
    sender.close()
    sender.close()
    assert sender.read(0, 10) == b""


def test_one_snapshot_is_kept_and_a_transfer_survives_its_replacement(tmp_path: Path) -> None:
    machine = Machine(BIG, 50)
    snapshots = SnapshotFiles(tmp_path / "a", machine)
    assert snapshots.open_sender() is None
    snapshots.take(at)
    old = snapshots.open_sender()
    assert old is not None
    machine.content, machine.index = content(999, 2), 60
    newer = snapshots.take(at)
    assert read_all(old) == BIG
    old.close()
    assert snapshots.outgoing == newer
    assert len(list((tmp_path / "a").iterdir())) == 2  # the file and its meta
    again = target(tmp_path / "a")
    assert again.outgoing == newer
    sender = again.open_sender()
    assert sender is not None
    assert read_all(sender) == machine.content
    sender.close()
    again.discard_outgoing(newer)
    assert (again.open_sender(), list((tmp_path / "a").iterdir())) == (None, [])


def test_files_are_private(tmp_path: Path, sent: Sent) -> None:
    old = os.umask(0)
    try:
        snapshots = source(tmp_path / "a")
        sent.to(snapshots)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()}
    assert modes == {0o600}
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_what_a_crash_left_is_swept_away(tmp_path: Path) -> None:
    """Half a copy, a database's side files, an orphan, and an outgoing meta whose file is gone."""
    source(tmp_path / "a")
    for name in ("outgoing.tmp", "outgoing.tmp-journal", "receiving.tmp", "incoming-7.snap"):
        (tmp_path / "a" / name).write_bytes(b"half")
    assert target(tmp_path / "a").outgoing is not None
    assert len(list((tmp_path / "a").iterdir())) == 2
    next((tmp_path / "a").glob("outgoing-*.snap")).unlink()
    snapshots = target(tmp_path / "a")
    assert snapshots.outgoing is None
    assert snapshots.open_sender() is None
    assert list((tmp_path / "a").iterdir()) == []


# ---- what is refused


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_byte_on_the_way_is_detected(tmp_path: Path, sent: Sent, seed: int) -> None:
    rng = random.Random(seed)
    snapshots = target(tmp_path / "b")
    victim = rng.randrange(len(sent.parts))
    offset, data = sent.parts[victim]
    altered = bytearray(data)
    altered[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    good = sent.parts[victim]
    sent.parts[victim] = (offset, bytes(altered))
    with pytest.raises(SnapshotRefused, match="announced"):
        sent.to(snapshots)
    assert snapshots.pending_install() is None
    assert list((tmp_path / "b").iterdir()) == []
    sent.parts[victim] = good
    assert sent.to(snapshots).read_bytes() == BIG


def test_pieces_that_do_not_follow_are_refused_and_harm_nothing(tmp_path: Path, sent: Sent) -> None:
    snapshots = target(tmp_path / "b")
    receiver = snapshots.receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])
    for wrong in (sent.parts[0], sent.parts[2], (-1, b"x"), (sent.parts[1][0], BIG)):
        with pytest.raises(SnapshotRefused):
            receiver.write(*wrong)
    for part in sent.parts[1:]:
        receiver.write(*part)
    with pytest.raises(SnapshotRefused):
        receiver.write(len(BIG), b"x")
    assert snapshots.arrived(receiver.finish(), sent.meta).read_bytes() == BIG


def test_half_a_file_is_no_snapshot(tmp_path: Path, sent: Sent) -> None:
    snapshots = target(tmp_path / "b")
    receiver = snapshots.receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])
    with pytest.raises(SnapshotRefused):
        receiver.finish()
    assert list((tmp_path / "b").iterdir()) == []


def test_a_snapshot_over_the_limit_is_refused_at_once(tmp_path: Path, sent: Sent) -> None:
    receiver = target(tmp_path / "b", size_bytes_max=len(BIG) - 1).receiver()
    with pytest.raises(SnapshotRefused):
        receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    assert list((tmp_path / "b").iterdir()) == []
    with pytest.raises(SnapshotRefused):
        SnapshotFiles(tmp_path / "c", Machine(BIG, 5), size_bytes_max=len(BIG) - 1).take(at)


def test_a_received_file_that_changed_on_disk_is_corrupt(tmp_path: Path, sent: Sent) -> None:
    path = sent.to(target(tmp_path / "b"))
    seed = 11
    print("seed", seed)
    rng = random.Random(seed)
    for position in [0, len(BIG) - 1, *(rng.randrange(len(BIG)) for _ in range(20))]:
        altered = bytearray(BIG)
        altered[position] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(Corrupt):
            target(tmp_path / "b").pending_install()
    for size in (0, 1, len(BIG) - 1):
        path.write_bytes(BIG[:size])
        with pytest.raises(Corrupt):
            target(tmp_path / "b").pending_install()
    path.unlink()
    with pytest.raises(Corrupt):
        target(tmp_path / "b").pending_install()
    path.write_bytes(BIG)
    (tmp_path / "b" / "incoming.meta").write_bytes(b"\xc1")
    with pytest.raises(Corrupt):
        target(tmp_path / "b")


def test_a_file_that_shrank_is_not_sent(tmp_path: Path) -> None:
    snapshots = source(tmp_path / "a")
    sender = snapshots.open_sender()
    assert sender is not None
    os.truncate(next((tmp_path / "a").glob("*.snap")), 100)
    with pytest.raises(Corrupt):
        sender.read(0, PIECE_BYTES)
    sender.close()


# ---- crashes


class Crash(Exception):
    pass


def crashing(patch: pytest.MonkeyPatch, after: int) -> None:
    """The process ends at its `after`th fsync or rename from now on."""
    count = 0

    def wrap(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal count
            if count >= after:
                raise Crash
            count += 1
            return real(*arguments)

        return call

    patch.setattr(os, "fsync", wrap(os.fsync))
    patch.setattr(Path, "rename", wrap(Path.rename))


def test_a_crash_while_receiving_leaves_the_old_the_new_or_none(tmp_path: Path, sent: Sent) -> None:
    seen = set()
    for before in (None, b"older"):
        for after in range(12):
            directory = tmp_path / "b"
            shutil.rmtree(directory, ignore_errors=True)
            snapshots = target(directory)
            if before is not None:
                Sent(source(tmp_path / "older", before, 40)).to(snapshots)
            with pytest.MonkeyPatch.context() as patch:
                crashing(patch, after)
                with contextlib.suppress(Crash):
                    sent.to(snapshots)
            pending = target(directory).pending_install()
            found = None if pending is None else pending[0].read_bytes()
            assert found in (before, BIG)
            kept = [path for path in directory.iterdir() if path.suffix != ".part"]
            assert len(kept) == (0 if found is None else 2)
            seen.add((before, found))
    assert seen == {(None, None), (None, BIG), (b"older", b"older"), (b"older", BIG)}


def test_a_crash_while_taking_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    seen = set()
    for after in range(12):
        directory = tmp_path / "a"
        shutil.rmtree(directory, ignore_errors=True)
        machine = Machine(b"old", 40)
        snapshots = SnapshotFiles(directory, machine)
        snapshots.take(at)
        machine.content, machine.index = b"newer", 50
        with pytest.MonkeyPatch.context() as patch:
            crashing(patch, after)
            with contextlib.suppress(Crash):
                snapshots.take(at)
        sender = target(directory).open_sender()
        assert sender is not None
        seen.add(read_all(sender))
        sender.close()
        assert len(list(directory.iterdir())) == 2
    assert seen == {b"old", b"newer"}


def test_a_crash_inside_done_install_can_only_install_again(tmp_path: Path, sent: Sent) -> None:
    for after in range(3):
        directory = tmp_path / "b"
        shutil.rmtree(directory, ignore_errors=True)
        snapshots = target(directory)
        sent.to(snapshots)
        with pytest.MonkeyPatch.context() as patch:
            crashing(patch, after)
            with contextlib.suppress(Crash):
                snapshots.done_install()
        pending = target(directory).pending_install()
        assert pending is None or pending[0].read_bytes() == BIG


def test_a_copy_of_the_state_does_not_stay_because_it_was_of_use_once(tmp_path: Path, sent: Sent) -> None:
    """What is destroyed in the state must not live on in it."""
    snapshots = source(tmp_path / "a")
    held = [snapshots.hold_copy(file)[1] for file in _files(tmp_path, 3)]
    receiver = snapshots.receiver()
    receiver.begin(sent.meta.size_bytes, sent.meta.sha256)
    receiver.write(*sent.parts[0])

    def tidy(*, sending: bool = False, needed: list[bytes], age_s: float) -> set[str]:
        snapshots.tidy(sending=sending, held=needed, age_s=age_s)
        return {path.name.partition("-")[0].partition(".")[0] for path in (tmp_path / "a").iterdir()}

    assert tidy(needed=[], age_s=60.0) == {"outgoing", "held", "receiving"}
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (1, 1))
    assert tidy(sending=True, needed=held[:1], age_s=60.0) == {"outgoing", "held"}
    assert [snapshots.held(digest) for digest in held] == [True, False, False]
    assert tidy(needed=held[:1], age_s=60.0) == {"held"}
    assert snapshots.outgoing is None
    assert snapshots.open_sender() is None


def _files(directory: Path, count: int) -> list[Path]:
    paths = [directory / f"file{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(content(1000, number))
    return paths


# ---- the codec of the meta


def test_meta_survives_its_codec_and_nothing_else_does() -> None:
    meta = SnapshotMeta(7, 3, MEMBERS, 100, bytes(range(32)))
    assert SnapshotMeta.decode(meta.encode()) == meta
    good = msgpack.unpackb(meta.encode())
    for position, wrong in (
        (0, 2),
        (1, -1),
        (1, True),
        (1, 1 << 63),
        (1, "7"),
        (2, 1.5),
        (3, None),
        (3, [["n1"]]),
        (3, [["n1", "a"], ["n1", "b"]]),
        (3, [["", "a"]]),
        (3, [["n", "a"]] * 65),
        (4, -1),
        (5, b"short"),
        (5, "x" * 32),
    ):
        fields = list(good)
        fields[position] = wrong
        with pytest.raises(ValueError):
            SnapshotMeta.decode(msgpack.packb(fields))
    for packed in (b"", b"\xc1", meta.encode() + b"\0", meta.encode()[:-1], msgpack.packb([*good, 1])):
        with pytest.raises(ValueError):
            SnapshotMeta.decode(packed)
    with pytest.raises(ValueError):
        SnapshotMeta.decode(msgpack.packb(dict(enumerate(good))))
    with pytest.raises(ValueError):
        SnapshotMeta.decode(bytes(1 << 20))
