"""The file of the journal's next segment, filled with zeros beside the work and durable before it is needed.

Space that was only reserved costs twice: at each sync the file system has to write, besides the data, that this space
is data now. Zeros that are on the disk already are just written over. (PostgreSQL knows it as wal_init_zero.)
"""

import os
import threading
from pathlib import Path

from consensus import files

PIECE_BYTES = 256 << 10  # at a time: the journal's own syncs wait behind it in the disk's queue
# What was taken keeps its name for a while, and the next one may be begun meanwhile.
SPARE_NAME = "spare-{}" + files.TMP_SUFFIX


class Spare:
    """At most one file. prepare() and take() may run in two threads; take() waits for nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path, self._fd = Path(), -1
        self._count = self._written_bytes = 0
        self.ready = False

    def prepare(self, directory: Path, size_bytes: int) -> None:
        """Blocking: write the next piece of a file, if it is not ready. Raises OSError: it is gone then."""
        with self._lock:
            if self.ready:
                return
            try:
                if self._fd < 0:
                    self._count += 1
                    self._path = directory / SPARE_NAME.format(self._count)
                    self._fd = files.create_file(self._path)
                    files.preallocate(self._fd, size_bytes)
                piece = bytes(min(PIECE_BYTES, size_bytes - self._written_bytes))
                files.write_at(self._fd, piece, self._written_bytes)
                files.sync_file(self._fd)
                self._written_bytes += len(piece)
                self.ready = self._written_bytes == size_bytes
            except OSError:
                self._drop()
                raise

    def take(self) -> tuple[int, Path] | None:
        """Descriptor and name of the file, which is the caller's then; None if it is not ready."""
        if not self.ready or not self._lock.acquire(blocking=False):
            return None
        try:
            taken = self._fd, self._path
            self._forget()
            return taken
        finally:
            self._lock.release()

    def drop(self) -> None:
        """There is none when this returns."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        fd, path = self._fd, self._path
        self._forget()  # first: a descriptor that is closed twice may be somebody else's by then
        if fd >= 0:
            os.close(fd)
            files.remove(path)

    def _forget(self) -> None:
        self._fd, self._written_bytes, self.ready = -1, 0, False
