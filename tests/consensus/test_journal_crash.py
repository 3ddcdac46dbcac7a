"""Whenever the process or the power goes: what was durable is there, and the rest is whole or gone."""

import os
import random
import shutil
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

from consensus import files
from consensus.errors import Corrupt
from consensus.journal import Base, Entry, HardState, Journal, Recovered
from consensus.recovery import encode_head

# ---- what a crash may leave


def test_what_is_not_synced_may_go_but_term_and_vote_that_were_stay(tmp_path: Path) -> None:
    """Power goes: every byte after the last durable one is destroyed."""
    ends: list[tuple[Path, int]] = []
    directory = tmp_path / "raft"
    journal = create(directory, on_durable=lambda path, end: ends.append((path, end)))
    fill(journal, 1, 20)
    journal.set_hard_state(HardState(9, "n3"))
    journal.sync()
    path, end = ends[-1]
    journal.set_hard_state(HardState(10, None))
    journal.append(entry(21, 10))
    journal.sync()
    journal.close()
    data = path.read_bytes()
    path.write_bytes(data[:end] + bytes(len(data) - end))
    assert reopen(directory) == Recovered(ZERO, ALL[:20], HardState(9, "n3"), 0)


def test_every_truncation_of_the_last_frames_opens_with_a_prefix(written: tuple[Path, int]) -> None:
    directory, end = written
    last = segments(directory)[-1]
    data = last.read_bytes()
    start = max(end - 400, 300)
    seen = set()
    for keep in range(start, end + 1):
        last.write_bytes(data[:keep])
        recovered = reopen(directory)
        count = len(recovered.entries)
        assert recovered.entries == ALL[:count]
        assert recovered.hard == HardState(4, "n2") or keep < end
        assert last.stat().st_size == SMALL
        seen.add((count, recovered.hard))
    assert (300, HardState(4, "n2")) in seen
    assert (300, HardState(0, None)) in seen  # the vote's own frame torn away, the entries' before it not


@pytest.mark.parametrize("garbage", [b"\xff" * 500, b"\0\0\0\1", bytes(range(256)) * 9])
def test_a_garbage_tail_is_cut_and_overwritten(written: tuple[Path, int], garbage: bytes) -> None:
    directory, end = written
    last = segments(directory)[-1]
    data = last.read_bytes()
    last.write_bytes(data[:end] + garbage + data[end + len(garbage) :])
    journal, recovered = Journal.open(directory, owner=OWNER, cipher=AesCipher(), segment_bytes=SMALL)
    assert recovered == Recovered(ZERO, ALL, HardState(4, "n2"), len(garbage))
    assert not any(last.read_bytes()[end:])
    journal.append(entry(301, 4))
    journal.sync()
    journal.close()
    assert reopen(directory).entries == [*ALL, entry(301, 4)]


