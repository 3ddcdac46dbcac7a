"""Snapshots travel between machines, and replacing a state survives a crash at any step."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.state import KEY, MINUTE, T0, Node, mount, put, random_log, sealed

from storage import command as c
from storage.cache import CachedValue, ValueCache
from storage.errors import Corrupt, Incompatible, WrongKey
from storage.handling import TOPICS
from storage.machine import Machine
from storage.outcome import Reason, Rejected
from storage.rows import KvVersion

TESTS = Path(__file__).parents[1]


def node_at(path: Path | None, entries: int, seed: int = 5) -> Node:
    node = Node(path)
    for entry in random_log(seed, entries):
        node.feed(entry)
    node.machine.commit()
    return node


@pytest.fixture
def snapshot(tmp_path) -> Path:
    """Of the first 200 entries of the log."""
    node = node_at(tmp_path / "source.db", 200)
    assert node.machine.snapshot(tmp_path / "snapshot") == 200
    node.machine.close()
    return tmp_path / "snapshot"


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_node_goes_on_from_anothers_snapshot(tmp_path, snapshot, where):
    """Same state, same answers to retries, same future; and Reads handed out before stay valid."""
    whole = node_at(None, 300)
    late = node_at(tmp_path / "late.db" if where == "disk" else None, 20)
    reads, before = late.reads, {topic: late.machine.generation(topic) for topic in TOPICS}
    late.machine.restore(snapshot)
    assert late.machine.applied_index == 200
    assert all(late.machine.generation(topic) > before[topic] for topic in TOPICS)
    reference = node_at(None, 200)
    assert late.machine.state_digest() == reference.machine.state_digest()
    assert reads.mounts() == reference.reads.mounts()
    for entry in random_log(5, 300)[200:]:
        late.feed(entry)
    assert late.machine.state_digest() == whole.machine.state_digest()
    late.machine.commit()
    if where == "disk":
        late.machine.close()
        late.machine = Machine.open(tmp_path / "late.db", key=KEY)
        assert late.machine.state_digest() == whole.machine.state_digest()
    for node in (late, whole, reference):
        node.machine.close()


def test_no_value_of_before_is_remembered_in_the_new_state(tmp_path, snapshot):
    node_at(tmp_path / "late.db", 20).machine.close()
    values = ValueCache(1 << 20, 1 << 20)
    late = Machine.open(tmp_path / "late.db", key=KEY, values=values)
    values.put("m", "a", 0, CachedValue(KvVersion(1, 1, 0, False, None), b"of before"))
    values.packed.put("m", "a", KvVersion(1, 1, 0, False, None), b"of before")
    late.restore(snapshot)
    assert values.get("m", "a", 0) is values.packed.get("m", "a") is None
    assert values.size_bytes == values.packed.size_bytes == 0
    late.close()


def test_the_snapshot_file_stays_for_others(tmp_path, snapshot):
    before = snapshot.read_bytes()
    node = node_at(tmp_path / "late.db", 20)
    node.machine.restore(snapshot)
    node.ok(c.PolicyPut(node.machine.clock_ns, "mine", "x"))
    node.machine.commit()
    node.machine.close()
    assert snapshot.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.db", "snapshot", "source.db"]


def test_a_memory_machine_gives_snapshots_too(tmp_path):
    node = node_at(None, 50)
    assert node.machine.snapshot(tmp_path / "snapshot") == 50
    copy = Machine.open(tmp_path / "snapshot", key=KEY)
    assert copy.state_digest() == node.machine.state_digest()
    assert b"CREATE TABLE" not in (tmp_path / "snapshot").read_bytes()
    copy.close()
    node.machine.close()


def test_a_snapshot_never_overwrites_a_file(tmp_path, snapshot):
    node = node_at(tmp_path / "late.db", 20)
    with pytest.raises(FileExistsError):
        node.machine.snapshot(snapshot)
    node.machine.close()


def refuses(node: Node, path: Path, error: type[Exception]) -> None:
    """The restore fails and the state is as before, in memory and on disk."""
    before, index = node.machine.state_digest(), node.machine.applied_index
    with pytest.raises(error):
        node.machine.restore(path)
    assert (node.machine.state_digest(), node.machine.applied_index) == (before, index)
    node.ok(c.PolicyPut(node.machine.clock_ns, "still works", ""))


def test_what_is_no_good_snapshot_is_refused_and_changes_nothing(tmp_path, snapshot):
    node = node_at(tmp_path / "late.db", 20)
    (tmp_path / "garbage").write_bytes(random.Random(1).randbytes(3 * 4096))
    refuses(node, tmp_path / "garbage", WrongKey)
    (tmp_path / "cut").write_bytes(snapshot.read_bytes()[:-4096])
    refuses(node, tmp_path / "cut", Corrupt)
    other = Node(tmp_path / "other.db", b"o" * 32)
    for _ in range(300):
        other.ok(c.PolicyPut(node.machine.clock_ns, "p", ""))
    other.machine.commit()
    other.machine.snapshot(tmp_path / "foreign")
    other.machine.close()
    refuses(node, tmp_path / "foreign", WrongKey)
    with pytest.raises(FileNotFoundError):
        node.machine.restore(tmp_path / "missing")
    assert not list(tmp_path.glob("*.incoming"))
    node.machine.close()


def test_a_reset_takes_any_copy_of_the_same_store_and_every_member_makes_the_same_of_it(tmp_path):
    """Older than the state, with other members in it, the copy's outcomes, the clock never back."""
    machines = []
    for name in ("a", "b"):
        node = Node(tmp_path / f"{name}.db")
        node.ok(c.ClusterInit(T0, "cluster", "name"))
        node.ok(c.NodePut(T0, "gone", "eu", "https://gone", "gone:1"))
        node.ok(c.PolicyPut(T0, "kept", "x"))
        node.machine.commit()
        if name == "a":
            node.machine.snapshot(tmp_path / "backup")
        node.ok(c.NodeRemove(T0 + MINUTE, "gone"))
        node.ok(c.NodePut(T0 + MINUTE, "here", "eu", "https://here", "here:1"))
        node.ok(c.PolicyPut(T0 + 5 * MINUTE, "lost", "x"))
        node.machine.commit()
        index, position = node.machine.applied_index + 1, node.machine.position
        node.machine.stage_reset(tmp_path / "backup", index, b"r" * 16)
        node.machine.restore(tmp_path / "backup")
        machines.append(node.machine)
    assert machines[0].state_digest() == machines[1].state_digest()
    machine = machines[0]
    assert (machine.applied_index, machine.clock_ns) == (7, T0 + 5 * MINUTE)
    assert machine.position == position + 1, "no revision is used twice"
    assert machine.reads.policies() == ["kept"]
    assert [row.node_id for row in machine.reads.nodes()] == ["here"]
    assert machine.outcome(b"r" * 16) is not None
    assert machine.outcome((3).to_bytes(16, "big")) is not None, "what was kept is not done twice"
    assert machine.outcome((6).to_bytes(16, "big")) is None, "what was lost may be done again"
    machine.close()
    again = Machine.open(tmp_path / "a.db", key=KEY)
    assert again.applied_index == 7
    assert again.outcome(b"r" * 16) is not None
    again.close()
    machines[1].close()


