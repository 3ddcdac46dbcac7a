"""A disk without room: writes are refused by name, reads go on, and both recover. On a small file system of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import poll

from node.cli.local_cluster import LocalCluster

SIZE_BYTES = 512 << 20
LEFT_BYTES = 32 << 20  # below the reserve of consensus.options, and enough for audit records of reads


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
    cluster = LocalCluster(small_disk / "cluster")
    cluster.create()
    try:
        cluster.start_all()
        cluster.bootstrap()
        yield cluster
    finally:
        cluster.stop_all()


def fill(place: Path) -> Path:
    """Leave LEFT_BYTES."""
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - LEFT_BYTES)
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
