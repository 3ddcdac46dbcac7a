"""Server processes of the systems under test: started here, measured by pid, ended by pid."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.1
PORTS_FIRST = 20_000  # below the range that the kernel takes client ports from
PORTS_LAST = 32_000


class SystemFailedError(Exception):
    """A system did not start or did not do what the benchmark needs. A sentence for the reader."""


class Processes:
    """The processes of one system; stop() ends exactly these."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> int:
        """Returns its pid."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(env or {}),
                cwd=cwd,
                start_new_session=True,
            )
        self._running.append(process)
        return process.pid

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._running]

    def kill(self, pid: int) -> None:
        """SIGKILL for one of ours, and wait until it is gone."""
        process = next(each for each in self._running if each.pid == pid)
        process.kill()
        process.wait()
        self._running.remove(process)

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that these processes and their children have used so far."""
    ticks = sum(_ticks(pid) for root in pids for pid in (root, *_descendants(root)))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mib(pids: Sequence[int]) -> float:
    """Resident memory of these processes, their children left out."""
    return sum(_resident_bytes(pid) for pid in pids) / 2**20


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, proc(5); the state is field 0 here


def _descendants(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text(encoding="ascii").split():
            found += [int(child), *_descendants(int(child))]
    return found


def free_ports(count: int) -> list[int]:
    """Loopback ports on which nobody listens now."""
    found: list[int] = []
    start = PORTS_FIRST + int.from_bytes(os.urandom(2), "big") % (PORTS_LAST - PORTS_FIRST)
    for offset in range(PORTS_LAST - PORTS_FIRST):
        port = PORTS_FIRST + (start - PORTS_FIRST + offset) % (PORTS_LAST - PORTS_FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise SystemFailedError("this machine has no free ports")


def wait_until(
    condition: Callable[[], object], what: str, *, timeout: float = READY_TIMEOUT_S, poll_s: float = POLL_S
) -> None:
    """Poll until `condition` is true. Raises SystemFailedError naming `what`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFailedError(f"after {timeout:.0f} s still no {what}")
        time.sleep(poll_s)
