"""The store as a file, with the real client: saved anywhere, restored everywhere; what is refused changes nothing."""

import base64
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certs import Authority
from support.clusters import open_cluster
from support.ports import free_ports
from support.processes import Server, configuration, poll
from support.targets import Bao, Target, bao_of

from node.cli.http_connection import tls_context
from node.cli.local_cluster import LocalCluster

STALE = {"X-Strongroom-Consistency": "stale-ok"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster for this file alone: restoring is not something that others can share."""
    with open_cluster(tmp_path_factory.mktemp("snapshots") / "cluster") as cluster:
        cluster.must("n1", "POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield cluster


def put(cluster: LocalCluster, node_id: str, path: str, value: str) -> None:
    cluster.must(node_id, "POST", f"kv/data/{path}", {"data": {"v": value}})


def value(cluster: LocalCluster, node_id: str, path: str) -> str | None:
    status, answer, _ = cluster.request(node_id, "GET", f"kv/data/{path}")
    assert status in (200, 404), answer
    return str(answer["data"]["data"]["v"]) if status == 200 else None


def follower(cluster: LocalCluster) -> str:
    leader = cluster.wait_leader()
    return next(node.id for node in cluster.nodes if node.id != leader)


def send(address: str, ca: Path, token: str, body: bytes, *, force: bool = False) -> tuple[int, str]:
    """POST bytes as a snapshot."""
    url = f"{address}/v1/sys/storage/raft/snapshot{'-force' if force else ''}"
    request = urllib.request.Request(url, data=body, method="POST", headers={"X-Vault-Token": token})
    try:
        with urllib.request.urlopen(request, context=tls_context(ca_cert=ca), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_snapshot_is_restored_on_every_node_whichever_is_asked(own: LocalCluster, tmp_path: Path) -> None:
    put(own, "n1", "kept", "before")
    put(own, "n1", "changed", "before")
    saver, leader = bao_of(own, follower(own), tmp_path), own.wait_leader()
    saver.ok("operator", "raft", "snapshot", "save", "s.snap")
    put(own, "n2", "changed", "after")
    put(own, "n3", "made", "after")
    for asked in (follower(own), leader):
        bao_of(own, asked, tmp_path).ok("operator", "raft", "snapshot", "restore", "s.snap")
        for node in own.nodes:
            assert value(own, node.id, "kept") == "before"
            assert value(own, node.id, "changed") == "before"
            assert value(own, node.id, "made") is None
        put(own, follower(own), "made", "again")
        assert value(own, own.wait_leader(), "made") == "again"
    members = {node["node_id"] for node in own.must("n1", "GET", "sys/cluster/nodes")["data"]["nodes"]}
    assert members == {"n1", "n2", "n3"}


def test_the_restored_state_survives_the_loss_of_any_node_and_a_restart_of_all(
    own: LocalCluster, tmp_path: Path
) -> None:
    put(own, "n1", "a", "old")
    bao = bao_of(own, own.wait_leader(), tmp_path)
    bao.ok("operator", "raft", "snapshot", "save", "s.snap")
    put(own, "n1", "a", "new")
    away = follower(own)
    own.kill(away)
    bao_of(own, own.wait_leader(), tmp_path).ok("operator", "raft", "snapshot", "restore", "s.snap")
    own.start(away)
    own.wait_caught_up(away)
    assert value(own, away, "a") == "old"
    for node in own.nodes:
        own.kill(node.id)
    own.start_all()
    for node in own.nodes:
        own.wait_caught_up(node.id)
        assert value(own, node.id, "a") == "old"
    put(own, away, "a", "newer")
    assert value(own, own.wait_leader(), "a") == "newer"


def saved(own: LocalCluster, tmp_path: Path) -> bytes:
    bao_of(own, "n1", tmp_path).ok("operator", "raft", "snapshot", "save", "good.snap")
    return (tmp_path / "good.snap").read_bytes()


def test_a_snapshot_is_ciphertext_with_public_facts(own: LocalCluster, tmp_path: Path) -> None:
    put(own, "n1", "canary", "canary-in-a-snapshot")
    with tarfile.open(fileobj=io.BytesIO(saved(own, tmp_path)), mode="r:gz") as archive:
        parts = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert list(parts) == ["meta.json", "state.bin", "seal.json", "ca.pem", "SHA256SUMS", "SHA256SUMS.sealed"]
    meta = json.loads(parts["meta.json"])
    assert (meta["Version"], meta["Size"]) == (1, len(parts["state.bin"]))
    assert {server["ID"] for server in meta["Configuration"]["Servers"]} == {"n1", "n2", "n3"}
    for data in parts.values():
        for form in (b"canary", base64.b64encode(b"canary-in-a-snapshot")[:20], b"CREATE TABLE"):
            assert form not in data


def repacked(good: bytes, name: str, change: bytes | None) -> bytes:
    """The archive with one part replaced, or left out."""
    target = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(good), mode="r:gz") as archive,
        tarfile.open(fileobj=target, mode="w:gz") as made,
    ):
        for member in archive:
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == name:
                if change is None:
                    continue
                data = change
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return target.getvalue()


def test_what_is_not_a_whole_snapshot_of_this_store_changes_nothing(
    own: LocalCluster, tmp_path: Path
) -> None:
    put(own, "n1", "stays", "here")
    good = saved(own, tmp_path)
    put(own, "n1", "stays", "still here")
    middle = len(good) // 2
    flipped = bytearray(good)
    flipped[middle] ^= 1
    foreign = io.BytesIO()
    with tarfile.open(fileobj=foreign, mode="w:gz") as archive:
        evil = tarfile.TarInfo("../../evil")
        archive.addfile(evil, io.BytesIO())
    bad = {
        "nothing": b"",
        "no gzip": b"x" * 1000,
        "an empty gzip": gzip.compress(b""),
        "cut": good[:middle],
        "cut at the end": good[:-20],
        "a flipped bit": bytes(flipped),
        "a path out of the directory": foreign.getvalue(),
        "without its sealed sums": repacked(good, "SHA256SUMS.sealed", None),
        "another state": repacked(good, "state.bin", b"x" * 8192),
        "another description": repacked(good, "meta.json", b"{}"),
        "sums of somebody else": repacked(good, "SHA256SUMS.sealed", b"x" * 400),
        "a bomb": repacked(good, "state.bin", bytes(64 << 20)),
    }
    address, ca = own.node(follower(own)).api_address, own.ca_path
    for name, body in bad.items():
        for force in (False, True):
            status, text = send(address, ca, own.token, body, force=force)
            assert (name, force, status) == (name, force, 400), text
            assert json.loads(text)["errors"][0], name
    for node in own.nodes:
        assert value(own, node.id, "stays") == "still here"
        work = node.config_path.parent / "data" / "work"
        assert not work.exists() or list(work.iterdir()) == [], "half a snapshot is left behind"


def test_each_of_saving_and_restoring_takes_its_own_permission(own: LocalCluster, tmp_path: Path) -> None:
    """The policy that the field's documents give a backup job can save, and nothing else."""
    good = saved(own, tmp_path)
    policy = 'path "sys/storage/raft/snapshot" { capabilities = ["read"] }'
    own.must("n1", "PUT", "sys/policies/acl/backup", {"policy": policy})
    token = own.must("n1", "POST", "auth/token/create", {"policies": ["backup"]})["auth"]["client_token"]
    bao = Bao(Target(own.node("n1").api_address, token, tmp_path, ca=own.ca_path))
    bao.ok("operator", "raft", "snapshot", "save", "by-the-job.snap")
    address = own.node("n1").api_address
    for force in (False, True):
        assert send(address, own.ca_path, token, good, force=force)[0] == 403
        assert send(address, own.ca_path, "", good, force=force)[0] == 403
    assert own.request("n1", "GET", "sys/storage/raft/snapshot", token="")[0] == 403


# ---- another store's snapshot ----


@pytest.fixture
def fresh(own: LocalCluster, tmp_path: Path) -> Iterator[tuple[Server, str, Path]]:
    """A new store of one node, which has the other cluster's seal key; its root token; its CA."""
    api, raft = free_ports(2)
    directory = tmp_path / "fresh"
    config = configuration(
        directory, node_id="f1", api_port=api, cluster_port=raft, seal_key=own.directory / "seal.key"
    )
    ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(501)
        made = server.request("PUT", "sys/init", {}).body
        poll(lambda: server.health() == 200, what="an active node")
        yield server, made["root_token"], ca


def test_a_foreign_snapshot_is_refused_without_force_and_by_a_cluster_of_several(
    own: LocalCluster, fresh: tuple[Server, str, Path], tmp_path: Path
) -> None:
    server, token, ca = fresh
    theirs = Bao(Target(server.address, token, tmp_path, ca=ca))
    theirs.ok("operator", "raft", "snapshot", "save", "theirs.snap")
    ours = bao_of(own, own.wait_leader(), tmp_path)
    complaint = ours.refused("operator", "raft", "snapshot", "restore", "theirs.snap")
    assert "different set of unseal keys" in complaint
    complaint = ours.refused("operator", "raft", "snapshot", "restore", "-force", "theirs.snap")
    assert "takes the place of a store of one node" in complaint


def test_a_fresh_node_takes_over_a_store_and_others_join_it(
    own: LocalCluster, fresh: tuple[Server, str, Path], tmp_path: Path
) -> None:
    server, token, ca = fresh
    put(own, "n1", "moved", "with the store")
    bao_of(own, "n1", tmp_path).ok("operator", "raft", "snapshot", "save", "s.snap")
    there = Bao(Target(server.address, token, tmp_path, ca=ca))
    there.ok("operator", "raft", "snapshot", "restore", "-force", "s.snap")
    poll(lambda: server.health() == 200, what="an active node")

    def moved() -> str | None:
        answer = server.request("GET", "kv/data/moved", token=own.token)
        return str(answer.body["data"]["data"]["v"]) if answer.status == 200 else None

    assert moved() == "with the store"
    assert server.request("GET", "kv/data/moved", token=token).status == 403, "its own root token is gone"
    original = own.must(own.wait_leader(), "GET", "sys/health")
    told = server.request("GET", "sys/health").body
    assert (told["cluster_id"], told["cluster_name"]) == (original["cluster_id"], original["cluster_name"])
    peers = server.request("GET", "sys/storage/raft/configuration", token=own.token).body["data"]
    assert [peer["node_id"] for peer in peers["config"]["servers"]] == ["f1"]
    assert server.stop() == 0
    server.start()
    server.wait_health(200)
    assert moved() == "with the store"

    ticket = server.request("POST", "sys/cluster/join-token", {}, token=own.token).body["data"]["token"]
    api, raft = free_ports(2)
    directory = tmp_path / "second"
    config = configuration(
        directory, node_id="f2", api_port=api, cluster_port=raft, seal_key=own.directory / "seal.key"
    )
    second_ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=second_ca) as second:
        second.start()
        second.wait_health(501)
        joined = second.request("POST", "sys/storage/raft/join", {"join_token": ticket}, timeout=60.0)
        assert joined.status == 200, joined.body

        def there_too() -> bool:
            answer = second.request("GET", "kv/data/moved", token=own.token)
            return answer.status == 200 and answer.body["data"]["data"]["v"] == "with the store"

        poll(there_too, what="the store at the second node")


