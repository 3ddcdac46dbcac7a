"""The launcher of local clusters: its directory, its ports, its processes. tests/system runs it for real."""

import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.patience import PATIENCE_S
from support.ports import free_ports

from node.cli import local_process as process
from node.cli.local_cluster import ClusterError, LocalCluster
from node.cli.root import run
from node.config import load


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path / "c", nodes=1)
    cluster.create()
    yield cluster
    cluster.stop_all()


def test_what_is_written_is_a_configuration_and_private(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "c d", extra_config='raft { heartbeat = "50ms" }\nlog_level = "debug"')
    cluster.create()
    found = [load([node.config_path], environ={}) for node in cluster.nodes]
    assert [settings.node_id for settings in found] == ["n1", "n2", "n3"]
    assert [settings.api_address for settings in found] == [node.api_address for node in cluster.nodes]
    assert found[2].audit_files == (tmp_path / "c d/n3/audit.jsonl",)
    assert found[0].seal.key_file == tmp_path / "c d/seal.key"
    assert (found[0].heartbeat_s, found[0].log_level) == (0.05, "debug")
    for path in cluster.directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_cluster_keeps_its_ports_and_its_seal_key(tmp_path: Path) -> None:
    first = LocalCluster(tmp_path)
    first.create()
    key = (tmp_path / "seal.key").read_bytes()
    again = LocalCluster.open(tmp_path)
    again.create()
    assert again.nodes == first.nodes
    assert len(key) == 32
    assert (tmp_path / "seal.key").read_bytes() == key
    assert len({port for node in first.nodes for port in (node.api_port, node.cluster_port)}) == 6


def test_ports_may_be_chosen_once(tmp_path: Path) -> None:
    n1, n1_raft, n2, n2_raft, n3, n3_raft = free_ports(6)
    cluster = LocalCluster(tmp_path, port_base=n1)
    ports = [(node.api_port, node.cluster_port) for node in cluster.nodes]
    assert ports == [(n1, n1_raft), (n2, n2_raft), (n3, n3_raft)]
    with (
        socket.create_server(("127.0.0.1", n2_raft)),
        pytest.raises(
            ClusterError, match=rf"Port {n2_raft}, which node n2 needs, is taken .* choose other ports"
        ),
    ):
        cluster.create()
    assert list(tmp_path.iterdir()) == [], "other ports can still be chosen"
    cluster.create()
    with pytest.raises(ClusterError, match=f"holds a cluster of 3 nodes from port {n1}"):
        LocalCluster(tmp_path, port_base=9200)


def test_a_directory_of_somebody_else_is_neither_used_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for content in ("{}", '{"format": "another/1"}', "[]"):
        (theirs / "cluster.json").write_text(content)
        with pytest.raises(ClusterError, match="is not empty and not a local cluster"):
            LocalCluster(theirs).create()
        assert run(["local", "clean", "-directory", str(theirs)]) == 1
        assert "holds no local cluster" in capsys.readouterr().err
        with pytest.raises(ClusterError, match="nothing was removed"):
            LocalCluster(theirs).remove()
    assert (theirs / "cluster.json").read_text() == "[]"


def test_a_link_to_a_cluster_is_not_removed(tmp_path: Path) -> None:
    LocalCluster(tmp_path / "real").create()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ClusterError, match="nothing was removed"):
        LocalCluster.open(tmp_path / "link").remove()
    assert (tmp_path / "real/cluster.json").exists()


def test_clean_removes_its_own(tmp_path: Path) -> None:
    LocalCluster(tmp_path / "c").create()
    assert run(["local", "clean", "-directory", str(tmp_path / "c")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named_with_the_node_that_needs_it(cluster: LocalCluster) -> None:
    with (
        socket.create_server(("127.0.0.1", cluster.nodes[0].cluster_port)),
        pytest.raises(
            ClusterError, match=rf"Port {cluster.nodes[0].cluster_port}, which node n1 needs, is taken"
        ),
    ):
        cluster.start("n1")
    assert not cluster.alive("n1")


def test_a_node_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    """At once, not after a timeout."""
    cluster = LocalCluster(tmp_path / "c", nodes=1, extra_config='colour = "blue"')
    cluster.create()
    cluster.start("n1")
    with pytest.raises(ClusterError) as caught:
        cluster.wait_serving("n1", timeout=PATIENCE_S)
    assert str(caught.value).startswith("n1 ended before there was answer from n1")
    assert "unknown key `colour` at the top level." in str(caught.value)


def test_a_recycled_pid_is_somebody_else(cluster: LocalCluster) -> None:
    """A stale pid file must never get an innocent process killed."""
    node = cluster.nodes[0]
    cluster.start("n1")
    _, started = node.pid_path.read_text().split()
    cluster.kill("n1")
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            node.pid_path.write_text(f"{innocent.pid}\n{started}\n")
            assert cluster.pid("n1") is None
            cluster.kill("n1")
            assert innocent.poll() is None
        finally:
            innocent.kill()
    node.pid_path.write_text("nonsense")
    assert cluster.pid("n1") is None


def test_a_node_is_seen_from_its_first_moment_to_its_last(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """start() right after kill() must find the ports free, alive() a process right after start().

    And the launcher's own STRONGROOM_* variables are not for its nodes.
    """
    monkeypatch.setenv("STRONGROOM_NODE_ID", "not-for-us")
    for _ in range(5):
        cluster.start("n1")
        assert cluster.alive("n1")
        cluster.kill("n1")
        assert not cluster.alive("n1")
        assert process.is_free(cluster.nodes[0].api_port)
    cluster.start("n1")
    cluster.wait_serving("n1", timeout=PATIENCE_S)
    cluster.kill("n1")
    cluster.start("n1")
    cluster.wait_serving("n1", timeout=PATIENCE_S)
    status, told, _ = cluster.request("n1", "GET", "sys/cluster/node")
    assert (status, told.get("data", told)["node_id"]) == (200, "n1")


def test_wait_names_what_it_waited_for(cluster: LocalCluster) -> None:
    with pytest.raises(ClusterError, match=r"After 0\.1 s there was still no spring\."):
        cluster.wait(lambda: None, 0.1, "spring")


def test_a_paused_node_can_be_stopped(cluster: LocalCluster) -> None:
    cluster.start("n1")
    cluster.wait_serving("n1", timeout=PATIENCE_S)
    cluster.pause("n1")
    pid = cluster.pid("n1")
    assert pid is not None
    cluster.wait(lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text(), PATIENCE_S, "pause")
    assert cluster.stop("n1"), "SIGTERM was enough"
    process.send(pid, signal.SIGTERM)  # gone, and that is no error
