"""What the disk holds: nothing readable, nothing half written, nothing silently wrong, nothing left behind."""

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlcipher
from support.sqlcipher_pages import plain_pages
from support.state import KEY, T0, Node, mount, put, random_log, token

from storage import command as c
from storage.errors import Corrupt, Incompatible, WrongKey
from storage.machine import Machine

TESTS = Path(__file__).parents[1]
PAGE = 4096


def filled(path: Path, entries: int = 120, seed: int = 3) -> Node:
    node = Node(path)
    for entry in random_log(seed, entries):
        node.feed(entry)
    node.machine.commit()
    return node


def test_nothing_in_the_files_is_readable(tmp_path):
    """Paths, values, names, accessors: in the database, its log, its index and a snapshot."""
    node = Node(tmp_path / "state.db")
    node.ok(mount("canary-mount/"))
    node.ok(c.KvPut(T0, "m1", "canary-path", 1, None, c.Sealed(1, b"canary-wrapped", b"canary-value" * 1000)))
    node.ok(c.PolicyPut(T0, "canary-policy", "canary-text"))
    node.ok(token("canary-token"))
    node.ok(c.KvMetadataPut(T0, "m1", "canary-path", custom_metadata={"canary-key": "canary-custom"}))
    node.machine.commit()
    shutil.copytree(tmp_path, tmp_path / "while-in-the-log")
    node.machine.checkpoint()
    node.machine.snapshot(tmp_path / "snapshot")
    plain = b"".join(plain_pages(tmp_path / "state.db", KEY))
    assert b"canary-value" in plain  # what is searched for would be found
    assert b"canary-custom" in plain
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) >= 6
    for path in found:
        data = path.read_bytes()
        assert b"canary" not in data, path
        assert b"CREATE TABLE" not in data, path
        assert KEY not in data
        assert KEY.hex().encode() not in data
    node.machine.close()


def test_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        node = filled(tmp_path / "state.db", 10)
        node.machine.checkpoint()
        node.machine.snapshot(tmp_path / "snapshot")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        node.machine.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "snapshot"), 0o600)


def test_another_key_opens_nothing(tmp_path):
    filled(tmp_path / "state.db").machine.close()
    with pytest.raises(WrongKey):
        Machine.open(tmp_path / "state.db", key=b"x" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        Machine.open(tmp_path / "state.db", key=b"short")
    Machine.open(tmp_path / "state.db", key=KEY).close()


def test_a_newer_format_is_left_alone(tmp_path):
    path = tmp_path / "state.db"
    node = filled(path, 10)
    node.machine._db._connection.execute("PRAGMA user_version = 99")
    node.machine.close()
    before = path.read_bytes()
    with pytest.raises(Incompatible, match="99"):
        Machine.open(path, key=KEY)
    assert path.read_bytes() == before


def test_a_flipped_byte_anywhere_in_the_first_page_is_damage_not_a_wrong_key(tmp_path):
    """An operator who is told of a wrong key would look for another one."""
    path = tmp_path / "state.db"
    filled(path).machine.close()
    good = path.read_bytes()
    for position in [*range(120), *range(120, PAGE - 100, 61), *range(PAGE - 100, PAGE)]:
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x40]) + good[position + 1 :])
        with pytest.raises(Corrupt):
            Machine.open(path, key=KEY)


