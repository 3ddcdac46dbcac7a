"""Regions: one history in all of them, one region that orders it, and nothing ordered by two."""

import random
import threading
from pathlib import Path

import pytest
from support.patience import PATIENCE_S
from support.state import KEY, MINUTE, SECOND, T0, Node, mount, put, random_log, sealed

from storage import command as c
from storage import history
from storage.database import Database
from storage.errors import NotWanted
from storage.machine import Machine
from storage.outcome import Done, Reason, Rejected


@pytest.fixture
def primary(tmp_path):
    node = Node(tmp_path / "primary.db")
    node.ok(mount())
    node.ok(c.RegionFound(T0, "eu", ("https://eu-1", "https://eu-2"), ("eu-1:8203",)))
    node.ok(c.RegionPut(T0, "us", ("https://us-1",), ("us-1:8203",)))
    return node


def follower_of(node: Node, tmp_path, name: str = "us") -> Node:
    """A region that begins with all that `node` has."""
    path = tmp_path / f"{name}.db"
    node.machine.commit()
    node.machine.snapshot(path)
    follower = Node()
    follower.salt = 1 << 64
    follower.machine = Machine.open(path, key=KEY)
    follower.machine.settle(name)
    return follower


def relay(source: Node, target: Node, *, limit: int = history.READ_BYTES_MAX):
    """One step of the stream: the outcome in the region that follows."""
    epoch = target.reads.epochs()[-1].epoch
    first = target.machine.position + 1
    items = source.machine.history.read(first, limit)
    ends = [each.position for each in source.reads.epochs() if each.position > first]
    if ends:
        items = items[: ends[0] - first]
    return target.do(c.RegionApply(target.machine.clock_ns + SECOND, epoch, first, tuple(items)))


def test_a_region_far_behind_is_served_while_the_disk_takes_its_time(primary, monkeypatch):
    """The primary's commit is not waited for, as long as there is something to send without it."""
    disk_is_free, waited = threading.Event(), []
    commit_now, settle = Database._commit_now, Database.settle

    def slowly(db: Database) -> None:
        if threading.current_thread() is not threading.main_thread():
            disk_is_free.wait(PATIENCE_S)
        commit_now(db)

    def noticed(db: Database) -> None:
        if db.committing:
            waited.append(True)
            disk_is_free.set()
        settle(db)

    monkeypatch.setattr(history, "TAIL_COMMANDS_MAX", 4)
    for number in range(1, 11):
        primary.ok(put("a", number))
    primary.machine.commit()
    before = primary.machine.position
    for number in range(11, 31):
        primary.ok(put("a", number))
    monkeypatch.setattr(Database, "_commit_now", slowly)
    monkeypatch.setattr(Database, "settle", noticed)
    assert primary.machine.commit_soon()
    first = primary.machine.history.first
    served = primary.machine.history.read(first)
    assert len(served) == before - first + 1
    assert not waited
    rest = primary.machine.history.read(before + 1)
    assert waited, "nothing of it could be seen without the commit"
    everything = [c.decode(data) for _, data in (*served, *rest)]
    assert [each.version for each in everything if isinstance(each, c.KvPut)] == list(range(1, 31))


@pytest.mark.parametrize("seed", range(8))
def test_a_region_that_follows_has_the_same_state_at_every_position(primary, tmp_path, seed):
    rng = random.Random(seed)
    for entry in random_log(seed, 60):
        primary.feed(entry)
    follower = follower_of(primary, tmp_path)
    for entry in random_log(seed + 1000, 400):
        primary.feed(entry)
        if rng.random() < 0.3:  # what a region's own nodes do is its own matter
            follower.do(c.NodePut(T0 + rng.randrange(10**6) * MINUTE, "n1", "us", "https://n1", "n1:1"))
        if rng.random() < 0.2:
            relay(primary, follower, limit=rng.choice([1, 5_000, 1 << 20]))
            if follower.machine.position == primary.machine.position:
                assert follower.machine.history_digest() == primary.machine.history_digest()
    while follower.machine.position < primary.machine.position:
        assert isinstance(relay(primary, follower), Done)
    assert follower.machine.history_digest() == primary.machine.history_digest()
    assert follower.machine.state_digest() != primary.machine.state_digest()


