"""The client library with a real cluster: nodes die and come back, tokens end; nothing is lost or done twice."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hvac
import pytest
from strongroom import (
    LINEARIZABLE,
    STALE_OK,
    AppRole,
    AsyncClient,
    Cache,
    CasMismatch,
    Client,
    Consistency,
    Deleted,
    Forbidden,
    NotFound,
    Token,
    UserPass,
)
from support.patience import PATIENCE_S
from support.processes import poll
from support.regions import two_regions
from support.targets import unique

from node.cli.local_cluster import LocalCluster

POLICY = 'path "{mount}/*" {{ capabilities = ["create", "read", "update", "patch", "delete", "list"] }}'


def nodes(cluster: LocalCluster) -> list[str]:
    return [node.api_address for node in cluster.nodes]


@pytest.fixture
def library(cluster: LocalCluster) -> Iterator[Client]:
    """As root, with all nodes."""
    with Client(nodes(cluster), Token(cluster.token), ca_file=cluster.ca_path) as made:
        yield made


def test_a_secret_lives_its_life(library: Client, mount: str) -> None:
    kv = library.kv_v2(mount)
    assert kv.put("team/app", {"user": "ann", "n": 1.5, "deep": {"l": [1, None]}}, cas=0).version == 1
    secret = kv.get("team/app")
    assert secret.data.reveal() == {"user": "ann", "n": 1.5, "deep": {"l": [1, None]}}
    with pytest.raises(CasMismatch):
        kv.put("team/app", {}, cas=0)
    assert kv.patch("team/app", {"user": "bob", "n": None}, cas=1).version == 2
    assert kv.get("team/app").data.reveal() == {"user": "bob", "deep": {"l": [1, None]}}
    assert kv.get("team/app", version=1)["user"].reveal() == "ann"
    assert (kv.list(), kv.list("team"), kv.list("none")) == (["team/"], ["app"], [])
    kv.delete("team/app")
    with pytest.raises(Deleted) as caught:
        kv.get("team/app")
    assert caught.value.metadata["version"] == 2
    kv.undelete("team/app", [2])
    kv.put_metadata("team/app", max_versions=5, custom_metadata={"owner": "me"})
    kv.destroy("team/app", [1])
    metadata = kv.metadata("team/app")
    assert (metadata.current_version, metadata.max_versions, metadata.custom_metadata) == (
        2,
        5,
        {"owner": "me"},
    )
    assert {number: each.destroyed for number, each in metadata.versions.items()} == {1: True, 2: False}
    kv.delete_metadata("team/app")
    with pytest.raises(NotFound):
        kv.metadata("team/app")


def test_version_1_too(library: Client) -> None:
    mount = unique("kv")
    library.write(f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    kv = library.kv_v1(mount)
    kv.put("a/b", {"x": "y"})
    assert kv.get("a/b")["x"].reveal() == "y"
    assert kv.list("a") == ["b"]
    kv.delete("a/b")
    with pytest.raises(NotFound):
        kv.get("a/b")


@pytest.mark.parametrize("wanted", [LINEARIZABLE, STALE_OK, Consistency.max_staleness(5)])
def test_a_read_says_what_it_may_see(library: Client, mount: str, wanted: Consistency) -> None:
    kv = library.kv_v2(mount)
    kv.put("app", {"v": "1"})
    assert kv.get("app", consistency=LINEARIZABLE)["v"].reveal() == "1"
    poll(lambda: kv.list(consistency=wanted) == ["app"], what="the secret in what may be old")


def test_writers_outlive_the_death_of_the_leader_and_write_each_value_once(
    cluster: LocalCluster, library: Client, mount: str
) -> None:
    """Every write that was acknowledged is there; the versions count every write once."""
    kv, stop, acknowledged = library.kv_v2(mount), threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            acknowledged.append((kv.put("counted", {"n": number}).version, number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        poll(lambda: len(acknowledged) > 5, what="writes before the kill")
        leader = cluster.wait_leader()
        cluster.kill(leader)
        before = len(acknowledged)
        poll(lambda: len(acknowledged) > before + 20, what="writes after the kill")
    finally:
        stop.set()
        writer.join(PATIENCE_S)
    assert [version for version, _ in acknowledged] == list(range(1, len(acknowledged) + 1)), (
        "none twice, none lost"
    )
    assert kv.get("counted")["n"].reveal() == acknowledged[-1][1]


def test_a_node_that_stops_is_left_and_found_again(
    cluster: LocalCluster, library: Client, mount: str
) -> None:
    kv = library.kv_v2(mount)
    kv.put("app", {"v": "1"})
    left = library.endpoint
    used = next(node for node in cluster.nodes if node.api_address == left)
    cluster.stop(used.id)
    assert kv.get("app")["v"].reveal() == "1"
    assert library.endpoint != left
    cluster.start_all()
    cluster.wait_caught_up(used.id)
    with Client([left or ""], Token(cluster.token), ca_file=cluster.ca_path) as only:
        assert only.kv_v2(mount).get("app")["v"].reveal() == "1"


@pytest.fixture
def policy(client: hvac.Client, mount: str) -> str:
    """A policy for the mount."""
    name = unique("p")
    client.sys.create_or_update_policy(name, POLICY.format(mount=mount))
    return name


def _userpass(client: hvac.Client, policy: str) -> UserPass:
    path = unique("userpass")
    client.sys.enable_auth_method("userpass", path=path)
    body = {"password": "pw", "token_policies": [policy], "token_ttl": "3s"}
    client.adapter.post(f"/v1/auth/{path}/users/ann", json=body)
    return UserPass("ann", "pw", mount=path)


def _approle(client: hvac.Client, policy: str) -> AppRole:
    path = unique("approle")
    client.sys.enable_auth_method("approle", path=path)
    body = {"token_policies": [policy], "token_ttl": "3s", "token_max_ttl": "5s"}
    client.adapter.post(f"/v1/auth/{path}/role/web", json=body)
    role = client.adapter.get(f"/v1/auth/{path}/role/web/role-id")["data"]["role_id"]
    secret = client.adapter.post(f"/v1/auth/{path}/role/web/secret-id")["data"]["secret_id"]
    return AppRole(role, secret, mount=path)


@pytest.mark.parametrize("credentials", [_userpass, _approle], ids=["userpass", "approle"])
def test_a_client_outlives_its_tokens(
    cluster: LocalCluster, client: hvac.Client, mount: str, policy: str, credentials: object
) -> None:
    """Three seconds each; the role's cannot be renewed beyond five."""
    auth = credentials(client, policy)  # type: ignore[operator]
    with Client(nodes(cluster), auth, ca_file=cluster.ca_path) as made:
        kv = made.kv_v2(mount)
        end = time.monotonic() + 9
        while time.monotonic() < end:
            kv.put("app", {"v": "1"})
            time.sleep(0.1)
        with pytest.raises(Forbidden):
            made.read("sys/mounts")


