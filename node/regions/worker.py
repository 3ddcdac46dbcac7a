"""This node's part in the regions of its store: follow the one that orders writes, or watch for one that took over.

One task, from unseal to seal. In a region that follows, the leader pulls commands and proposes them; every node keeps
in touch, so that it knows how far behind it is. In the region that orders writes, nothing is accepted after a start
until every other region was asked whether it took over meanwhile, or could not be reached: a primary that comes back
finds its successor before it acknowledges anything.
"""

import asyncio
import contextlib
import dataclasses
import math
import time
from pathlib import Path

import msgspec
import structlog

from consensus.api import Role
from node.config import Settings
from node.errors import NodeError, NoQuorum
from node.regions import registration, stream
from node.regions import settings as own_settings
from node.regions.arrival import Progress
from node.regions.contacts import Contact
from node.regions.ends import Ends, Listen
from node.regions.following import RETRY_S, Follower
from node.regions.links import ROUND_TRIPS, Answer, Interrupted, Links, Unreachable
from node.regions.moved import Moved, put_right
from node.regions.nearness import ROUND_TRIP_S_MAX
from node.regions.stream import HEARTBEAT_S, Rank, Standing
from node.regions.throttle import Throttle
from node.store import CommandRejected, Store
from storage import regions as roles
from storage.command import RegionDemote, RegionPromote
from storage.errors import StorageError
from storage.rows import Region

TOUCH_TIMEOUT_S = 2.0
SURVEY_EVERY_S = 5.0  # every node of every region is asked, for the nearest to be known
CONTACT_LOST_S = 5.0  # a question takes up to TOUCH_TIMEOUT_S, and one may get lost
CLEARANCE_PATIENCE_S = 5.0  # from the first question after a start, for regions that do not answer
CARRIED_MAX = 256  # requests of clients on their way to other regions at a time
HELLO = "/v1/sys/regions/link/hello"

_Asked = tuple[str, tuple[str, ...], bool]  # a region, its links, patiently

log = structlog.get_logger("regions")
_encode = msgspec.json.Encoder().encode
_standing = msgspec.json.Decoder(Standing).decode


