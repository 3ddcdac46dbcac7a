"""Read workers of a real server: they come and go with it."""

import os
import signal
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from support.clusters import open_cluster
from support.lines import Line
from support.processes import poll

from node.cli.local_cluster import LocalCluster

WORKERS = 2
LINES = 8
PATH = "secret/data/a"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[LocalCluster]:
    """One node, open."""
    workers = f"read_workers = {WORKERS}"
    with open_cluster(tmp_path / "cluster", must_end=True, nodes=1, extra_config=workers) as cluster:
        yield cluster


def workers(cluster: LocalCluster) -> list[int]:
    """Of the node that runs."""
    pid = cluster.pid("n1")
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in children.read_text().split()] if children.exists() else []


def running(pids: list[int]) -> bool:
    """Whether any of these processes still holds anything."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            return True
    return False


def read(line: Line) -> int:
    status, answer = line.ask("GET", PATH)
    assert status == 200
    found: int = answer["data"]["data"]["n"]
    return found


def write(cluster: LocalCluster, number: int) -> None:
    line = Line(cluster, "n1")
    assert line.ask("POST", PATH, {"data": {"n": number}})[0] == 200
    line.close()


def close(lines: list[Line]) -> None:
    for line in lines:
        line.close()


def answered_by_workers(cluster: LocalCluster) -> int:
    """Records in their audit files."""
    paths = cluster.nodes[0].audit_path.parent.glob("*-worker-*")
    return sum(len(path.read_bytes().splitlines()) for path in paths)


def serving(cluster: LocalCluster) -> list[Line]:
    """Connections to a node whose workers answer."""
    poll(lambda: len(workers(cluster)) == WORKERS, what="workers")
    before = answered_by_workers(cluster)

    def met() -> list[Line]:
        lines = [Line(cluster, "n1") for _ in range(LINES)]
        for line in lines * 3:
            read(line)
        if answered_by_workers(cluster) > before:
            return lines
        close(lines)
        return []

    return poll(met, what="an answer of a worker")


def test_workers_end_with_their_server_however_it_ends(alone: LocalCluster) -> None:
    write(alone, 1)
    close(serving(alone))
    first = workers(alone)
    alone.kill("n1")
    alone.start("n1")  # at once: those of before have its port and its lock
    poll(lambda: alone.health("n1") == 200, what="an open node")
    poll(lambda: not running(first), what="the end of the workers of before")
    lines = serving(alone)
    assert {read(line) for line in lines} == {1}
    assert lines[0].ask("POST", PATH, {"data": {"n": 2}})[0] == 200
    assert {read(line) for line in lines} == {2}
    second = workers(alone)
    assert lines[-1].ask("PUT", "sys/seal")[0] == 204, "who has it sealed through a worker gets his answer"
    for line in lines:
        try:
            assert line.ask("GET", PATH)[0] == 503
        except (OSError, HTTPException):
            continue
    close(lines)
    poll(lambda: not running(second), what="the end of the workers of a sealed node")


def test_rotated_audit_files_and_signals_for_all_are_for_the_server_to_handle(alone: LocalCluster) -> None:
    write(alone, 1)
    close(serving(alone))
    before = workers(alone)

    def files() -> list[Path]:
        return list(alone.nodes[0].audit_path.parent.glob("audit*"))

    poll(lambda: len(files()) == 1 + WORKERS, what="a file of each")
    paths = files()
    for path in paths:
        path.rename(path.with_name(f"rotated-{path.name}"))
    for pid in [*before, *(alone.pid(node.id) for node in alone.nodes)]:
        assert pid is not None
        os.kill(pid, signal.SIGHUP)
    poll(lambda: all(path.exists() for path in paths), what="new files")
    close(serving(alone))
    assert workers(alone) == before
