"""What operators ask of regions: how they stand, hand over, take over.

Nothing is taken over by mistake: a promotion is refused while the region that orders writes answers, and where it
would lose what is known to be missing, unless that is accepted in so many words.
"""

import asyncio
import dataclasses
import time
from typing import Any

from node.core.core import Core
from node.errors import InvalidRequest, NoQuorum
from node.regions import settings, stream
from node.regions.contacts import Contact
from node.regions.links import Interrupted, Unreachable
from node.regions.stream import Standing
from node.regions.worker import RegionsWorker
from node.store import CommandRejected, Store
from storage import regions as roles
from storage.command import RegionDemote, RegionHandover, RegionPromote, RegionRemove
from storage.outcome import Reason
from storage.rows import Region

EPOCH_PATIENCE_S, EPOCH_PAUSE_S = 3.0, 0.1
CONTACT_FRESH_S = 2.0  # an older contact says nothing about now


def worker(core: Core) -> RegionsWorker:
    if core.regions is None:
        raise InvalidRequest("a server in memory takes no part in regions")
    return core.regions


def overview(core: Core) -> dict[str, Any]:
    """Every region as this node knows it."""
    store, regions = core.unsealed, worker(core)
    own = stream.standing(store)
    return {
        "region": own.region,
        "role": own.role,
        "epoch": own.epoch,
        "primary": _orders_writes(regions, own),
        "position": own.position,
        "leader": _leader(core),
        "stuck": regions.stuck,
        "arriving": None if regions.arriving is None else dataclasses.asdict(regions.arriving),
        "diverged_at": regions.diverged_at,
        "link_problem": regions.link_problem,
        "bytes_per_second_max": regions.throttle.bytes_per_s,
        "regions": [_describe(core, own, each) for each in store.reads.regions()],
        "epochs": [
            {"epoch": each.epoch, "region": each.region, "position": each.position}
            for each in store.reads.epochs()
        ],
    }


def _orders_writes(regions: RegionsWorker, own: Standing) -> str:
    """The region that does, as far as this node knows; "" where the one that began the epoch was demoted, and nobody is
    known to have taken over.
    """
    if own.role in roles.FOLLOWS and own.epoch_region == own.region:
        successor = regions.primary()
        return "" if successor is None else successor.name
    return own.epoch_region


def _leader(core: Core) -> str:
    """The API address of the node that leads this region, and knows whether it gets on; "" where none is known."""
    leader = core.unsealed.status().leader_id
    return next((each.api_address for each in core.unsealed.nodes() if each.node_id == leader), "")


def _describe(core: Core, own: Standing, region: Region) -> dict[str, Any]:
    """lag_* say how far a region that follows is behind the one that orders writes; None where nobody here knows."""
    regions, fetched = worker(core), core.copies.progress(region.name) if core.copies else None
    entry: dict[str, Any] = {
        "name": region.name,
        "endpoints": list(region.endpoints),
        "links": list(region.links),
        "role": "primary" if region.name == own.epoch_region else "secondary",
        "position": own.position if region.name == own.region else None,
        "lag_entries": None,
        "lag_seconds": None,
        "last_contact_seconds": None,
        "nearest": None,
        "round_trip_ms": None,
        "fetching": None if fetched is None else {"bytes": fetched[0], "bytes_max": fetched[1]},
    }
    contact = regions.contacts.get(region.name)
    if contact is not None:
        entry["role"], entry["position"] = contact.standing.role, contact.standing.position
        entry["last_contact_seconds"] = round(time.monotonic() - contact.heard_at, 3)
        if own.role in (roles.PRIMARY, roles.LEAVING):
            entry["lag_entries"] = max(0, own.position - contact.standing.position)
        if contact.standing.role in roles.FOLLOWS:
            entry["lag_seconds"] = _told_lag_s(contact)
    if region.name == own.region:
        entry["role"] = own.role
        entry |= lag(regions, own)
    elif contact is not None:
        entry["nearest"], round_trip_s = regions.nearest(region)
        entry["round_trip_ms"] = None if round_trip_s is None else round(round_trip_s * 1000, 1)
    return entry


def _told_lag_s(contact: Contact) -> float | None:
    """As a region that follows said it of itself, and what has passed where it has said nothing since."""
    told_s, silent_s = contact.standing.lag_s, time.monotonic() - contact.heard_at
    return told_s if told_s is None or silent_s <= CONTACT_FRESH_S else round(told_s + silent_s, 3)


def lag(regions: RegionsWorker, own: Standing, *, in_touch: bool = True) -> dict[str, Any]:
    """How far this region is behind, as this node knows it: an idle primary and a cut link are told apart.

    Not `in_touch`: the primary was asked just now, and did not answer.
    """
    if own.role not in roles.FOLLOWS or own.epoch_region == own.region:  # or it was demoted, and holds it all
        return {"lag_entries": 0, "lag_seconds": 0.0}
    contact = regions.contacts.get(own.epoch_region)
    if contact is None:
        return {"lag_entries": None, "lag_seconds": None}
    entries = max(0, contact.standing.position - own.position)
    seconds = lag_seconds(contact, entries, in_touch=in_touch)
    return {"lag_entries": entries, "lag_seconds": None if seconds is None else round(seconds, 3)}


