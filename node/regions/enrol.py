"""How a region comes to follow: a one-time ticket, spent for the root key and a certificate; then the whole state.

The root key is shared by all regions, each under a seal of its own. It travels encrypted to a key that the joining
node made for this one occasion (HPKE, RFC 9180), inside of TLS to an authority that the ticket pins. The state then
comes over a link, as a copy of the database in pieces: it is encrypted under a key that the root key gives.
"""

import asyncio
import base64
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from node import pki
from node.core.core import Core
from node.enrol import REGION, Ticket, issue_ticket, post, spend_ticket
from node.errors import InvalidRequest
from node.regions import authority, control, stream
from node.regions.arrival import Arrival, Asker, Progress
from node.regions.links import Interrupted, Links, Unreachable
from node.store import CommandRejected, Store
from node.view import View, write
from storage import regions as roles
from storage.command import RegionFound, RegionPut
from storage.entries import REGIONS
from storage.keyring import RootKey
from storage.outcome import Reason
from storage.secret import Secret

ENROL = "/v1/sys/regions/enrol"
LINKS_MAX = 16
FETCH_PAUSE_S = 1.0
FIRST_PIECE_PATIENCE_S = 60.0  # of a region that has only just been founded, the links open within a second
NEXT_PIECE_PATIENCE_S = 900.0  # a link that is cut meanwhile; the ticket is spent, and would be wasted
_INFO = b"strongroom v1 region enrolment"

log = structlog.get_logger("regions")


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class EnrolRequest(msgspec.Struct, frozen=True):
    """What a joining region's first node sends."""

    secret: str  # hex
    region: str
    endpoints: list[str]
    links: list[str]
    public_key: str  # base64: X25519


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What it gets: the store's root key, and what it needs to fetch the state."""

    root: RootKey
    cluster_id: str
    source: str  # the region that orders writes
    links: tuple[str, ...]
    authority_certificate: bytes
    own: pki.Credentials


# --- the side of the region that orders writes ------------------------------------------------------------


async def found(core: Core, name: str) -> None:
    """Make this cluster the primary region `name`. Raises InvalidRequest."""
    store = core.unsealed
    control.worker(core)
    check_name(name)
    own = stream.standing(store)
    if not own.links:
        raise InvalidRequest("no node of this cluster has a region_addr in its configuration")
    command = RegionFound(time_ns=store.now_ns(), name=name, endpoints=own.endpoints, links=own.links)
    try:
        await write(store, command, authority.found(store))
    except CommandRejected as error:
        if error.reason != Reason.REGION_ROLE:
            raise
        raise InvalidRequest("this cluster has become a region just now") from None


async def ticket(core: Core, *, ttl_s: int, ca_certificate: bytes, pin: bytes) -> str:
    """A one-time ticket for a region that wants to follow."""
    return await issue_ticket(core, REGION, ttl_s=ttl_s, ca_certificate=ca_certificate, pin=pin)


async def admit(core: Core, request: EnrolRequest) -> dict[str, Any]:
    """Spend a ticket: register the region, and hand over what it needs, encrypted for it alone."""
    store, ca = core.unsealed, authority.authority(core.unsealed)
    cluster = store.reads.cluster()
    if ca is None or cluster is None:
        raise InvalidRequest("this cluster is no region yet: `region create` makes it one")
    here = stream.standing(store)
    if here.role != roles.PRIMARY:  # before its ticket is spent, which is none elsewhere
        raise InvalidRequest(
            f"{here.region} orders no writes any more: a ticket of {here.epoch_region} is needed"
        )
    check_name(request.region)
    revision = View(store, REGIONS).revision(_admission(request.region))  # as of the state in which it is new
    await _check_new(core, request)
    if not 0 < len(request.links) <= LINKS_MAX or len(request.endpoints) > LINKS_MAX:
        raise InvalidRequest(f"a region enrols with 1 to {LINKS_MAX} addresses")
    try:
        public = x25519.X25519PublicKey.from_public_bytes(base64.b64decode(request.public_key))
    except ValueError:
        raise InvalidRequest("public_key is not a base64 X25519 key") from None
    await spend_ticket(core, REGION, request.secret, f"region:{request.region}")
    await _register(store, request, revision)
    own = authority.certify(ca, request.region, cluster[0])
    secret = msgspec.msgpack.encode((store.root.reveal(), own.key.reveal()))
    return {
        "cluster_id": cluster[0],
        "region": here.region,
        "links": list(here.links),
        "authority": ca.certificate.decode(),
        "certificate": own.certificate.decode(),
        "sealed": base64.b64encode(_suite().encrypt(secret, public, info=_INFO)).decode(),
    }


