"""Nothing that was entrusted to the store can be found on its disks, in its logs or in its audit files."""

import base64
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.targets import unique

from node.cli.local_cluster import LocalCluster, LocalNode


@dataclass(frozen=True)
class Canaries:
    """Words that occur nowhere else: `secret` must not be found anywhere, `names` only in the audit file."""

    secret: dict[str, str]
    names: dict[str, str]


def word(kind: str) -> str:
    return f"canary{kind}{uuid.uuid4().hex}"


@pytest.fixture
def canaries(cluster: LocalCluster) -> Canaries:
    """A workload that puts one into every place that takes text, on all nodes, and restarts one of them."""
    path, folder, mount = word("path"), word("folder"), unique("kv")
    value, patched, deleted, custom = word("value"), word("patched"), word("deleted"), word("custom")
    description, policy_path, meta = word("description"), word("policypath"), word("meta")
    policy = unique("canary")
    request = cluster.must
    request("n1", "POST", f"sys/mounts/{mount}", {"type": "kv-v2", "description": description})
    text = f'path "{policy_path}/*" {{ capabilities = ["read"] }}'
    request("n2", "POST", f"sys/policies/acl/{policy}", {"policy": text})
    body = {"policies": [policy], "meta": {"team": meta}}
    auth = request("n3", "POST", "auth/token/create", body)["auth"]
    for number, node in enumerate(cluster.nodes):
        request(node.id, "POST", f"{mount}/data/{folder}/{path}", {"data": {"password": f"{value}{number}"}})
    request("n1", "POST", f"{mount}/data/{path}", {"data": {"password": deleted}})
    request("n2", "DELETE", f"{mount}/data/{path}")
    request("n3", "POST", f"{mount}/metadata/{folder}/{path}", {"custom_metadata": {"owner": custom}})
    headers = {"Content-Type": "application/merge-patch+json"}
    cluster.request("n1", "PATCH", f"{mount}/data/{folder}/{path}", {"data": {"p": patched}}, headers=headers)
    for node in cluster.nodes:
        request(node.id, "GET", f"{mount}/data/{folder}/{path}")
        request(node.id, "LIST", f"{mount}/metadata/{folder}")
        cluster.request(node.id, "GET", "auth/token/lookup-self", token=auth["client_token"])
        request(node.id, "POST", "auth/token/lookup-accessor", {"accessor": auth["accessor"]})
    cluster.request("n1", "POST", f"{mount}/data/{path}", {"data": value, "options": {"cas": value}})
    cluster.stop("n3")
    cluster.start("n3")
    cluster.wait_caught_up("n3")
    secret = {
        "value": value,
        "patched value": patched,
        "deleted value": deleted,
        "custom metadata": custom,
        "mount description": description,
        "policy text": policy_path,
        "token": auth["client_token"],
        "accessor": auth["accessor"],
        "root token": cluster.token,
    }
    return Canaries(secret, {"path": path, "folder": folder, "token metadata": meta})


def files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def forms(text: str) -> list[bytes]:
    """How a word looks in a file; base64 of a longer text shows it at one of three offsets."""
    raw = text.encode()
    encoded = [base64.b64encode(bytes(shift) + raw)[4 * (shift > 0) : -4] for shift in range(3)]
    return [raw, text.encode("utf-16-le"), *encoded]


def found(words: dict[str, str], paths: Iterator[Path]) -> list[tuple[str, str]]:
    """(what, where) of every word that is there, as text, in hex, in UTF-16 or inside of base64."""
    hits = []
    for path in paths:
        content = path.read_bytes()
        lower = content.lower()
        for what, text in words.items():
            if any(form in content for form in forms(text)) or text.encode().hex().encode() in lower:
                hits.append((what, str(path)))
    return hits


def kept_by(node: LocalNode) -> Iterator[Path]:
    """All that the node itself writes, but its audit file."""
    return (path for path in files(node.directory) if path != node.audit_path and path != node.config_path)


def test_no_canary_is_in_any_byte_that_a_node_keeps(cluster: LocalCluster, canaries: Canaries) -> None:
    for node in cluster.nodes:
        assert sum(path.stat().st_size for path in files(node.data_dir)) > 10_000, (
            "there is something to scan"
        )
        assert found(canaries.secret | canaries.names, kept_by(node)) == []


def test_the_audit_file_names_paths_but_no_value_and_no_token(
    cluster: LocalCluster, canaries: Canaries
) -> None:
    for node in cluster.nodes:
        assert found(canaries.secret, iter([node.audit_path])) == []
    seen = {what for node in cluster.nodes for what, _ in found(canaries.names, iter([node.audit_path]))}
    assert {"path", "folder"} <= seen, "the scan does find what is there"


def test_the_log_names_neither(cluster: LocalCluster, canaries: Canaries) -> None:
    for node in cluster.nodes:
        assert node.log_path.stat().st_size > 0
        assert found(canaries.secret | canaries.names, iter([node.log_path])) == []


def test_no_private_key_lies_in_the_open(cluster: LocalCluster) -> None:
    seal_key = (cluster.directory / "seal.key").read_bytes()
    for node in cluster.nodes:
        for path in files(node.directory):
            content = path.read_bytes()
            assert b"PRIVATE KEY" not in content, path
            assert seal_key not in content, path
            assert seal_key.hex().encode() not in content, path


def test_the_database_does_not_say_what_it_is(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        assert (node.data_dir / "state.db").read_bytes()[:16] != b"SQLite format 3\0"


def test_nobody_else_may_look(cluster: LocalCluster, canaries: Canaries) -> None:
    """Directories 0700, files 0600; the certificate of the authority alone is public."""
    for node in cluster.nodes:
        for path in (node.data_dir, *node.data_dir.rglob("*"), node.audit_path, node.log_path):
            mode = stat.S_IMODE(path.stat().st_mode)
            allowed = {0o700} if path.is_dir() else {0o600}
            assert mode in (allowed | ({0o644} if path.name == "ca.pem" else set())), (oct(mode), path)
