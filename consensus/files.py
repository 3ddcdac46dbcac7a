"""The only module of this package that makes directories, syncs, renames and removes.

Everything is private to the user that runs the node (0700 directories, 0600 files), and a symlink in place of
one of our files is an error, never followed. Names change durably: the directory is synced after each rename.
"""

import errno
import os
import shutil
from pathlib import Path

PRIVATE_DIR_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
TMP_SUFFIX = ".tmp"
READ_BYTES = 1 << 20

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC


def make_private_dir(path: Path) -> None:
    """Create `path` (and its parents) for this user only; an existing directory is made private."""
    path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
    path.chmod(PRIVATE_DIR_MODE)


def create_file(path: Path) -> int:
    """A new, empty, private file for reading and writing; whatever had that name is removed first."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, PRIVATE_FILE_MODE)


def open_file(path: Path, *, writable: bool = False) -> int:
    """A descriptor of an existing file."""
    return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _SAFE)


def read_file(path: Path) -> bytes:
    """The whole file."""
    with open(open_file(path), "rb") as file:
        return file.read()


def write_at(fd: int, data: bytes, offset: int) -> None:
    """All of `data` at `offset`, not yet durable. A short write is an error: the disk is full."""
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError(errno.ENOSPC, "short write")


def sync_data(fd: int) -> None:
    """What was written is durable when this returns. After an error nobody knows: never retry."""
    os.fdatasync(fd)


def sync_file(fd: int) -> None:
    """Content and size are durable when this returns."""
    os.fsync(fd)


def fsync_dir(path: Path) -> None:
    """The names in `path` are durable when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def preallocate(fd: int, size_bytes: int) -> None:
    """Reserve zeroed space, so that a later write neither meets a full disk nor changes the file's size."""
    os.posix_fallocate(fd, 0, size_bytes)


def cut(fd: int, *, keep_bytes: int, size_bytes: int) -> None:
    """Durably replace what follows the first `keep_bytes` by zeros, up to `size_bytes`."""
    os.ftruncate(fd, keep_bytes)
    preallocate(fd, max(keep_bytes, size_bytes))
    sync_file(fd)


def rename(source: Path, target: Path) -> None:
    """Give `source` (already synced, in the same directory) its final name, durably."""
    source.rename(target)
    fsync_dir(target.parent)


def remove(path: Path) -> None:
    """The name is gone, durably."""
    path.unlink(missing_ok=True)
    fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory of ours with all that is in it, if it is there."""
    if path.exists():
        shutil.rmtree(path)
        fsync_dir(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a crash left in `path` before it had its final name."""
    for leftover in path.glob("*" + TMP_SUFFIX):
        leftover.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """After this returns, and after any crash in between, `path` holds either its old content or `data`."""
    tmp = path.with_name(path.name + TMP_SUFFIX)
    fd = create_file(tmp)
    try:
        write_at(fd, data, 0)
        sync_file(fd)
    finally:
        os.close(fd)
    rename(tmp, path)
