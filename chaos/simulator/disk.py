"""The files of the journals and snapshots: real ones in memory, of which a power cut loses what was not synced.

Between a write and its sync a file has bytes that a power cut may or may not keep, sector by sector. `fuse` cuts the
power of a node in the middle of whatever it does, after so many operations of its disk.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chaos.simulator.loop import PROCESS
from consensus import files

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """Unwinds the node that has just lost its power. Not an Exception: nobody may handle it."""


class Disk:
    """What files.py would do to a disk, for all nodes of a world; `power_cut(name)` is told of a blown fuse."""

    def __init__(self, rng: random.Random, power_cut: Callable[[str], None]) -> None:
        self._rng, self._power_cut = rng, power_cut
        self._paths: dict[int, Path] = {}
        self._unsynced: dict[Path, list[tuple[int, bytes]]] = {}  # offset and what was there before
        self._fuses: dict[str, int] = {}
        self._create, self._open, self._rename = files.create_file, files.open_file, files.rename

    def fuse(self, name: str, operations: int) -> None:
        """Cut the power of `name` at its n-th operation from now on."""
        self._fuses[name] = operations

    def unfuse(self) -> None:
        self._fuses.clear()

    def close(self) -> None:
        """Release what dead nodes left open."""
        for fd, path in self._paths.items():
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").startswith(str(path.parent)):
                    os.close(fd)

    def _operation(self) -> None:
        process = PROCESS.get()
        if process is None or process.name not in self._fuses:
            return
        self._fuses[process.name] -= 1
        if self._fuses[process.name] <= 0:
            del self._fuses[process.name]
            self._power_cut(process.name)
            raise PowerCut(process.name)

    def lose_power(self, directory: Path) -> None:
        """Keep all, none, or some sectors of what was written and not synced below `directory`."""
        for path in sorted(path for path in self._unsynced if path.is_relative_to(directory)):
            writes = self._unsynced.pop(path)
            share = self._rng.choice([0.0, 1.0, 0.5])
            if path.exists():
                with path.open("r+b") as file:
                    for offset, before in reversed(writes):
                        self._revert(file.fileno(), offset, before, share)

    def _revert(self, fd: int, offset: int, before: bytes, share: float) -> None:
        position = 0
        while position < len(before):
            sector_end = (offset + position) // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - offset
            if self._rng.random() < share:
                os.pwrite(fd, before[position:sector_end], offset + position)
            position = sector_end

    # ---- in place of files.py

    def create_file(self, path: Path) -> int:
        fd = self._create(path)
        self._paths[fd] = path
        self._unsynced.pop(path, None)
        return fd

    def open_file(self, path: Path, *, writable: bool = False) -> int:
        fd = self._open(path, writable=writable)
        self._paths[fd] = path
        return fd

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        before = os.pread(fd, len(data), offset).ljust(len(data), b"\0")
        self._unsynced.setdefault(self._paths[fd], []).append((offset, before))
        os.pwrite(fd, data, offset)
        self._operation()

    def sync(self, fd: int) -> None:
        self._operation()
        self._unsynced.pop(self._paths[fd], None)

    def rename(self, source: Path, target: Path) -> None:
        self._operation()
        self._rename(source, target)
        self._paths = {fd: target if path == source else path for fd, path in self._paths.items()}
        if source in self._unsynced:
            self._unsynced[target] = self._unsynced.pop(source)

    def preallocate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, max(size_bytes, os.fstat(fd).st_size))

    def sync_directory(self, path: Path) -> None:
        """Names are durable at once."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """All of consensus works on this disk meanwhile."""
        ours: dict[str, Any] = {
            "create_file": self.create_file,
            "open_file": self.open_file,
            "write_at": self.write_at,
            "sync_data": self.sync,
            "sync_file": self.sync,
            "rename": self.rename,
            "preallocate": self.preallocate,
            "fsync_dir": self.sync_directory,
        }
        before = {name: getattr(files, name) for name in ours}
        try:
            for name, function in ours.items():
                setattr(files, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(files, name, function)
