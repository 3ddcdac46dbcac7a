"""The only module of this package that fsyncs, renames and creates files.

Everything a node keeps is readable by its own user only, whatever the umask, and no symlink is followed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FILE_MODE = 0o600


def create_empty(path: Path) -> None:
    """Make a new empty file. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with _descriptor(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries (creations, renames, removals) to the disk."""
    with _descriptor(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a small file as a whole: after a crash it holds the old bytes or the new ones, durably."""
    part = path.with_name(path.name + ".new")
    part.unlink(missing_ok=True)
    create_empty(part)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    replace(part, path)


def copy_durable(source: Path, target: Path) -> None:
    """Copy a file to a new one that only we can read, down to the disk. Raises FileExistsError."""
    with source.open("rb") as reader:
        create_empty(target)
        with target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())


def replace(source: Path, target: Path) -> None:
    """Rename within one directory, over what is there, durably."""
    source.rename(target)
    sync_directory(target.parent)


def remove(*paths: Path) -> None:
    """Remove what there is of `paths` (all in one directory), durably."""
    for path in paths:
        path.unlink(missing_ok=True)
    sync_directory(paths[0].parent)


@contextlib.contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