def measured(core: Core) -> tuple[str, dict[str, float]]:
    """For metrics: this region's name, and nothing where there are no regions. What is not known is left out."""
    if core.store is None or core.regions is None or core.store.region_role() == roles.ALONE:
        return "", {}
    own = stream.standing(core.store)
    told: dict[str, Any] = {"position": own.position, "epoch": own.epoch}
    told |= {"is_primary": own.role == roles.PRIMARY, "is_stuck": bool(core.regions.stuck)}
    told["is_unreachable"] = bool(core.regions.link_problem)
    told |= lag(core.regions, own)
    return own.region, {name: float(value) for name, value in told.items() if value is not None}


def lag_seconds(contact: Contact, entries: int, *, in_touch: bool = True) -> float | None:
    """0 while level and in touch; else how old what is missing can be at most. None: it was never level yet."""
    now = time.monotonic()
    if in_touch and not entries and now - contact.heard_at <= CONTACT_FRESH_S:
        return 0.0
    return None if contact.level_at is None else now - contact.level_at


async def switchover(core: Core, target: str) -> None:
    """Hand over to `target`, which is in step: the last command ordered here. Raises InvalidRequest."""
    store, regions = core.unsealed, worker(core)
    check_founded(core)
    own = stream.standing(store)
    if own.role != roles.PRIMARY:
        raise InvalidRequest(f"this region does not order writes: ask {own.epoch_region}")
    region = known(core, target)
    if region.name == own.region:
        raise InvalidRequest(f"{target} orders writes already")
    try:
        told = await _in_our_epoch(regions, region, own)
    except (Unreachable, Interrupted) as error:
        raise InvalidRequest(f"{target} cannot be asked whether it is ready: {error}") from None
    if problem := _unready(store, own, told):
        raise InvalidRequest(f"{target} is not ready: {problem}")
    try:
        await store.submit(RegionHandover(time_ns=store.now_ns(), target=target))
    except CommandRejected as error:
        raise refused(error, target) from None


async def _in_our_epoch(regions: RegionsWorker, region: Region, own: Standing) -> Standing:
    """Where a region is; soon after a handover it may have yet to hear of that. Raises Unreachable, Interrupted."""
    ends = time.monotonic() + EPOCH_PATIENCE_S
    told = await regions.hello(region)
    while told.rank != own.rank and time.monotonic() < ends:
        await asyncio.sleep(EPOCH_PAUSE_S)
        told = await regions.hello(region)
    return told


def _unready(store: Store, own: Standing, told: Standing) -> str:
    """Why a region, by what it says of itself, would not go on soon after a handover, until when nobody orders writes;
    "" if it would.
    """
    behind, limit = store.position - told.position, settings.KEPT.current(store).switchover_max_lag
    if told.role not in roles.FOLLOWS or behind > limit:
        return f"it is {told.role}, {behind} commands behind (at most {limit})"
    if told.level < store.level:
        return f"it is at feature level {told.level}, this region at {store.level}: upgrade its nodes"
    if not told.in_touch:
        return "its node that answers is cut off from its own region"
    if told.rank != own.rank:
        return (
            f"it does not follow here: it is in epoch {told.epoch} of {told.epoch_region}, not in {own.epoch}"
        )
    return ""


async def promote(core: Core, *, accept_loss: bool, max_lag_s: float | None, force: bool) -> dict[str, Any]:
    """Take over from a primary region that is gone; what that costs. Raises InvalidRequest with the right advice.

    Of what the primary had, the last `max_lag_s` seconds may be missing (None: as the region's settings say); with
    `accept_loss` any part of it.
    """
    store, regions = core.unsealed, worker(core)
    allowed_s = settings.KEPT.current(store).promote_max_lag if max_lag_s is None else max_lag_s
    own = stream.standing(store)
    check_founded(core)
    if own.role not in roles.FOLLOWS:
        if own.role == roles.PRIMARY:
            raise InvalidRequest(
                f"{own.region} orders writes already: only a region that follows can be promoted"
            )
        raise InvalidRequest(
            f"{own.region} is handing over: if its successor is gone, `strongroom region demote -force` here ends that,"
            " and then it can be promoted"
        )
    if regions.was_removed:
        raise InvalidRequest(
            f"{own.region} was removed: `strongroom region leave` makes it a store of its own"
        )
    source = regions.primary()
    answers = source is not None and await _answers(regions, source, own, force=force)
    behind, ahead = lag(regions, own, in_touch=answers), await _ahead(regions, own)
    seconds = behind["lag_seconds"]
    if not accept_loss and (seconds is None or seconds > allowed_s or ahead):
        raise InvalidRequest(_loss(own, behind, ahead))
    try:
        await store.submit(RegionPromote(time_ns=store.now_ns(), epoch=own.epoch + 1))
        while stream.standing(store).rank < regions.highest:  # one that is gone took over meanwhile, unseen
            await store.submit(RegionDemote(time_ns=store.now_ns()))
            epoch = stream.standing(store).epoch + 1
            await store.submit(RegionPromote(time_ns=store.now_ns(), epoch=epoch))
    except CommandRejected as error:
        raise refused(error, own.region) from None
    begun = store.reads.epochs()[-1]
    told = {"region": own.region, "epoch": begun.epoch, "position": begun.position}
    return told | {"lost": behind, "ahead": ahead}


