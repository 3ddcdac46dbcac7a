"""Versions wait in memory before they are written: nobody can tell, whenever they are written."""

import random
import threading

import pytest
from sqlcipher3 import dbapi2 as sqlcipher
from support.patience import PATIENCE_S
from support.sqlcipher_pages import plain_pages
from support.state import KEY, MINUTE, T0, Node, mount, put

from storage import command as c
from storage import recent
from storage.database import Database
from storage.machine import Machine

PATHS = ("a", "b", "c/d")


def command(rng: random.Random, node: Node, stamp: int):
    """Mostly writes that fit, now and then whatever else touches what waits."""
    path = rng.choice(PATHS)
    key = node.reads.kv_key("m1", path)
    current = key.current_version if key else 0
    value = c.Sealed(1, rng.randbytes(60), rng.randbytes(rng.choice([20, 300, 5000])))
    versions = tuple(rng.sample(range(1, current + 2), min(2, current + 1)))
    number = rng.random()
    if number < 0.8:
        return c.KvPut(stamp, "m1", path, current + rng.choice([1, 1, 1, 1, 2]), None, value)
    makers = [
        lambda: c.KvDestroy(stamp, "m1", path, versions),
        lambda: c.KvDelete(stamp, "m1", path, versions),
        lambda: c.KvMetadataPut(stamp, "m1", path, max_versions=rng.choice([0, 1, 2, 5])),
        lambda: c.KvMetadataDelete(stamp, "m1", path),
        lambda: c.KvConfigPut(stamp, "m1", max_versions=rng.choice([0, 3]), delete_version_after_ns=MINUTE),
        lambda: c.EntryPut(stamp, "sys:test", path, value),
        lambda: c.EntryDelete(stamp, "sys:test", path),
        lambda: c.batch(stamp, c.KvPut(stamp, "m1", path, current + 1, None, value)),
        lambda: c.batch(
            stamp,
            c.KvPut(stamp, "m1", path, current + 1, None, value),
            c.KvPut(stamp, "m1", path, current + 1, None, value),
        ),
    ]
    return rng.choice(makers)()


def seen(node: Node) -> list:
    """All that reads tell of the keys, without making anything be written first."""
    return [
        (node.reads.kv_key("m1", path), *(node.reads.kv_version("m1", path, n) for n in range(24)))
        for path in PATHS
    ]


