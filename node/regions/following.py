"""The leader's part in a region that follows: take what the region that orders writes sends, and propose it here.

Where that cannot go on as it is, what is no part of the history is set aside, and the other region's whole state taken.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from consensus.api import Role
from node.regions import divergence, stream
from node.regions.arrival import Arrival, Asker, Progress, parts
from node.regions.links import Interrupted, Links, Unreachable
from node.regions.stream import Batch, Question, Standing
from node.store import Store
from storage import regions as roles
from storage.command import RegionApply
from storage.keyring import DATABASE
from storage.machine import Machine
from storage.rows import Region

RETRY_S = 0.25
UNHELPFUL_PAUSE_S = 0.5  # before another node is asked
COPY = "arriving.db"
SILENCE_S_MAX = stream.HEARTBEAT_S + 4.0  # then another connection is tried
STREAM = "/v1/sys/regions/link/stream"

log = structlog.get_logger("regions")


class Neighbours(Protocol):
    """What is known of the other regions, and the links to them."""

    @property
    def was_removed(self) -> bool: ...
    def primary(self) -> Region | None: ...
    def links(self) -> Links: ...
    def heard(self, told: Standing, address: str) -> None: ...


class Follower:
    """Owned by the worker, which says when it is this node's part."""

    def __init__(self, store: Store, directory: Path, neighbours: Neighbours) -> None:
        self._store, self._neighbours = store, neighbours
        self._path = directory / COPY
        self._path.unlink(missing_ok=True)
        # another region's state, on its way here; perhaps since before a restart
        self._arrival = Arrival(self._path) if parts(self._path) else None
        self.stuck = ""  # why it does not get on
        self.diverged_at = 0  # the first position that is no part of the history; 0: this region is in step

    @property
    def arriving(self) -> Progress | None:
        """How much of another region's state is here, while one is on its way."""
        return self._arrival.progress if self._arrival is not None else None

    async def follow(self) -> None:
        """Take what the region that orders writes sends, until it ends or another one orders them."""
        source = self._neighbours.primary()
        if self._neighbours.was_removed:
            self.stuck = "this region was removed: `region leave` makes it a store of its own"
            source = None
        elif source is None:
            self.stuck = "no region that orders writes answers: it was demoted, and nobody has taken over"
        if source is None or source.name == self._store.region()[0]:
            await asyncio.sleep(RETRY_S)
            return
        frames = stream.Frames()
        pieces = self._neighbours.links().stream(
            source.name, source.links, STREAM, body=self._question(), silence_s=SILENCE_S_MAX
        )
        async with contextlib.aclosing(pieces):
            async for address, piece in pieces:
                try:
                    batches = list(stream.joined(frames.take(piece)))
                except ValueError as error:
                    raise Interrupted(f"{source.name}: {error}") from None
                for batch in batches:
                    if not (await self.take(source, batch, address) and self._follows(source)):
                        return

    def _question(self) -> bytes:
        return msgspec.json.encode(Question(stream.standing(self._store), tuple(self._store.epochs())))

    def _follows(self, source: Region) -> bool:
        """Whether it is still this node's part to take what that region sends."""
        if self._neighbours.was_removed:
            return False
        primary = self._neighbours.primary()
        return self._leads() and primary is not None and primary.name == source.name

    def _leads(self) -> bool:
        return self._store.region_role() == roles.SECONDARY and self._store.status().role is Role.LEADER

    async def take(self, source: Region, batch: Batch, address: str) -> bool:
        """Make a batch of the node at `address` part of this region's state; whether to listen on."""
        own = stream.standing(self._store)
        if batch.standing.level > own.level:
            self.stuck = (
                f"{source.name} is at feature level {batch.standing.level}: upgrade this region's nodes"
            )
        elif batch.verdict == "ok":
            self.stuck, self.diverged_at = "", 0
            await self.give_up_arrival()
            if batch.commands:
                command = RegionApply(
                    time_ns=self._store.now_ns(),
                    epoch=own.epoch,
                    first=batch.first,
                    commands=batch.commands,
                )
                await self._store.submit(command)
            self._neighbours.heard(batch.standing, address)
            if not batch.standing.in_touch:
                self.stuck = f"the node of {source.name} that answers is cut off from its own region"
            return batch.standing.in_touch
        elif batch.verdict in ("diverged", "gone"):
            await self._give_up(source, batch, own)
            return False
        await asyncio.sleep(UNHELPFUL_PAUSE_S)
        return False

    async def _give_up(self, source: Region, batch: Batch, own: Standing) -> None:
        """What is here cannot go on as it is: set aside what is no part of the history, and take the other state."""
        if batch.verdict == "diverged":
            self.diverged_at = batch.at
            count = await divergence.set_aside(self._store, batch.at, own.epoch)
            log.warning("commands set aside", first=batch.at, count=count, source=source.name)
        self.stuck = f"taking the whole state of {source.name}"
        await self._as_secondary(self._resettle(source), source)

    async def _as_secondary(self, taking: Coroutine[Any, Any, None], source: Region) -> None:
        """Take another region's state for as long as this one follows, and this node leads it: what it orders after a
        promotion is not to be replaced by what it took over from, neither a promotion nor a departure waits for the
        rest of a state, and another leader begins by itself.

        Raises Interrupted.
        """
        task = asyncio.create_task(taking, name="resettle")
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=RETRY_S)
                if not task.done() and not self._leads():
                    raise Interrupted(f"the state of {source.name} is not wanted any more")
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at, also where why we end counts for more
        task.result()

    async def _resettle(self, source: Region) -> None:
        """Take the other region's state as a whole, on every node of this one: what is wanted is not kept there,
        or what is here is no part of the history.
        """
        path, asker = self._path, Asker(self._store.region()[0], self._store.position)
        arrival = self._arrival = self._arrival or Arrival(path)
        await arrival.fetch(self._neighbours.links(), source.name, source.links, asker)
        self._arrival = None
        try:
            await asyncio.to_thread(self._mark, path)
            await self._store.copies.check(path)
            await self._store.copies.replace(path)  # declined where its turn comes after a promotion's
        finally:
            path.unlink(missing_ok=True)
        log.warning(
            "this region took the state of another one", source=source.name, position=self._store.position
        )

    async def rest(self) -> None:
        """Following is another region's or another node's matter now."""
        self.stuck, self.diverged_at = "", 0  # it spoke of following
        if self._arrival is not None and not self._may_lead():
            await self.give_up_arrival()

    def _may_lead(self) -> bool:
        """Whether nobody else of this region is known to lead it, so that this node may go on with what it began."""
        status = self._store.status()
        return self._store.region_role() == roles.SECONDARY and status.leader_id in (None, status.node_id)

    async def give_up_arrival(self) -> None:
        """What was on its way is not wanted any more."""
        if self._arrival is not None:
            arrival, self._arrival = self._arrival, None
            links: Links | None = None
            with contextlib.suppress(Unreachable):
                links = self._neighbours.links()
            await arrival.give_up(links)

    def _mark(self, path: Path) -> None:
        machine = Machine.open(path, key=self._store.root.derive(DATABASE))
        try:
            machine.arrive()
            machine.checkpoint()
        finally:
            machine.close()