async def _ahead(regions: RegionsWorker, own: Standing) -> dict[str, int]:
    """Other regions that follow the same primary and hold more: by how many commands, the most first."""
    others = [each for each in regions.others() if each.name != own.epoch_region]
    answers = await asyncio.gather(*(regions.hello(each) for each in others), return_exceptions=True)
    told = [each for each in answers if isinstance(each, Standing)]
    ahead = {
        each.region: each.position - own.position
        for each in told
        if each.rank == own.rank and each.position > own.position
    }
    return dict(sorted(ahead.items(), key=lambda item: -item[1]))


def _loss(own: Standing, known: dict[str, Any], ahead: dict[str, int]) -> str:
    entries, seconds = known["lag_entries"], known["lag_seconds"]
    best = next(iter(ahead), "")
    advice = f"; {best} has {ahead[best]} of them: promote that region instead" if best else ""
    return (
        f"a promotion would lose what {own.epoch_region} acknowledged and this region has not got: at least"
        f" {'an unknown number of' if entries is None else entries} commands, all of the last"
        f" {'unknown' if seconds is None else seconds} seconds{advice}; repeat it with accept_loss=true"
        " (-accept-loss) if that region will not come back in time, or with the lag that is acceptable as max_lag"
        " (-max-lag)"
    )


async def _answers(regions: RegionsWorker, source: Region, own: Standing, *, force: bool) -> bool:
    """Whether the primary answers, and orders nothing that may be missing. Raises InvalidRequest if it goes on ordering
    writes, and `force` is not given.

    Every node of it is asked: one that hangs does not speak for the others, nor one that is cut off from them.
    """
    each_node = [dataclasses.replace(source, links=(address,)) for address in source.links]
    told = await asyncio.gather(*(_standing(regions, each) for each in each_node))
    answers = [each for each in told if each is not None and each.in_touch]
    goes_on = any(each.role == roles.PRIMARY and each.rank >= own.rank for each in answers)
    if goes_on and not force:
        raise InvalidRequest(
            f"{source.name} answers and orders writes: `strongroom region switchover {own.region}` there"
            " hands over without a loss. If clients cannot reach it all the same, promote with force=true (-force)"
        )
    return bool(answers) and not goes_on


async def _standing(regions: RegionsWorker, region: Region) -> Standing | None:
    try:
        return await regions.hello(region)
    except (Unreachable, Interrupted):
        return None


async def remove(core: Core, name: str) -> None:
    """Forget a region that follows. Raises InvalidRequest."""
    check_founded(core)
    known(core, name)
    store = core.unsealed
    if name == stream.standing(store).epoch_region:
        raise InvalidRequest(
            f"{name} orders writes: hand over to another region first (`strongroom region switchover`), or promote one"
        )
    try:
        await store.submit(RegionRemove(time_ns=store.now_ns(), name=name))
    except CommandRejected as error:
        raise refused(error, name) from None


def check_founded(core: Core) -> None:
    """Raises InvalidRequest where this cluster is no region."""
    if core.unsealed.region_role() == roles.ALONE:
        raise InvalidRequest("this cluster is no region: `strongroom region create` makes it the first one")


def known(core: Core, name: str) -> Region:
    """A registered region. Raises InvalidRequest."""
    regions = core.unsealed.reads.regions()
    for each in regions:
        if each.name == name:
            return each
    names = ", ".join(each.name for each in regions) or "none"
    raise InvalidRequest(f"there is no region {name}; there are {names}")


def refused(error: CommandRejected, name: str) -> Exception:
    """What an operator is told of a command that the state machine refused."""
    if error.reason == Reason.NO_SUCH_REGION:
        return InvalidRequest(f"{name} is no region that could take over")
    if error.reason == Reason.REGION_ROLE:
        return InvalidRequest(f"{name}: a region that orders writes, or none at all, cannot do that")
    if error.reason == Reason.POSITION_GAP:
        return NoQuorum("something else happened in between; look at the regions and try again")
    return error
