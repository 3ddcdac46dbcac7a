"""The journal keeps what it said was durable, and refuses to start from anything else."""

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

from consensus import files
from consensus.api import Member
from consensus.errors import Corrupt
from consensus.journal import Base, Entry, HardState, Journal, Recovered
from consensus.records import encode_entry
from consensus.recovery import encode_head, segment_name
from consensus.segments import decode_header, encode_frame, read_frames

OWNER = "c1/n1/inc1"
MEMBERS = (Member("n1", "h1:1"), Member("n2", "h2:2"), Member("n3", "h3:3"))
ZERO = Base(0, 0, MEMBERS)
SMALL = 16 << 10  # bytes in a segment


def entry(index: int, term: int = 1, size: int = 100) -> Entry:
    return b"%d.%d." % (index, term) + b"x" * size, index, term


def create(directory: Path, **options: object) -> Journal:
    arguments = {"base": ZERO, "segment_bytes": SMALL, "owner": OWNER, "cipher": AesCipher()} | options
    return Journal.create(directory, **arguments)


def reopen(directory: Path, **options: object) -> Recovered:
    arguments = {"segment_bytes": SMALL, "owner": OWNER, "cipher": AesCipher()} | options
    journal, recovered = Journal.open(directory, **arguments)
    journal.close()
    return recovered


def fill(journal: Journal, first: int, last: int, *, term: int = 1, group: int = 10) -> None:
    """Entries first to last, a frame for every `group` of them."""
    for index in range(first, last + 1):
        journal.append(entry(index, term))
        if index % group == 0 or index == last:
            journal.sync()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, int]:
    """A closed journal of 300 entries in term 1, then a vote in term 4; and where its last frame ends."""
    ends: list[tuple[Path, int]] = []
    directory = tmp_path / "raft"
    journal = create(directory, on_durable=lambda path, end: ends.append((path, end)))
    fill(journal, 1, 300)
    journal.set_hard_state(HardState(4, "n2"))
    journal.sync()
    journal.close()
    assert len(segments(directory)) >= 3
    return directory, ends[-1][1]


ALL = [entry(index) for index in range(1, 301)]


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


# ---- what only damage, tampering or a mistake leaves


def test_a_flipped_bit_anywhere_is_refused_or_was_in_the_last_frame(written: tuple[Path, int]) -> None:
    directory, end = written
    seed = 20240611
    print("seed", seed)
    rng = random.Random(seed)
    refused = 0
    for path in (*segments(directory), directory / "HEAD"):
        original = path.read_bytes()
        newest = path == segments(directory)[-1]
        positions = rng.sample(range(len(original)), min(150, len(original)))
        if newest:
            positions += range(end - 100, end + 10)
        for position in positions:
            data = bytearray(original)
            data[position] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            try:
                recovered = reopen(directory)
            except Corrupt:
                refused += 1
            else:
                assert newest
                # only what is at, or behind, the last frame may pass for a torn tail
                assert position >= end - 120
                assert recovered.entries == ALL
                assert recovered.hard in (HardState(4, "n2"), HardState(0, None))
        path.write_bytes(original)
    assert refused > 300
    assert reopen(directory).entries == ALL


def test_missing_renamed_and_duplicated_segments_are_refused(written: tuple[Path, int]) -> None:
    directory, _ = written
    names = [path.name for path in segments(directory)]
    last_number = len(names)

    def refused_after(*steps: tuple[str, ...]) -> None:
        copy = directory.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory, copy)
        for operation, *arguments in steps:
            paths = [copy / name for name in arguments]
            {"rm": Path.unlink, "mv": Path.rename, "cp": shutil.copy}[operation](*paths)
        with pytest.raises(Corrupt):
            reopen(copy)

    for name in names:
        refused_after(("rm", name))
    refused_after(*(("rm", name) for name in names))
    refused_after(*(("rm", name) for name in names[:-1]))
    refused_after(("rm", "HEAD"))
    refused_after(("mv", names[-1], segment_name(last_number + 1)))
    refused_after(("cp", names[-1], segment_name(last_number + 1)))
    refused_after(("cp", names[0], names[1]))
    refused_after(("mv", names[0], "x.wal"))


