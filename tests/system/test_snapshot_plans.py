"""Snapshots that the leader takes by itself: on its own disk, so many of them, with an age that can be watched."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clusters import open_cluster
from support.patience import PATIENCE_S
from support.processes import poll

from node.cli.local_cluster import LocalCluster

CONFIG = "sys/storage/raft/snapshot-auto/config"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Path]]:
    """Three nodes of one machine with a directory for snapshots, which they share here."""
    directory = tmp_path_factory.mktemp("plans")
    shots = directory / "shots"
    told = f'snapshot_dir = "{shots}"\ntelemetry {{ unauthenticated_metrics_access = true }}\n'
    with open_cluster(directory / "cluster", extra_config=told) as cluster:
        yield cluster, shots


def test_the_leader_keeps_as_many_as_it_was_told_and_the_next_leader_goes_on(
    planned: tuple[LocalCluster, Path], tmp_path: Path
) -> None:
    cluster, shots = planned
    plan = {"interval": "10s", "retain": 2, "file_prefix": "auto"}
    cluster.must("n2", "POST", f"{CONFIG}/often", plan)
    shown = cluster.must("n3", "GET", f"{CONFIG}/often")["data"]
    assert (shown["interval"], shown["retain"], shown["storage_type"]) == (10, 2, "local")
    assert cluster.must("n1", "LIST", CONFIG)["data"]["keys"] == ["often"]

    def files() -> list[Path]:
        return sorted(shots.glob("auto-*.snap")) if shots.exists() else []

    poll(files, what="the first snapshot")
    first = files()[0]
    assert first.stat().st_mode & 0o777 == 0o600
    cluster.kill(cluster.wait_leader())
    poll(lambda: any(path != first for path in files()), what="a snapshot by the next leader", timeout=90.0)
    poll(lambda: first not in files(), what="the first one gone", timeout=90.0)
    assert len(files()) <= 2
    cluster.start_all()
    cluster.wait_unsealed("n1")
    path = "sys/storage/raft/snapshot-auto/status/often"
    status = poll(lambda: cluster.must(cluster.wait_leader(), "GET", path), what="its status")["data"]
    assert (status["consecutive_errors"], status["last_snapshot_error"]) == (0, "")
    cluster.must("n1", "DELETE", f"{CONFIG}/often")
    assert cluster.request("n1", "GET", f"{CONFIG}/often")[0] == 404
    assert cluster.request("n1", "LIST", CONFIG)[0] == 404
    assert files(), "what was saved stays"


def metrics(cluster: LocalCluster, node_id: str) -> dict[str, float]:
    import urllib.request

    from node.cli.http_connection import tls_context

    address = cluster.node(node_id).api_address
    with urllib.request.urlopen(
        f"{address}/v1/sys/metrics", context=tls_context(ca_cert=cluster.ca_path), timeout=PATIENCE_S
    ) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"(\w+) ([0-9.e+-]+)", line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def test_the_age_of_the_newest_snapshot_is_a_metric(planned: tuple[LocalCluster, Path]) -> None:
    cluster, shots = planned
    shots.mkdir(exist_ok=True)
    made = shots / "other-20260101T000000Z-7.snap"
    made.write_bytes(b"")
    assert 0 <= metrics(cluster, "n1")["strongroom_snapshot_age_seconds"] < 300
    assert metrics(cluster, "n1")["strongroom_snapshot_failures_total"] == 0


def test_what_makes_no_plan_is_refused(planned: tuple[LocalCluster, Path]) -> None:
    cluster, _ = planned
    good = {"interval": "1h"}
    for wrong, complaint in (
        ({}, "interval is required"),
        ({"interval": "1s"}, "at least"),
        ({"interval": "soon"}, "interval"),
        (good | {"retain": 0.5}, "retain"),
        (good | {"retain": -1}, "retain"),
        (good | {"path_prefix": "/etc"}, "snapshot_dir"),
        (good | {"storage_type": "aws-s3"}, "local"),
        (good | {"file_prefix": "../x"}, "file_prefix"),
        (good | {"file_prefix": "a/b"}, "file_prefix"),
        (good | {"local_max_space": -1}, "local_max_space"),
    ):
        status, answer, _ = cluster.request("n1", "POST", f"{CONFIG}/wrong", wrong)
        assert (status, complaint in str(answer)) == (400, True), (wrong, answer)
    assert cluster.request("n1", "POST", f"{CONFIG}/..%2fx", good)[0] in (400, 404)
    assert cluster.request("n1", "GET", f"{CONFIG}/wrong")[0] == 404


def test_a_plan_that_cannot_be_carried_out_says_why_and_is_tried_again(
    planned: tuple[LocalCluster, Path],
) -> None:
    cluster, shots = planned
    cluster.must(
        "n1", "POST", f"{CONFIG}/tight", {"interval": "10s", "local_max_space": 100, "file_prefix": "t"}
    )
    path = "sys/storage/raft/snapshot-auto/status/tight"

    def failed() -> bool:
        leader = cluster.wait_leader()
        told = cluster.must(leader, "GET", path)["data"]
        counted = metrics(cluster, leader)["strongroom_snapshot_failures_total"]
        return "local_max_space" in told["last_snapshot_error"] and counted >= 1

    poll(failed, what="a failure that is told, and counted")
    cluster.must("n1", "POST", f"{CONFIG}/tight", {"interval": "10s", "file_prefix": "t"})
    poll(lambda: list(shots.glob("t-*.snap")), what="a snapshot once there is room", timeout=90.0)
    cluster.must("n1", "DELETE", f"{CONFIG}/tight")
    assert not list(shots.glob(".*")), "no half file stays"
