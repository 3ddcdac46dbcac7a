"""Every request leaves two records before its answer, or there is no answer and nothing happened."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.processes import Server, configuration, records
from support.targets import unique

from node.cli.local_cluster import LocalCluster


def ask(cluster: LocalCluster, node: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
    return cluster.request(node, method, path, body, **more)


def test_one_request_and_one_response_record_before_the_answer(cluster: LocalCluster, mount: str) -> None:
    """Successes and refusals alike: as soon as the answer is here, both lines are in the node's file."""
    path = f"{mount}/data/a"
    wanted: list[tuple[str, str, Any, str, int]] = [
        ("POST", path, {"data": {"v": 1}}, cluster.token, 200),
        ("GET", path, None, cluster.token, 200),
        ("LIST", f"{mount}/metadata", None, cluster.token, 200),
        ("GET", f"{mount}/data/none", None, cluster.token, 404),
        ("POST", path, {"data": {}, "options": {"cas": 99}}, cluster.token, 400),
        ("GET", path, None, "s.wrong", 403),
        ("GET", path, None, "", 403),
        ("GET", "nomount/x", None, cluster.token, 404),
        ("POST", "auth/token/create", {"policies": ["default"]}, cluster.token, 200),
        ("GET", "sys/mounts", None, cluster.token, 200),
        ("DELETE", path, None, cluster.token, 204),
    ]
    for node in cluster.nodes:
        for method, target, body, token, expected in wanted:
            before = node.audit_path.stat().st_size
            status, answer, _ = ask(cluster, node.id, method, target, body, token=token)
            assert status == expected, (method, target, answer)
            written = [
                r for r in records(node.audit_path, after=before) if r["request"]["path"].strip("/") == target
            ]
            assert [r["type"] for r in written] == ["request", "response"], (method, target)
            assert written[0]["request"]["id"] == written[1]["request"]["id"]
            if status == 200:
                assert written[0]["request"]["id"] == answer["request_id"]


def test_every_request_of_the_file_is_recorded_twice(cluster: LocalCluster, mount: str) -> None:
    for number in range(30):
        writer = cluster.nodes[number % 3].id
        ask(cluster, writer, "POST", f"{mount}/data/{number % 4}", {"data": {"n": number}})
    for node in cluster.nodes:
        counts = Counter((r["request"]["id"], r["type"]) for r in records(node.audit_path))
        ids = {identity for identity, _ in counts}
        assert ids
        assert all(counts[i, "request"] == counts[i, "response"] == 1 for i in ids)


def test_the_records_are_numbered_without_gaps(cluster: LocalCluster) -> None:
    """A missing line shows. The count starts anew with each start of the node."""
    for node in cluster.nodes:
        numbers = [record["seq"] for record in records(node.audit_path)]
        assert numbers[0] == 1
        assert all(new in (old + 1, 1) for old, new in itertools.pairwise(numbers))


def test_strings_are_hashed_under_the_same_key_on_every_node(cluster: LocalCluster, mount: str) -> None:
    """Records of different nodes can be compared; what was asked for can be told, what was said cannot."""
    hashes = set()
    for node in cluster.nodes:
        before = node.audit_path.stat().st_size
        ask(cluster, node.id, "POST", f"{mount}/data/same", {"data": {"password": "hunter2"}})
        request = next(
            r["request"]
            for r in records(node.audit_path, after=before)
            if r["request"]["path"] == f"{mount}/data/same" and r["type"] == "request"
        )
        assert request["operation"] in ("create", "update")
        assert request["mount_type"] == "kv"
        hashes.add((request["data"]["data"]["password"], request["client_token"]))
    assert len(hashes) == 1
    assert all(each.startswith("hmac-sha256:") for pair in hashes for each in pair)


@pytest.fixture
def solo(tmp_path: Path) -> Iterator["Solo"]:
    with Solo(tmp_path / "solo") as node:
        yield node


class Solo(Server):
    """A cluster of one, whose audit sink can be exchanged at a restart."""

    def __init__(self, directory: Path) -> None:
        self._api, self._raft = free_ports(2)
        self._key = directory / "seal.key"
        directory.mkdir(mode=0o700)
        self._key.touch(0o600)
        self._key.write_bytes(os.urandom(32))
        self.token = ""
        self.configured(directory, directory / "audit.jsonl")
        super().__init__(
            directory,
            f"-config={directory / 'strongroom.json'}",
            address=f"https://127.0.0.1:{self._api}",
            ca=directory / "data" / "tls" / "ca.pem",
        )

    def configured(self, directory: Path, audit: Path) -> None:
        configuration(
            directory,
            node_id="solo",
            api_port=self._api,
            cluster_port=self._raft,
            seal_key=self._key,
            audit=audit,
        )

    def initialise(self) -> None:
        self.start()
        self.wait_health(501)
        self.token = self.request("PUT", "sys/init", {}).body["root_token"]
        self.wait_health(200)
        assert self.do("POST", "sys/mounts/kv", {"type": "kv-v2"}) == 204

    def restart_with(self, audit: Path) -> None:
        assert self.stop() == 0
        self.configured(self.directory, audit)
        self.start()
        self.wait_health(200)

    def do(self, method: str, path: str, body: Any = None) -> int:
        return self.request(method, path, body, token=self.token).status


def test_without_a_sink_nothing_is_answered_and_nothing_happens(solo: Solo) -> None:
    """The disk of the audit file is full."""
    name = unique("never")
    solo.initialise()
    assert solo.do("POST", "kv/data/before", {"data": {"v": 1}}) == 200
    solo.restart_with(Path("/dev/full"))
    assert solo.do("GET", "kv/data/before") == 500
    assert solo.do("POST", f"kv/data/{name}", {"data": {"v": 1}}) == 500
    assert solo.do("DELETE", "kv/data/before") == 500
    assert (
        solo.do("POST", f"sys/policies/acl/{name}", {"policy": 'path "a" { capabilities = ["read"] }'}) == 500
    )
    assert solo.do("POST", "auth/token/create", {}) == 500
    assert solo.do("LIST", "kv/metadata") == 500
    assert solo.request("GET", "kv/data/before", token="s.wrong").status == 500, "refusals are recorded too"
    assert solo.health() == 200, "health is no business of the audit log"

    solo.restart_with(solo.directory / "audit.jsonl")
    assert solo.do("GET", f"kv/data/{name}") == 404
    assert solo.do("GET", f"sys/policies/acl/{name}") == 404
    assert solo.do("GET", "kv/data/before") == 200
    accessors = solo.request("LIST", "auth/token/accessors", token=solo.token).body["data"]["keys"]
    assert len(accessors) == 1, "the root token's alone"


def test_a_sink_that_cannot_be_opened_keeps_the_node_from_starting(solo: Solo) -> None:
    solo.initialise()
    assert solo.stop() == 0
    solo.configured(solo.directory, solo.directory / "nosuch" / "audit.jsonl")
    solo.start()
    assert solo.wait() == 1
    assert "nosuch" in solo.log.read_text()
