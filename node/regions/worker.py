"""This node's part in the regions of its store: follow the one that orders writes, or watch for one that took over.

One task, from unseal to seal. In a region that follows, the leader pulls commands and proposes them; every node keeps
in touch, so that it knows how far behind it is. In the region that orders writes, nothing is accepted after a start
until every other region was asked whether it took over meanwhile, or could not be reached: a primary that comes back
finds its successor before it acknowledges anything.
"""

import asyncio
import contextlib
import math
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from consensus.api import Role
from node import pki
from node.config import Settings
from node.errors import NodeError, NoQuorum
from node.regions import authority, divergence, stream
from node.regions import settings as own_settings
from node.regions.copies import Arrival
from node.regions.links import Answer, Interrupted, Links, Unreachable
from node.regions.stream import Batch, Question, Rank, Standing
from node.regions.throttle import Throttle
from node.store import CommandRejected, Store
from storage import regions as roles
from storage.command import RegionApply, RegionDemote, RegionPromote, RegionPut
from storage.errors import StorageError
from storage.keyring import DATABASE
from storage.machine import Machine
from storage.rows import Region

TOUCH_EVERY_S = 0.5
TOUCH_TIMEOUT_S = 2.0
CONTACT_LOST_S = 5.0  # a round of questions takes up to TOUCH_TIMEOUT_S, and one may get lost
CERTIFY_EVERY_S = 24 * 3600.0  # certificates of links are good for authority.LIFETIME
RETRY_S = 0.25
TOLD_MAX = 256  # positions of a region that this node has not reached yet: enough for two minutes
COPY = "region-arriving.db"
CLEARANCE_PATIENCE_S = 5.0  # from the first question after a start, for regions that do not answer
SILENCE_S_MAX = stream.HEARTBEAT_S + 4.0  # then another connection is tried
HELLO, STREAM = "/v1/sys/regions/link/hello", "/v1/sys/regions/link/stream"

log = structlog.get_logger("regions")
_encode = msgspec.json.Encoder().encode
_standing = msgspec.json.Decoder(Standing).decode


class Listening(Protocol):
    """A listener that is open."""

    async def drain(self, timeout: float) -> None: ...


Listen = Callable[[str, ssl.SSLContext], Awaitable[Listening]]


@dataclass(slots=True)
class Contact:
    """What this node last heard from another region; times are monotonic seconds.

    An answer may come late: what it says is only known to have been so after it was asked for.
    """

    standing: Standing
    heard_at: float
    level_at: float | None = None  # a time up to which this node holds all that the region had
    round_trip_s: float = 0.0
    told: deque[tuple[int, float]] = field(
        default_factory=deque
    )  # positions not reached yet, and when asked for

    def answered(self, began: float, now: float) -> None:
        """`standing` answers a question of that time."""
        self.heard_at, self.round_trip_s = began, now - began
        if len(self.told) < TOLD_MAX:
            self.told.append((self.standing.position, began))

    def reached(self, position: int) -> None:
        """This node is at `position`."""
        while self.told and self.told[0][0] <= position:
            self.level_at = self.told.popleft()[1]