def test_a_reset_keeps_the_seal_that_people_hold_shares_of_and_every_key_term(tmp_path):
    """A rekey after the backup: the old shares must not come back with it."""
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(c.KeyTermAdd(T0, 1, b"first"))
    node.ok(c.EntryPut(T0, "own:seals", "seal", sealed("old shares")))
    node.ok(c.EntryPut(T0, "sys:other", "x", sealed("old")))
    node.machine.commit()
    node.machine.snapshot(tmp_path / "backup")
    node.ok(c.KeyTermAdd(T0, 2, b"second"))
    node.ok(c.EntryPut(T0, "own:seals", "seal", sealed("new shares")))
    node.ok(c.EntryPut(T0, "own:seals", "recovery", sealed("recovery")))
    node.ok(c.EntryPut(T0, "sys:other", "x", sealed("new")))
    node.machine.commit()
    revision = node.reads.entry("own:seals", "seal").revision
    node.machine.stage_reset(tmp_path / "backup", node.machine.applied_index + 1, b"r" * 16)
    node.machine.restore(tmp_path / "backup")
    entry = node.reads.entry("own:seals", "seal")
    assert (entry.revision, entry.value) == (revision, sealed("new shares"))
    assert node.reads.entry("own:seals", "recovery").value == sealed("recovery")
    assert node.reads.entry("sys:other", "x").value == sealed("old")
    assert [term.term for term in node.reads.key_terms()] == [1, 2]
    node.ok(c.EntryPut(T0, "sys:other", "y", sealed("later")))
    node.machine.commit()
    assert node.reads.entry("own:seals", "seal").value == sealed("new shares")
    node.machine.close()


