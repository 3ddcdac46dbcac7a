"""sys/regions: the regions of a store, for operators. What they ask each other is in region_links.py."""

import dataclasses
from typing import Any

import msgspec

from node.api.vault.shares import wanted
from node.auth import fields as values
from node.core.core import Core
from node.core.fields import Field, Kind, in_query, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route
from node.enrol import TICKET_TTL_MAX_S
from node.errors import InvalidRequest
from node.regions import control, digests, divergence, enrol, parting, replaying, settings, stream
from storage import regions as roles

TICKET_TTL_DEFAULT = "10m"

_NAME = Field("name", Kind.STRING, "The region's name.")
_ARRIVING = Field(
    "arriving",
    Kind.OBJECT,
    "How much is here of another region's state, while it arrives as a whole (bytes_max 0: not known yet), or null.",
    members=(Field("source"), *named(Kind.INTEGER, "bytes bytes_max")),
)
_REGION = (
    *named(Kind.STRING, "name role"),
    Field("nearest", Kind.STRING, "The link address of its node that this one asks first."),
    *named(Kind.STRINGS, "endpoints links"),
    *named(Kind.INTEGER, "position lag_entries"),
    *named(Kind.NUMBER, "lag_seconds last_contact_seconds round_trip_ms"),
    Field(
        "fetching",
        Kind.OBJECT,
        "How much it has fetched of the whole state that this node hands to it; null: nothing.",
        members=named(Kind.INTEGER, "bytes bytes_max"),
    ),
)
OVERVIEW = (
    *named(Kind.STRING, "region role primary link_problem"),
    Field(
        "leader",
        Kind.STRING,
        "The API address of the node that leads this region; it knows stuck and arriving.",
    ),
    Field("stuck", Kind.STRING, "Why this region does not get on."),
    _ARRIVING,
    *named(Kind.INTEGER, "epoch position diverged_at"),
    Field("bytes_per_second_max", Kind.NUMBER, "What this node sends to other regions at most; 0: no cap."),
    Field("regions", Kind.OBJECTS, "Every region as this node knows it.", members=_REGION),
    Field(
        "epochs",
        Kind.OBJECTS,
        "Who ordered writes, and since which position.",
        members=(*named(Kind.INTEGER, "epoch position"), Field("region")),
    ),
)
_PROMOTED = (
    Field("region", Kind.STRING, "That orders writes from now on."),
    *named(Kind.INTEGER, "epoch position"),
    Field("lost", Kind.OBJECT, "lag_entries and lag_seconds: what is missing; null where nobody knows."),
    Field("ahead", Kind.OBJECT, "Other regions that have more, and by how many commands."),
)
_SETTINGS = (
    Field(
        "bandwidth",
        Kind.STRING,
        'What each node sends to other regions at most, as "10Mbit"; "unlimited"; as its configuration says if empty.',
    ),
    Field(
        "switchover_max_lag", Kind.INTEGER, "Commands that a region may be behind which is handed over to."
    ),
    Field("promote_max_lag", Kind.DURATION, "What a promotion may lose that does not say max_lag."),
)


def routes() -> list[Route]:
    """The table of this module."""
    return [*_entrances(), *_successions(), *_looks()]


def _entrances() -> list[Route]:
    """How a cluster becomes a region, or another one's."""
    read, update = Operation.READ, Operation.UPDATE
    return [
        Route(
            "sys/regions",
            {read: overview},
            summary="Every region as this node knows it.",
            answers={read: OVERVIEW},
        ),
        Route(
            "sys/regions/create",
            {update: create},
            local=True,
            sudo=True,
            summary="Make this cluster the primary region of its store, under the name in its configuration.",
        ),
        Route(
            "sys/regions/ticket",
            {update: ticket},
            sudo=True,
            summary="A one-time ticket for a region that wants to follow.",
            fields=(Field("ttl", Kind.DURATION, "For how long it is good."),),
            answers={update: (Field("ticket", Kind.STRING, "For `region join`."),)},
        ),
        Route(
            "sys/regions/join",
            {update: join, read: joining},
            local=True,
            patient=True,
            sealed=True,
            authenticated=False,
            fresh=False,
            shape=Shape.RAW,
            summary="Make this empty node the first one of a region that follows.",
            fields=(
                Field("ticket", Kind.STRING, "From sys/regions/ticket of the primary region."),
                Field(
                    "secret_shares",
                    Kind.INTEGER,
                    "How many unseal keys to make, where people open the store.",
                ),
                Field("secret_threshold", Kind.INTEGER, "How many of them it takes."),
            ),
            answers={
                update: (Field("region"), Field("keys", Kind.STRINGS, "Key shares, shown once.")),
                read: (_ARRIVING,),
            },
        ),
        Route(
            "sys/regions/enrol",
            {update: admit},
            local=True,
            authenticated=False,
            summary="What join asks, with a ticket.",
            answers={update: (of_any_name(Kind.ANY, "What the region that joins needs."),)},
        ),
    ]


