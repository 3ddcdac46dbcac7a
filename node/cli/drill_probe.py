"""The load under which drills measure: one writer that counts up, one reader that must never see it go back."""

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from node.cli.client import Client
from node.cli.http_connection import Connections
from node.cli.output import RemoteError

PAUSE_S = 0.04
TIMEOUT_S = 10.0
REMOVE_ATTEMPTS_MAX = 20
WRITES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Acknowledged:
    number: int
    began: float  # monotonic seconds
    ended: float


def longest_gap_s(acknowledged: Sequence[Acknowledged], since: float) -> float:
    """The longest time without an acknowledged write, from `since` on, as far as writes were acknowledged again."""
    times = [since, *(each.ended for each in acknowledged if each.ended > since)]
    return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)


@dataclass
class Probe:
    """From start() to stop(). The lists are only appended to, each by one thread."""

    writer: Client
    readers: Sequence[Client]
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    acknowledged: list[Acknowledged] = field(default_factory=list)
    requests: int = 0
    failures: list[str] = field(default_factory=list)  # what was answered instead
    stale: int = 0  # reads that did not see what had been acknowledged before they began
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._write, daemon=True)]
        if self.readers:
            self._threads.append(threading.Thread(target=self._read, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Once; nothing is sent afterwards."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def lost(self) -> int:
        """How many acknowledged writes a reader, or the writer's own node, does not find: after stop()."""
        return max(self._lost_at(client) for client in (self.writer, *self.readers))

    def remove(self) -> bool:
        """Whether nothing of it is left; else it goes by itself within the hour."""
        for _ in range(REMOVE_ATTEMPTS_MAX):
            if self._send(self.writer, "DELETE", None)[0] in (200, 204):
                return True
            time.sleep(PAUSE_S)
        return False

    @property
    def path(self) -> str:
        return f"sys/drills/probe/{self.name}"

    def _lost_at(self, client: Client) -> int:
        for _ in range(REMOVE_ATTEMPTS_MAX):
            status, number, _ = self._send(client, "GET", None)
            if status in (200, 404):
                return sum(each.number > (number or 0) for each in self.acknowledged)
            time.sleep(PAUSE_S)
        raise RemoteError(f"{client.address} does not tell what it has of {self.path}.")

    def _write(self) -> None:
        with contextlib.closing(Connections()) as connections:
            client, number = replace(self.writer, connections=connections), 0
            while not self._ended.wait(PAUSE_S) and number < WRITES_MAX:
                number += 1
                began = time.monotonic()
                status, _, told = self._send(client, "POST", {"number": number})
                if status == 204:
                    self.acknowledged.append(Acknowledged(number, began, time.monotonic()))
                self._count(status == 204, told)

    def _read(self) -> None:
        with contextlib.closing(Connections()) as connections:
            clients, turn = [replace(each, connections=connections) for each in self.readers], 0
            while not self._ended.wait(PAUSE_S) and turn < WRITES_MAX:
                known = self.acknowledged[-1].number if self.acknowledged else 0
                status, number, told = self._send(clients[turn % len(clients)], "GET", None)
                turn += 1
                self._count(status == 200 or (status == 404 and not known), told)
                self.stale += status in (200, 404) and (number or 0) < known

    def _count(self, done: bool, told: str) -> None:
        with self._lock:
            self.requests += 1
            if not done:
                self.failures.append(told)

    def _send(self, client: Client, method: str, body: object) -> tuple[int, int | None, str]:
        """(status or 0, the number that was read, what was told instead)."""
        try:
            answer = client.send(method, self.path, body, timeout=TIMEOUT_S)
        except RemoteError as error:
            return 0, None, str(error)
        number = answer.body["data"]["number"] if method == "GET" and answer.status == 200 else None
        return answer.status, number, f"{client.address} answered {answer.status}: {answer.errors}"


def wait_for(what: str, probe: Callable[[], bool], timeout_s: float, *, pause_s: float = PAUSE_S) -> None:
    """Until it is so. Raises RemoteError if it is not in time."""
    ends = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > ends:
            raise RemoteError(f"{what} did not happen within {timeout_s:g} s.")
        time.sleep(pause_s)
