"""Mounts, policies, the cluster's own rows and join tickets."""

import pytest
from support.state import MINUTE, T0, Node, mount, put, sealed

from storage import command as c
from storage.outcome import Reason, Rejected


@pytest.fixture
def node():
    node = Node()
    yield node
    node.machine.close()


def refused(outcome) -> str:
    assert isinstance(outcome, Rejected)
    return outcome.reason


@pytest.mark.parametrize("path", ["team/kv/", "team/", "team/kv/deep/"])
def test_mounts_never_contain_one_another(node, path):
    node.ok(mount("team/kv/", "m1"))
    assert refused(node.do(mount(path, "m2"))) == Reason.PATH_IN_USE


@pytest.mark.parametrize("path", ["team/kv2/", "team-b/", "t/", "team/k/"])
def test_neighbours_are_no_conflict(node, path):
    node.ok(mount("team/kv/", "m1"))
    node.ok(mount(path, "m2"))


def test_a_mount_id_is_never_used_twice(node):
    node.ok(mount("a/", "m1"))
    assert refused(node.do(mount("b/", "m1"))) == Reason.PATH_IN_USE


def test_the_mount_of_a_path(node):
    for number, path in enumerate(["kv/", "kv-b/", "team/kv/", "zz/"]):
        node.ok(mount(path, f"m{number}"))
    found = {
        path: (entry.path if (entry := node.reads.mount_for(path)) else None)
        for path in [
            "kv/data/x",
            "kv/",
            "kv",
            "kv-b/x",
            "kv-a/x",
            "kvx/y",
            "team/kv/a/b",
            "team/",
            "team",
            "zzz",
            "a",
        ]
    }
    assert found == {
        "kv/data/x": "kv/",
        "kv/": "kv/",
        "kv": "kv/",
        "kv-b/x": "kv-b/",
        "kv-a/x": None,
        "kvx/y": None,
        "team/kv/a/b": "team/kv/",
        "team/": None,
        "team": None,
        "zzz": None,
        "a": None,
    }


def test_tune_changes_only_what_is_given(node):
    node.ok(mount())
    node.ok(c.MountTune(T0, "kv/", description="new"))
    node.ok(c.MountTune(T0, "kv/", max_lease_ttl_ns=9))
    (entry,) = node.reads.mounts()
    assert (entry.description, entry.default_lease_ttl_ns, entry.max_lease_ttl_ns) == ("new", 0, 9)
    assert refused(node.do(c.MountTune(T0, "no/"))) == Reason.NO_SUCH_MOUNT


def test_a_move_keeps_the_data_under_the_same_id(node):
    node.ok(mount("a/", "m1"))
    node.ok(mount("b/", "m2"))
    node.ok(put("x", 1))
    for target in ("b/", "b/in/", "a/"):
        assert refused(node.do(c.MountMove(T0, "a/", target))) == Reason.PATH_IN_USE
    assert refused(node.do(c.MountMove(T0, "no/", "c/"))) == Reason.NO_SUCH_MOUNT
    node.ok(c.MountMove(T0, "a/", "c/"))
    assert node.reads.mount_for("a/x") is None
    assert node.reads.mount_for("c/x").mount_id == "m1"
    assert node.reads.kv_version("m1", "x") is not None
    node.ok(c.MountMove(T0, "c/", "c/deeper/"))


def test_removing_a_mount_removes_everything_in_it_and_nothing_else(node):
    node.ok(mount("a/", "m1"))
    node.ok(mount("b/", "m2"))
    for mount_id in ("m1", "m2"):
        node.ok(put("x/y", 1, mount_id=mount_id))
        node.ok(c.KvConfigPut(T0, mount_id, max_versions=3))
    node.ok(c.MountRemove(T0, "a/"))
    node.ok(c.MountRemove(T0, "a/"))
    count = node.machine._db.one("SELECT (SELECT count(*) FROM kv_keys), (SELECT count(*) FROM kv_versions)")
    assert count == (1, 1)
    assert node.reads.kv_version("m1", "x/y") is None
    assert node.reads.kv_version("m2", "x/y") is not None
    node.ok(mount("a/", "m3"))
    assert node.reads.kv_config("m3").max_versions == 0


def test_policies(node):
    node.ok(c.PolicyPut(T0, "b", "one"))
    node.ok(c.PolicyPut(T0, "a", "two"))
    node.ok(c.PolicyPut(T0, "b", "three"))
    assert (node.reads.policies(), node.reads.policy("b"), node.reads.policy("x")) == (
        ["a", "b"],
        "three",
        None,
    )
    node.ok(c.PolicyDelete(T0, "b"))
    node.ok(c.PolicyDelete(T0, "b"))
    assert node.reads.policies() == ["a"]


def test_a_store_is_initialised_once(node):
    assert node.reads.cluster() is None
    node.ok(c.ClusterInit(T0, "id", "name"))
    assert refused(node.do(c.ClusterInit(T0, "other", "name"))) == Reason.ALREADY_INITIALIZED
    assert node.reads.cluster() == ("id", "name")


def test_a_key_term_is_never_replaced(node):
    node.ok(c.KeyTermAdd(T0, 1, b"one"))
    assert refused(node.do(c.KeyTermAdd(T0, 1, b"other"))) == Reason.TERM_EXISTS
    node.ok(c.KeyTermAdd(T0 + 1, 2, b"two"))
    assert [(term.term, term.wrapped_key) for term in node.reads.key_terms()] == [(1, b"one"), (2, b"two")]


def test_nodes_and_system_secrets(node):
    node.ok(c.NodePut(T0, "n1", "eu", "https://a", "a:1"))
    node.ok(c.NodePut(T0, "n1", "us", "https://b", "b:1"))
    (entry,) = node.reads.nodes()
    assert (entry.region, entry.api_address, entry.cluster_address) == ("us", "https://b", "b:1")
    node.ok(c.NodeRemove(T0, "n1"))
    assert node.reads.nodes() == []
    node.ok(c.SystemSecretPut(T0, "ca", sealed("one")))
    node.ok(c.SystemSecretPut(T0, "ca", sealed("two")))
    assert (node.reads.system_secret("ca"), node.reads.system_secret("x")) == (sealed("two"), None)


def test_a_join_ticket_admits_one_node_until_it_expires(node):
    take = c.JoinTokenTake(T0, b"d", "n1")
    assert refused(node.do(take)) == Reason.TOKEN_INVALID
    node.ok(c.JoinTokenPut(T0, b"d", T0 + MINUTE))
    node.ok(take)
    node.ok(take)  # the answer was lost
    assert refused(node.do(c.JoinTokenTake(T0, b"d", "n2"))) == Reason.TOKEN_INVALID
    assert refused(node.do(c.JoinTokenTake(T0 + MINUTE, b"d", "n1"))) == Reason.TOKEN_INVALID


def test_a_taken_ticket_does_not_become_free_by_issuing_it_again(node):
    node.ok(c.JoinTokenPut(T0, b"d", T0 + MINUTE))
    node.ok(c.JoinTokenTake(T0, b"d", "n1"))
    node.ok(c.JoinTokenPut(T0, b"d", T0 + MINUTE))
    assert refused(node.do(c.JoinTokenTake(T0, b"d", "n2"))) == Reason.TOKEN_INVALID


def test_expired_tickets_are_cleared_away(node):
    node.ok(c.JoinTokenPut(T0, b"d", T0 + 1))
    node.ok(c.JoinTokenPut(T0 + 2, b"e", T0 + MINUTE))
    assert node.machine._db.all("SELECT digest FROM join_tokens") == [(b"e",)]
