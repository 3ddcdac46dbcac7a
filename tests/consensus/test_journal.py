"""The journal keeps what it said was durable, in order, and fails for good when the disk does."""

import errno
import os
import random
import resource
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.ciphers import AesCipher
from support.journals import (
    ALL,
    MEMBERS,
    OWNER,
    SMALL,
    ZERO,
    create,
    entry,
    fill,
    reopen,
    segments,
)
from support.patience import PATIENCE_S

from consensus import files
from consensus.journal import Base, HardState, Journal, NoRoom, Recovered
from consensus.recovery import segment_name
from consensus.spare import SPARE_NAME, Spare

# ---- what was written is there again


def test_everything_survives_a_reopen(written: tuple[Path, int]) -> None:
    assert reopen(written[0]) == Recovered(ZERO, ALL, HardState(4, "n2"), 0)


def test_it_goes_on_after_a_reopen(written: tuple[Path, int]) -> None:
    for index in range(301, 320):
        journal, recovered = Journal.open(written[0], owner=OWNER, cipher=AesCipher(), segment_bytes=SMALL)
        assert recovered.entries[-1][1] == index - 1
        journal.append(entry(index, 4))
        journal.sync()
        journal.close()
    assert reopen(written[0]).entries[-1] == entry(319, 4)


def test_a_later_entry_overrides_the_tail(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft")
    fill(journal, 1, 200)
    fill(journal, 150, 160, term=2)
    journal.close()
    expected = [entry(i) for i in range(1, 150)] + [entry(i, 2) for i in range(150, 161)]
    assert reopen(tmp_path / "raft").entries == expected


def test_reset_replaces_the_log_and_its_files(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft", hard=HardState(2, "n1"))
    fill(journal, 1, 300)
    base = Base(1000, 7, MEMBERS[:2])
    journal.reset(base)
    journal.append(entry(1001, 8))
    journal.sync()
    assert len(segments(tmp_path / "raft")) == 1
    journal.close()
    assert reopen(tmp_path / "raft") == Recovered(base, [entry(1001, 8)], HardState(2, "n1"), 0)


def test_a_reset_below_a_foreign_tail_deletes_that_too(tmp_path: Path) -> None:
    """The old log reached further than the snapshot that replaces it; also after a crash."""
    directory = tmp_path / "raft"
    for crash in (False, True):
        journal = create(directory)
        fill(journal, 1, 300)
        with pytest.MonkeyPatch.context() as patch:
            if crash:
                patch.setattr(Journal, "_delete_compacted", lambda self: None)
            journal.reset(Base(150, 7, MEMBERS))
            journal.sync()
        if crash:
            journal.close()
            assert len(segments(directory)) > 1
            journal, _ = Journal.open(directory, owner=OWNER, cipher=AesCipher(), segment_bytes=SMALL)
        journal.append(entry(151, 7))
        journal.sync()
        assert len(segments(directory)) == 1
        journal.close()
        assert reopen(directory).entries == [entry(151, 7)]
        shutil.rmtree(directory)


def test_compaction_deletes_whole_files_and_keeps_base_members_and_vote(tmp_path: Path) -> None:
    directory = tmp_path / "raft"
    journal = create(directory)
    journal.set_hard_state(HardState(1, "n3"))
    fill(journal, 1, 600)
    before = segments(directory)
    base = Base(400, 1, MEMBERS[1:])
    journal.compact(base)
    journal.sync()
    after = segments(directory)
    assert 1 < len(after) < len(before)
    assert after == before[len(before) - len(after) :]
    fill(journal, 601, 900)  # new segments repeat the base
    journal.compact(replace(base, index=880))
    journal.sync()
    journal.close()
    recovered = reopen(directory)
    assert recovered == Recovered(
        replace(base, index=880), [entry(i) for i in range(881, 901)], HardState(1, "n3"), 0
    )
    assert segment_name(1) not in {path.name for path in segments(directory)}


def test_a_kill_between_base_and_unlink_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some old segments are still there: it opens, and the next write cleans up."""
    directory = tmp_path / "raft"
    journal = create(directory)
    fill(journal, 1, 600)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_delete_compacted", lambda self: None)
        journal.compact(Base(590, 1, MEMBERS))
        journal.sync()
    journal.close()
    expected = Recovered(Base(590, 1, MEMBERS), [entry(i) for i in range(591, 601)], HardState(0, None), 0)
    assert reopen(directory) == expected
    while len(segments(directory)) > 1:
        segments(directory)[0].unlink()
        assert reopen(directory) == expected
    journal, _ = Journal.open(directory, owner=OWNER, cipher=AesCipher(), segment_bytes=SMALL)
    fill(journal, 601, 700)
    journal.close()
    assert reopen(directory).entries == [entry(i) for i in range(591, 701)]


def test_take_is_bounded_and_an_entry_larger_than_a_segment_fits(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft")
    big = [(bytes([i]) * (1 << 20), i, 1) for i in range(1, 8)]
    for one in big:
        journal.append(one)
    journal.write(journal.take())
    assert journal.dirty
    assert 0 < journal.durable_lsn < journal.lsn
    journal.sync()
    assert not journal.dirty
    assert journal.durable_lsn == journal.lsn == 7
    journal.close()
    assert reopen(tmp_path / "raft").entries == big


def test_files_are_private_and_hold_no_plaintext(tmp_path: Path) -> None:
    canary = b"canary-5f3a9c-plaintext"
    directory = tmp_path / "raft"
    journal = create(directory)
    for index in range(1, 50):
        journal.append((canary * 20, index, 1))
        journal.sync()
    journal.set_hard_state(HardState(3, "canary-5f3a9c-plaintext"))
    journal.sync()
    journal.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert canary not in path.read_bytes()


# ---- errors and races


def test_a_failed_fsync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fsync may succeed although the pages of the first are lost, so there is none."""
    journal = create(tmp_path / "raft")
    journal.append(entry(1))

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            journal.sync()
    assert journal.durable_lsn == 0
    journal.append(entry(2))
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            journal.write(journal.take())
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    assert journal.durable_lsn == 0
    journal.close()


def test_a_full_disk_is_final_and_the_rest_opens(tmp_path: Path) -> None:
    """The kernel refuses real bytes in the middle of a frame; what was durable is still there."""
    journal = create(tmp_path / "raft")
    fill(journal, 1, 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for index in range(21, 25):
        journal.append(entry(index, size=2000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError):
            journal.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError):
        journal.sync()
    journal.close()
    assert reopen(tmp_path / "raft").entries == ALL[:20]


# ---- the file of the next segment, made ready beforehand

SPARES = SPARE_NAME.format("*")


def prepare(journal: Journal) -> Path:
    """All pieces of it; returns the file."""
    fill(journal, 1, 50)
    while journal.spare_due:
        journal.prepare_spare()
    (spare,) = journal._directory.glob(SPARES)
    return spare


def test_a_segment_begins_in_the_file_that_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "raft"
    monkeypatch.setattr("consensus.spare.PIECE_BYTES", 3000)
    journal = create(directory)
    journal.append(entry(1))
    journal.sync()
    assert not journal.spare_due, "who hardly writes needs no second file"
    spare = prepare(journal)
    assert spare.read_bytes() == bytes(SMALL)
    made = spare.stat().st_ino
    fill(journal, 51, 150)
    assert segments(directory)[1].stat().st_ino == made
    assert not spare.exists()
    journal.close()
    assert reopen(directory).entries == ALL[:150]


def test_with_that_file_the_next_segment_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "raft"
    journal = create(directory)
    prepare(journal)
    monkeypatch.setattr(files, "preallocate", no_room)
    fill(journal, 51, 150)
    with pytest.raises(NoRoom):
        fill(journal, 151, 400)
    journal.close()
    assert reopen(directory).entries[:150] == ALL[:150]


def test_a_file_that_could_not_be_made_ready_is_gone_and_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consensus.spare.PIECE_BYTES", 3000)
    journal = create(tmp_path / "raft")
    fill(journal, 1, 50)
    journal.prepare_spare()
    with monkeypatch.context() as full:
        full.setattr(files, "write_at", no_room)
        with pytest.raises(OSError, match="no room"):
            journal.prepare_spare()
    assert not list(tmp_path.rglob(SPARES))
    assert prepare(journal).read_bytes() == bytes(SMALL)
    journal.close()
    assert not list(tmp_path.rglob(SPARES))


def test_a_new_segment_does_not_wait_for_one_that_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "raft"
    journal = create(directory)
    fill(journal, 1, 50)
    real, syncs, let_go = files.sync_file, threading.Event(), threading.Event()

    def hangs(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            syncs.set()
            let_go.wait(PATIENCE_S)
        real(fd)

    monkeypatch.setattr(files, "sync_file", hangs)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(journal.prepare_spare)
        assert syncs.wait(PATIENCE_S)
        fill(journal, 51, 150)
        assert len(segments(directory)) > 1
        let_go.set()
        making.result(PATIENCE_S)
    fill(journal, 151, 300)
    journal.close()
    assert reopen(directory).entries == ALL


def test_what_was_taken_stays_while_the_next_one_is_made(tmp_path: Path) -> None:
    """Its taker renames it later, in another thread."""
    spare = Spare()
    spare.prepare(tmp_path, 4096)
    taken = spare.take()
    assert taken is not None
    fd, path = taken
    os.pwrite(fd, b"a header", 0)
    spare.prepare(tmp_path, 4096)
    assert path.read_bytes() == b"a header".ljust(4096, b"\0")
    os.close(fd)
    spare.drop()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_removed_is_let_go_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is somebody else's by the time that it is dropped again."""
    monkeypatch.setattr("consensus.spare.PIECE_BYTES", 1024)
    spare = Spare()
    spare.prepare(tmp_path, 4096)
    with monkeypatch.context() as broken:
        broken.setattr(files, "remove", no_room)
        with pytest.raises(OSError, match="no room"):
            spare.drop()
    with (tmp_path / "other").open("wb") as other:
        spare.drop()
        assert os.fstat(other.fileno())


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_closed_journal_takes_no_write(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft")
    journal.append(entry(1))
    journal.close()
    journal.close()
    with pytest.raises(OSError, match="closed"):
        journal.sync()
    assert reopen(tmp_path / "raft").entries == []


def test_batches_keep_their_order_however_threads_race(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft")
    rng = random.Random(7)
    with ThreadPoolExecutor(4) as pool:
        futures = []
        for index in range(1, 400):
            journal.append(entry(index))
            if rng.random() < 0.3:
                futures.append(pool.submit(journal.write, journal.take()))
            if rng.random() < 0.1:
                journal.set_hard_state(HardState(index, None))
                journal.sync()
                assert journal.durable_lsn == journal.lsn
        for future in futures:
            future.result()
    journal.sync()
    journal.close()
    assert reopen(tmp_path / "raft").entries == [entry(index) for index in range(1, 400)]


def test_a_vote_waits_for_the_batch_in_flight_and_writes_a_forgotten_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sync() neither overtakes what another thread writes, nor waits for a batch whose writer never came."""
    journal = create(tmp_path / "raft")
    real, inside, go_on = os.fdatasync, threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        inside.set()
        assert go_on.wait(PATIENCE_S)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal.append(entry(1))
    writer = threading.Thread(target=journal.write, args=(journal.take(),))
    writer.start()
    assert inside.wait(PATIENCE_S)
    journal.append(entry(2))
    forgotten = journal.take()
    journal.set_hard_state(HardState(5, "n2"))
    voter = threading.Thread(target=journal.sync)
    voter.start()
    assert journal.durable_lsn == 0
    go_on.set()
    writer.join(20)
    voter.join(20)
    assert journal.durable_lsn == journal.lsn == 3
    journal.write(forgotten)  # already there: nothing is written twice
    journal.close()
    assert reopen(tmp_path / "raft") == Recovered(ZERO, ALL[:2], HardState(5, "n2"), 0)


def test_mistakes_of_the_owner_crash(tmp_path: Path) -> None:
    journal = create(tmp_path / "raft", base=Base(10, 2, MEMBERS), hard=HardState(3, "n1"))
    for mistake in (
        lambda: journal.append(entry(10, 3)),
        lambda: journal.append(entry(12, 3)),
        lambda: journal.append((bytes(3 << 20), 11, 3)),
        lambda: journal.set_hard_state(HardState(2, None)),
        lambda: journal.set_hard_state(HardState(3, "n2")),
        lambda: journal.set_hard_state(HardState(3, None)),
        lambda: journal.compact(Base(11, 2, MEMBERS)),
        lambda: journal.reset(Base(9, 2, MEMBERS)),
    ):
        with pytest.raises(AssertionError):
            mistake()
    journal.close()