def test_a_write_that_was_permitted_before_a_reset_is_decided_anew(tmp_path):
    """The restored policies may grant less than those by which it was decided."""
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(mount())
    node.machine.commit()
    node.machine.snapshot(tmp_path / "backup")
    decided = node.machine.position
    node.machine.stage_reset(tmp_path / "backup", node.machine.applied_index + 1, b"r" * 16)
    node.machine.restore(tmp_path / "backup")
    late = c.KvPut(T0, "m1", "a", 1, None, sealed("a"), decided)
    assert node.do(late) == Rejected(Reason.PERMISSION_OUTDATED)
    node.machine.close()


def reset_to(node: Node, backup: Path, request_id: bytes = b"r" * 16) -> None:
    node.machine.commit()
    assert node.machine.stage_reset(backup, node.machine.applied_index + 1, request_id)
    node.machine.restore(backup)


def backup_of(node: Node, path: Path) -> Path:
    node.machine.commit()
    node.machine.snapshot(path)
    return path


def test_a_reset_keeps_the_groups_authority_and_which_tickets_were_spent(tmp_path):
    """A ticket that was spent after the backup would admit somebody else, and one given since nobody."""
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(c.SystemSecretPut(T0, "ca", sealed("old")))
    node.ok(c.JoinTokenPut(T0, b"spent", T0 + 60 * MINUTE))
    backup = backup_of(node, tmp_path / "backup")
    node.ok(c.SystemSecretPut(T0, "ca", sealed("new")))
    node.ok(c.JoinTokenTake(T0, b"spent", "n1"))
    node.ok(c.JoinTokenPut(T0, b"later", T0 + 60 * MINUTE))
    reset_to(node, backup)
    assert node.reads.system_secret("ca") == sealed("new")
    assert node.do(c.JoinTokenTake(T0, b"spent", "n2")) == Rejected(Reason.TOKEN_INVALID)
    node.ok(c.JoinTokenTake(T0, b"later", "n2"))
    node.machine.close()


def test_a_reset_to_when_there_were_regions_brings_none_back_nor_an_older_level(tmp_path):
    """They have gone their own way: nothing of what they would have read is left, and the next ones read no gap."""
    node = Node()
    node.machine = Machine.open(tmp_path / "a.db", key=KEY, known_level=2)
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(mount())
    node.ok(c.RegionFound(T0, "eu", (), ()))
    node.ok(c.RegionPut(T0, "us", (), ()))
    node.ok(put("a", 1))
    backup = backup_of(node, tmp_path / "backup")
    node.ok(c.RegionRemove(T0, "us"))
    node.ok(c.RegionLeave(T0))
    node.ok(c.NodePut(T0, "n1", "eu", "https://n1", "n1:1", "", "2.0", 2))
    node.ok(c.LevelRaise(T0, 2))
    reset_to(node, backup)
    assert (node.reads.region(), node.reads.regions(), node.reads.epochs()) == (("", "alone"), [], [])
    assert node.machine.level == 2
    assert node.machine.history.first == node.machine.position + 1
    node.ok(c.RegionFound(T0, "again", (), ()))
    first = node.machine.position
    node.ok(put("a", 2))
    assert [each.position for each in node.reads.epochs()] == [first]
    assert node.machine.history.read(first - 3, 1 << 20) is None
    assert len(node.machine.history.read(first, 1 << 20)) == 2
    node.machine.close()


