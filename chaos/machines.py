"""A cluster's nodes as machines with a power cord: start, kill, and lose what was not synced."""

import os
import random
from pathlib import Path

from chaos.power import (
    DURABLE_FILE_VARIABLE,
    DURABLE_RECORD_BYTES_MAX,
    Lost,
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

    def dead(self) -> list[str]:
        return [name for name in self.names if not self._cluster.alive(name)]

    def last_words(self, name: str) -> str:
        """The last line of a node's log."""
        with (self._directory(name) / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES_READ))
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]

    def leader(self) -> str | None:
        return self._cluster.leader()

    def lose_power(self, name: str, rng: random.Random, *, with_database: bool) -> list[Lost]:
        """Take from a dead node what it had not synced; empty if it synced nothing since its start."""
        durable = read_durable(self._directory(name) / DURABLE_FILE)
        if durable is None:
            return []
        data = self._directory(name) / DATA
        losses = [lose_journal_tail(data / JOURNAL, durable, rng)]
        if with_database:
            losses.append(lose_database_tail(data / DATABASE, rng))
        return losses

    def _directory(self, name: str) -> Path:
        return next(node.directory for node in self._cluster.nodes if node.id == name)
