"""Snapshots that are taken by themselves: the leader looks at its plans and at its own disk.

What is due is told by the files that are there: the newest one of a plan is older than its interval. So a new leader
needs to be told nothing, and a restart takes none too many. A file has its name only when it is whole and durable.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from consensus.api import Role
from node.backup.plans import Plan, Plans
from node.backup.take import Taking
from node.core.core import Core
from node.errors import NodeError
from storage import files

TICK_S = 5.0
RETRY_S_MAX = 300.0
FILES_LOOKED_AT_MAX = 10_000
_FILE = re.compile(r"(?P<prefix>.+)-(?P<time>\d{8}T\d{6}Z)-(?P<index>\d+)\.snap")

log = structlog.get_logger("backup")


@dataclass(slots=True)
class Progress:
    """What this node knows of a plan since it started; times are seconds since 1970, 0 for never."""

    started: float = 0.0
    ended: float = 0.0
    errors: int = 0  # one after another
    error: str = ""
    file: str = ""


class Automatic:
    """One loop, from unseal to seal. `failures` counts for good."""

    def __init__(self, taking: Taking, directory: Path | None) -> None:
        self.directory = directory
        self.failures = 0
        self._taking = taking
        self._progress: dict[str, Progress] = {}

    def progress(self, name: str) -> Progress:
        return self._progress.setdefault(name, Progress())

    def forget(self, name: str) -> None:
        self._progress.pop(name, None)

    def newest_age_s(self) -> float | None:
        """How old the newest snapshot of any plan in this node's directory is; None if there is none."""
        newest = max((written for _, written, _ in self._files(None)), default=None)
        return None if newest is None else max(0.0, time.time() - newest)

    def due_in_s(self, plan: Plan) -> float:
        """How long until the plan's next snapshot at this node; 0.0: now."""
        newest = max((written for _, written, _ in self._files(plan.file_prefix)), default=0.0)
        return max(0.0, newest + plan.interval_s - time.time())

    async def run(self, core: Core) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            store = core.store
            if store is None or self.directory is None or store.status().role is not Role.LEADER:
                continue
            for name in Plans(store).names():
                plan = Plans(store).get(name)
                if plan is not None and self.due_in_s(plan) == 0.0 and self._may_try(name):
                    await self._take(core, name, plan)

    def _may_try(self, name: str) -> bool:
        """After failures, at growing distances."""
        progress = self.progress(name)
        pause_s = min(TICK_S * 2**progress.errors, RETRY_S_MAX) if progress.errors else 0.0
        return time.time() - progress.ended >= pause_s

    async def _take(self, core: Core, name: str, plan: Plan) -> None:
        progress = self.progress(name)
        progress.started = time.time()
        problem = ""
        try:
            progress.file = str(await self._write(core, plan))
        except (NodeError, OSError) as error:
            problem = str(error) or type(error).__name__
        progress.ended, progress.error = time.time(), problem
        progress.errors = progress.errors + 1 if problem else 0
        if problem:
            self.failures += 1
            log.error("snapshot failed", plan=name, reason=problem)
        else:
            log.info("snapshot taken", plan=name, file=progress.file)

    async def _write(self, core: Core, plan: Plan) -> Path:
        assert self.directory is not None
        async with self._taking.pieces(core) as pieces:
            return await asyncio.to_thread(
                _save, self.directory, plan, core.unsealed.status().applied_index, pieces
            )

    def _files(self, prefix: str | None) -> Iterator[tuple[Path, float, int]]:
        """(path, when it was written, bytes) of the snapshots in the directory."""
        if self.directory is not None:
            yield from _snapshots(self.directory, prefix)


def _snapshots(directory: Path, prefix: str | None) -> Iterator[tuple[Path, float, int]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            found = _FILE.fullmatch(entry.name)
            if number >= FILES_LOOKED_AT_MAX:
                return
            if found and prefix in (None, found["prefix"]):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield Path(entry.path), status.st_mtime, status.st_size


def _save(directory: Path, plan: Plan, index: int, pieces: Iterator[bytes]) -> Path:
    """Blocking: write, make durable, name; then remove what is beyond the plan. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = directory / f"{plan.file_prefix}-{stamp}-{index}.snap"
    part = directory / f".{plan.file_prefix}.part"
    part.unlink(missing_ok=True)
    files.create_empty(part)
    try:
        with part.open("r+b") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        _make_room(directory, plan, part.stat().st_size)
        files.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    for old, _, _ in _oldest_first(directory, plan)[: -plan.retain]:
        old.unlink(missing_ok=True)
    return path


def _make_room(directory: Path, plan: Plan, size_bytes: int) -> None:
    """Older ones go for a new one, never the newest for nothing. Raises OSError if it cannot fit at all."""
    if not plan.local_max_space:
        return
    if size_bytes > plan.local_max_space:
        raise OSError(f"a snapshot of {size_bytes} bytes is over local_max_space ({plan.local_max_space})")
    kept = _oldest_first(directory, plan)
    while kept and sum(size for *_, size in kept) + size_bytes > plan.local_max_space:
        kept.pop(0)[0].unlink(missing_ok=True)


def _oldest_first(directory: Path, plan: Plan) -> list[tuple[Path, float, int]]:
    return sorted(_snapshots(directory, plan.file_prefix), key=lambda found: found[1])