def test_a_seal_key_that_does_not_open_the_snapshot_is_found_before_anything_is_touched(
    own: LocalCluster, tmp_path: Path
) -> None:
    bao_of(own, "n1", tmp_path).ok("operator", "raft", "snapshot", "save", "s.snap")
    (tmp_path / "other.key").write_bytes(bytes(range(32)))
    (tmp_path / "other.key").chmod(0o600)
    api, raft = free_ports(2)
    directory = tmp_path / "other"
    config = configuration(
        directory, node_id="o1", api_port=api, cluster_port=raft, seal_key=tmp_path / "other.key"
    )
    ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(501)
        token = server.request("PUT", "sys/init", {}).body["root_token"]
        poll(lambda: server.health() == 200, what="an active node")
        bao = Bao(Target(server.address, token, tmp_path, ca=ca))
        complaint = bao.refused("operator", "raft", "snapshot", "restore", "-force", "s.snap")
        assert "seal key does not open the snapshot's seal" in complaint
        assert server.request("GET", "auth/token/lookup-self", token=token).status == 200


def test_people_open_a_restored_store_with_the_shares_of_its_snapshot(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    leaf = authority.issue("listener", ["localhost"])
    servers: list[tuple[Server, Bao, list[str], str]] = []

    def boot(name: str) -> tuple[Server, Bao, list[str], str]:
        api, raft = free_ports(2)
        directory = tmp_path / name
        config = configuration(
            directory, node_id=name, api_port=api, cluster_port=raft, tls_cert=leaf, tls_key=leaf
        )
        server = Server(directory, f"-config={config}", address=f"https://localhost:{api}", ca=authority.ca)
        server.start()
        server.wait_health(501)
        bao = Bao(Target(server.address, "", tmp_path, ca=authority.ca))
        made = bao.json("operator", "init", "-key-shares=3", "-key-threshold=2")
        for key in made["unseal_keys_b64"][:2]:
            bao.ok("operator", "unseal", key)
        poll(lambda: server.health() == 200, what="an active node")
        servers.append((server, bao, made["unseal_keys_b64"], made["root_token"]))
        return servers[-1]

    try:
        _, old, old_keys, old_root = boot("old")
        old.ok("secrets", "enable", "-path=kv", "kv-v2", token=old_root)
        old.ok("kv", "put", "kv/a", "v=1", token=old_root)
        old.ok("operator", "raft", "snapshot", "save", "s.snap", token=old_root)
        server, new, new_keys, new_root = boot("new")
        new.ok("operator", "raft", "snapshot", "restore", "-force", "s.snap", token=new_root)
        poll(lambda: server.health() == 503, what="a sealed node")
        assert new.json("operator", "unseal", new_keys[0])["sealed"]
        assert "400" in new.refused("operator", "unseal", new_keys[1]), "the shares of what was replaced"
        for key in old_keys[1:]:
            new.ok("operator", "unseal", key)
        poll(lambda: server.health() == 200, what="an active node")
        assert new.ok("kv", "get", "-field=v", "kv/a", token=old_root) == "1"
        assert server.stop() == 0
    finally:
        for each, *_ in servers:
            each.kill()


# ---- the command line ----


def strongroom(
    *arguments: str, env: dict[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node.cli", "operator", "raft", "snapshot", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | (env or {})
    return subprocess.run(
        command, env=environment, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_our_own_command_saves_inspects_verifies_and_restores(own: LocalCluster, tmp_path: Path) -> None:
    put(own, "n1", "cli", "saved")
    file, reach = tmp_path / "cli.snap", own.environment("n2")
    done = strongroom("save", str(file), env=reach)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cli.snap"]
    facts = json.loads(strongroom("inspect", "-format=json", str(file)).stdout)
    assert (facts["members"], facts["seal"]) == (["n1", "n2", "n3"], "static")
    config = str(own.node("n1").config_path)
    proof = json.loads(strongroom("verify", "-format=json", f"-config={config}", str(file)).stdout)
    assert proof["verified"] is True
    assert (proof["index"], proof["kv_keys"] > 0) == (facts["index"], True)
    put(own, "n1", "cli", "changed")
    done = strongroom("restore", str(file), env=reach)
    assert done.returncode == 0, done.stderr
    assert value(own, "n3", "cli") == "saved"


def test_what_does_not_verify_is_said_to_be_so(own: LocalCluster, tmp_path: Path) -> None:
    good = saved(own, tmp_path)
    config = f"-config={own.node('n1').config_path}"
    file = tmp_path / "bad.snap"
    for body, complaint in (
        (good[: len(good) // 2], "snapshot"),
        (repacked(good, "SHA256SUMS.sealed", b"x" * 400), "altered"),
        (b"", "incomplete|snapshot"),
    ):
        file.write_bytes(body)
        done = strongroom("verify", config, str(file))
        assert done.returncode == 1, done.stdout
        assert re.search(complaint, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert strongroom("inspect", str(tmp_path / "missing")).returncode == 1


def test_a_new_node_begins_with_a_snapshot_without_any_server(own: LocalCluster, tmp_path: Path) -> None:
    """Everything is lost but the snapshot and the seal key."""
    put(own, "n1", "saved", "from the fire")
    file = tmp_path / "good.snap"
    saved(own, tmp_path)
    api, raft = free_ports(2)
    directory = tmp_path / "new"
    config = configuration(
        directory, node_id="new", api_port=api, cluster_port=raft, seal_key=own.directory / "seal.key"
    )
    done = strongroom("bootstrap", f"-config={config}", str(file))
    assert done.returncode == 0, done.stderr
    again = strongroom("bootstrap", f"-config={config}", str(file))
    assert (again.returncode, "holds a store already" in again.stderr) == (1, True)
    ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(200)
        answer = server.request("GET", "kv/data/saved", token=own.token)
        assert answer.body["data"]["data"] == {"v": "from the fire"}
        assert server.request("POST", "kv/data/saved", {"data": {"v": "2"}}, token=own.token).status == 200