def test_a_region_that_follows_orders_nothing_itself(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    before = follower.machine.history_digest()
    refused = follower.do(put("a", 1), request_id=b"r" * 16)
    assert refused == Rejected(Reason.NOT_PRIMARY)
    assert follower.machine.history_digest() == before
    follower.ok(c.RegionPromote(T0, 2))
    assert isinstance(follower.do(put("a", 1), request_id=b"r" * 16), Done)


def test_the_stream_has_no_gap_no_repetition_and_one_epoch_at_a_time(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    primary.ok(put("a", 1))
    primary.ok(put("b", 1))
    first = follower.machine.position + 1
    items = tuple(primary.machine.history.read(first))
    gap = Rejected(Reason.POSITION_GAP, str(first - 1))
    assert follower.do(c.RegionApply(T0, 1, first + 1, items[1:])) == gap
    assert follower.do(c.RegionApply(T0, 2, first, items)) == gap
    assert follower.ok(c.RegionApply(T0, 1, first, items)) == {"position": first + 1}
    again = Rejected(Reason.POSITION_GAP, str(first + 1))
    assert follower.do(c.RegionApply(T0, 1, first, items)) == again
    assert follower.reads.kv_key("m1", "b").current_version == 1
    assert primary.do(c.RegionApply(T0, 1, primary.machine.position + 1, items)) == Rejected(
        Reason.REGION_ROLE
    )


def test_a_retry_finds_its_outcome_in_the_region_that_took_over(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    first = primary.do(put("a", 1), request_id=b"r" * 16)
    relay(primary, follower)
    follower.ok(c.RegionPromote(T0, 2))
    assert follower.do(put("a", 1), request_id=b"r" * 16) == first
    assert follower.reads.kv_key("m1", "a").current_version == 1


def test_a_handover_ends_the_writes_of_one_region_before_those_of_the_other_begin(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    assert primary.do(c.RegionHandover(T0, "asia")) == Rejected(Reason.NO_SUCH_REGION)
    assert primary.do(c.RegionHandover(T0, "eu")) == Rejected(Reason.NO_SUCH_REGION)
    primary.ok(c.RegionHandover(T0, "us"))
    assert primary.do(put("late", 1)) == Rejected(Reason.NOT_PRIMARY)
    relay(primary, follower)
    follower.ok(c.RegionPromote(T0, 2, at=primary.machine.position))
    follower.ok(put("a", 1))
    primary.ok(c.RegionDemote(T0))
    assert isinstance(relay(follower, primary, limit=1), Done)
    assert isinstance(relay(follower, primary), Done)
    assert primary.machine.history_digest() == follower.machine.history_digest()
    assert [(each.epoch, each.region) for each in primary.reads.epochs()] == [(1, "eu"), (2, "us")]


def test_a_region_that_was_called_does_not_take_over_once_another_one_did(primary, tmp_path):
    """It was away while it was to take over, and somebody ended the handover."""
    (tmp_path / "late").mkdir()
    follower, late = follower_of(primary, tmp_path), follower_of(primary, tmp_path / "late")
    primary.ok(c.RegionHandover(T0, "us"))
    relay(primary, late)
    assert late.reads.region() == ("us", "called")
    primary.ok(c.RegionDemote(T0))
    primary.ok(c.RegionPromote(T0, 2))
    for each in (follower, late):
        while each.machine.position < primary.machine.position:
            assert isinstance(relay(primary, each), Done)
        assert each.reads.region() == ("us", "secondary")
        assert each.do(put("a", 1)) == Rejected(Reason.NOT_PRIMARY)


def test_a_promotion_names_the_epoch_and_the_place_that_it_saw(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    at = follower.machine.position
    assert follower.do(c.RegionPromote(T0, 3)) == Rejected(Reason.POSITION_GAP)
    assert follower.do(c.RegionPromote(T0, 2, at=at - 1)) == Rejected(Reason.POSITION_GAP)
    assert primary.do(c.RegionPromote(T0, 2)) == Rejected(Reason.REGION_ROLE)
    follower.ok(c.RegionPromote(T0, 2, at=at))
    assert follower.reads.region() == ("us", "primary")
    assert follower.do(c.EpochBegin(T0, 3, "us")) == Rejected(Reason.MALFORMED)


def test_a_seal_is_its_regions_own_and_a_key_term_is_everybodys(primary, tmp_path):
    """A rekey in one region changes nothing in another one, not even its place in the history; a rotation travels."""
    follower = follower_of(primary, tmp_path)
    relay(primary, follower)
    position, digest = primary.machine.position, primary.machine.history_digest()
    for node in (primary, follower):  # each may replace its own, also the one that orders nothing
        node.ok(c.EntryPut(T0, "own:seals", "seal", sealed()))
    assert (primary.machine.position, follower.machine.position) == (position, position)
    assert {each.machine.history_digest() for each in (primary, follower)} == {digest}
    term = max((each.term for each in primary.reads.key_terms()), default=0) + 1
    primary.ok(c.KeyTermAdd(T0, term, b"wrapped"))
    relay(primary, follower)
    assert follower.reads.key_terms() == primary.reads.key_terms()
    assert follower.reads.key_terms()[-1].term == term
    assert follower.do(c.KeyTermAdd(T0, term + 1, b"own")) == Rejected(Reason.NOT_PRIMARY)


def test_history_is_bounded_alike_everywhere(primary, tmp_path, monkeypatch):
    follower = follower_of(primary, tmp_path)
    monkeypatch.setattr(history, "COMMANDS_MAX", 20)
    monkeypatch.setattr(history, "BYTES_MAX", 2_000)
    monkeypatch.setattr(history, "COMMANDS_SLACK", 4)
    monkeypatch.setattr(history, "BYTES_SLACK", 400)
    for number in range(60):
        primary.ok(put(f"k{number}", 1))
        relay(primary, follower)
    kept = primary.machine.history
    assert kept.last - kept.first < 24
    assert kept.read(kept.first - 1) is None
    assert (follower.machine.history.first, follower.machine.history.last) == (kept.first, kept.last)
    primary.machine.commit()
    reopened = history.History(primary.machine._db)
    reopened.load(primary.machine.position)
    assert (reopened.first, reopened._bytes) == (kept.first, kept._bytes)


def test_what_waits_for_the_tables_is_read_too_and_survives(primary, tmp_path):
    path = tmp_path / "kept.db"
    node = Node(path)
    node.ok(mount())
    node.ok(c.RegionFound(T0, "eu", (), ()))
    node.ok(put("a", 1))
    assert len(node.machine.history.read(2)) == 2
    position = node.machine.position
    node.machine.close()
    again = Machine.open(path, key=KEY)
    assert again.position == position
    assert len(again.history.read(2)) == 2
    assert again.reads.region() == ("eu", "primary")
    again.close()


def test_a_region_that_went_astray_takes_the_history_of_the_one_that_orders_and_keeps_its_own(
    primary, tmp_path
):
    """Whoever restores the marked copy, at whatever index of its own log, has the other region's history."""
    follower = follower_of(primary, tmp_path)
    follower.ok(c.RegionPromote(T0, 2))
    follower.ok(put("new", 1))
    primary.ok(put("astray", 1))
    primary.ok(c.RegionDemote(T0))
    primary.machine.close()
    primary.machine = Machine.open(tmp_path / "primary.db", key=KEY, known_level=2)
    primary.ok(c.NodePut(T0, "eu-1", "eu", "https://eu-1", "eu-1:8201", "", "2.0", 2))
    primary.ok(c.LevelRaise(T0, 2))
    primary.ok(c.EntryPut(T0, "own:divergence", "a", sealed()))
    copy = marked_copy(follower, tmp_path / "copy.db")
    primary.machine.commit()
    index = primary.machine.applied_index + 1
    assert primary.machine.stage_reset(copy, index, b"s" * 16)
    primary.machine.restore(copy)
    assert primary.machine.applied_index == index
    assert primary.machine.history_digest() == follower.machine.history_digest()
    assert primary.reads.region() == ("eu", "secondary")
    assert primary.reads.kv_key("m1", "astray") is None
    assert [each.node_id for each in primary.reads.nodes()] == ["eu-1"]
    assert primary.machine.level == 2, "that is of its nodes"
    assert primary.reads.entry("own:divergence", "a") is not None
    assert primary.machine.outcome(b"s" * 16) is not None, "the same restore is not done twice"
    follower.ok(put("later", 1))
    assert isinstance(relay(follower, primary), Done)
    assert primary.machine.history_digest() == follower.machine.history_digest()


def marked_copy(node: Node, path: Path) -> Path:
    """The state of `node`, on its way to become another region's."""
    node.machine.commit()
    node.machine.snapshot(path)
    copy = Machine.open(path, key=KEY)
    copy.arrive()
    copy.checkpoint()
    copy.close()
    return path


def test_a_region_that_was_promoted_before_the_entry_keeps_what_it_has_ordered_since(primary, tmp_path):
    """The promotion was in the log when the other region's state was put behind it."""
    follower = follower_of(primary, tmp_path)
    copy = marked_copy(primary, tmp_path / "copy.db")
    follower.ok(c.RegionPromote(T0, 2))
    follower.ok(put("acknowledged", 1))
    before, index = follower.machine.history_digest(), follower.machine.applied_index + 1
    follower.machine.commit()
    with pytest.raises(NotWanted):
        follower.machine.verify(copy)
    assert follower.machine.stage_reset(copy, index, b"s" * 16) is False
    follower.machine.decline(index, b"s" * 16)
    follower.machine.close()
    follower.machine = Machine.open(tmp_path / "us.db", key=KEY)
    assert (follower.machine.applied_index, follower.reads.region()) == (index, ("us", "primary"))
    assert follower.machine.history_digest() == before
    assert follower.machine.declined(b"s" * 16)
    assert follower.machine.outcome(b"s" * 16).result == Rejected(Reason.REGION_ROLE)
    assert not follower.machine.declined(b"t" * 16)
    follower.ok(put("later", 1))


def test_a_backup_is_no_state_of_a_store_that_regions_follow_by_then(primary, tmp_path):
    """Nor of one that follows: they would not have one history any more."""
    follower = follower_of(primary, tmp_path)
    backup = tmp_path / "backup.db"
    primary.machine.snapshot(backup)
    for node in (primary, follower):
        node.machine.commit()
        before = node.machine.state_digest()
        assert node.machine.stage_reset(backup, node.machine.applied_index + 1, b"r" * 16) is False
        assert node.machine.state_digest() == before
        node.machine.checkpoint()  # nothing waits for a state that is not laid ready


def test_a_region_that_leaves_keeps_the_store_and_orders_its_own_writes(primary, tmp_path):
    follower = follower_of(primary, tmp_path)
    primary.ok(c.RegionPut(T0, "us", (), ()))
    primary.ok(c.EntryPut(T0, "sys:regions", "authority", sealed()))
    primary.ok(put("a", 1))
    while primary.machine.position > follower.machine.position:
        relay(primary, follower)
    assert primary.do(c.RegionLeave(T0)) == Rejected(Reason.REGION_ROLE), "others follow it"
    position = follower.machine.position
    follower.ok(c.RegionLeave(T0))
    assert follower.reads.region() == ("", "alone")
    assert (follower.reads.regions(), follower.reads.epochs()) == ([], [])
    assert follower.reads.entry("sys:regions", "authority") is None
    assert follower.do(c.RegionLeave(T0)) == Rejected(Reason.REGION_ROLE)
    assert follower.machine.position == position
    follower.ok(put("a", 2))
    follower.machine.commit()
    reopened = history.History(follower.machine._db)
    reopened.load(follower.machine.position)
    kept = follower.machine.history
    assert (reopened.first, reopened.last) == (kept.first, kept.last) == (position + 2, position + 1)
    follower.ok(c.RegionFound(T0, "us", (), ()))
    follower.ok(put("a", 3))
    assert len(follower.machine.history.read(position + 2)) == 2
    primary.ok(c.RegionRemove(T0, "us"))
    primary.ok(c.RegionLeave(T0))
