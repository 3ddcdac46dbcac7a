"""Committed entries into the state machine, which keeps what was applied in a batch that is closed now and then.

Reads see what is applied anyhow and the journal has every entry, so closing can wait a little: it costs less for
many entries together.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from consensus.api import REQUEST_ID_BYTES, StateMachine
from consensus.disk import DiskHealth
from consensus.membership import REGULAR
from consensus.options import RaftOptions
from consensus.records import Entry

COMMIT_POLL_S = 0.01
# Of a batch, where there is little room: their pages fit into what is kept free for the state, unless values are large.
SCARCE_ENTRIES_MAX = 1024

OnApplied = Callable[[int, bytes, object, int], None]  # index, request id, result, size in bytes


class Applying:
    """apply() runs for every entry; the batch is closed by a timer, by its size, or by whoever needs it closed."""

    def __init__(
        self,
        machine: StateMachine,
        *,
        options: RaftOptions,
        disk: DiskHealth,
        applied: OnApplied,
        fatal: Callable[[str], NoReturn],
    ) -> None:
        self._machine, self._options, self._disk = machine, options, disk
        self._applied, self._fatal = applied, fatal
        self._unclosed = 0  # entries
        self._close_due: asyncio.TimerHandle | None = None

    def apply(self, entry: Entry) -> None:
        """The next entry of the log; not one that restores a state."""
        payload, index, _ = entry
        try:
            if payload[0] != REGULAR:
                self._machine.skip(index)
            else:
                request_id = payload[1 : 1 + REQUEST_ID_BYTES]
                result = self._machine.apply(index, request_id, payload[1 + REQUEST_ID_BYTES :])
                self._applied(index, request_id, result, len(payload))
        except Exception as error:  # noqa: BLE001 - the state may be half-changed: stop (P6)
            self._fatal(f"applying entry {index} raised {type(error).__name__}")
        self._unclosed += 1
        if self._unclosed >= (
            SCARCE_ENTRIES_MAX if self._disk.scarce else self._options.apply_commit_entries_max
        ):
            self._close_soon()
        elif self._close_due is None:
            self._close_later()

    def _close_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._close_due = loop.call_later(self._options.apply_commit_s, self._close_soon)

    def _close_soon(self) -> None:
        self.stop_timer()
        self._disk.look_now()
        if not self._disk.cramped and self._machine.commit_soon():
            self._unclosed = 0
        else:
            self._close_later()

    def close(self) -> None:
        """Close the batch now: somebody is about to look at the machine's file. Raises OSError."""
        self.stop_timer()
        self._unclosed = 0
        self._machine.commit()

    async def close_apart(self) -> None:
        """close(), with as much of it as can be in the background."""
        for _ in range(2):  # the second time the first one is done, and little is left
            while not self._machine.commit_soon():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(COMMIT_POLL_S)
        self.close()

    def stop_timer(self) -> None:
        if self._close_due is not None:
            self._close_due.cancel()
            self._close_due = None
