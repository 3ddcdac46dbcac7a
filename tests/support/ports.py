"""Ports for all that a test starts: below those that the kernel gives to clients, and none of them twice.

A stopped server finds its port free when it returns: neither another test nor another worker was given it.
"""

import os
from collections.abc import Collection

from node.cli import local_layout
from node.cli.local_process import is_free

PORTS = range(9_000, 32_000)
PORTS_APART = 50  # that lie between where two runs on one machine begin
REPLACEMENTS_MAX = 4  # workers of pytest-xdist that follow crashed ones, under numbers of their own


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """Consecutive ports of 127.0.0.1; it takes the place of node.cli.local_layout.free_ports."""
    del but  # it has been given away
    global _next
    for _ in range(len(_LANE)):
        first = _next if _next + count <= _LANE.stop else _LANE.start
        ports = range(first, first + count)
        if all(port not in _given and is_free(port) for port in ports):
            _next = ports.stop
            _given.update(ports)
            return list(ports)
        _next = first + 1
    raise AssertionError("no free ports")


def give_to_local_clusters() -> None:
    """From now on, those of LocalCluster and LocalRegions in this process come from here."""
    local_layout.free_ports = free_ports


def _lane() -> range:
    """The ports of this worker of pytest-xdist; all of them, if this is none."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return PORTS
    lanes = int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) + REPLACEMENTS_MAX
    number = int(worker.removeprefix("gw")) % lanes
    each = len(PORTS) // lanes
    return PORTS[number * each : (number + 1) * each]


_LANE = _lane()
_given: set[int] = set()
_next = _LANE[os.getpid() * PORTS_APART % len(_LANE)]