def test_a_flipped_byte_anywhere_is_never_read_as_data(tmp_path):
    """Either the page is needed, then reading it fails; or it is not, then every answer is the same."""
    path = tmp_path / "state.db"
    node = filled(path)
    digest = node.machine.state_digest()
    node.machine.close()
    good, seed = path.read_bytes(), 11
    rng = random.Random(seed)
    noticed = 0
    for page in range(len(good) // PAGE):
        position = page * PAGE + rng.randrange(PAGE)
        path.write_bytes(
            good[:position] + bytes([good[position] ^ 1 << rng.randrange(8)]) + good[position + 1 :]
        )
        try:
            machine = Machine.open(path, key=KEY)
        except Corrupt:
            noticed += 1
            continue
        try:
            assert machine.state_digest() == digest, f"seed {seed}, byte {position}"
        except Corrupt:
            noticed += 1
        machine.close()
    assert noticed > len(good) // PAGE // 2


@pytest.mark.parametrize("size", [1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_a_cut_file_is_damage(tmp_path, size):
    path = tmp_path / "state.db"
    filled(path).machine.close()
    os.truncate(path, size)
    with pytest.raises(Corrupt):
        Machine.open(path, key=KEY).state_digest()


def test_a_page_from_another_place_is_damage(tmp_path):
    """Pages of the same file authenticate, but not where they do not belong."""
    path = tmp_path / "state.db"
    filled(path).machine.close()
    data = bytearray(path.read_bytes())
    data[2 * PAGE : 3 * PAGE], data[3 * PAGE : 4 * PAGE] = (
        data[3 * PAGE : 4 * PAGE],
        data[2 * PAGE : 3 * PAGE],
    )
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        Machine.open(path, key=KEY).state_digest()


def copied(tmp_path: Path, *names: str) -> Machine:
    """What a disk with only these files on it would give."""
    target = tmp_path / f"copy-of-{'-'.join(names)}"
    target.mkdir()
    for name in names:
        shutil.copy(tmp_path / name, target / name)
    return Machine.open(target / "state.db", key=KEY)


def test_a_checkpoint_is_in_the_database_file_itself(tmp_path):
    """A copy of that one file, made right after, holds the index that was returned: the log is not needed."""
    node = filled(tmp_path / "state.db")
    index, digest = node.machine.checkpoint(), node.machine.state_digest()
    assert index == node.machine.applied_index
    node.do(c.PolicyPut(node.machine.clock_ns, "later", ""))
    node.machine.commit()
    copy = copied(tmp_path, "state.db")
    assert (copy.applied_index, copy.state_digest()) == (index, digest)
    copy.close()
    node.machine.close()


def test_a_checkpoint_beside_an_open_transaction_counts_only_what_was_committed(tmp_path):
    """A writer that is in the middle of something neither blocks it nor gets into it."""
    node = filled(tmp_path / "state.db")
    committed = node.machine.applied_index
    node.do(c.PolicyPut(node.machine.clock_ns, "open", ""))
    assert node.machine.checkpoint() == committed
    copy = copied(tmp_path, "state.db", "state.db-wal")
    assert (copy.applied_index, copy.reads.policy("open")) == (committed, None)
    copy.close()
    node.machine.commit()
    assert node.machine.checkpoint() == committed + 1
    node.machine.close()


def test_checkpoints_and_snapshots_run_beside_a_writer(tmp_path):
    """From another thread, while commands are applied: nobody fails, and every copy is a state there was."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    node.machine.commit()
    digests: dict[int, str] = {1: node.machine.state_digest()}
    taken: list[tuple[int, Path]] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def aside() -> None:
        try:
            while not stop.is_set():
                node.machine.checkpoint()
                path = tmp_path / f"snapshot-{len(taken)}"
                taken.append((node.machine.snapshot(path), path))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=aside)
    thread.start()
    while (len(taken) < 5 or node.machine.applied_index < 200) and thread.is_alive():
        node.ok(put("a", node.machine.applied_index))
        node.machine.commit()
        digests[node.machine.applied_index] = node.machine.state_digest()
    stop.set()
    thread.join()
    node.machine.close()
    assert failures == []
    for index, path in taken:
        copy = Machine.open(path, key=KEY)
        assert (copy.applied_index, copy.state_digest()) == (index, digests[index])
        copy.close()


WRITER = """
import sys
from pathlib import Path
from support.state import Node, random_log
node = Node(Path(sys.argv[1]))
log = random_log(int(sys.argv[2]), 2_000)
for entry in log[node.machine.applied_index:]:
    node.feed(entry)
    if node.machine.applied_index % int(sys.argv[3]) == 0:
        node.machine.commit()
        print(node.machine.applied_index, flush=True)
        if node.machine.applied_index % 14 == 0:
            node.machine.checkpoint()
"""


@pytest.mark.parametrize("batch", [1, 7])
def test_a_killed_process_leaves_a_prefix_that_holds_all_it_committed(tmp_path, batch):
    """SIGKILL at a random moment, several times over on the same file."""
    path, seed = tmp_path / "state.db", random.randrange(10**6)
    rng = random.Random(seed)
    log, reference = random_log(seed, 2_000), Node()
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed), str(batch)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            text=True,
        )
        with process:
            for _ in range(rng.randrange(5, 60)):
                committed = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                committed = int(line) if line.endswith("\n") else committed
        machine = Machine.open(path, key=KEY)
        assert committed <= machine.applied_index <= committed + batch, f"seed {seed}"
        assert machine.applied_index % batch == 0
        while reference.machine.applied_index < machine.applied_index:
            reference.feed(log[reference.machine.applied_index])
        assert machine.state_digest() == reference.machine.state_digest(), f"seed {seed}"
        machine.close()
    reference.machine.close()


@pytest.mark.parametrize("seed", [423333, 0], ids=["fixed", "drawn"])
def test_what_was_destroyed_deleted_or_pruned_is_gone_from_every_page(tmp_path, seed):
    """Decrypts all pages of the file, free ones and slack included, and of the log.

    Data keys are gone without exception (the fixed seed is one that used to leave some). Of ciphertexts,
    which are noise without them, SQLite may leave a copy in the slack of a page that it rearranged.
    """
    seed = seed or random.randrange(1, 10**6)
    print("seed", seed)
    path = tmp_path / "state.db"
    rng = random.Random(seed)
    node, live, dead = Node(path), {}, []
    node.ok(mount())
    for number in range(1500):
        key = f"k{rng.randrange(80)}"
        if rng.random() < 0.65 or not live:
            version = (row.current_version if (row := node.reads.kv_key("m1", key)) else 0) + 1
            marks = (
                b"CANARY" + rng.randbytes(12).hex().encode(),
                b"CANARY" + rng.randbytes(12).hex().encode(),
            )
            body = marks[1] + rng.randbytes(rng.choice([0, 50, 1000, 9000]))
            node.ok(c.KvPut(T0, "m1", key, version, None, c.Sealed(1, marks[0], body)))
            live[key, version] = marks
        elif rng.random() < 0.9:
            key, version = rng.choice(sorted(live))
            node.ok(c.KvDestroy(T0, "m1", key, (version,)))
        else:
            node.ok(c.KvMetadataDelete(T0, "m1", key))
        for place in [place for place in live if place[0] == key]:
            found = node.reads.kv_version("m1", *place)
            if found is None or found.destroyed or found.value.wrapped_key != live[place][0]:
                dead.append(live.pop(place))
        if number % 50 == 0:
            node.machine.commit()
    node.machine.commit()
    node.machine.checkpoint()
    pages = b"\n".join(plain_pages(path, KEY))
    node.machine.close()
    assert len(dead) > 500
    assert all(mark in pages for marks in live.values() for mark in marks)
    assert not [wrapped for wrapped, _ in dead if wrapped in pages], f"seed {seed}"
    assert len([1 for _, body in dead if body in pages]) < len(dead) // 50, f"seed {seed}"


def test_a_stranger_with_the_files_but_without_the_key_learns_no_schema(tmp_path):
    filled(tmp_path / "state.db", 10).machine.close()
    connection = sqlcipher.connect(str(tmp_path / "state.db"))
    with pytest.raises(sqlcipher.DatabaseError):
        connection.execute("SELECT * FROM sqlite_schema").fetchall()
    connection.close()
