"""Clusters of real processes on this machine, for as long as a block lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.cli.local_cluster import LocalCluster


@contextmanager
def open_cluster(directory: Path, *, must_end: bool = False, **settings: Any) -> Iterator[LocalCluster]:
    """A cluster with an open store; `settings` are LocalCluster's. `must_end`: nodes that have to be killed at the end
    fail the test.
    """
    cluster = LocalCluster(directory, **settings)
    cluster.create()
    try:
        cluster.start_all()
        cluster.bootstrap()
        yield cluster
    finally:
        killed = cluster.stop_all()
    assert not (must_end and killed), f"{killed} did not end by SIGTERM"