def _successions() -> list[Route]:
    """Which region orders writes, and which ones are regions no more."""
    update = Operation.UPDATE
    return [
        Route(
            "sys/regions/switchover",
            {update: switchover},
            sudo=True,
            summary="Hand over to another region, without a loss.",
            fields=(_NAME,),
        ),
        Route(
            "sys/regions/promote",
            {update: promote},
            local=True,
            sudo=True,
            summary="Take over from a primary region that is gone.",
            fields=(
                Field("accept_loss", Kind.BOOLEAN, "Accept the loss of what this region has not got."),
                Field(
                    "max_lag",
                    Kind.DURATION,
                    "Accept the loss of so much of the latest; as sys/regions/settings says if nothing is said.",
                ),
                Field("force", Kind.BOOLEAN, "Even if the primary region answers."),
            ),
            answers={update: _PROMOTED},
        ),
        Route(
            "sys/regions/demote",
            {update: demote},
            local=True,
            sudo=True,
            summary="Order no writes any more, and follow the region that took over.",
            fields=(
                Field("name", Kind.STRING, "The region to follow; whichever took over, if nothing is said."),
                Field("force", Kind.BOOLEAN, "Even if no other region is known to have taken over."),
            ),
            answers={update: (Field("follows", Kind.STRING, "The region that orders writes, or null."),)},
        ),
        Route(
            "sys/regions/leave",
            {update: leave},
            local=True,
            sudo=True,
            summary="Become a store of its own, which keeps all that is in it; the other regions forget this one.",
            fields=(Field("force", Kind.BOOLEAN, "Even if the others cannot be told."),),
        ),
        Route(
            "sys/regions/remove",
            {update: remove},
            sudo=True,
            summary="Forget a region.",
            fields=(_NAME,),
        ),
    ]


_DIGEST_ASKED = (
    in_query("first", Kind.INTEGER, "The first position; the first one that is kept if none is named."),
    in_query("last", Kind.INTEGER, "The last position; where this node is if none is named."),
    in_query("state", Kind.BOOLEAN, "Of the whole shared state too, which takes long where there is much."),
)
_DIGEST = (
    Field("region"),
    Field("first", Kind.INTEGER, "The first position that was looked at."),
    Field("last", Kind.INTEGER, "The last one."),
    Field("history", Kind.STRING, "SHA-256 over the commands from the first to the last."),
    Field("position", Kind.INTEGER, "Where the state was whose digest `state` is."),
    Field("state", Kind.STRING, "SHA-256 over all that regions share."),
)


def _looks() -> list[Route]:
    """What regions go by, and whether they agree."""
    read, update = Operation.READ, Operation.UPDATE
    return [
        Route(
            "sys/regions/settings",
            {read: read_settings, update: write_settings},
            local=True,
            sudo=True,
            summary="What this region goes by towards the others; what is not named stays.",
            fields=_SETTINGS,
            answers={read: _SETTINGS},
        ),
        Route(
            "sys/regions/divergence",
            {read: diverged},
            sudo=True,
            summary="What this region ordered and the history does not have.",
            fields=(in_query("after", Kind.STRING, "List what comes after this entry."),),
            answers={
                read: (
                    Field("entries", Kind.OBJECTS, "Where and what, oldest first; never a value."),
                    Field("next", Kind.STRING, "What to ask with as `after` for more; empty if this is all."),
                )
            },
        ),
        Route(
            "sys/regions/divergence/{id}",
            {update: replay, Operation.DELETE: discard},
            local=True,
            sudo=True,
            summary="Write a secret that was set aside again, in the region that orders writes; or discard it.",
            answers={
                update: (
                    Field("path", Kind.STRING, "Null where nobody had written anything in it."),
                    Field("version", Kind.INTEGER, "That it has now."),
                )
            },
        ),
        Route(
            "sys/regions/digest",
            {read: digest},
            local=True,
            sudo=True,
            summary="Digests of what this node holds, equal where regions agree.",
            fields=_DIGEST_ASKED,
            answers={read: _DIGEST},
        ),
    ]


async def overview(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=control.overview(core))


async def create(core: Core, request: Request, params: dict[str, str]) -> Response:
    if core.unsealed.region_role() != roles.ALONE:
        raise InvalidRequest("this cluster is a region already")
    await enrol.found(core, core.settings.region)
    return Response(status=NO_CONTENT)