def test_what_is_older_than_its_own_backup_goes_on_behind_it(tmp_path):
    """A store begun anew from an old backup gets a newer one back: no revision twice, every key term, every use."""
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(mount())
    node.ok(c.KeyTermAdd(T0, 1, b"first"))
    node.ok(put("a", 1))
    old = backup_of(node, tmp_path / "old")
    node.ok(c.KeyTermAdd(T0 + MINUTE, 2, b"second"))
    for number in (2, 3, 4):
        node.ok(c.KvPut(T0 + 2 * MINUTE, "m1", "a", number, None, c.Sealed(2, b"w", b"c")))
    new = backup_of(node, tmp_path / "new")
    later, uses = node.machine.position, node.machine.wraps
    node.machine.close()
    anew = Node(tmp_path / "b.db")
    anew.machine.restore(old)
    anew.ok(put("mine", 1))
    used = anew.machine.wraps
    reset_to(anew, new)
    assert (anew.machine.position, anew.machine.clock_ns) == (later + 1, T0 + 2 * MINUTE)
    assert [term.term for term in anew.reads.key_terms()] == [1, 2]
    assert anew.machine.wraps == uses + used
    assert anew.reads.kv_key("m1", "a").current_version == 4
    anew.machine.close()


def test_what_people_held_shares_of_before_is_not_left_in_a_restored_state(tmp_path):
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(c.EntryPut(T0, "own:seals", "seal", sealed("old shares")))
    backup = backup_of(node, tmp_path / "backup")
    node.ok(c.EntryPut(T0, "own:seals", "seal", sealed("new shares")))
    reset_to(node, backup)
    keys = [bytes(row[0]) for row in node.machine._db.all("SELECT wrapped_key FROM data_keys")]
    assert sum(b"new shares" in key for key in keys) == 1
    assert not any(b"old shares" in key for key in keys)
    node.machine.close()


def test_a_state_that_begins_a_group_of_its_own_knows_nobody_of_the_former_one(tmp_path):
    node = Node(tmp_path / "a.db")
    node.ok(c.ClusterInit(T0, "cluster", "name"))
    node.ok(c.NodePut(T0, "gone", "eu", "https://gone", "gone:1"))
    node.ok(c.JoinTokenPut(T0, b"ticket", T0 + 60 * MINUTE))
    node.ok(mount())
    node.ok(c.RegionFound(T0, "eu", (), ()))
    node.ok(c.RegionPut(T0, "us", (), ()))
    node.ok(put("a", 1))
    last = node.machine.applied_index
    assert node.machine.outcome(last.to_bytes(16, "big")) is not None
    node.machine.commit()
    node.machine.enter_alone(c.NodePut(T0, "new", "eu", "https://new", "new:1"))
    assert [each.node_id for each in node.reads.nodes()] == ["new"]
    assert node.do(c.JoinTokenTake(T0, b"ticket", "thief")) == Rejected(Reason.TOKEN_INVALID)
    assert node.machine.outcome(last.to_bytes(16, "big")) is None
    assert (node.reads.region()[1], node.reads.regions(), node.reads.epochs()) == ("alone", [], [])
    assert node.machine.history.first == node.machine.position + 1
    node.ok(c.RegionFound(T0, "again", (), ()))
    node.machine.close()


def test_a_copy_of_another_store_is_no_reset(tmp_path):
    for name in ("one", "two"):
        node = Node(tmp_path / f"{name}.db")
        node.ok(c.ClusterInit(T0, name, name))
        node.machine.commit()
        if name == "one":
            node.machine.snapshot(tmp_path / "backup")
            node.machine.close()
    before = node.machine.state_digest()
    with pytest.raises(Incompatible):
        node.machine.stage_reset(tmp_path / "backup", 2, b"r" * 16)
    assert node.machine.state_digest() == before
    node.machine.checkpoint()  # nothing waits for a state that is not laid ready
    node.machine.close()


