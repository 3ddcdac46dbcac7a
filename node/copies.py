"""Copies of the whole state as files: take one, check one, make one the state of every node."""

import asyncio
import time
from pathlib import Path

from consensus import errors as raft_errors
from consensus.api import Group
from node.errors import InvalidRequest, NoQuorum, OutcomeUnknown
from storage.errors import StorageError
from storage.machine import Machine

DIGEST_PAUSE_S = 0.001
REPLACE_TIMEOUT_S = 600.0


class StateCopies:
    """The store's door for whole states. Whatever takes long is done in threads."""

    def __init__(self, machine: Machine, group: Group) -> None:
        self._machine, self._group = machine, group

    async def take(self, path: Path) -> int:
        """Write everything that this node has applied to a new file; returns the log index it reaches."""
        self._machine.commit()  # what was acknowledged may still be in an open transaction
        return await asyncio.to_thread(self._machine.snapshot, path)

    async def digest(self, path: Path) -> str:
        """The digest of the state in a copy."""
        return await asyncio.to_thread(self._machine.digest_of, path, breathe)

    async def check(self, path: Path) -> None:
        """Raises InvalidRequest unless the file is a state that this store's keys open."""
        try:
            await asyncio.to_thread(self._machine.verify, path)
        except StorageError as error:
            raise InvalidRequest(f"the snapshot's state cannot be restored: {error}") from None

    async def replace(self, path: Path) -> None:
        """Make a checked copy the state of every node. Raises NoQuorum (nothing happened), OutcomeUnknown."""
        try:
            await self._group.restore(path, REPLACE_TIMEOUT_S)
        except raft_errors.OutcomeUnknown as error:
            raise OutcomeUnknown(
                "the restore may still be carried out: look at the state before you ask again"
            ) from error
        except raft_errors.ConsensusError as error:
            raise NoQuorum(f"nothing was restored: {error}") from error


def breathe() -> None:
    """What reads a whole state in a thread lets the others run."""
    time.sleep(DIGEST_PAUSE_S)
