"""Clusters of real processes on this machine, for as long as a block lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes import poll

from node.cli.local_cluster import ClusterError, LocalCluster


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


def under_one_leader(cluster: LocalCluster, look: Callable[[str], None]) -> None:
    """Call `look` with the id of who leads; anew where another node took over meanwhile."""

    def looked() -> bool:
        leader, term = cluster.wait_leader(), _term(cluster)
        try:
            look(leader)
        except (AssertionError, ClusterError):
            if term == _term(cluster):
                raise
            return False
        return True

    poll(looked, what="a look at a cluster whose leader stays")


def _term(cluster: LocalCluster) -> int:
    """The newest that any node knows of."""
    return max(((cluster.account(node.id) or {}).get("term") or 0 for node in cluster.nodes), default=0)