class RegionsWorker:
    """Owned by the lifecycle; core.regions while the store is open."""

    def __init__(
        self, store: Store, settings: Settings, cluster_id: str, directory: Path, listen: Listen
    ) -> None:
        self._store, self._settings, self._cluster_id = store, settings, cluster_id
        self.contacts: dict[str, Contact] = {}
        self.diverged_at = 0  # the first position that is no part of the history; 0: this region is in step
        self._highest: Rank = (0, "")  # of the epochs that this node heard of
        self.stuck = ""  # why a region that follows does not get on
        self._asking_since: float | None = None  # when the other regions were first asked
        store.cleared.clear()
        self.throttle = Throttle(settings.link_bytes_per_s)
        self.link_problem = ""  # why other regions cannot reach this node
        self._links: Links | None = None
        self._tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._certified_at = 0.0
        self._group = b""  # the certificate of the authority under which links were opened
        self._serve: Listening | None = None
        self._news = asyncio.Event()
        self._listen, self._directory = listen, directory
        self._arrival: Arrival | None = None  # another region's state, on its way here

    # --- what requests ask ---

    @property
    def highest(self) -> Rank:
        """Of the epochs that this node knows."""
        return max(self._highest, stream.standing(self._store).rank)

    @property
    def changing(self) -> bool:
        """Whether another region is about to order writes."""
        return self._store.region_role() == roles.LEAVING

    def superseded(self, rank: Rank, by: Standing | None = None) -> None:
        """Somebody knows of this epoch: if it prevails over ours, nothing is ordered here any more."""
        if rank <= stream.standing(self._store).rank:
            return
        self._store.cleared.clear()
        if rank > self._highest:
            self._highest = rank
            self._news.set()
        if by is not None:
            self.contacts[by.region] = Contact(by, time.monotonic())

    def others(self) -> list[Region]:
        """All regions but this one."""
        return [each for each in self._known().values() if each.name != self._own_name]

    def primary(self) -> Region | None:
        """The region that orders writes, as far as this node knows."""
        epochs = self._store.epochs()
        name = max(self._highest, (epochs[-1].epoch, epochs[-1].region))[1] if epochs else ""
        if name == self._own_name and self._store.region_role() == roles.SECONDARY:
            name = self._successor()
        return self._known().get(name)

    def _successor(self) -> str:
        """For a region that was demoted in its own epoch: who says that it orders writes, if anybody does."""
        own = stream.standing(self._store).epoch
        found = [each.standing for each in self.contacts.values() if each.standing.role == roles.PRIMARY]
        found = [each for each in found if each.epoch >= own]
        return max(found, key=lambda each: (each.epoch, each.region)).region if found else ""

    def has_lost(self, region: Region) -> bool:
        """Whether a region that was heard of has been silent for too long to be asked anything."""
        contact = self.contacts.get(region.name)
        return contact is not None and time.monotonic() - contact.heard_at > CONTACT_LOST_S

    @property
    def was_removed(self) -> bool:
        """Whether the others forgot this region: it follows nobody, and speaks for nobody."""
        return self._store.region_role() == roles.SECONDARY and self._own_name not in self._known()

    def was_demoted(self, region: Region) -> bool:
        """Whether a region said that it follows in its own epoch: nobody has taken over from it yet."""
        contact = self.contacts.get(region.name)
        if contact is None:
            return False
        return contact.standing.role == roles.SECONDARY and contact.standing.epoch_region == region.name

    async def ask(self, region: Region, path: str, *, timeout_s: float, **request: object) -> Answer:
        """A request to another region. Raises Unreachable or Interrupted."""
        if self._links is None:
            raise Unreachable("this node has no link to other regions yet")
        return await self._links.ask(region.name, region.links, path, timeout_s=timeout_s, **request)  # type: ignore[arg-type]

    async def hello(self, region: Region) -> Standing:
        """Exchange standings with a region. Raises Unreachable or Interrupted."""
        own, began = stream.standing(self._store), time.monotonic()
        answer = await self.ask(region, HELLO, body=_encode(own), timeout_s=TOUCH_TIMEOUT_S)
        try:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            told = _standing(answer.body)
        except (ValueError, msgspec.MsgspecError) as error:
            raise Interrupted(f"{region.name}: {error}") from None
        self._heard(told, began)
        self._judge(region, told)
        return told

    def _judge(self, region: Region, told: Standing) -> None:
        """Where the node that spoke for a region is cut off from it, another one is asked from now on."""
        if not told.in_touch and self._links is not None:
            self._links.avoid(region.name, region.links)

    # --- the task ---

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_in_touch())
                group.create_task(self._keep_up())
        finally:
            await self._close()

    async def _keep_in_touch(self) -> None:
        while True:
            if self._store.region_role() != roles.ALONE:
                await self._round()
            elif self._links is not None:
                await self._part()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOUCH_EVERY_S):
                    await self._news.wait()
            self._news.clear()

    async def _round(self) -> None:
        """Ask every other region how it stands; writes are cleared by it after a start."""
        await self._open()
        self.throttle.limit(own_settings.current(self._store).bytes_per_s(self._settings.link_bytes_per_s))
        with contextlib.suppress(NoQuorum):
            await self._store.fresh()  # else regions whose entries are not applied yet would be left out
            self._asking_since = self._asking_since or time.monotonic()
            answered = await asyncio.gather(*(self._touch(each) for each in self.others()))
            self._clear(everybody=all(answered))

    async def _part(self) -> None:
        """This cluster is no region any more."""
        await self._close()
        self._links = self._serve = self._tls = None
        self.link_problem = ""
        self.contacts.clear()
        self._highest = (0, "")
        self.stuck, self.diverged_at = "", 0

    async def _keep_up(self) -> None:
        while True:
            try:
                await self._step()
            except (NodeError, CommandRejected, Unreachable, Interrupted, StorageError, OSError) as error:
                self.stuck = str(error) or type(error).__name__
                await asyncio.sleep(RETRY_S)

    async def _step(self) -> None:
        """One turn of what this region's leader does for it."""
        role, leads = self._store.region_role(), self._store.status().role is Role.LEADER
        if role != roles.SECONDARY or not leads:
            self.stuck, self.diverged_at = "", 0  # it spoke of following, which is another's matter
            await self._give_up_arrival()
        if role == roles.ALONE or not leads:
            await asyncio.sleep(RETRY_S)
        elif role == roles.CALLED:
            await self._begin_epoch()
        elif role == roles.SECONDARY:
            await self._follow()
        else:
            await self._look_for_successor()
            await self._tell_addresses()
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Take what the region that orders writes sends, until it ends or another one orders them."""
        source = self.primary()
        if self.was_removed:
            self.stuck = "this region was removed: `region leave` makes it a store of its own"
            source = None
        elif source is None:
            self.stuck = "no region that orders writes answers: it was demoted, and nobody has taken over"
        if source is None or source.name == self._own_name:
            await asyncio.sleep(RETRY_S)
            return
        if self._links is None:
            raise Unreachable("this node has no link to other regions yet")
        frames, question = stream.Frames(), self._question()
        pieces = self._links.stream(
            source.name, source.links, STREAM, body=_encode(question), silence_s=SILENCE_S_MAX
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                try:
                    batches = list(stream.joined(frames.take(piece)))
                except ValueError as error:
                    raise Interrupted(f"{source.name}: {error}") from None
                for batch in batches:
                    if not (await self._take(source, batch) and self._follows(source)):
                        return

    def _question(self) -> Question:
        return Question(stream.standing(self._store), tuple(self._store.epochs()))

    def _follows(self, source: Region) -> bool:
        """Whether it is still this node's part to take what that region sends."""
        if self.was_removed:
            return False
        primary, role = self.primary(), self._store.region_role()
        leads = self._store.status().role is Role.LEADER
        return leads and role == roles.SECONDARY and primary is not None and primary.name == source.name

    async def _take(self, source: Region, batch: Batch) -> bool:
        """Make a batch part of this region's state; whether to listen on."""
        own = stream.standing(self._store)
        if batch.standing.level > own.level:
            self.stuck = (
                f"{source.name} is at feature level {batch.standing.level}: upgrade this region's nodes"
            )
        elif batch.verdict == "ok":
            self.stuck, self.diverged_at = "", 0
            await self._give_up_arrival()
            if batch.commands:
                command = RegionApply(
                    time_ns=self._store.now_ns(),
                    epoch=own.epoch,
                    first=batch.first,
                    commands=batch.commands,
                )
                await self._store.submit(command)
            self._heard(batch.standing, None)
            self._judge(source, batch.standing)
            if not batch.standing.in_touch:
                self.stuck = f"the node of {source.name} that answers is cut off from its own region"
            return batch.standing.in_touch
        elif batch.verdict in ("diverged", "gone"):
            await self._give_up(source, batch, own)
            return False
        await asyncio.sleep(TOUCH_EVERY_S)
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
        """Take another region's state for as long as this one follows: what it orders after a promotion is not to be
        replaced by what it took over from, and neither a promotion nor a departure waits for the rest of a state.

        Raises Interrupted.
        """
        task = asyncio.create_task(taking, name="resettle")
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=RETRY_S)
                if not task.done() and self._store.region_role() != roles.SECONDARY:
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
        if self._links is None:
            raise Unreachable("this node has no link to other regions yet")
        path = self._directory / COPY
        arrival = self._arrival = self._arrival or Arrival(path)

        def tell(size: int, whole: int) -> None:
            self.stuck = f"taking the whole state of {source.name}: {size >> 20} of {(whole >> 20) + 1} MiB"

        await arrival.fetch(self._links, source.name, source.links, tell)
        self._arrival = None
        try:
            await asyncio.to_thread(self._mark, path)
            await self._store.copies.check(path)
            await self._store.copies.replace(
                path
            )  # declined where the entry's turn comes after a promotion's
        finally:
            path.unlink(missing_ok=True)
        log.warning(
            "this region took the state of another one", source=source.name, position=self._store.position
        )

    async def _give_up_arrival(self) -> None:
        """What was on its way is not wanted any more, or another node's matter."""
        if self._arrival is not None:
            arrival, self._arrival = self._arrival, None
            await arrival.give_up(self._links)

    def _mark(self, path: Path) -> None:
        machine = Machine.open(path, key=self._store.root.derive(DATABASE))
        try:
            machine.arrive()
            machine.checkpoint()
        finally:
            machine.close()

    async def _begin_epoch(self) -> None:
        own = stream.standing(self._store)
        command = RegionPromote(time_ns=self._store.now_ns(), epoch=own.epoch + 1, at=own.position)
        await self._store.submit(command)
        log.info("this region orders writes", epoch=own.epoch + 1, position=own.position + 1)

    async def _look_for_successor(self) -> None:
        """Whoever began a newer epoch orders writes; this region follows from now on."""
        own, ca = stream.standing(self._store), authority.authority(self._store)
        if ca is None or ca.certificate != self._group:
            return  # what was heard is of another group, or nothing yet
        if self._highest > own.rank:
            self._store.cleared.clear()
            await self._store.submit(RegionDemote(time_ns=self._store.now_ns()))
            epoch, region = self._highest
            log.warning("another region took over", epoch=epoch, region=region, position=own.position)

    async def _tell_addresses(self) -> None:
        """The region that orders writes keeps everybody's addresses as each region tells them itself."""
        if self._store.region_role() != roles.PRIMARY or not self._store.cleared.is_set():
            return
        known = self._known()
        for told in (stream.standing(self._store), *(each.standing for each in self.contacts.values())):
            region = known.get(told.region)
            if region is None or not told.links:
                continue
            if (region.endpoints, region.links) != (told.endpoints, told.links):
                command = RegionPut(
                    time_ns=self._store.now_ns(),
                    name=told.region,
                    endpoints=told.endpoints,
                    links=told.links,
                )
                await self._store.submit(command)

    # --- steps ---

    @property
    def _own_name(self) -> str:
        return self._store.region()[0]

    def _known(self) -> dict[str, Region]:
        return {each.name: each for each in self._store.regions()}

    async def _open(self) -> None:
        """Links out, once there is an authority, and the listener in, as soon as its address can be bound."""
        ca = authority.authority(self._store)
        if ca is None:
            return
        if self._links is not None and ca.certificate != self._group:
            await self._part()  # it left one group and founded another one meanwhile
        if time.monotonic() - self._certified_at > CERTIFY_EVERY_S or self._tls is None:
            own = authority.certify(ca, self._own_name, self._cluster_id)
            self._tls = self._tls or authority.contexts(ca, own)
            for context in self._tls:
                pki.load_credentials(context, own)  # for handshakes from now on
            self._certified_at, self._group = time.monotonic(), ca.certificate
        if self._links is None:
            self._links = Links(self._tls[1], self._cluster_id, source=self._settings.link_source)
        if self._serve is None and self._settings.link_bind_address:
            await self._bind(self._settings.link_bind_address, self._tls[0])

    async def _bind(self, address: str, tls: ssl.SSLContext) -> None:
        """A node that other regions cannot reach serves its clients all the same, says so, and tries again."""
        try:
            self._serve = await self._listen(address, tls)
        except OSError as error:
            problem = f"{address} cannot be bound for other regions: {error.strerror or error}"
            if problem != self.link_problem:
                log.warning("other regions cannot reach this node", address=address, reason=problem)
            self.link_problem = problem
            return
        if self.link_problem:
            log.info("other regions can reach this node", address=address)
        self.link_problem = ""

    async def _touch(self, region: Region) -> bool:
        try:
            await self.hello(region)
        except (Unreachable, Interrupted):
            return False
        return True

    def _clear(self, *, everybody: bool) -> None:
        """Nobody who answered took over; who has not answered for a while counts as gone, with all its nodes."""
        late = time.monotonic() - (self._asking_since or math.inf) > CLEARANCE_PATIENCE_S
        if (everybody or late) and self._highest <= stream.standing(self._store).rank:
            self._store.cleared.set()

    def _heard(self, told: Standing, began: float | None) -> None:
        """`began`: when it was asked for; None: it came by itself."""
        now = time.monotonic()
        self.superseded(told.rank)
        if not told.in_touch and told.region in self.contacts:
            return  # what it does not know counts as not heard
        contact = self.contacts.setdefault(told.region, Contact(told, began or now))
        contact.standing = told
        if began is not None:
            contact.answered(began, now)
        contact.reached(self._store.position)

    async def _close(self) -> None:
        if self._serve is not None:
            await self._serve.drain(0)
        if self._links is not None:
            await self._links.close()
