"""Narrow policies, asked through every node: what is not granted is refused."""

from collections.abc import Callable

import pytest
from support.targets import unique

from node.cli.local_cluster import LocalCluster

Mint = Callable[[str], str]


@pytest.fixture
def mint(cluster: LocalCluster) -> Mint:
    """Makes a token with exactly one policy."""

    def made(policy: str) -> str:
        name = unique("policy")
        cluster.must("n1", "POST", f"sys/policies/acl/{name}", {"policy": policy})
        body = {"policies": [name], "no_default_policy": True}
        return str(cluster.must("n1", "POST", "auth/token/create", body)["auth"]["client_token"])

    return made


def rule(path: str, *capabilities: str) -> str:
    return (
        f'path "{path}" {{ capabilities = [{", ".join(f"{each!r}" for each in capabilities)}] }}\n'.replace(
            "'", '"'
        )
    )


def everywhere(cluster: LocalCluster, token: str, method: str, path: str, body: object = None) -> set[int]:
    """The status codes that the nodes answer with."""
    return {cluster.request(node.id, method, path, body, token=token)[0] for node in cluster.nodes}


def test_reading_is_not_listing_and_not_writing(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    cluster.must("n1", "POST", f"{mount}/data/app/a", {"data": {"v": 1}})
    reader = mint(rule(f"{mount}/data/app/*", "read"))
    lister = mint(rule(f"{mount}/metadata/app/*", "list"))
    assert everywhere(cluster, reader, "GET", f"{mount}/data/app/a") == {200}
    assert everywhere(cluster, reader, "LIST", f"{mount}/metadata/app") == {403}
    assert everywhere(cluster, reader, "POST", f"{mount}/data/app/a", {"data": {}}) == {403}
    assert everywhere(cluster, reader, "DELETE", f"{mount}/data/app/a") == {403}
    assert everywhere(cluster, reader, "GET", f"{mount}/data/other") == {403}
    assert everywhere(cluster, reader, "GET", f"{mount}/metadata/app/a") == {403}
    assert everywhere(cluster, lister, "LIST", f"{mount}/metadata/app") == {200}
    assert everywhere(cluster, lister, "GET", f"{mount}/metadata/app/a") == {403}
    assert everywhere(cluster, lister, "GET", f"{mount}/data/app/a") == {403}


def test_creating_is_not_updating(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    creator, updater = mint(rule(f"{mount}/data/*", "create")), mint(rule(f"{mount}/data/*", "update"))
    for node in cluster.nodes:
        path = f"{mount}/data/{node.id}"
        assert cluster.request(node.id, "POST", path, {"data": {}}, token=updater)[0] == 403
        assert cluster.request(node.id, "POST", path, {"data": {}}, token=creator)[0] == 200
        assert everywhere(cluster, creator, "POST", path, {"data": {}}) == {403}
        assert everywhere(cluster, updater, "POST", path, {"data": {}}) == {200}


def test_patching_needs_the_patch_capability(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    path, merge = f"{mount}/data/app", {"Content-Type": "application/merge-patch+json"}
    cluster.must("n1", "POST", path, {"data": {"a": 1}})
    for capability, expected in (("update", 403), ("patch", 200)):
        token = mint(rule(path, capability))
        body = {"data": {"b": 2}}
        codes = {
            cluster.request(n.id, "PATCH", path, body, token=token, headers=merge)[0] for n in cluster.nodes
        }
        assert codes == {expected}


def test_deny_wins_over_everything_as_specific(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    for name in ("open", "closed/x"):
        cluster.must("n1", "POST", f"{mount}/data/{name}", {"data": {"v": 1}})
    token = mint(rule(f"{mount}/data/*", "read") + rule(f"{mount}/data/closed/*", "deny", "read"))
    assert everywhere(cluster, token, "GET", f"{mount}/data/open") == {200}
    assert everywhere(cluster, token, "GET", f"{mount}/data/closed/x") == {403}


def test_a_plus_stands_for_one_segment(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    for name in ("team/a/db", "team/a/b/db"):
        cluster.must("n1", "POST", f"{mount}/data/{name}", {"data": {"v": 1}})
    token = mint(rule(f"{mount}/data/team/+/db", "read"))
    assert everywhere(cluster, token, "GET", f"{mount}/data/team/a/db") == {200}
    assert everywhere(cluster, token, "GET", f"{mount}/data/team/a/b/db") == {403}


def test_a_path_cannot_be_dressed_up_as_another(cluster: LocalCluster, mint: Mint, mount: str) -> None:
    """Dots, doubled slashes and escapes never reach what the plain path may not."""
    cluster.must("n1", "POST", f"{mount}/data/secret", {"data": {"v": 1}})
    token = mint(rule(f"{mount}/data/open/*", "read"))
    for trick in (
        "open/../secret",
        "open/%2e%2e/secret",
        "open//../secret",
        "open%2f..%2fsecret",
        "./secret",
    ):
        assert everywhere(cluster, token, "GET", f"{mount}/data/{trick}") <= {307, 400, 403, 404}, trick


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("LIST", "auth/token/accessors", None),
        ("PUT", "sys/seal", None),
        ("PUT", "sys/step-down", None),
        ("POST", "auth/token/revoke-orphan", {"token": "nosuch"}),
        ("POST", "sys/cluster/join-token", {}),
    ],
)
def test_dangerous_paths_need_sudo(
    cluster: LocalCluster, mint: Mint, method: str, path: str, body: object
) -> None:
    """Everything but sudo is not enough."""
    token = mint(rule(f"{path}*", "create", "read", "update", "delete", "list"))
    assert everywhere(cluster, token, method, path, body) == {403}


def test_sudo_opens_them(cluster: LocalCluster, mint: Mint) -> None:
    lister = mint(rule("auth/token/accessors/", "list", "sudo"))
    assert everywhere(cluster, lister, "LIST", "auth/token/accessors") == {200}
    admitter = mint(rule("sys/cluster/join-token", "update", "sudo"))
    assert everywhere(cluster, admitter, "POST", "sys/cluster/join-token", {}) == {200}


def test_a_stranger_learns_nothing(cluster: LocalCluster, mount: str) -> None:
    """No token, a wrong one, and a token without rights look alike for what is there and what is not."""
    cluster.must("n1", "POST", f"{mount}/data/app", {"data": {"v": 1}})
    weak = str(
        cluster.must("n1", "POST", "auth/token/create", {"policies": ["default"]})["auth"]["client_token"]
    )
    for path in (f"{mount}/data/app", f"{mount}/data/none", "nomount/x", "sys/mounts", "sys/nosuch"):
        for token in ("", "s.wrong", weak):
            assert everywhere(cluster, token, "GET", path) == {403}, (path, token == weak)
    shown = {
        str(cluster.request(n.id, "GET", f"sys/internal/ui/mounts/{p}", token=weak)[1]["errors"]).replace(
            p, "P"
        )
        for n in cluster.nodes
        for p in (mount, "nomount")
    }
    assert len(shown) == 1, "a mount that may not be seen looks like none"


def test_narrow_tokens_pass_the_look_up_that_clients_make_first(
    cluster: LocalCluster, mint: Mint, mount: str
) -> None:
    token = mint(rule(f"{mount}/data/app", "read"))
    assert everywhere(cluster, token, "GET", f"sys/internal/ui/mounts/{mount}/app") == {200}
    assert everywhere(cluster, token, "GET", "sys/internal/ui/mounts/secret/app") == {403}
