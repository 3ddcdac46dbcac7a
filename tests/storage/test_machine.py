"""The state machine itself: deterministic, exactly once, total, atomic."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.state import KEY, MINUTE, SECOND, T0, Node, mount, put, random_log, sealed, token

from storage import command as c
from storage import idempotency
from storage.executor import BATCH_COMMANDS_MAX, COMMAND_AGE_MAX_NS
from storage.handling import HANDLINGS, TOPICS, Handling
from storage.idempotency import RETENTION_NS
from storage.machine import Machine
from storage.outcome import Done, Reason, Rejected


@pytest.fixture
def node():
    node = Node()
    yield node
    node.machine.close()


def rejected(reason: str) -> Rejected:
    return Rejected(reason)


def outcomes(node: Node) -> int:
    node.machine.commit()
    return node.machine._db.one("SELECT count(*) FROM outcomes")[0]


@pytest.mark.parametrize("seed", range(6))
def test_the_same_log_gives_the_same_state_and_outcomes(tmp_path, seed):
    """Whatever the batching of commits, on disk or in memory, reopened or not."""
    log, rng = random_log(seed, 400), random.Random(seed)
    memory, disk = Node(), Node(tmp_path / "state.db")
    kinds = set()
    for number, entry in enumerate(log):
        first, second = memory.feed(entry), disk.feed(entry)
        assert first == second, f"seed {seed}, entry {number}"
        kinds.add(type(first))
        if rng.random() < 0.2:
            disk.machine.commit()
        if rng.random() < 0.02:
            disk.machine.close()
            disk.machine = Machine.open(tmp_path / "state.db", key=b"k" * 32)
            assert disk.machine.state_digest() == memory.machine.state_digest()
    assert memory.machine.state_digest() == disk.machine.state_digest()
    assert kinds == {Done, Rejected}
    memory.machine.close()
    disk.machine.close()


def test_the_digest_notices_every_table(node):
    """One change anywhere in the replicated tables changes the digest."""
    node.do(c.RegionFound(T0, "eu", ("https://a",), ()))
    for entry in random_log(1, 300):
        node.feed(entry)
    now = node.machine.clock_ns
    for command in (
        mount("full/", "full", now),
        put("a", 1, mount_id="full", time_ns=now),
        token("t", time_ns=now),
        c.ClusterInit(now, "id", "name"),
        c.KeyTermAdd(now, 99, b"w"),
        c.SystemSecretPut(now, "ca", sealed()),
        c.NodePut(now, "n", "eu", "https://a", "b:1"),
        c.JoinTokenPut(now, b"j", now + MINUTE),
        c.PolicyPut(now, "p", "x"),
        c.EntryPut(now, "sys:x", "e", sealed()),
        c.LeasePut(now, "full/a", "full", b"t", 0, now + MINUTE, now + MINUTE, True, sealed()),
    ):
        node.do(command)
    db = node.machine._db
    tables = {name for (name,) in db.all("SELECT name FROM sqlite_schema WHERE type = 'table'")} - {"state"}
    assert len(tables) >= 11
    before = node.machine.state_digest()
    for table in sorted(tables):
        for _, column, kind, *_ in db.all(f"PRAGMA table_info({table})"):
            if column in ("id", "key_id", "slot", "used"):
                continue
            db.run("SAVEPOINT probe")
            other = {"TEXT": "other", "BLOB": b"other", "INTEGER": 12345}[kind]
            assert db.run(f"UPDATE {table} SET {column} = ? LIMIT 1", (other,)) == 1
            assert node.machine.state_digest() != before, f"{table}.{column}"
            db.run("ROLLBACK TO probe")
            db.run("RELEASE probe")
    assert node.machine.state_digest() == before


def test_a_retry_is_answered_with_the_first_outcome_and_changes_nothing(node):
    node.ok(mount())
    first = node.do(put("a", 1), request_id=b"r" * 16)
    node.ok(put("a", 2))
    assert node.do(put("a", 1), request_id=b"r" * 16) == first
    assert node.reads.kv_key("m1", "a").current_version == 2
    known = node.machine.outcome(b"r" * 16)
    assert (known.index, known.result) == (node.machine.applied_index, first)
    assert node.machine.applied_index == 4
    assert node.machine.outcome(b"?" * 16) is None


def test_a_rejection_is_remembered_too(node):
    """A retry must not succeed where the caller may have seen the refusal."""
    node.ok(mount())
    assert node.do(put("a", 2), request_id=b"r" * 16) == rejected(Reason.VERSION_RACED)
    node.ok(put("a", 1))
    assert node.do(put("a", 2), request_id=b"r" * 16) == rejected(Reason.VERSION_RACED)


def test_a_retry_of_a_forgotten_command_is_refused(node):
    """However late a retry comes, the command is not applied twice."""
    policy = c.PolicyPut(T0, "p", "one")
    node.do(policy, request_id=b"r" * 16)
    later = T0 + RETENTION_NS + idempotency.FORGET_EVERY_NS + 1
    node.ok(c.PolicyDelete(later, "other"))
    assert node.machine.outcome(b"r" * 16) is None
    node.ok(c.PolicyDelete(later, "p"))
    assert node.do(policy, request_id=b"r" * 16) == rejected(Reason.STALE)
    assert node.reads.policy("p") is None


@pytest.mark.parametrize("late", [0, SECOND, COMMAND_AGE_MAX_NS])
def test_no_command_is_applied_twice_at_any_clock(node, late):
    """Stamped `late` behind the clock; retried as the clock goes on: remembered, or refused as stale."""
    node.ok(c.PolicyPut(T0, "clock", ""))
    cas = c.batch(T0 - late, mount(time_ns=T0 - late))
    assert isinstance(node.do(cas, request_id=b"r" * 16), Done)
    for step in range(1, 40):
        now = T0 + step * 10 * SECOND
        node.ok(c.MountRemove(now, "kv/"))
        node.do(cas, request_id=b"r" * 16)
        assert node.reads.mounts() == [], f"applied again after {step * 10} s"


def test_a_stale_command_moves_no_clock_and_a_fresh_one_is_taken(node):
    node.ok(c.PolicyPut(T0, "p", ""))
    assert node.do(c.PolicyPut(T0 - COMMAND_AGE_MAX_NS - 1, "old", "")) == rejected(Reason.STALE)
    assert node.machine.clock_ns == T0
    node.ok(c.PolicyPut(T0 - COMMAND_AGE_MAX_NS, "late", ""))
    assert node.reads.policies() == ["late", "p"]


def test_outcomes_are_forgotten_a_few_at_a_time_until_none_is_overdue(node, monkeypatch):
    monkeypatch.setattr(idempotency, "FORGET_ROWS_MAX", 4)
    for number in range(100):
        node.ok(c.PolicyPut(T0 + number, "p", ""))
    before = outcomes(node)
    later = T0 + RETENTION_NS + MINUTE
    node.ok(c.PolicyPut(later, "p", ""))
    assert before + 1 - outcomes(node) == idempotency.FORGET_ROWS_MAX
    for _ in range(100):
        node.ok(c.PolicyPut(later, "p", ""))
    assert outcomes(node) == 101
    assert node.machine.outcome((1).to_bytes(16, "big")) is None


def test_what_is_forgotten_does_not_depend_on_when_a_node_commits_or_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(idempotency, "FORGET_ROWS_MAX", 7)
    often, never, restarted = Node(tmp_path / "often.db"), Node(), Node(tmp_path / "restarted.db")
    nodes = (often, never, restarted)
    for number in range(400):
        if number == 150 or number == 350:
            restarted.machine.close()
            restarted.machine = Machine.open(tmp_path / "restarted.db", key=KEY)
        for node in nodes:
            node.ok(c.PolicyPut(T0 + number * 3 * SECOND, "p", str(number)))
        often.machine.commit()
    known = [[n for n in range(1, 401) if node.machine.outcome(n.to_bytes(16, "big"))] for node in nodes]
    assert known[0] == known[1] == known[2]
    assert known[0] == list(range(known[0][0], 401))
    assert 101 <= len(known[0]) <= 120
    assert len({node.machine.state_digest() for node in nodes}) == 1
    for node in nodes:
        node.machine.close()


def test_a_gap_in_the_log_is_a_bug_of_the_caller(node):
    for index in (0, 2, 5):
        with pytest.raises(ValueError, match="does not follow"):
            node.machine.apply(index, b"r" * 16, c.encode(mount()))
    node.machine.skip(1)
    assert node.machine.applied_index == 1
    with pytest.raises(ValueError, match="does not follow"):
        node.machine.skip(1)


def test_a_batch_is_all_or_nothing(node):
    node.ok(mount())
    refused = node.do(c.batch(T0, put("a", 1), c.PolicyPut(T0, "p", "x"), put("a", 7)))
    assert refused == rejected(Reason.VERSION_RACED)
    assert node.reads.kv_key("m1", "a") is None
    assert node.reads.policy("p") is None
    assert node.reads.kv_versions("m1", "a") == []
    value = node.ok(c.batch(T0, put("a", 1), c.PolicyPut(T0, "p", "x"), put("a", 2)))
    assert [result.get("version") for result in value["results"]] == [1, None, 2]
    assert node.reads.kv_key("m1", "a").current_version == 2


def test_a_batch_in_a_batch_or_too_long_a_batch_is_malformed(node):
    inner = c.batch(T0, c.PolicyPut(T0, "p", "x"))
    assert node.do(c.batch(T0, c.PolicyPut(T0, "q", "x"), inner)) == rejected(Reason.MALFORMED)
    many = [c.PolicyPut(T0, "p", "x")] * (BATCH_COMMANDS_MAX + 1)
    assert node.do(c.batch(T0, *many)) == rejected(Reason.MALFORMED)
    assert node.reads.policies() == []


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: b"\x01" + tail)))
def test_apply_is_total_over_bytes(data):
    """Nothing that a log may hold stops a node."""
    node = Node()
    assert isinstance(node.do(data), Done | Rejected)
    node.machine.close()


@given(data=st.data())
def test_apply_is_total_over_field_values(data):
    """Nor do numbers beyond 64 bits, negative ones, or odd strings in the right places."""
    number = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 1, T0, 2**62, 2**63, 2**63 - 1]))
    text = st.text(max_size=5)
    blob = st.binary(max_size=5)
    values = {int: number, str: text, bytes: blob, bool: st.booleans()}
    kind = data.draw(st.sampled_from(msgspec.inspect.type_info(c.AnyCommand).types)).cls
    fields = [data.draw(_field(field.type, values)) for field in msgspec.structs.fields(kind)]
    tag = kind.__struct_config__.tag
    raw = b"\x01" + msgspec.msgpack.encode([tag, *fields])
    node = Node()
    node.ok(mount())
    assert isinstance(node.do(raw), Done | Rejected)
    node.machine.commit()
    node.machine.close()


def _field(kind, values):
    if kind is c.Sealed:
        return st.tuples(values[int], values[bytes], values[bytes])
    origin = getattr(kind, "__origin__", None)
    if origin is tuple:
        item = kind.__args__[0]
        items = values[item] if item in values else st.tuples(values[bytes], values[bytes])
        return st.lists(items, max_size=3)
    if origin is dict:
        return st.dictionaries(values[str], values[str], max_size=2)
    if origin is None and getattr(kind, "__args__", None):
        return st.one_of(
            *(st.none() if part is type(None) else _field(part, values) for part in kind.__args__)
        )
    return values[kind]


def test_a_bug_in_a_command_commits_nothing_and_stops_the_machine(tmp_path, monkeypatch):
    """What is half done when an exception escapes never becomes durable."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    node.machine.commit()

    def explode(db, command):
        db.run("INSERT INTO policies VALUES ('half', '')")
        raise ZeroDivisionError

    monkeypatch.setitem(HANDLINGS, c.PolicyPut, Handling(explode))
    with pytest.raises(ZeroDivisionError):
        node.do(c.PolicyPut(T0, "p", "x"))
    for use in (node.machine.commit, lambda: node.machine.skip(3)):
        with pytest.raises(RuntimeError, match="unusable"):
            use()
    node.machine.close()
    again = Machine.open(tmp_path / "state.db", key=b"k" * 32)
    assert (again.applied_index, again.reads.policies()) == (1, [])
    again.close()