def test_verifying_a_copy_leaves_it_and_the_state_alone(tmp_path, snapshot):
    node, before = node_at(tmp_path / "late.db", 210), snapshot.read_bytes()
    node.machine.verify(snapshot)
    assert snapshot.read_bytes() == before
    (tmp_path / "cut").write_bytes(before[:-4096])
    with pytest.raises(Corrupt):
        node.machine.verify(tmp_path / "cut")
    assert not list(tmp_path.glob("*.scratch*"))
    node.machine.close()


def test_an_older_snapshot_is_refused_and_the_same_index_is_not(tmp_path, snapshot):
    """The same index comes again when a node crashed between restoring and noting that it had."""
    ahead = node_at(tmp_path / "ahead.db", 201)
    refuses(ahead, snapshot, Incompatible)
    ahead.machine.close()
    even = node_at(tmp_path / "even.db", 200)
    even.machine.restore(snapshot)
    even.machine.close()


def test_any_flipped_byte_of_a_snapshot_is_found_before_it_replaces_anything(tmp_path, snapshot):
    """Every page, used or not: 100 %."""
    node = node_at(tmp_path / "late.db", 20)
    good, seed = snapshot.read_bytes(), 17
    rng = random.Random(seed)
    before = node.machine.state_digest()
    for page in range(len(good) // 4096):
        position = page * 4096 + rng.randrange(4096)
        snapshot.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises(Corrupt):
            node.machine.restore(snapshot)
    assert node.machine.state_digest() == before, f"seed {seed}"
    node.machine.close()


RESTORE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from storage import database, files
from storage.machine import Machine
from support.state import KEY, Node, random_log

path, snapshot, step, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
node = Node(path)
for entry in random_log(5, 20):
    node.feed(entry)
node.machine.commit()

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

owner = database.Database if step == "_verify" else files
original = getattr(owner, step)

def wrapped(*args, **kwargs):
    if when == "before":
        die()
    original(*args, **kwargs)
    die()

setattr(owner, step, wrapped)
node.machine.restore(snapshot)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["copy_durable", "_verify", "remove", "replace"])
def test_a_crash_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path, snapshot, step, when):
    path = tmp_path / "late.db"
    process = subprocess.run(
        [sys.executable, "-c", RESTORE_AND_DIE, str(path), str(snapshot), step, when],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    old, new = node_at(None, 20), node_at(None, 200)
    machine = Machine.open(path, key=KEY)
    expected = new if (step, when) == ("replace", "after") else old
    assert machine.applied_index == expected.machine.applied_index
    assert machine.state_digest() == expected.machine.state_digest()
    machine.restore(snapshot)
    assert machine.state_digest() == new.machine.state_digest()
    assert not list(tmp_path.glob("*.incoming"))
    for node in (old, new):
        node.machine.close()
    machine.close()


def test_a_log_left_by_a_killed_process_does_not_leak_into_the_new_state(tmp_path, snapshot):
    """The old file's write-ahead log, full of its own pages, lies beside when the restore begins."""
    script = """
import os, signal, sys
from pathlib import Path
from support.state import Node, random_log
node = Node(Path(sys.argv[1]))
for entry in random_log(5, 150):
    node.feed(entry)
node.machine.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "late.db"
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    subprocess.run([sys.executable, "-c", script, str(path)], env=env, check=False)
    assert path.with_name("late.db-wal").stat().st_size > 0
    machine, new = Machine.open(path, key=KEY), node_at(None, 200)
    machine.restore(snapshot)
    assert machine.state_digest() == new.machine.state_digest()
    machine.close()
    machine = Machine.open(path, key=KEY)
    assert machine.state_digest() == new.machine.state_digest()
    machine.close()
    new.machine.close()


def test_a_restore_waits_for_a_running_snapshot(tmp_path, snapshot):
    """Both may be asked for at once; the copy is of the one state or the other."""
    import threading

    node = node_at(tmp_path / "late.db", 20)
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: taken.append(node.machine.snapshot(tmp_path / f"copy-{n}")))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    node.machine.restore(snapshot)
    for thread in threads:
        thread.join()
    assert len(taken) == 4
    assert set(taken) <= {20, 200}
    node.ok(mount("after/", "after", node.machine.clock_ns))
    node.ok(put("a", 1, mount_id="after", time_ns=node.machine.clock_ns))
    node.machine.close()
