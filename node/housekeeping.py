"""What a node does by itself, on a timer: renew its certificates, fold its database's log in; and
the leader: expire tokens, take back leases. (Who is a member: node/autopilot/.)

Each step is idempotent and proposes ordinary commands, so it does no harm that an old leader and a new one
may both try for a moment, or that one stops halfway.
"""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable

import structlog

from consensus import errors as raft_errors
from consensus.api import Group, Role
from node.auth.token import expire_tokens
from node.errors import NodeError
from node.key_rotation import rotate_if_due
from node.leases.manager import Revokers, sweep
from node.store import CommandRejected, Store
from node.telemetry.metrics import Metrics
from node.view import expire_entries

TICK_S = 1.0
SWEEP_EVERY_TICKS = 5
RENEW_EVERY_TICKS = 3600
CHECKPOINT_EVERY_TICKS = 30
ROTATE_EVERY_TICKS = 60

log = structlog.get_logger("housekeeping")


class Housekeeping:
    """One task, owned by the lifecycle from unseal to seal."""

    def __init__(
        self,
        *,
        store: Store,
        group: Group,
        metrics: Metrics,
        revokers: Revokers,
        renew: Callable[[], None],
        checkpoint: Callable[[], int],
        follow_seal: Callable[[], Awaitable[None]],
    ) -> None:
        """`checkpoint` (blocking, any thread) makes the state durable, so that its write-ahead log stays short."""
        self._revokers = revokers
        self._renew, self._checkpoint, self._follow_seal = renew, checkpoint, follow_seal
        self._entries_generation = -1
        self._store = store
        self._group = group
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        ticks = 0
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._metrics.observe_loop_lag(max(0.0, time.monotonic() - due))
            ticks += 1
            await self._tidy_disk(ticks)
            if self._group.status().role is not Role.LEADER:
                self._store.leading_since_ns = 0
                continue
            self._store.leading_since_ns = self._store.leading_since_ns or time.time_ns()
            try:
                if not self._store.orders:
                    continue
                if ticks % SWEEP_EVERY_TICKS == 0:
                    await expire_tokens(self._store)
                    await expire_entries(self._store)
                await sweep(self._store, self._revokers)
                if ticks % ROTATE_EVERY_TICKS == 0:
                    await rotate_if_due(self._store)
            except (NodeError, CommandRejected, raft_errors.ConsensusError) as error:
                log.warning("housekeeping step put off", reason=str(error))

    async def _tidy_disk(self, ticks: int) -> None:
        """What every node does with its own files; a full disk puts it off."""
        try:
            if ticks % RENEW_EVERY_TICKS == 1:  # at once, too: it may have been off for months
                self._renew()
            if ticks % CHECKPOINT_EVERY_TICKS == 0:
                await asyncio.to_thread(self._checkpoint)
            await self._follow_rekeys()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            log.warning("no room on the disk: housekeeping step put off")

    async def _follow_rekeys(self) -> None:
        """Every node keeps the newest seal that it has applied; entries that did not change need no look."""
        generation = self._store.generation("entries")
        if generation != self._entries_generation:
            await self._follow_seal()
            self._entries_generation = generation