def test_segments_of_one_life_are_no_use_in_another(tmp_path: Path) -> None:
    """Same owner, same key, same length: a segment of an older journal put in place of a newer one."""
    for name, term in (("old", 1), ("new", 2)):
        journal = create(tmp_path / name)
        fill(journal, 1, 300, term=term)
        journal.close()
    victim = segments(tmp_path / "new")[1]
    shutil.copy(tmp_path / "old" / victim.name, victim)
    try:
        recovered = reopen(tmp_path / "new")
    except Corrupt:
        return
    pytest.fail(f"accepted a mixture up to {len(recovered.entries)}")


def test_a_foreign_owner_and_a_wrong_key_are_refused(written: tuple[Path, int]) -> None:
    with pytest.raises(Corrupt, match="another node"):
        reopen(written[0], owner="c1/n2/inc1")
    with pytest.raises(Corrupt, match="another key"):
        reopen(written[0], cipher=AesCipher(b"z" * 32))


def test_no_directory_and_an_empty_one_are_no_journal(tmp_path: Path) -> None:
    with pytest.raises(Corrupt):
        reopen(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Corrupt):
        reopen(tmp_path / "empty")


def test_a_journal_is_not_created_over_anything(written: tuple[Path, int], tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        create(written[0])
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty").close()
    assert reopen(tmp_path / "empty") == Recovered(ZERO, [], HardState(0, None), 0)


def test_a_symlink_in_place_of_a_segment_is_not_followed(written: tuple[Path, int], tmp_path: Path) -> None:
    last = segments(written[0])[-1]
    last.rename(tmp_path / "elsewhere")
    last.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        reopen(written[0])


def forge(directory: Path, end: int, records: bytes) -> None:
    """Append a frame that is valid in every way but for what it says."""
    path = segments(directory)[-1]
    data = bytearray(path.read_bytes())
    number = int(path.stem, 16)
    sequence = highest_sequence(directory, bytes(data), end) + 1
    header, _ = decode_header(bytes(data), number=number, owner=OWNER)
    payload = AesCipher().segment(header.salt).encrypt(records, header.associated_data(sequence))
    frame = encode_frame(number=number, sequence=sequence, payload=payload)
    data[end : end + len(frame)] = frame
    path.write_bytes(data)


def highest_sequence(directory: Path, data: bytes, end: int) -> int:
    number = int(segments(directory)[-1].stem, 16)
    _, start = decode_header(data, number=number, owner=OWNER)
    frames = read_frames(data, start=start, number=number, sequence=None)
    assert frames.end == end
    return frames.valid[-1].sequence


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (encode_entry(entry(302, 4)), "follows"),
        (encode_entry(entry(0, 4)), "follows"),
        (b"\x63" + encode_entry(entry(301, 4))[1:], "unknown"),
        (encode_entry(entry(301, 4))[:-1], "cut short"),
        (encode_entry(entry(301, 4))[:9], "cut short"),
        (b"\x02" + (3).to_bytes(8, "little") + bytes(12), "falls"),
        (b"\x02" + (4).to_bytes(8, "little") + bytes(8) + b"\x02\0\0\0n3", "two votes"),
        (b"\x02" + (5).to_bytes(8, "little") + bytes(8) + b"\x02\0\0\0\xff\xfe", "vote"),
        (b"\x03" + (50).to_bytes(8, "little") + bytes([1] + [0] * 7) + b"\x02\0\0\0\xc1\xc1", "members"),
        (b"\x03" + (301).to_bytes(8, "little") + bytes([1] + [0] * 7) + b"\x01\0\0\0\x90", "outside"),
        (b"\x03" + (300).to_bytes(8, "little") + bytes([9] + [0] * 7) + b"\x01\0\0\0\x90", "contradicts"),
        (b"\x05" + bytes(20), "twice"),
    ],
)
def test_records_that_cannot_be_are_refused(written: tuple[Path, int], records: bytes, message: str) -> None:
    forge(*written, records)
    with pytest.raises(Corrupt, match=message):
        reopen(written[0])


def test_a_forged_frame_is_refused_not_cut(written: tuple[Path, int]) -> None:
    """Whoever can compute a crc and has no key cannot make a vote vanish as a torn tail."""
    directory, end = written
    path = segments(directory)[-1]
    data = bytearray(path.read_bytes())
    number = int(path.stem, 16)
    sequence = highest_sequence(directory, bytes(data), end) + 1
    frame = encode_frame(number=number, sequence=sequence, payload=b"p" * 80)
    data[end : end + len(frame)] = frame
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="altered"):
        reopen(directory)


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
        assert go_on.wait(20)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal.append(entry(1))
    writer = threading.Thread(target=journal.write, args=(journal.take(),))
    writer.start()
    assert inside.wait(20)
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