def test_a_revoked_token_is_replaced_where_there_are_credentials(
    cluster: LocalCluster, client: hvac.Client, mount: str, policy: str
) -> None:
    auth = _userpass(client, policy)
    with Client(nodes(cluster), auth, ca_file=cluster.ca_path) as made:
        made.kv_v2(mount).put("app", {"v": "1"})
        client.adapter.put(f"/v1/sys/leases/revoke-prefix/auth/{auth.mount}")
        assert made.kv_v2(mount).get("app")["v"].reveal() == "1"
        made.log_out()
        with pytest.raises(Forbidden):
            made.kv_v2(mount).get("app")


def test_the_cache_carries_over_an_outage(cluster: LocalCluster, mount: str) -> None:
    cached = Cache(fresh_s=0, stale_s=120)
    with Client(
        nodes(cluster), Token(cluster.token), ca_file=cluster.ca_path, cache=cached, timeout_s=8
    ) as made:
        kv = made.kv_v2(mount)
        kv.put("app", {"v": "1"})
        assert kv.get("app").stale is False
        leader = cluster.wait_leader()
        for node in cluster.nodes:
            if node.id != leader:
                cluster.kill(node.id)
        cluster.pause(leader)
        try:
            old = kv.get("app")
            assert (old.stale, old["v"].reveal()) == (True, "1")
        finally:
            cluster.resume(leader)


async def test_many_tasks_share_one_client(cluster: LocalCluster, mount: str) -> None:
    async with AsyncClient(nodes(cluster), Token(cluster.token), ca_file=cluster.ca_path) as made:
        kv = made.kv_v2(mount)
        infos = await asyncio.gather(*(kv.put(f"many/{i}", {"i": i}) for i in range(40)))
        assert {info.version for info in infos} == {1}
        secrets = await asyncio.gather(*(kv.get(f"many/{i}") for i in range(40)))
        assert [secret["i"].reveal() for secret in secrets] == list(range(40))
        assert len(await kv.list("many")) == 40


def test_the_environment_says_where_and_who(
    cluster: LocalCluster, mount: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for prefix in ("STRONGROOM_", "VAULT_", "BAO_"):
        for name in ("ADDR", "TOKEN", "CACERT", "NAMESPACE"):
            monkeypatch.delenv(prefix + name, raising=False)
    monkeypatch.setenv("VAULT_ADDR", ",".join(nodes(cluster)))
    monkeypatch.setenv("VAULT_CACERT", str(cluster.ca_path))
    monkeypatch.setenv("STRONGROOM_TOKEN", cluster.token)
    with Client.from_environment() as made:
        assert made.kv_v2(mount).list() == []


def test_a_client_that_was_told_of_one_region_goes_on_in_the_other(tmp_path: Path) -> None:
    """It reads there at once, and writes when the region has taken over; what it wrote before is there."""
    with two_regions(tmp_path) as (eu, us, token):
        bundle = tmp_path / "authorities.pem"
        bundle.write_bytes(b"".join(region.server.ca.read_bytes() for region in (eu, us) if region.server.ca))
        start = eu.server.address
        with Client(start, Token(token), ca_file=bundle, discover=True, timeout_s=60) as made:
            assert made.kv.put("app", {"v": "1"}).version == 1
            us.wait_level(token, eu.regions(token)["position"])
            eu.server.kill()
            assert made.kv.get("app", consistency=STALE_OK)["v"].reveal() == "1"
            assert made.endpoint == us.server.address
            us.must(token, "POST", "sys/regions/promote", {"accept_loss": True})
            assert made.kv.put("app", {"v": "2"}).version == 2
