"""What an engine is built from: defaults for production, and the places where tests put something else."""

import logging
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from consensus.disk import DiskHealth, free_bytes
from consensus.opening import GroupConfig
from consensus.tasks import Run
from consensus.transport import PeerHandler, PeerTransport

EXIT_FATAL = 70

_log = logging.getLogger(__name__)


class Transport(Protocol):
    """What the engine uses of PeerTransport; the simulator has its own."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def set_peers(self, peers: dict[str, str]) -> None: ...
    def send(self, peer_id: str, body: bytes) -> bool: ...
    def flush(self) -> None: ...
    def backlog(self, peer_id: str) -> int: ...
    def connected(self) -> set[str]: ...


def peer_transport(handler: PeerHandler, config: GroupConfig) -> Transport:
    """The real one, unless tests have another."""
    return PeerTransport(
        me=config.node_id,
        cluster_id=config.cluster_id,
        listen=config.listen,
        server_tls=config.server_tls,
        client_tls=config.client_tls,
        handler=handler,
        insecure=config.insecure,
        source=config.source,
    )


@dataclass(slots=True)
class Counters:
    """What this group has done since it started; node/ makes metrics of it."""

    elections: int = 0
    leader_changes: int = 0
    proposals: int = 0
    frames_dropped: int = 0
    fsyncs: int = 0
    truncations: int = 0
    lease_denials: int = 0
    snapshots_sent: int = 0
    snapshots_installed: int = 0
    snapshots_refused: int = 0
    compactions: int = 0


def die(reason: str) -> NoReturn:
    """The default end after a bug or a failed disk: nothing more may be said in this node's name."""
    _log.critical("consensus stops this process: %s", reason)
    logging.shutdown()
    os._exit(EXIT_FATAL)


def boottime() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What tests and the simulator put in place of the real thing."""

    transport: Callable[[PeerHandler], Transport] | None = None
    clock: Callable[[], float] = time.monotonic  # the one that pysyncobj reads
    boottime: Callable[[], float] = boottime
    rng: random.Random | None = None
    run: Run | None = None  # run(function, *args) awaits a blocking call
    quick_disk: bool = (
        False  # with such a `run`: the journal's disk is so fast that it may be written on the loop
    )
    free_bytes: Callable[[Path], int] = free_bytes
    free_elsewhere_bytes: Callable[[], int] = lambda: sys.maxsize  # on other file systems that the node needs
    observe_fsync: Callable[[float], None] = lambda _seconds: None
    fatal: Callable[[str], NoReturn] = die


def disk_health(config: GroupConfig, parts: Parts) -> DiskHealth:
    """Of the disk that holds the group's files, and of those that the node needs besides."""
    return DiskHealth(
        lambda: parts.free_bytes(config.directory),
        parts.free_elsewhere_bytes,
        clock=parts.clock,
        stall_s=config.options.disk_stall_s,
        reserve_bytes=config.options.disk_reserve_bytes,
        state_reserve_bytes=config.options.state_reserve_bytes,
    )