def test_a_crash_inside_create_leaves_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "raft"
    real, count = os.fsync, 0
    for crash_at in range(20):
        count = 0

        def fsync(fd: int, crash_at: int = crash_at) -> None:
            nonlocal count
            count += 1
            if count > crash_at:
                raise OSError(5, "crash")
            real(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                create(directory).close()
                break
            except OSError:
                pass
        if not directory.exists():
            with pytest.raises(Corrupt):
                reopen(directory)
        else:  # it was named as its very last step
            assert reopen(directory).base == ZERO
            shutil.rmtree(directory)
    assert crash_at > 3
    assert reopen(directory).base == ZERO


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_with_power_cuts(tmp_path: Path, seed: int) -> None:
    """Whatever is done and whenever power goes, the durable prefix is there, and at most one batch more."""
    print("seed", seed)
    rng = random.Random(seed)
    directory = tmp_path / "raft"
    Journal.create(directory, owner=OWNER, cipher=AesCipher(), base=ZERO, segment_bytes=4096).close()
    model = Model()
    for _ in range(6):
        model = one_life(directory, rng, model)


class Model:
    """What the log should be after each batch that was written."""

    def __init__(self) -> None:
        self.base, self.hard = ZERO, HardState(0, None)
        self.entries: list[Entry] = []

    def copy(self) -> "Model":
        twin = Model()
        twin.base, twin.hard, twin.entries = self.base, self.hard, list(self.entries)
        return twin

    @property
    def last(self) -> int:
        return self.base.index + len(self.entries)

    def state(self) -> tuple[Base, list[Entry], HardState]:
        return self.base, self.entries, self.hard

    def step(self, rng: random.Random, journal: Journal) -> None:
        """One random operation, on the journal and on this model."""
        match rng.choices(["append", "override", "term", "vote", "compact", "reset"], [60, 6, 6, 6, 6, 1])[0]:
            case "append":
                self.put(entry(self.last + 1, self.hard.term, rng.randrange(300)), journal)
            case "override" if self.entries:
                index = rng.randint(self.base.index + 1, self.last)
                self.put(entry(index, self.hard.term, rng.randrange(300)), journal)
            case "term":
                self.hard = HardState(self.hard.term + rng.randint(1, 3), rng.choice([None, "n1"]))
                journal.set_hard_state(self.hard)
            case "vote" if self.hard.voted_for is None:
                self.hard = HardState(self.hard.term, rng.choice(["n1", "n2"]))
                journal.set_hard_state(self.hard)
            case "compact" if self.entries:
                keep = rng.randrange(len(self.entries))
                at = self.entries[-1 - keep]
                self.base = Base(at[1], at[2], tuple(rng.sample(MEMBERS, rng.randint(1, 3))))
                self.entries = self.entries[len(self.entries) - keep :]
                journal.compact(self.base)
            case "reset":
                self.base = Base(self.last + rng.randint(1, 50), self.hard.term, MEMBERS)
                self.entries = []
                journal.reset(self.base)

    def put(self, one: Entry, journal: Journal) -> None:
        del self.entries[one[1] - self.base.index - 1 :]
        self.entries.append(one)
        journal.append(one)


def one_life(directory: Path, rng: random.Random, model: Model) -> Model:
    """Open, work, lose power at some moment inside a write; returns the model of what then is on disk."""
    durable: dict[str, int] = {}
    journal, recovered = Journal.open(
        directory,
        owner=OWNER,
        cipher=AesCipher(),
        segment_bytes=4096,
        on_durable=lambda path, end: durable.__setitem__(path.name, end),
    )
    assert (recovered.base, recovered.entries, recovered.hard) == model.state()
    for _ in range(rng.randint(1, 25)):
        for _ in range(rng.randint(1, 8)):
            model.step(rng, journal)
        journal.sync()
    before = model.copy()
    for _ in range(rng.randint(1, 8)):
        model.step(rng, journal)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerLoss):
        patch.setattr(os, "fdatasync", lose_power_now)
        journal.sync()
        raise PowerLoss  # nothing was queued
    journal.close()
    newest = segments(directory)[-1]
    lose_power(newest, durable[newest.name], rng)
    journal, recovered = Journal.open(directory, owner=OWNER, cipher=AesCipher(), segment_bytes=4096)
    journal.close()
    state = recovered.base, recovered.entries, recovered.hard
    assert state in (before.state(), model.state())
    return before if state == before.state() else model


class PowerLoss(Exception):
    pass


def lose_power_now(fd: int) -> None:
    raise PowerLoss


def lose_power(path: Path, promised: int, rng: random.Random) -> None:
    """Bytes that were never promised arrive in part, in blocks of 512, as zeros, or as something else."""
    data = bytearray(path.read_bytes())
    end = max(promised, len(data.rstrip(b"\0")))
    match rng.choice(["kept", "zeroed", "torn", "cut", "garbage"]):
        case "zeroed":
            data[promised:end] = bytes(end - promised)
        case "torn":
            for block in range(promised // 512, end // 512 + 1):
                if rng.random() < 0.5:
                    begin = max(promised, block * 512)
                    stop = max(begin, min(end, (block + 1) * 512))
                    data[begin:stop] = bytes(stop - begin)
        case "cut":
            del data[rng.randint(promised, end) :]
        case "garbage":
            data[promised:end] = rng.randbytes(end - promised)
    path.write_bytes(data)


def test_an_opened_journal_syncs_what_a_killed_process_left(
    written: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is only in the page cache is promised again by open(), so open() must sync it."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    reopen(written[0])
    assert str(segments(written[0])[-1]) in synced
    assert str(written[0]) in synced


def test_head_may_be_one_behind_but_not_more(written: tuple[Path, int]) -> None:
    """A crash between a new segment and HEAD is no corruption."""
    directory, _ = written
    newest = len(segments(directory))
    for number, opens in ((newest - 1, True), (newest - 2, False), (newest + 1, False)):
        files.write_atomic(directory / "HEAD", encode_head(number))
        if opens:
            assert reopen(directory).entries == ALL
        else:
            with pytest.raises(Corrupt):
                reopen(directory)
