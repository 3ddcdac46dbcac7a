"""What only damage, tampering or a mistake can leave on a disk is refused, never taken for a torn tail."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.ciphers import AesCipher
from support.journals import ALL, OWNER, ZERO, create, entry, fill, reopen, segments

from consensus.errors import Corrupt
from consensus.journal import HardState, Recovered
from consensus.records import encode_entry, encode_opening
from consensus.recovery import segment_name
from consensus.segments import decode_header, encode_frame, read_frames

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

    def refused_after(*steps: tuple[str, ...], reason: str | None = None) -> None:
        copy = directory.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory, copy)
        for operation, *arguments in steps:
            paths = [copy / name for name in arguments]
            {"rm": Path.unlink, "mv": Path.rename, "cp": shutil.copy}[operation](*paths)
        with pytest.raises(Corrupt, match=reason):
            reopen(copy)

    for name in names:
        refused_after(("rm", name))
    refused_after(("rm", names[1]), reason="missing between")
    refused_after(*(("rm", name) for name in names))
    refused_after(*(("rm", name) for name in names[:-1]))
    refused_after(("rm", "HEAD"))
    refused_after(("mv", names[-1], segment_name(last_number + 1)))
    refused_after(("cp", names[-1], segment_name(last_number + 1)))
    refused_after(("cp", names[0], names[1]))
    refused_after(("mv", names[0], "x.wal"))


@pytest.mark.parametrize("wrong", ["index", "vote", "base", "nothing"])
def test_a_segment_that_does_not_continue_the_log_is_refused(written: tuple[Path, int], wrong: str) -> None:
    """Its numbering, key and checksums are right; what it repeats of the log before it is not."""
    directory, end = written
    data = segments(directory)[-1].read_bytes()
    number = len(segments(directory))
    header, _ = decode_header(data, number=number, owner=OWNER)
    sequence = highest_sequence(directory, data, end) + 1
    new = replace(header, number=number + 1, salt=b"s" * 16)
    opening = encode_opening(
        299 if wrong == "index" else 300,
        HardState(4, "n3" if wrong == "vote" else "n2"),
        replace(ZERO, index=0, members=()) if wrong == "base" else ZERO,
    )
    payload = AesCipher().segment(new.salt).encrypt(opening, new.associated_data(sequence))
    frame = encode_frame(number=number + 1, sequence=sequence, payload=payload)
    (directory / segment_name(number + 1)).write_bytes(new.encode() + frame)
    if wrong == "nothing":
        assert reopen(directory).entries == ALL
    else:
        with pytest.raises(Corrupt, match="continue"):
            reopen(directory)


def test_the_reason_names_what_is_wrong_with_a_header(written: tuple[Path, int]) -> None:
    """Damage is not reported as a foreign owner or a wrong key, nor a copy as damage."""
    first, second = segments(written[0])[:2]
    original = first.read_bytes()
    _, end = decode_header(original, number=1, owner=OWNER)
    for position in range(end):
        data = bytearray(original)
        data[position] ^= 4
        first.write_bytes(data)
        with pytest.raises(Corrupt, match="header"):
            reopen(written[0])
    first.write_bytes(original)
    shutil.copy(first, second)
    with pytest.raises(Corrupt, match="segment 2 is a copy of segment 1"):
        reopen(written[0])


@pytest.mark.parametrize("twice", [False, True], ids=["left out", "repeated"])
def test_a_whole_frame_that_is_left_out_or_repeated_is_noticed(tmp_path: Path, twice: bool) -> None:
    """Without a vote's frame every other one still is whole: only the numbering tells."""
    ends: list[tuple[Path, int]] = []
    journal = create(tmp_path / "raft", on_durable=lambda path, end: ends.append((path, end)))
    journal.append(entry(1))
    journal.sync()
    journal.set_hard_state(HardState(2, "n2"))
    journal.sync()
    journal.append(entry(2))
    journal.sync()
    journal.close()
    path, (begin, end) = ends[-1][0], (ends[1][1], ends[2][1])
    data = path.read_bytes()
    vote = data[begin:end]
    path.write_bytes(data[:begin] + vote * (2 if twice else 0) + data[end:])
    with pytest.raises(Corrupt):
        reopen(tmp_path / "raft")


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
