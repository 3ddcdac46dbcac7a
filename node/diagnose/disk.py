"""The files of a node: there, private, with room, and on a disk that syncs fast enough."""

import fcntl
import os
import secrets
import shutil
import stat
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from consensus.options import RaftOptions
from node.backup.anew import BEGINNING, RESTORED
from node.config import Settings
from node.diagnose.finding import Finding, Findings, fail, ok, skipped, warn
from node.identity import Layout

FREE_BYTES_MIN = 1 << 30
FREE_FRACTION_MIN = 0.1
SYNCS = 20
SYNC_BYTES = 4096
SLOW_SYNC_S, BAD_SYNC_S = 0.010, 0.100
FILES_LOOKED_AT_MAX = 10_000


def check(settings: Settings) -> Findings:
    yield from data_directory(settings)
    yield from audit_files(settings)
    yield from snapshot_directory(settings)


def in_use(data_dir: Path) -> bool:
    """Whether a node runs on it now."""
    try:
        fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def data_directory(settings: Settings) -> Findings:
    directory = settings.data_dir
    if not directory.exists():
        above = next(path for path in directory.parents if path.exists())
        if os.access(above, os.W_OK | os.X_OK):
            yield ok("data directory", f"{directory} does not exist yet; the first start makes it")
        else:
            yield fail(
                "data directory", f"{directory} cannot be made in {above}", f"make it, owned by user {_me()}"
            )
        return
    if not directory.is_dir() or not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield fail(
            "data directory", f"{directory} cannot be used by user {_me()}", f"chown -R {_me()} {directory}"
        )
        return
    yield _private(directory)
    yield _room(directory)
    yield sync_speed(directory)
    yield _content(Layout(directory))


def _private(directory: Path) -> Finding:
    open_to_others = [path for path in _files(directory) if _is_open(path)]
    if not open_to_others:
        return ok("permissions", f"everything in {directory} is private to user {_me()}")
    shown = ", ".join(str(path) for path in open_to_others[:3])
    return fail(
        "permissions",
        f"readable by others, or not ours: {shown}",
        f"chown -R {_me()} {directory}; chmod -R go= {directory}",
    )


def _files(directory: Path) -> Iterator[Path]:
    yield directory
    for number, path in enumerate(directory.rglob("*")):
        if number >= FILES_LOOKED_AT_MAX:
            return
        yield path


def _is_open(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False  # a running node's files come and go
    public = path.name == "ca.pem" or path.name == "lock"
    return status.st_uid != os.geteuid() or (
        not public and bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    )


def _room(directory: Path) -> Finding:
    usage = shutil.disk_usage(directory)
    message = f"{usage.free >> 20} MiB free of {usage.total >> 20} MiB at {directory}"
    if usage.free < RaftOptions().disk_reserve_bytes:
        return fail("disk space", message, "with so little left the node takes no writes: make room")
    if usage.free < FREE_BYTES_MIN or usage.free < usage.total * FREE_FRACTION_MIN:
        return warn(
            "disk space", message, "a snapshot needs as much again as the state: make room, or a larger disk"
        )
    return ok("disk space", message)


def sync_speed(directory: Path) -> Finding:
    """How long the journal's disk takes for what every write waits for."""
    path = directory / f".diagnose-{secrets.token_hex(4)}"
    times = []
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, bytes(SYNCS * SYNC_BYTES), 0)  # as the journal's files are made ready
            os.fsync(fd)
            for number in range(SYNCS):
                os.pwrite(fd, secrets.token_bytes(SYNC_BYTES), number * SYNC_BYTES)
                began = time.perf_counter()
                os.fdatasync(fd)
                times.append(time.perf_counter() - began)
        finally:
            os.close(fd)
            path.unlink()
    except OSError as error:
        return fail(
            "disk sync", f"{directory} cannot be written to: {error.strerror}", "mend or replace the disk"
        )
    median_s, worst_s = statistics.median(times), max(times)
    message = (
        f"a write of 4 KiB is durable in {median_s * 1000:.1f} ms (worst of {SYNCS}: {worst_s * 1000:.1f} ms)"
    )
    if median_s > BAD_SYNC_S:
        return fail(
            "disk sync", message, "every write waits for this: use a local SSD, not a network file system"
        )
    if median_s > SLOW_SYNC_S:
        return warn("disk sync", message, "every write waits for this: a local SSD takes under 5 ms")
    return ok("disk sync", message)


def _content(layout: Layout) -> Finding:
    if (layout.root / RESTORED).exists():
        return warn("store", "a restore was interrupted", "start the node: it finishes it")
    if not layout.seal.exists():
        return ok("store", "no store here yet: `operator init` makes one, `operator join` enters one")
    missing = [path.name for path in (layout.identity, layout.database, layout.raft) if not path.exists()]
    if missing and not (layout.root / BEGINNING).exists():
        return fail(
            "store",
            f"seal.json is here, but {', '.join(missing)} is missing",
            "remove this node from its cluster (operator raft remove-peer), empty the directory, join again",
        )
    return ok("store", "a store is here")


def audit_files(settings: Settings) -> Findings:
    for path in settings.audit_files:
        directory = path.parent
        if path.exists():
            good = path.is_file() and os.access(path, os.W_OK)
        else:
            good = directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
        if good:
            yield ok("audit", f"{path} can be written")
        else:
            yield fail(
                "audit",
                f"{path} cannot be written",
                f"make {directory} writable for user {_me()}: without a record nothing is answered",
            )
    if not settings.audit_files:
        yield warn("audit", "there is no audit log", 'add audit "file" { path = "..." }')


def snapshot_directory(settings: Settings) -> Findings:
    directory = settings.snapshot_dir
    if directory is None:
        yield skipped("snapshots", "snapshot_dir is not set: no snapshots are taken by themselves")
        return
    place = directory if directory.exists() else directory.parent
    if os.access(place, os.W_OK | os.X_OK):
        yield ok("snapshots", f"{directory} can be written")
    else:
        yield fail("snapshots", f"{directory} cannot be written", f"make it, owned by user {_me()}")


def _me() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
