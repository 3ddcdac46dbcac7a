"""Processes that outlive their launcher, each known by its configuration file: start, find again, signal, wait."""

import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from node.cli.output import LocalError

POLL_S = 0.02
PORT_TIMEOUT_S = 5.0
LOG_LINES_QUOTED = 12
LOG_BYTES_READ_MAX = 64 * 1024


class ClusterError(LocalError):
    """The local cluster cannot do what was asked: a sentence, with the end of a log where that helps."""


SERVER = ("node.cli", "server", "-config")  # a module, and what stands before the configuration
_MODULES = frozenset({b"node.cli", b"node.wan"})


def spawn(
    config: Path,
    *arguments: str,
    log: Path,
    pid_file: Path,
    env: Mapping[str, str],
    program: tuple[str, ...] = SERVER,
) -> None:
    """Start a program of ours in its own session, with its output appended to `log`.

    posix_spawn and not subprocess: nothing here owns the process afterwards, and it must survive us.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    # STRONGROOM_NODE_ID and its like, meant for somebody else, would win over the configuration file.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STRONGROOM_")}
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", *program, str(config), *arguments],
        inherited | {"PYTHONUNBUFFERED": "1"} | dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM],
    )
    with open(
        os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii"
    ) as stream:
        stream.write(f"{pid}\n{_started(pid)}\n")


def find(config: Path, *, pid_file: Path) -> int | None:
    """The pid of the running process of `config`, or None: a pid that was recycled is somebody else.

    A process counts as running until it has let go of its ports and locks.
    """
    try:
        pid, started = (int(line) for line in pid_file.read_text(encoding="ascii").split())
    except (FileNotFoundError, ValueError):
        return None
    _reap(pid)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if _started(pid) != started or _has_ended(pid):
            return None
    except OSError:
        return None
    # There is none for a moment in execve, and at the end, when the kernel takes the memory before the files.
    arguments = command.split(b"\0")
    return pid if not command or (_MODULES & set(arguments) and os.fsencode(config) in arguments) else None


def _started(pid: int) -> int:
    """When a process began, in clock ticks since the machine did: with its pid, its identity."""
    return int(_stat(pid)[19])


def _has_ended(pid: int) -> bool:
    """Whether only the zombie is left: a leading thread is one already while others still hold the files."""
    return _stat(pid)[0] in ("Z", "X") and len(os.listdir(f"/proc/{pid}/task")) == 1


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, `state`, on (the second may hold anything)."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()


def _reap(pid: int) -> None:
    """A dead child of ours stays a zombie until it is waited for; somebody else's is not ours to wait for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone by now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_gone(config: Path, *, pid_file: Path, timeout: float) -> bool:
    """Whether the process of `config` ended within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while find(config, pid_file=pid_file) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def will_be_free(port: int) -> bool:
    """is_free(), in a moment: what a killed server left behind may have yet to end."""
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path) -> str:
    """The end of a log, indented, to be quoted in an error."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LOG_BYTES_READ_MAX))
            lines = deque(stream.read().decode(errors="replace").splitlines(), maxlen=LOG_LINES_QUOTED)
    except FileNotFoundError:
        lines = deque()
    quoted = "\n".join(f"    {line}" for line in lines) or "    (empty)"
    return f"The end of {log}:\n{quoted}"