class RegionsWorker:
    """Owned by the lifecycle; core.regions while the store is open."""

    def __init__(
        self, store: Store, settings: Settings, cluster_id: str, directory: Path, listen: Listen
    ) -> None:
        self._store, self._settings = store, settings
        self.contacts: dict[str, Contact] = {}
        self._highest: Rank = (0, "")  # of the epochs that this node heard of
        self._asking_since: float | None = None  # when the other regions were first asked
        self._answered: set[str] = set()  # regions that did, since then
        self._touching: dict[_Asked, asyncio.Task[None]] = {}  # by who is being asked
        self._surveyed_at = -math.inf
        self._moved = Moved()
        self.carried = asyncio.Semaphore(CARRIED_MAX)
        self._registered: dict[str, int] = {}  # when each region was registered, as far as this node has seen
        store.cleared.clear()
        self.throttle = Throttle(settings.link_bytes_per_s)
        self._ends = Ends(store, settings, cluster_id, listen)
        self._follower = Follower(store, directory, self)
        self._news = asyncio.Event()

    # --- what requests ask ---

    @property
    def stuck(self) -> str:
        """Why this region, which follows and whose leader this node is, does not get on."""
        return self._follower.stuck

    @property
    def diverged_at(self) -> int:
        """The first position that is no part of the history; 0: this region is in step."""
        return self._follower.diverged_at

    @property
    def arriving(self) -> Progress | None:
        """How much is here of a state that this region takes over as a whole."""
        return self._follower.arriving

    @property
    def link_problem(self) -> str:
        """Why other regions cannot reach this node."""
        return self._ends.problem

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

    def introduced(self, asker: Standing) -> None:
        """A region asks, and says where it is: it may not answer any more where it was."""
        region = self._known().get(asker.region)
        if region is not None:
            self._moved.note(asker, lost_s=self._lost_s(region))

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
        return contact is not None and time.monotonic() - contact.heard_at > self._lost_s(region)

    def _lost_s(self, region: Region) -> float:
        """For how long it may be silent: one question follows the other."""
        round_trip_s = min(self.nearest(region)[1] or 0.0, ROUND_TRIP_S_MAX)
        return CONTACT_LOST_S + 2 * ROUND_TRIPS * round_trip_s

    @property
    def was_removed(self) -> bool:
        """Whether the others forgot this region, whoever goes by its name by now: it follows nobody, and speaks for
        nobody.
        """
        if self._store.region_role() not in roles.FOLLOWS:
            return False
        return not registration.is_ours(self._store, self._known().get(self._own_name))

    def was_demoted(self, region: Region) -> bool:
        """Whether a region said that it follows in its own epoch: nobody has taken over from it yet."""
        contact = self.contacts.get(region.name)
        if contact is None:
            return False
        return contact.standing.role == roles.SECONDARY and contact.standing.epoch_region == region.name

    async def ask(self, region: Region, path: str, *, timeout_s: float, **request: object) -> Answer:
        """A request to another region, or to this one's own node where it orders writes by now. Raises Unreachable or
        Interrupted.
        """
        links = region.links
        if region.name == self._own_name:
            links = (
                self._settings.link_bind_address,
            )  # between the regions nobody need carry what comes from here
        return await self.links().ask(region.name, links, path, timeout_s=timeout_s, **request)  # type: ignore[arg-type]

    def level_at(self) -> float | None:
        """Monotonic seconds: whatever was acknowledged by then, in whichever region, is here; inf where this one orders
        writes, or nobody does; None: that is not known.
        """
        own, source = stream.standing(self._store), self.primary()
        if own.role not in roles.FOLLOWS or (source is None and own.epoch_region == own.region):
            return math.inf
        contact = None if source is None else self.contacts.get(source.name)
        if contact is None or contact.standing.rank != own.rank:
            return None
        contact.reached(self._store.position)
        return contact.level_at

    def links(self) -> Links:
        """Raises Unreachable where there are none yet."""
        if self._ends.links is None:
            raise Unreachable("this node has no link to other regions yet")
        return self._ends.links

    def nearest(self, region: Region) -> tuple[str, float | None]:
        """The node of a region that is asked first, and the seconds that a round trip to it takes, if it was asked."""
        if self._ends.links is None or not region.links:
            return "", None
        nearness = self._ends.links.nearness[region.name]
        first = nearness.order(region.links)[0]
        return first, nearness.round_trip_s(first)

    async def hello(self, region: Region, *, patient: bool = False) -> Standing:
        """Exchange standings with a region. `patient`: however long the way is. Raises Unreachable or Interrupted."""
        own, began = stream.standing(self._store), time.monotonic()
        if self.was_removed:  # whoever goes by its name is elsewhere
            own = msgspec.structs.replace(own, endpoints=(), links=())
        body = _encode(own)
        answer = await self.ask(region, HELLO, body=body, timeout_s=TOUCH_TIMEOUT_S, patient=patient)
        try:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            told = _standing(answer.body)
        except (ValueError, msgspec.MsgspecError) as error:
            raise Interrupted(f"{region.name}: {error}") from None
        self.links().nearness[region.name].measured(answer.address, answer.took_s)
        self.heard(told, answer.address, began)
        return told

    # --- the task ---

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_in_touch())
                group.create_task(self._keep_up())
        finally:
            await self._part()

    async def _keep_in_touch(self) -> None:
        while True:
            began = time.monotonic()
            if self._store.region_role() != roles.ALONE:
                await self._round()
            elif self._ends.links is not None:
                await self._part()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, began + HEARTBEAT_S - time.monotonic())):
                    await self._news.wait()
            self._news.clear()

    async def _round(self) -> None:
        """Ask every other region how it stands; writes are cleared by it after a start."""
        if self._ends.changed():
            await self._part()
        await self._ends.open()
        configured = self._settings.link_bytes_per_s
        self.throttle.limit(own_settings.KEPT.current(self._store).bytes_per_s(configured))
        with contextlib.suppress(NoQuorum):
            await self._store.fresh()  # else regions whose entries are not applied yet would be left out
            self._asking_since = self._asking_since or time.monotonic()
            self._forget_strangers()
            others = self.others()
            await self._touch_all(others)
            self._clear(everybody=all(each.name in self._answered for each in others))

    def _forget_strangers(self) -> None:
        """What was heard of a region that is registered no more, or by that name anew, says nothing of who is."""
        registered = {each.name: each.created_ns for each in self._known().values()}
        for name in [name for name, since in self._registered.items() if registered.get(name) != since]:
            self.contacts.pop(name, None)
            self._answered.discard(name)
            for asked in [asked for asked in self._touching if asked[0] == name]:
                self._touching.pop(asked).cancel()
        self._registered = registered

    async def _touch_all(self, others: list[Region]) -> None:
        """The nearest node of each, now and then all nodes: each in its own time, so that none holds up the others."""
        for asked in [asked for asked, task in self._touching.items() if task.done()]:
            self._touching.pop(asked).result()
        questions = [(each, False) for each in others]
        if time.monotonic() - self._surveyed_at >= SURVEY_EVERY_S:
            self._surveyed_at = time.monotonic()
            # so a way is measured that has become much longer
            questions += [
                (dataclasses.replace(each, links=(link,)), True) for each in others for link in each.links
            ]
        for each, patient in questions:
            asked = each.name, each.links, patient
            if asked not in self._touching:
                self._touching[asked] = asyncio.create_task(self._touch(each, patient), name="hello")
        if self._touching:
            await asyncio.wait(self._touching.values(), timeout=HEARTBEAT_S)

    async def _touch(self, region: Region, patient: bool) -> None:
        with contextlib.suppress(Unreachable, Interrupted):
            if (await self.hello(region, patient=patient)).in_touch:
                self._answered.add(region.name)

    async def _part(self) -> None:
        """This node, or its cluster, has no part in these regions any more."""
        touching = list(self._touching.values())
        self._touching.clear()
        for task in touching:
            task.cancel()
        await asyncio.gather(*touching, return_exceptions=True)
        await self._ends.close()
        self.contacts.clear()
        self._answered.clear()
        self._highest = (0, "")
        await self._follower.rest()

    async def _keep_up(self) -> None:
        while True:
            try:
                await self._step()
            except (NodeError, CommandRejected, Unreachable, Interrupted, StorageError, OSError) as error:
                self._follower.stuck = str(error) or type(error).__name__
                await asyncio.sleep(RETRY_S)

    async def _step(self) -> None:
        """One turn of what this region's leader does for it."""
        role, leads = self._store.region_role(), self._store.status().role is Role.LEADER
        if role != roles.SECONDARY or not leads:
            await self._follower.rest()
        if role == roles.ALONE or not leads:
            await asyncio.sleep(RETRY_S)
        elif role == roles.CALLED:
            await self._answer_call()
        elif role == roles.SECONDARY:
            await registration.note(self._store, self._known().get(self._own_name))
            await self._follower.follow()
        else:
            await self._look_for_successor()
            await registration.note(self._store, self._known().get(self._own_name))
            await self._tell_addresses()
            await asyncio.sleep(RETRY_S)

    async def _answer_call(self) -> None:
        """Go on where the region stands that handed over; or follow, where another one has done that meanwhile.

        After a start this region may be called by a handover that was ended long ago.
        """
        own = stream.standing(self._store)
        if self._highest > own.rank or self.was_removed:
            await self._store.submit(RegionDemote(time_ns=self._store.now_ns()))
            return
        if not self._store.cleared.is_set():
            await asyncio.sleep(RETRY_S)
            return
        command = RegionPromote(time_ns=self._store.now_ns(), epoch=own.epoch + 1, at=own.position)
        await self._store.submit(command)
        log.info("this region orders writes", epoch=own.epoch + 1, position=own.position + 1)

    async def _look_for_successor(self) -> None:
        """Whoever began a newer epoch orders writes; this region follows from now on."""
        own = stream.standing(self._store)
        if self._ends.links is None or self._ends.changed():
            return  # what was heard is of another group, or nothing yet
        if self._highest > own.rank:
            self._store.cleared.clear()
            await self._store.submit(RegionDemote(time_ns=self._store.now_ns()))
            epoch, region = self._highest
            log.warning("another region took over", epoch=epoch, region=region, position=own.position)

    async def _tell_addresses(self) -> None:
        """The region that orders writes keeps everybody's addresses as each region tells them itself."""
        if self._store.region_role() == roles.PRIMARY and self._store.cleared.is_set():
            told = stream.standing(self._store), *(each.standing for each in self.contacts.values())
            await put_right(self._store, told)

    # --- steps ---

    @property
    def _own_name(self) -> str:
        return self._store.region()[0]

    def _known(self) -> dict[str, Region]:
        """The regions of the store; those that came back elsewhere at where they say, too."""
        return {each.name: self._moved.amended(each) for each in self._store.regions()}

    def _clear(self, *, everybody: bool) -> None:
        """Nobody who answered took over; who has not answered for a while counts as gone, with all its nodes."""
        late = time.monotonic() - (self._asking_since or math.inf) > CLEARANCE_PATIENCE_S
        if (everybody or late) and self._highest <= stream.standing(self._store).rank:
            self._store.cleared.set()

    def heard(self, told: Standing, address: str, began: float | None = None) -> None:
        """The node at that address said so. `began`: when it was asked; None: it says so by itself."""
        now = time.monotonic()
        self._moved.answered(told.region)
        self.superseded(told.rank)
        nearness = self.links().nearness[told.region]
        if told.in_touch:
            nearness.helps(address)
        else:
            nearness.no_help(address)
            if told.region in self.contacts:
                return  # what it does not know counts as not heard
        contact = self.contacts.setdefault(told.region, Contact(told, began or now))
        if began is not None and began < contact.heard_at:
            return  # an answer that was overtaken
        contact.standing = told
        if began is not None:
            contact.answered(began)
        contact.reached(self._store.position)
