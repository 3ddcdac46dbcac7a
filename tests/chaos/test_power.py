"""A power cut takes nothing that was synced, and only that."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import PATIENCE_S

from chaos.power import Durable, Loss, lose_database_tail, lose_journal_tail, lost_tail, read_durable
from consensus.recovery import HEAD_NAME, encode_head, segment_name

SYNCED = b"synced" * 100
WRITTEN = b"written and not synced" * 200
SEGMENT = "0000000000000001.wal"
SIZE = 64 * 1024


def rng() -> tuple[random.Random, int]:
    seed = random.randrange(1 << 32)
    return random.Random(seed), seed


def test_the_synced_part_survives_every_kind_of_loss(tmp_path: Path) -> None:
    source, seed = rng()
    seen = set()
    for _ in range(100):
        path = tmp_path / SEGMENT
        path.write_bytes((SYNCED + WRITTEN).ljust(SIZE, b"\0"))
        lost = lose_journal_tail(tmp_path, Durable(SEGMENT, len(SYNCED)), source)
        left = path.read_bytes()
        assert left.startswith(SYNCED), f"seed {seed}"
        assert not left.startswith(SYNCED + WRITTEN), f"seed {seed}"
        assert lost.bytes == len(WRITTEN)
        seen.add(lost.how)
    assert seen == {loss.value for loss in Loss}, f"seed {seed}"


@pytest.mark.parametrize("how", list(Loss))
def test_a_lost_tail_is_never_whole_and_touches_nothing_unwritten(how: Loss) -> None:
    source, seed = rng()
    for written in (1, 7, 512, 513, len(WRITTEN)):
        tail = WRITTEN[:written].ljust(SIZE, b"\0")
        for _ in range(20):
            left = lost_tail(tail, written, how, source)
            assert left[:written] != tail[:written], f"seed {seed}"
            if how is not Loss.CUT:
                assert left[written:] == tail[written:], f"seed {seed}"


def test_a_journal_that_was_synced_loses_nothing(tmp_path: Path) -> None:
    content = SYNCED.ljust(SIZE, b"\0")
    (tmp_path / SEGMENT).write_bytes(content)
    lost = lose_journal_tail(tmp_path, Durable(SEGMENT, len(SYNCED)), random.Random(1))
    assert (lost.bytes, (tmp_path / SEGMENT).read_bytes()) == (0, content)


@pytest.mark.parametrize("named", [False, True])
def test_a_newer_segment_vanishes_unless_its_name_was_synced(tmp_path: Path, named: bool) -> None:
    names = [segment_name(number) for number in (1, 2, 3)]
    for name in names:
        (tmp_path / name).write_bytes(SYNCED)
    (tmp_path / HEAD_NAME).write_bytes(encode_head(3 if named else 2))
    lose_journal_tail(tmp_path, Durable(names[1], len(SYNCED)), random.Random(1))
    assert (tmp_path / names[2]).exists() is named
    assert all((tmp_path / name).read_bytes() == SYNCED for name in names[:2])


def test_a_node_that_has_synced_nothing_yet_has_no_record(tmp_path: Path) -> None:
    assert read_durable(tmp_path / "absent") is None
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(256))
    assert read_durable(empty) is None


def test_a_record_is_read_up_to_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "durable"
    file.write_bytes(f"{SEGMENT} 4096\n".encode().ljust(256, b"9"))
    assert read_durable(file) == Durable(SEGMENT, 4096)


@pytest.mark.parametrize("record", [b"0000000000000001.wal 40", b"../x.wal 1\n", b"other 1\n"])
def test_a_malformed_record_is_refused(tmp_path: Path, record: bytes) -> None:
    file = tmp_path / "durable"
    file.write_bytes(record)
    with pytest.raises(ValueError, match="not a durability record"):
        read_durable(file)


WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=WAL"); db.execute("PRAGMA synchronous=NORMAL")
db.execute("PRAGMA wal_autocheckpoint=0")
db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, filler BLOB)")
for n in range(300):
    db.execute("INSERT INTO t VALUES (?, randomblob(500))", (n,))
    if n == 100:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
os.kill(os.getpid(), 9)
"""


def test_a_database_without_its_unsynced_tail_is_whole_and_older(tmp_path: Path) -> None:
    """What was checkpointed is there, the rest is a prefix, and SQLite finds no damage."""
    source, seed = rng()
    rows_left = set()
    for number in range(8):
        database = tmp_path / f"{number}.db"
        subprocess.run([sys.executable, "-c", WRITER, str(database)], check=False, timeout=PATIENCE_S)
        lost = lose_database_tail(database, source)
        assert lost.how == "cut"
        with sqlite3.connect(database) as connection:
            rows = [row for (row,) in connection.execute("SELECT n FROM t ORDER BY n")]
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"seed {seed}"
        connection.close()
        assert rows == list(range(len(rows)))
        assert len(rows) >= 101, f"seed {seed}"
        rows_left.add(len(rows))
    assert min(rows_left) < 300, f"seed {seed}"


def test_a_database_without_a_log_of_its_own_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "state.db"
    database.write_bytes(b"anything")
    assert lose_database_tail(database, random.Random(1)).bytes == 0
    assert database.read_bytes() == b"anything"