async def _check_new(core: Core, request: EnrolRequest) -> None:
    """That there is no such region, or one at the same addresses that does not answer: its only node was stopped while
    it joined, and begins once more. Raises InvalidRequest.
    """
    for each in core.unsealed.reads.regions():
        if each.name != request.region:
            continue
        problem = f"there is a region {each.name} already"
        if each.links != tuple(request.links) or each.name == core.unsealed.reads.region()[0]:
            raise InvalidRequest(f"{problem}; remove it first if it is gone")
        with contextlib.suppress(Unreachable, Interrupted):
            await control.worker(core).hello(each)
            raise InvalidRequest(f"{problem}, and it answers")


def _admission(region: str) -> str:
    return f"admitted/{region}"


async def _register(store: Store, request: EnrolRequest, revision: int) -> None:
    """Raises InvalidRequest for the later one of two that join under one name at once: both would speak in it."""
    put = RegionPut(
        time_ns=store.now_ns(),
        name=request.region,
        endpoints=tuple(request.endpoints),
        links=tuple(request.links),
    )
    admission = View(store, REGIONS).put(_admission(request.region), request.links, expect=revision)
    try:
        await write(store, admission, put)
    except CommandRejected as error:
        if error.reason == Reason.REVISION_MISMATCH:
            raise InvalidRequest(f"another cluster joins as {request.region} just now") from None
        raise control.refused(error, request.region) from None


def check_name(name: str) -> None:
    if authority.REGION_NAME.fullmatch(name) is None:
        raise InvalidRequest("a region's name has 1 to 32 of a-z, 0-9 and -")


# --- the joining side -------------------------------------------------------------------------------------


async def enrol(text: str, *, region: str, endpoints: list[str], links: list[str]) -> Enrolment:
    """Spend the ticket at the first address that answers. Raises InvalidRequest with what each one said."""
    check_name(region)
    ticket = Ticket.parse(text, REGION)
    private = x25519.X25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    request = EnrolRequest(ticket.secret.hex(), region, endpoints, links, public)
    data = await post(ticket, ENROL, msgspec.json.encode(request))
    try:
        secret = _suite().decrypt(base64.b64decode(data["sealed"]), private, info=_INFO)
    except (InvalidTag, ValueError):
        raise InvalidRequest("the answer was not encrypted for this node") from None
    root, key = msgspec.msgpack.decode(secret, type=tuple[bytes, bytes])
    return Enrolment(
        root=RootKey(root),
        cluster_id=data["cluster_id"],
        source=data["region"],
        links=tuple(data["links"]),
        authority_certificate=data["authority"].encode(),
        own=pki.Credentials(data["certificate"].encode(), Secret(key)),
    )


async def fetch_state(enrolment: Enrolment, arrival: Arrival, *, region: str, source: str) -> None:
    """The whole state, verified, for `region`, over links from the address `source`.

    Raises InvalidRequest if it cannot be had.
    """
    _, client = pki.peer_contexts(enrolment.authority_certificate, enrolment.own)
    links, shown = Links(client, enrolment.cluster_id, source=source), 0

    def tell(progress: Progress) -> None:
        nonlocal shown
        if (tenths := 10 * progress.bytes // progress.bytes_max) > shown:
            shown = tenths
            log.info("state arriving", source=progress.source, bytes=progress.bytes, of=progress.bytes_max)

    try:
        while True:
            try:
                await arrival.fetch(links, enrolment.source, enrolment.links, Asker(region), tell)
                return
            except (Interrupted, Unreachable) as error:
                patience_s = NEXT_PIECE_PATIENCE_S if arrival.begun else FIRST_PIECE_PATIENCE_S
                if time.monotonic() - arrival.moved_at > patience_s:
                    raise InvalidRequest(f"{error}; join again, and it goes on where it was") from None
            await asyncio.sleep(FETCH_PAUSE_S)
    finally:
        await links.close()