@pytest.mark.parametrize("seed", range(6))
def test_it_does_not_show_when_versions_are_written(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(recent, "HEADS_MAX", rng.choice([1, 2, 100]))
    monkeypatch.setattr(recent, "WAITING_ROWS_MAX", rng.choice([3, 512]))
    monkeypatch.setattr(recent, "CAUGHT_UP_ROWS_MAX", rng.choice([1, 4, 512]))
    never, always, sometimes = Node(), Node(), Node()
    for node in (never, always, sometimes):
        node.ok(mount())
    for step in range(400):
        given = command(rng, always, T0 + step)
        outcomes = [node.do(given) for node in (never, always, sometimes)]
        assert outcomes[0] == outcomes[1] == outcomes[2], f"seed {seed}, step {step}: {given}"
        always.machine.commit()
        if rng.random() < 0.1:
            sometimes.machine.commit()
        if rng.random() < 0.1:
            assert seen(never) == seen(always) == seen(sometimes), f"seed {seed}, step {step}"
    assert seen(never) == seen(always) == seen(sometimes)
    digests = {node.machine.state_digest() for node in (never, always, sometimes)}
    assert len(digests) == 1, f"seed {seed}"


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_show_that_a_commit_is_under_way(seed, monkeypatch, tmp_path):
    """Versions that are neither waiting nor committed, on a disk that takes its time."""
    rng = random.Random(seed)
    monkeypatch.setattr(recent, "HEADS_MAX", rng.choice([1, 100]))
    monkeypatch.setattr(recent, "WAITING_ROWS_MAX", rng.choice([1, 5]))
    monkeypatch.setattr(recent, "CAUGHT_UP_ROWS_MAX", rng.choice([1, 2, 10]))
    monkeypatch.setattr(recent, "SETTLED_HEADS_MAX", rng.choice([0, 1, 4]))
    monkeypatch.setattr(recent, "SLOTS_KNOWN_MAX", rng.choice([1, 16]))
    disk_is_free = threading.Event()
    disk_is_free.set()
    commit_now, settle = Database._commit_now, Database.settle

    def slowly(db: Database) -> None:
        if threading.current_thread() is not threading.main_thread():
            disk_is_free.wait(PATIENCE_S)
        commit_now(db)

    def hurry(db: Database) -> None:
        if db.committing:  # somebody cannot go on without it
            disk_is_free.set()
        settle(db)

    monkeypatch.setattr(Database, "_commit_now", slowly)
    monkeypatch.setattr(Database, "settle", hurry)
    plain, busy = Node(), Node(tmp_path / "state.db")
    for node in (plain, busy):
        node.ok(mount())
        node.machine.commit()
    begun = settled = 0
    for step in range(300):
        given = command(rng, plain, T0 + step)
        assert plain.do(given) == busy.do(given), f"seed {seed}, step {step}: {given}"
        if rng.random() < 0.2:
            disk_is_free.clear()
            busy.machine.commit_soon()
        if rng.random() < 0.3:
            begun += busy.machine._db.committing
            assert seen(plain) == seen(busy), f"seed {seed}, step {step}"
            going_through = dict(busy.reads.kv_current(0, len(PATHS))[1])
            for (mount_id, path), row in going_through.items():
                assert row == busy.reads.kv_version(mount_id, path), f"seed {seed}, step {step}"
            settled += len(going_through)
            disk_is_free.set()
    assert begun > 5, "no read met a commit"
    assert settled > 5, "going through all keys found none that was settled"
    busy.machine.commit()
    assert seen(plain) == seen(busy)
    digest = plain.machine.state_digest()
    assert busy.machine.state_digest() == digest, f"seed {seed}"
    busy.machine.close()
    again = Machine.open(tmp_path / "state.db", key=KEY)
    assert again.state_digest() == digest
    again.close()


def test_a_commit_that_failed_is_never_forgotten(monkeypatch, tmp_path):
    """Nothing more is applied to a state that the disk may not have."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    node.machine.commit()
    node.ok(put("k", 1))

    def fail(db: Database) -> None:
        raise sqlcipher.OperationalError("disk I/O error")

    monkeypatch.setattr(Database, "_commit_now", fail)
    assert node.machine.commit_soon()
    for _ in range(2):
        with pytest.raises((sqlcipher.OperationalError, RuntimeError)):
            node.do(c.PolicyPut(T0, "p", ""))


def test_large_values_do_not_pile_up(monkeypatch, tmp_path):
    """Whoever applies is not counted on to commit in time."""
    monkeypatch.setattr(recent, "HELD_BYTES_MAX", 10_000)
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    for version in range(1, 40):
        node.ok(c.KvPut(T0, "m1", "k", version, None, c.Sealed(1, b"key", bytes(1000))))
    assert node.machine._recent._held_bytes <= 20_000
    node.machine.close()


def test_what_waits_is_listed_and_counted(node_with_mount):
    node = node_with_mount
    node.ok(put("x/y", 1))
    assert node.reads.kv_list("m1", "") == ["x/"]
    node.ok(put("x/z", 1))
    assert node.reads.kv_scan("m1", "x") == ["y", "z"]
    node.ok(put("x/z", 2))
    assert [version.version for version in node.reads.kv_versions("m1", "x/z")] == [1, 2]


def test_a_data_key_that_was_pushed_out_is_in_no_page(tmp_path):
    """Whether its version was in its table already or still waited."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    node.ok(c.KvMetadataPut(T0, "m1", "k", max_versions=2))
    for version in range(1, 8):
        value = c.Sealed(1, b"canary-%d-" % version + bytes(40), b"ciphertext")
        node.ok(c.KvPut(T0, "m1", "k", version, None, value))
        if version in (3, 4, 6):
            node.machine.commit()
    node.machine.commit()
    node.machine.checkpoint()
    plain = b"".join(plain_pages(tmp_path / "state.db", KEY))
    assert [number for number in range(1, 8) if b"canary-%d-" % number in plain] == [6, 7]
    node.machine.close()


def test_slots_are_used_again(tmp_path):
    """Keys that are rewritten for ever take no more room than what they keep."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    for version in range(1, 200):
        node.ok(put("k", version))
        if version % 7 == 0:
            node.machine.commit()
    node.machine.commit()
    assert node.machine._db.one("SELECT count(*), sum(used) FROM data_keys") == (10, 10)
    assert node.machine._db.one("SELECT count(*) FROM kv_versions") == (10,)
    node.machine.close()


@pytest.fixture
def node_with_mount():
    node = Node()
    node.ok(mount())
    yield node
    node.machine.close()
