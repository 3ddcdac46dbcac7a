"""Disks without room: writes are refused by name, reads go on, and both recover. On small file systems of their own."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clusters import open_cluster
from support.processes import poll

from node.cli.local_cluster import LocalCluster

SIZE_BYTES = 512 << 20
MARGIN_BYTES, BLOCK_BYTES = 1 << 20, 4096
# Below the reserve for writes (consensus.options), and enough to apply, and for audit records.
LEFT_BYTES = 48 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def full_cluster(small_disk: Path) -> Iterator[LocalCluster]:
    with open_cluster(small_disk / "cluster") as cluster:
        yield cluster


@pytest.fixture
def cramped_leader(small_disk: Path, tmp_path: Path) -> Iterator[LocalCluster]:
    """n1 leads, and it alone has its data on the small disk."""
    cluster = LocalCluster(tmp_path / "cluster")
    cluster.create()
    cluster.node("n1").data_dir.symlink_to(small_disk)
    try:
        cluster.start_all()
        cluster.bootstrap()
        while (leader := cluster.wait_leader()) != "n1":
            cluster.must(leader, "PUT", "sys/step-down")
        yield cluster
    finally:
        cluster.stop_all()


def fill(place: Path, *, left_bytes: int = LEFT_BYTES) -> Path:
    """Leave so much: about, or nothing at all."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError if not left_bytes else ()):
        size = shutil.disk_usage(place).free - max(left_bytes, MARGIN_BYTES)
        os.posix_fallocate(file.fileno(), 0, size)
        file.seek(size)
        while not left_bytes:
            file.write(bytes(BLOCK_BYTES))
    return filler


def test_a_full_disk_refuses_writes_keeps_reads_going_and_recovers(
    full_cluster: LocalCluster, small_disk: Path
) -> None:
    ids = [node.id for node in full_cluster.nodes]
    path = "secret/data/full"

    def write(node_id: str, value: int) -> tuple[int, object]:
        status, answer, _ = full_cluster.request(node_id, "POST", path, {"data": {"n": value}})
        return status, answer

    assert write("n1", 1)[0] == 200
    filler = fill(small_disk)
    for node_id in ids:
        poll(lambda node_id=node_id: write(node_id, 1)[0] == 507, what="the refusal")
        status, answer = write(node_id, 2)
        assert status == 507
        assert "disk" in answer["errors"][0]
        status, answer, _ = full_cluster.request(node_id, "GET", path)
        assert (status, answer["data"]["data"]) == (200, {"n": 1})
    filler.unlink()
    for value, node_id in enumerate(ids, start=3):
        poll(lambda node_id=node_id, value=value: write(node_id, value)[0] == 200, what="a write again")
        for other in ids:
            status, answer, _ = full_cluster.request(other, "GET", path)
            assert (status, answer["data"]["data"]) == (200, {"n": value})
    assert all(full_cluster.alive(node_id) for node_id in ids)


def test_a_leader_whose_disk_is_full_lets_another_lead_and_catches_up_when_there_is_room(
    cramped_leader: LocalCluster, small_disk: Path
) -> None:
    cluster, path = cramped_leader, "secret/data/full"

    def write(node_id: str, value: int) -> int:
        return cluster.request(node_id, "POST", path, {"data": {"n": value}})[0]

    assert write("n1", 0) == 200
    process = cluster.pid("n1")
    filler = fill(small_disk, left_bytes=0)
    assert cluster.wait_leader(other_than="n1") in ("n2", "n3")
    for value in range(1, 101):
        poll(lambda value=value: write("n2", value) == 200, what="a write through another node")
    assert write("n1", 101) in (503, 507), "it knows that it is behind, or that it has no room"
    assert cluster.request("n1", "GET", path)[0] in (200, 503)
    old = cluster.request("n1", "GET", path, headers={"X-Strongroom-Consistency": "stale-ok"})
    assert old[0] == 200
    filler.unlink()
    cluster.wait_caught_up("n1")
    poll(lambda: write("n1", 102) == 200, what="a write through n1")
    assert cluster.pid("n1") == process