def test_generations_move_with_what_they_watch_and_not_otherwise(node):
    def moved(command) -> set[str]:
        before = {topic: node.machine.generation(topic) for topic in TOPICS}
        node.do(command)
        return {topic for topic in TOPICS if node.machine.generation(topic) > before[topic]}

    assert moved(mount()) == {"mounts"}
    assert moved(mount()) == set()  # refused
    assert moved(put("a", 1)) == set()
    assert moved(c.KvConfigPut(T0, "m1", max_versions=2)) == {"mounts"}
    assert moved(c.PolicyPut(T0, "p", "x")) == {"policies"}
    assert moved(c.KeyTermAdd(T0, 1, b"w")) == {"keyring"}
    assert moved(c.NodePut(T0, "n1", "eu", "https://a", "b:1")) == {"nodes"}
    assert moved(c.TokenRevoke(T0, b"t")) == {"tokens", "entries"}
    assert moved(c.EntryPut(T0, "sys:locks", "p", sealed())) == {"entries"}
    assert moved(c.EntryPut(T0, "sys:identity", "p", sealed())) == {"entries", "identity"}
    assert moved(c.MountRemove(T0, "kv/")) == {"mounts", "tokens", "entries"}
    both = c.batch(T0, c.PolicyPut(T0, "p", "y"), c.TokenRevoke(T0, b"t"))
    assert moved(both) == {"policies", "tokens", "entries"}
    assert moved(c.batch(T0, c.NodeRemove(T0, "n1"))) == {"nodes"}
    assert moved(c.batch(T0, c.PolicyPut(T0, "p", "y"), c.NodeRemove(T0, "n1"))) == set()  # refused
    assert moved(c.RegionFound(T0, "eu", (), ())) == {"regions"}
