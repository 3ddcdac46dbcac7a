"""A region that gives up ordering writes without a handover, and one that leaves the others.

Neither drops anything: what a demoted region ordered and its successor never got is set aside when it follows
(divergence.py), and a region that leaves keeps the whole store.
"""

import msgspec

from node.core.core import Core
from node.errors import InvalidRequest
from node.regions import control, stream
from node.regions.links import Interrupted, Unreachable
from node.regions.stream import Standing
from node.regions.worker import RegionsWorker
from node.store import CommandRejected
from storage import regions as roles
from storage.command import RegionDemote, RegionLeave
from storage.rows import Region
from storage.secret import Secret

REMOVE = "/v1/sys/regions/remove"
REMOVE_TIMEOUT_S = 15.0
# A handover that is lost with its target would else leave nobody who may order writes, for ever.
HANDING_OVER = (
    "this region is handing over, and its successor is not heard of yet. If that one is gone, force=true (-force) ends"
    " the handover: nobody orders writes then until `strongroom region promote`, here or elsewhere"
)


async def demote(core: Core, successor: str, *, force: bool) -> str:
    """Order no writes any more and follow `successor`, or whichever region took over; "" where none is known to.

    Raises InvalidRequest with the right advice.
    """
    store, regions = core.unsealed, control.worker(core)
    control.check_founded(core)
    own = stream.standing(store)
    if own.role not in (roles.PRIMARY, roles.LEAVING):
        raise InvalidRequest(f"{own.region} is {own.role}: only one that orders writes can be demoted")
    others = [each for each in store.reads.regions() if each.name != own.region]
    if successor:
        others = [each for each in others if each.name == control.known(core, successor).name]
    if not others:
        raise InvalidRequest("there is no other region that could order writes")
    standings = [told for each in others if (told := await _asked(regions, each)) is not None]
    leading = [each for each in standings if each.role == roles.PRIMARY and each.epoch >= own.epoch]
    if not leading and not force:
        raise InvalidRequest(HANDING_OVER if own.role == roles.LEAVING else _advice(standings, others))
    try:
        await store.submit(RegionDemote(time_ns=store.now_ns()))
    except CommandRejected as error:
        raise control.refused(error, own.region) from None
    return max(leading, key=lambda each: (each.epoch, each.region)).region if leading else ""


async def _asked(regions: RegionsWorker, region: Region) -> Standing | None:
    try:
        return await regions.hello(region)
    except (Unreachable, Interrupted):
        return None


def _advice(standings: list[Standing], others: list[Region]) -> str:
    following = [each.region for each in standings if each.role in roles.FOLLOWS]
    if following:
        return (
            f"{following[0]} follows, and has not taken over: `strongroom region switchover {following[0]}` hands over"
            " without a loss; force=true (-force) demotes this region all the same, and then nobody orders writes"
        )
    names = ", ".join(each.name for each in others)
    return (
        f"nothing is heard of {names}: whether one of them took over is not known. force=true (-force) demotes this"
        " region all the same: nobody orders writes then until `strongroom region promote`, here or there"
    )


async def leave(core: Core, token: Secret, *, force: bool) -> None:
    """Become a store of its own, with all that is in it; the others forget this region first. Raises InvalidRequest."""
    store, regions = core.unsealed, control.worker(core)
    own = stream.standing(store)
    control.check_founded(core)
    if own.role == roles.SECONDARY and not force and not regions.was_removed:
        await _unregister(regions, own, token)
    try:
        await store.submit(RegionLeave(time_ns=store.now_ns()))
    except CommandRejected as error:
        if own.role == roles.PRIMARY:
            raise InvalidRequest(
                "this region orders writes for others: hand over to one of them (`strongroom region switchover`), or"
                " remove them, before it leaves"
            ) from None
        raise control.refused(error, own.region) from None


async def _unregister(regions: RegionsWorker, own: Standing, token: Secret) -> None:
    """As the caller, whom the region that orders writes asks for sudo too. Raises InvalidRequest: nothing happened
    here.
    """
    source = regions.primary()
    advice = f"; force=true (-force) leaves all the same, and `strongroom region remove {own.region}` there forgets it"
    if source is None:
        raise InvalidRequest("it is not known which region orders writes" + advice)
    try:
        answer = await regions.ask(
            source,
            REMOVE,
            body=msgspec.json.encode({"name": own.region}),
            headers={"X-Vault-Token": token.reveal().decode()},
            timeout_s=REMOVE_TIMEOUT_S,
        )
    except (Unreachable, Interrupted) as error:
        raise InvalidRequest(f"{source.name} could not be told: {error}{advice}") from None
    if answer.status >= 300:
        raise InvalidRequest(f"{source.name} answered HTTP {answer.status} to its removal{advice}")