async def ticket(core: Core, request: Request, params: dict[str, str]) -> Response:
    control.check_founded(core)
    own = stream.standing(core.unsealed)
    if own.role != roles.PRIMARY:
        raise InvalidRequest(f"only the region that orders writes admits others: ask {own.epoch_region}")
    ttl_ns = values.duration_ns(request.data.get("ttl") or TICKET_TTL_DEFAULT, "ttl")
    if not 0 < ttl_ns <= TICKET_TTL_MAX_S * values.SECOND_NS:
        raise InvalidRequest(f"ttl must be more than zero and at most {TICKET_TTL_MAX_S} seconds")
    text = await enrol.ticket(
        core,
        ttl_s=ttl_ns // values.SECOND_NS,
        ca_certificate=core.lifecycle.ca_certificate,
        pin=core.lifecycle.listener_pin,
    )
    return Response(data={"ticket": text})


async def join(core: Core, request: Request, params: dict[str, str]) -> Response:
    shares = await wanted(
        request.data,
        shares="secret_shares",
        threshold="secret_threshold",
        pgp_keys="pgp_keys",
        default=(1, 1),
    )
    keys = await core.lifecycle.follow(ticket=values.text(request.data.get("ticket"), "ticket"), seal=shares)
    return Response(data={"region": core.settings.region, "keys": [key.hex() for key in keys]})


async def joining(core: Core, request: Request, params: dict[str, str]) -> Response:
    """How far join has come."""
    told = core.lifecycle.arriving
    return Response(data={"arriving": None if told is None else dataclasses.asdict(told)})


async def admit(core: Core, request: Request, params: dict[str, str]) -> Response:
    try:
        asked = msgspec.convert(request.data, enrol.EnrolRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an enrolment: {error}") from None
    return Response(data=await enrol.admit(core, asked))


async def switchover(core: Core, request: Request, params: dict[str, str]) -> Response:
    await control.switchover(core, values.text(request.data.get("name"), "name"))
    return Response(status=NO_CONTENT)


async def promote(core: Core, request: Request, params: dict[str, str]) -> Response:
    accept_loss, force = (values.boolean(request.data.get(name), name) for name in ("accept_loss", "force"))
    said = request.data.get("max_lag")
    max_lag_s = None if said is None else values.duration_ns(said, "max_lag") / values.SECOND_NS
    told = await control.promote(core, accept_loss=accept_loss, max_lag_s=max_lag_s, force=force)
    return Response(data=told)


async def demote(core: Core, request: Request, params: dict[str, str]) -> Response:
    name, force = request.data.get("name"), request.data.get("force")
    follows = await parting.demote(core, values.text(name, "name"), force=values.boolean(force, "force"))
    return Response(data={"follows": follows or None})


async def leave(core: Core, request: Request, params: dict[str, str]) -> Response:
    assert request.token is not None
    await parting.leave(core, request.token, force=values.boolean(request.data.get("force"), "force"))
    return Response(status=NO_CONTENT)


async def remove(core: Core, request: Request, params: dict[str, str]) -> Response:
    await control.remove(core, values.text(request.data.get("name"), "name"))
    return Response(status=NO_CONTENT)


async def read_settings(core: Core, request: Request, params: dict[str, str]) -> Response:
    control.worker(core)
    return Response(data=settings.KEPT.current(core.unsealed).shown())


async def write_settings(core: Core, request: Request, params: dict[str, str]) -> Response:
    control.worker(core)
    await settings.KEPT.change(core.unsealed, request.data)
    return Response(status=NO_CONTENT)


async def diverged(core: Core, request: Request, params: dict[str, str]) -> Response:
    entries, last = await divergence.listed(core.unsealed, values.text(request.query.get("after"), "after"))
    return Response(data={"entries": entries, "next": last})


async def replay(core: Core, request: Request, params: dict[str, str]) -> Response:
    """As the caller, with check-and-set: the version that it had has to be the next one."""
    return Response(data=await replaying.replay(core, params["id"], request))


async def discard(core: Core, request: Request, params: dict[str, str]) -> Response:
    await divergence.discard(core.unsealed, params["id"])
    return Response(status=NO_CONTENT)


async def digest(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The digest of the commands between two positions; of the state, at the position that is told with it."""
    store, asked = core.unsealed, request.query
    first = values.integer(asked.get("first"), "first") or store.history_first()
    last = values.integer(asked.get("last"), "last") or store.position
    told: dict[str, Any] = {"region": store.reads.region()[0], "first": first, "last": last}
    told["history"] = await digests.of_history(store, first, last)
    if values.boolean(asked.get("state"), "state"):
        told["position"], told["state"] = await digests.of_state(core)
    return Response(data=told)
