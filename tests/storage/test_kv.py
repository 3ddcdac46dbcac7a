"""KV version 2: what Vault's users know, and a model test of everything together."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.kv_model import KvModel
from support.state import KEY, MINUTE, SECOND, T0, Node, mount, put, token

from storage import command as c
from storage.machine import Machine
from storage.outcome import Reason, Rejected


@pytest.fixture
def node():
    node = Node()
    node.ok(mount())
    yield node
    node.machine.close()


def write(node: Node, path: str, times: int = 1) -> None:
    for _ in range(times):
        key = node.reads.kv_key("m1", path)
        node.ok(put(path, (key.current_version if key else 0) + 1))


def versions(node: Node, path: str) -> list[int]:
    return [version.version for version in node.reads.kv_versions("m1", path)]


def reason(outcome) -> str | None:
    return outcome.reason if isinstance(outcome, Rejected) else None


def test_a_write_answers_with_the_metadata_of_the_new_version(node):
    assert node.ok(put("a", 1, time_ns=T0 + 5)) == {
        "version": 1,
        "created_ns": T0 + 5,
        "deletion_ns": 0,
        "destroyed": False,
        "custom_metadata": None,
    }
    node.ok(c.KvMetadataPut(T0, "m1", "a", custom_metadata={"owner": "me"}))
    assert node.ok(put("a", 2))["custom_metadata"] == {"owner": "me"}


def test_check_and_set(node):
    assert reason(node.do(put("a", 1, cas=1))) == Reason.CAS_MISMATCH
    node.ok(put("a", 1, cas=0))
    assert reason(node.do(put("a", 1, cas=0))) == Reason.CAS_MISMATCH
    node.ok(put("a", 2, cas=1))
    assert reason(node.do(put("a", 2))) == Reason.VERSION_RACED
    assert versions(node, "a") == [1, 2]


def test_a_permission_read_before_one_may_have_been_taken_writes_nothing(tmp_path):
    """Whatever node it was read on, and after a restart too; what takes nothing from anybody disturbs nobody."""
    node = Node(tmp_path / "state.db")
    node.ok(mount())
    node.ok(token("t"))
    decided = node.machine.position

    def write(version: int):
        value = c.Sealed(1, b"wrapped", b"ciphertext")
        return node.do(c.KvPut(T0, "m1", "a", version, None, value, decided))

    node.ok(token("another"))
    node.ok(c.EntryPut(T0, "sys:test", "x", c.Sealed(1, b"wrapped", b"ciphertext")))
    assert reason(write(1)) is None
    node.ok(c.TokenRevoke(T0, b"t"))
    assert reason(write(2)) == Reason.PERMISSION_OUTDATED
    node.machine.close()
    node.machine = Machine.open(tmp_path / "state.db", key=KEY)
    assert reason(write(2)) == Reason.PERMISSION_OUTDATED
    decided = node.machine.position
    assert reason(write(2)) is None
    takers = [
        c.PolicyPut(T0, "p", ""),
        c.PolicyDelete(T0, "p"),
        c.TokensExpire(T0, 1),
        c.EntryPut(T0, "sys:identity", "x", c.Sealed(1, b"wrapped", b"ciphertext")),
        c.MountMove(T0, "kv/", "moved/"),
    ]
    for taker in takers:
        decided = node.machine.position
        node.do(taker)
        assert reason(write(3)) == Reason.PERMISSION_OUTDATED, taker
    node.machine.close()


def test_cas_zero_fits_a_key_that_has_metadata_only(node):
    node.ok(c.KvMetadataPut(T0, "m1", "a", cas_required=True))
    assert node.reads.kv_key("m1", "a").current_version == 0
    assert reason(node.do(put("a", 1))) == Reason.CAS_REQUIRED
    node.ok(put("a", 1, cas=0))


def test_cas_zero_does_not_fit_a_key_whose_only_version_is_deleted(node):
    node.ok(put("a", 1))
    node.ok(c.KvDelete(T0, "m1", "a", ()))
    assert reason(node.do(put("a", 2, cas=0))) == Reason.CAS_MISMATCH


def test_a_mount_that_requires_cas_requires_it_of_every_key(node):
    node.ok(c.KvConfigPut(T0, "m1", cas_required=True))
    node.ok(c.KvMetadataPut(T0, "m1", "a", cas_required=False))
    assert reason(node.do(put("a", 1))) == Reason.CAS_REQUIRED


def test_ten_versions_are_kept_by_default_and_the_oldest_moves(node):
    write(node, "a", 9)
    assert (versions(node, "a"), node.reads.kv_key("m1", "a").oldest_version) == (list(range(1, 10)), 0)
    write(node, "a")
    assert (versions(node, "a"), node.reads.kv_key("m1", "a").oldest_version) == (list(range(1, 11)), 1)
    write(node, "a", 2)
    assert (versions(node, "a"), node.reads.kv_key("m1", "a").oldest_version) == (list(range(3, 13)), 3)
    assert node.reads.kv_version("m1", "a", 2) is None


def test_lowering_max_versions_prunes_at_the_next_write(node):
    write(node, "a", 8)
    node.ok(c.KvMetadataPut(T0, "m1", "a", max_versions=2))
    assert versions(node, "a") == list(range(1, 9))
    write(node, "a")
    assert versions(node, "a") == [8, 9]


def test_the_larger_of_the_mounts_and_the_keys_max_versions_counts(node):
    node.ok(c.KvConfigPut(T0, "m1", max_versions=3))
    node.ok(c.KvMetadataPut(T0, "m1", "a", max_versions=5))
    node.ok(c.KvMetadataPut(T0, "m1", "b", max_versions=1))
    write(node, "a", 9)
    write(node, "b", 9)
    assert (versions(node, "a"), versions(node, "b")) == ([5, 6, 7, 8, 9], [7, 8, 9])


@pytest.mark.parametrize(
    ("at_mount", "at_key", "expected"),
    [
        (0, 0, 0),
        (MINUTE, 0, MINUTE),
        (0, MINUTE, MINUTE),
        (MINUTE, 5, 5),
        (5, MINUTE, 5),
        (-SECOND, 5, 0),
    ],
)
def test_the_shorter_lifetime_counts_and_a_mount_may_switch_it_off(node, at_mount, at_key, expected):
    node.ok(c.KvConfigPut(T0, "m1", delete_version_after_ns=at_mount))
    node.ok(c.KvMetadataPut(T0, "m1", "a", delete_version_after_ns=at_key))
    assert node.ok(put("a", 1))["deletion_ns"] == (T0 + expected if expected else 0)


def test_delete_marks_undelete_clears_and_the_value_stays(node):
    write(node, "a", 3)
    node.ok(c.KvDelete(T0 + 1, "m1", "a", ()))
    node.ok(c.KvDelete(T0 + 2, "m1", "a", (1, 3, 99)))
    assert [v.deletion_ns for v in node.reads.kv_versions("m1", "a")] == [T0 + 2, 0, T0 + 1]
    node.ok(c.KvUndelete(T0 + 3, "m1", "a", (3, 98)))
    current = node.reads.kv_version("m1", "a")
    assert (current.version, current.deletion_ns, current.value) == (3, 0, put("a", 3).value)


def test_a_version_that_would_expire_later_can_be_deleted_now_and_kept_by_undelete(node):
    node.ok(c.KvConfigPut(T0, "m1", delete_version_after_ns=MINUTE))
    node.ok(put("a", 1))
    node.ok(c.KvDelete(T0 + 7, "m1", "a", (1,)))
    assert node.reads.kv_version("m1", "a").deletion_ns == T0 + 7
    node.ok(c.KvUndelete(T0 + 8, "m1", "a", (1,)))
    assert node.reads.kv_version("m1", "a").deletion_ns == 0


def test_destroy_is_for_ever(node):
    write(node, "a", 2)
    node.ok(c.KvDestroy(T0, "m1", "a", (2, 5)))
    node.ok(c.KvUndelete(T0, "m1", "a", (2,)))
    gone = node.reads.kv_version("m1", "a")
    assert (gone.version, gone.destroyed, gone.value) == (2, True, None)
    assert node.reads.kv_version("m1", "a", 1).value is not None
    node.ok(c.KvDelete(T0 + 1, "m1", "a", (2,)))
    assert node.reads.kv_version("m1", "a").deletion_ns == 0
    node.ok(put("a", 3))


def test_metadata_is_replaced_or_patched(node):
    assert reason(node.do(c.KvMetadataPut(T0, "m1", "a", patch=True))) == Reason.NO_SUCH_KEY
    node.ok(c.KvMetadataPut(T0, "m1", "a", max_versions=7, custom_metadata={"a": "1", "b": "2"}))
    node.ok(c.KvMetadataPut(T0, "m1", "a", custom_metadata={"b": None, "c": "3"}, patch=True))
    key = node.reads.kv_key("m1", "a")
    assert (key.custom_metadata, key.max_versions) == ({"a": "1", "c": "3"}, 7)
    node.ok(c.KvMetadataPut(T0, "m1", "a", custom_metadata={"d": "4"}))
    assert node.reads.kv_key("m1", "a").custom_metadata == {"d": "4"}
    node.ok(c.KvMetadataPut(T0, "m1", "a", custom_metadata={}))
    assert node.reads.kv_key("m1", "a").custom_metadata is None


def test_a_key_whose_metadata_was_deleted_starts_over(node):
    write(node, "a", 3)
    node.ok(c.KvMetadataDelete(T0, "m1", "a"))
    assert (node.reads.kv_key("m1", "a"), versions(node, "a")) == (None, [])
    node.ok(put("a", 1, cas=0))


def test_nothing_is_written_under_a_mount_that_is_gone(node):
    node.ok(c.MountRemove(T0, "kv/"))
    for command in (put("a", 1), c.KvMetadataPut(T0, "m1", "a"), c.KvConfigPut(T0, "m1", max_versions=1)):
        assert reason(node.do(command)) == Reason.NO_SUCH_MOUNT
    for kind in (c.KvDelete, c.KvUndelete, c.KvDestroy):
        assert node.ok(kind(T0, "m1", "a", (1,))) == {}
    assert node.ok(c.KvMetadataDelete(T0, "m1", "a")) == {}


PATHS = st.sampled_from(["a", "b/c"])
NUMBERS = st.lists(st.integers(0, 14), max_size=4).map(tuple)
MAYBE_SMALL = st.one_of(st.none(), st.integers(0, 4))
MAYBE_BOOL = st.one_of(st.none(), st.booleans())
LIFETIMES = st.sampled_from([None, 0, 2, 50])
CUSTOM = st.one_of(
    st.none(), st.dictionaries(st.sampled_from("xyz"), st.one_of(st.none(), st.text(max_size=2)))
)


class KvAgainstModel(RuleBasedStateMachine):
    """Random commands on one mount, with the clock going on; every read agrees with the model after each."""

    @initialize()
    def start(self):
        self.node, self.model, self.now = Node(), KvModel(), T0
        self.node.ok(mount())

    def teardown(self):
        if hasattr(self, "node"):
            self.node.machine.close()

    def apply(self, command, expected=None):
        self.now += 1
        assert reason(self.node.do(command)) == expected

    @rule(path=PATHS, skew=st.sampled_from([1, 1, 1, 1, 0, 2]), cas=st.sampled_from([None, None, 0, 1, 3]))
    def put(self, path, skew, cas):
        version = (self.model.keys[path].current if path in self.model.keys else 0) + skew
        expected = self.model.put(path, version, cas, f"{path} {version}", self.now)
        self.apply(put(path, version, cas=cas, time_ns=self.now), expected)

    @rule(path=PATHS, times=st.integers(1, 12))
    def put_many(self, path, times):
        for _ in range(times):
            current = self.model.keys[path].current if path in self.model.keys else 0
            expected = self.model.put(path, current + 1, current, f"{path} {current + 1}", self.now)
            self.apply(put(path, current + 1, cas=current, time_ns=self.now), expected)

    @rule(path=PATHS, numbers=NUMBERS)
    def delete(self, path, numbers):
        self.model.delete(path, numbers, self.now)
        self.apply(c.KvDelete(self.now, "m1", path, numbers))

    @rule(path=PATHS, numbers=NUMBERS)
    def undelete(self, path, numbers):
        self.model.undelete(path, numbers)
        self.apply(c.KvUndelete(self.now, "m1", path, numbers))

    @rule(path=PATHS, numbers=NUMBERS)
    def destroy(self, path, numbers):
        self.model.destroy(path, numbers)
        self.apply(c.KvDestroy(self.now, "m1", path, numbers))

    @rule(
        path=PATHS, most=MAYBE_SMALL, cas=MAYBE_BOOL, lifetime=LIFETIMES, custom=CUSTOM, patch=st.booleans()
    )
    def metadata(self, path, most, cas, lifetime, custom, patch):
        expected = self.model.metadata(path, most, cas, lifetime, custom, patch, self.now)
        self.apply(c.KvMetadataPut(self.now, "m1", path, most, cas, lifetime, custom, patch), expected)

    @rule(path=PATHS)
    def forget(self, path):
        self.model.forget(path)
        self.apply(c.KvMetadataDelete(self.now, "m1", path))

    @rule(most=MAYBE_SMALL, cas=MAYBE_BOOL, lifetime=st.sampled_from([None, 0, 3, 60, -SECOND]))
    def config(self, most, cas, lifetime):
        self.model.config(most, cas, lifetime)
        self.apply(c.KvConfigPut(self.now, "m1", most, cas, lifetime))

    @invariant()
    def agree(self):
        reads = self.node.reads
        config = reads.kv_config("m1")
        assert (config.max_versions, config.cas_required, config.delete_version_after_ns) == (
            self.model.max_versions,
            self.model.cas_required,
            self.model.lifetime,
        )
        assert reads.kv_scan("m1", "") == sorted(self.model.keys)
        for path, key in self.model.keys.items():
            self.agree_on(path, key)

    def agree_on(self, path, key):
        row = self.node.reads.kv_key("m1", path)
        assert (row.current_version, row.oldest_version, row.created_ns, row.updated_ns) == (
            key.current,
            key.oldest,
            key.created,
            key.updated,
        )
        assert (row.max_versions, row.cas_required, row.delete_version_after_ns, row.custom_metadata) == (
            key.max_versions,
            key.cas_required,
            key.lifetime,
            key.custom or None,
        )
        rows = self.node.reads.kv_versions("m1", path)
        assert [(v.version, v.created_ns, v.deletion_ns, v.destroyed) for v in rows] == [
            (number, v.created, v.deletion, v.destroyed) for number, v in sorted(key.versions.items())
        ]
        for number, version in key.versions.items():
            found = self.node.reads.kv_version("m1", path, number).value
            assert (found and found.ciphertext.decode()) == (version.value and f"ciphertext {version.value}")


TestKvAgainstModel = KvAgainstModel.TestCase
TestKvAgainstModel.settings = settings(max_examples=60, stateful_step_count=40)
