"""A cluster's nodes as machines with a power cord: start, kill, and lose what was not synced."""

import os
import random
import time
from pathlib import Path

from chaos.power import (
    DURABLE_FILE_VARIABLE,
    DURABLE_RECORD_BYTES_MAX,
    Lost,
    has_unsynced,
    lose_database_tail,
    lose_journal_tail,
    read_durable,
)
from chaos.target import Cluster
from consensus.opening import JOURNAL_DIR

DATA = "data"
JOURNAL = Path("raft") / JOURNAL_DIR
DATABASE = "state.db"
DURABLE_FILE = "chaos-durable"
LOG = "server.log"
LOG_BYTES_READ = 4096
AIM_TRIES_MAX = 300
AIM_PAUSE_S = 0.002


class Machines:
    """Starts and breaks the nodes of one cluster. Everything here blocks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.names = tuple(node.id for node in cluster.nodes)

    def start(self, name: str) -> None:
        """Start a node that tells how far its journal is synced (chaos.power)."""
        file = self._directory(name) / DURABLE_FILE
        file.write_bytes(bytes(DURABLE_RECORD_BYTES_MAX))
        self._cluster.start(name, env={DURABLE_FILE_VARIABLE: str(file)})

    def kill(self, name: str) -> None:
        self._cluster.kill(name)

    def pause(self, name: str) -> None:
        self._cluster.pause(name)

    def resume(self, name: str) -> None:
        self._cluster.resume(name)

    def dead(self) -> list[str]:
        return [name for name in self.names if not self._cluster.alive(name)]

    def last_words(self, name: str) -> str:
        """The last line of a node's log."""
        with (self._directory(name) / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES_READ))
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]

    def leader(self) -> str | None:
        return self._cluster.leader()

    def kill_in_a_write(self, name: str) -> None:
        """Kill a node at a moment when it has written to its journal and not synced, if there is one soon.

        Such moments last as long as an fdatasync, and a kill at random rarely meets one.
        """
        for _ in range(AIM_TRIES_MAX):
            self._cluster.pause(name)
            durable = read_durable(self._directory(name) / DURABLE_FILE)
            if durable is not None and has_unsynced(self._journal(name), durable):
                break
            self._cluster.resume(name)
            time.sleep(AIM_PAUSE_S)
        self._cluster.kill(name)

    def lose_power(self, name: str, rng: random.Random, *, with_database: bool) -> list[Lost]:
        """Take from a dead node what it had not synced; empty if it synced nothing since its start."""
        durable = read_durable(self._directory(name) / DURABLE_FILE)
        if durable is None:
            return []
        losses = [lose_journal_tail(self._journal(name), durable, rng)]
        if with_database:
            losses.append(lose_database_tail(self._directory(name) / DATA / DATABASE, rng))
        return losses

    def _journal(self, name: str) -> Path:
        return self._directory(name) / DATA / JOURNAL

    def _directory(self, name: str) -> Path:
        return next(node.directory for node in self._cluster.nodes if node.id == name)
