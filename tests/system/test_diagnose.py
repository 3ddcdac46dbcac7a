"""`operator diagnose` finds what is planted: one thing at a time, with what to do about it, and a code for scripts."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.ports import free_ports
from support.processes import Server, configuration, poll

from node import pki
from node.cli.local_cluster import LocalCluster


def diagnose(config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node.cli", "operator", "diagnose", f"-config={config}", *flags]
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False
    )


def findings(config: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """(exit code, what was found that is not well, by status)."""
    done = diagnose(config, "-format=json")
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    by_status: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        by_status.setdefault(check["status"], []).append(check)
        assert check["advice"] or check["status"] in ("ok", "skipped"), check
    return done.returncode, by_status


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a node with a store, which does not run."""
    key = tmp_path / "seal.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    api, raft = free_ports(2)
    directory = tmp_path / "n1"
    config = configuration(directory, node_id="n1", api_port=api, cluster_port=raft, seal_key=key)
    ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(501)
        assert server.request("PUT", "sys/init", {}).status == 200
        server.wait_health(200)
        assert server.stop() == 0
        yield config


def test_a_good_node_has_no_failures(stopped: Path) -> None:
    code, found = findings(stopped)
    assert found.get("fail", []) == []
    assert code in (0, 2), "warnings of this machine: root, swap, space"
    names = {check["name"] for check in found["ok"]}
    assert {
        "configuration",
        "permissions",
        "disk sync",
        "seal",
        "store",
        "audit",
        "identity",
        "peers",
    } <= names
    printed = diagnose(stopped).stdout
    assert "[ success ] seal:" in printed


def told(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config.read_text())
    return found


def _wrong_seal_key(config: Path) -> None:
    key = config.parent.parent / "seal.key"
    key.write_bytes(bytes(32))


def _open_seal_key(config: Path) -> None:
    (config.parent.parent / "seal.key").chmod(0o644)


def _public_file(config: Path) -> None:
    (config.parent / "data" / "state.db").chmod(0o644)


def _lost_database(config: Path) -> None:
    (config.parent / "data" / "state.db").unlink()


def _damaged_database(config: Path) -> None:
    _flip(config.parent / "data" / "state.db", 2000)


def _damaged_log(config: Path) -> None:
    (segment,) = (config.parent / "data" / "raft" / "log").glob("*.wal")
    _flip(segment, len(segment.read_bytes().rstrip(b"\0")) // 2)


def _damaged_identity(config: Path) -> None:
    _flip(config.parent / "data" / "identity.sealed", 100)


def _damaged_seal(config: Path) -> None:
    (config.parent / "data" / "seal.json").write_text("{")


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def _other_id(config: Path) -> None:
    config.write_text(json.dumps(told(config) | {"node_id": "n9"}))


def _no_place_for_audit(config: Path) -> None:
    audit = [{"file": {"path": "/nonexistent/audit.jsonl"}}]
    config.write_text(json.dumps(told(config) | {"audit": audit}))


def _unknown_key(config: Path) -> None:
    config.write_text(json.dumps(told(config) | {"sael": []}))


def _no_snapshot_directory(config: Path) -> None:
    config.write_text(json.dumps(told(config) | {"snapshot_dir": "/nonexistent/there/shots"}))


@pytest.mark.parametrize(
    ("plant", "check", "words"),
    [
        (_wrong_seal_key, "seal", "does not open"),
        (_open_seal_key, "seal", "chmod 600"),
        (_public_file, "permissions", "state.db"),
        (_lost_database, "store", "state.db is missing"),
        (_damaged_database, "state", "does not authenticate"),
        (_damaged_log, "log", "one of them was lost"),
        (_damaged_identity, "identity", "altered"),
        (_damaged_seal, "seal", "another node of this cluster"),
        (_other_id, "identity", "that of node n1"),
        (_no_place_for_audit, "audit", "cannot be written"),
        (_unknown_key, "configuration", "sael"),
        (_no_snapshot_directory, "snapshots", "cannot be written"),
    ],
)
def test_what_is_planted_is_found(
    stopped: Path, plant: Callable[[Path], None], check: str, words: str
) -> None:
    plant(stopped)
    code, found = findings(stopped)
    failed = {each["name"]: each for each in found["fail"]}
    assert code == 1
    assert words in failed[check]["message"] + failed[check]["advice"]
    assert "[ failure ]" in diagnose(stopped).stdout


def test_a_port_that_another_program_has_is_found(stopped: Path) -> None:
    _, _, port = told(stopped)["cluster_addr"].rpartition(":")
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(port)))
        other.listen()
        code, found = findings(stopped)
    assert code == 1
    assert any(f"127.0.0.1:{port}" in each["name"] for each in found["fail"])


def test_certificates_that_ended_or_name_another_host_are_found(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    named = authority.issue("listener", ["elsewhere.example"])
    listener = told(stopped)["listener"][0]["tcp"]
    files = {"tls_cert_file": str(named), "tls_key_file": str(named)}
    config = told(stopped) | {"listener": [{"tcp": listener | files}]}
    stopped.write_text(json.dumps(config))
    _, found = findings(stopped)
    assert any("is not good for 127.0.0.1" in each["message"] for each in found["warn"])

    ca = pki.new_ca("x")
    monkeypatch.setattr(pki, "CLOCK_SKEW_ALLOWED", timedelta(days=3))
    ended = pki.credentials(ca, pki.listener_names(["127.0.0.1"]), timedelta(days=-1))
    file = tmp_path / "ended.pem"
    file.write_bytes(ended.certificate + ended.key.reveal())
    files = {"tls_cert_file": str(file), "tls_key_file": str(file)}
    stopped.write_text(json.dumps(config | {"listener": [{"tcp": listener | files}]}))
    code, found = findings(stopped)
    assert code == 1
    assert any("ended on" in each["message"] for each in found["fail"])


def test_the_other_nodes_are_asked_and_one_that_is_down_is_named(cluster: LocalCluster) -> None:
    config = cluster.node("n1").config_path

    def all_are_well() -> bool:
        _, found = findings(config)
        assert found.get("fail", []) == []
        good = {each["name"].split(" at ")[0] for each in found["ok"]}
        return {"peer n2", "peer n3", "clock of n2", "clock of n3"} <= good

    poll(all_are_well, what="that what a node knows of the others is in its file")
    cluster.kill("n3")
    try:
        code, found = findings(config)
    finally:
        cluster.start("n3")
        cluster.wait_caught_up("n3")
    assert code == 2
    assert any("peer n3" in each["name"] for each in found["warn"])


def test_it_changes_nothing(stopped: Path) -> None:
    def content() -> dict[str, bytes]:
        data = stopped.parent / "data"
        return {str(path): path.read_bytes() for path in data.rglob("*") if path.is_file()}

    before = content()
    diagnose(stopped)
    assert content() == before


def test_an_empty_machine_is_ready_for_a_first_start(tmp_path: Path) -> None:
    key = tmp_path / "seal.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    api, raft = free_ports(2)
    config = configuration(tmp_path / "new", node_id="new", api_port=api, cluster_port=raft, seal_key=key)
    shutil.rmtree(tmp_path / "new" / "data", ignore_errors=True)
    code, found = findings(config)
    assert found.get("fail", []) == []
    assert code in (0, 2)
    assert diagnose(tmp_path / "missing.hcl").returncode == 1
