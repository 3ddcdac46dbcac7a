"""How a region comes to follow: a one-time ticket, spent for the root key and a certificate; then the whole state.

The root key is shared by all regions, each under a seal of its own. It travels encrypted to a key that the joining
node made for this one occasion (HPKE, RFC 9180), inside of TLS to an authority that the ticket pins. The state then
comes over a link, as a copy of the database in pieces: it is encrypted under a key that the root key gives.
"""

import asyncio
import base64
import hashlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from node import pki
from node.core.core import Core
from node.enrol import Ticket, issue_ticket, post, spend_ticket
from node.errors import InvalidRequest, NoQuorum
from node.regions import authority
from node.regions.links import Interrupted, Links, Unreachable
from node.view import write
from storage.command import RegionFound, RegionPut
from storage.keyring import RootKey
from storage.secret import Secret

ENROL = "/v1/sys/regions/enrol"
SNAPSHOT = "/v1/sys/regions/link/snapshot"
PIECE_BYTES = 1 << 20
COPIES_MAX = 2  # copies of the state that wait to be fetched
COPY_LIFETIME_S = 1800.0
PIECE_TIMEOUT_S = 30.0
PIECE_ATTEMPTS_MAX = 20
LINKS_MAX = 16
_INFO = b"strongroom v1 region enrolment"


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
    """Make this cluster the primary region `name`. Raises InvalidRequest, CommandRejected."""
    store = core.unsealed
    regions = _worker(core)
    check_name(name)
    endpoints, links = regions.own_addresses()
    if not links:
        raise InvalidRequest("no node of this cluster has a region_addr in its configuration")
    command = RegionFound(time_ns=store.now_ns(), name=name, endpoints=endpoints, links=links)
    await write(store, command, authority.found(store))


async def ticket(core: Core, *, ttl_s: int, ca_certificate: bytes, pin: bytes) -> str:
    """A one-time ticket for a region that wants to follow."""
    return await issue_ticket(core, ttl_s=ttl_s, ca_certificate=ca_certificate, pin=pin)


async def admit(core: Core, request: EnrolRequest) -> dict[str, Any]:
    """Spend a ticket: register the region, and hand over what it needs, encrypted for it alone."""
    store, ca = core.unsealed, authority.authority(core.unsealed)
    cluster = store.reads.cluster()
    if ca is None or cluster is None:
        raise InvalidRequest("this cluster is no region yet: `region create` makes it one")
    check_name(request.region)
    if any(each.name == request.region for each in store.reads.regions()):
        raise InvalidRequest(f"there is a region {request.region} already; remove it first if it is gone")
    if not 0 < len(request.links) <= LINKS_MAX or len(request.endpoints) > LINKS_MAX:
        raise InvalidRequest(f"a region enrols with 1 to {LINKS_MAX} addresses")
    try:
        public = x25519.X25519PublicKey.from_public_bytes(base64.b64decode(request.public_key))
    except ValueError:
        raise InvalidRequest("public_key is not a base64 X25519 key") from None
    await spend_ticket(core, request.secret, f"region:{request.region}")
    await store.submit(
        RegionPut(
            time_ns=store.now_ns(),
            name=request.region,
            endpoints=tuple(request.endpoints),
            links=tuple(request.links),
        )
    )
    own = authority.certify(ca, request.region, cluster[0])
    name = store.reads.region()[0]
    secret = msgspec.msgpack.encode((store.root.reveal(), own.key.reveal()))
    return {
        "cluster_id": cluster[0],
        "region": name,
        "links": list(_worker(core).own_addresses()[1]),
        "authority": ca.certificate.decode(),
        "certificate": own.certificate.decode(),
        "sealed": base64.b64encode(_suite().encrypt(secret, public, info=_INFO)).decode(),
    }


def check_name(name: str) -> None:
    if authority.REGION_NAME.fullmatch(name) is None:
        raise InvalidRequest("a region's name has 1 to 32 of a-z, 0-9 and -")


@dataclass(slots=True)
class _Copy:
    path: Path
    bytes: int
    sha256: str
    made_at: float


@dataclass(slots=True)
class Copies:
    """Copies of the state that a joining region fetches in pieces."""

    directory: Path
    take: Callable[[Path], Awaitable[int]]  # StateCopies.take
    _copies: dict[str, _Copy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for left in self.directory.glob("region-*.db*"):
            left.unlink()

    async def create(self) -> dict[str, Any]:
        """A copy of what is applied now: {"id", "bytes", "sha256"}. Raises NoQuorum if there are too many."""
        self.expire(time.monotonic() - COPY_LIFETIME_S)
        if len(self._copies) >= COPIES_MAX:
            raise NoQuorum("too many copies of the state wait to be fetched; try again later")
        identity = secrets.token_hex(8)
        path = self.directory / f"region-{identity}.db"
        await self.take(path)
        copy = self._copies[identity] = await asyncio.to_thread(_described, path)
        return {"id": identity, "bytes": copy.bytes, "sha256": copy.sha256}

    def piece(self, identity: str, offset: int) -> bytes:
        """Blocking. Raises InvalidRequest for a copy that is not there any more."""
        copy = self._copies.get(identity)
        if copy is None or not 0 <= offset <= copy.bytes:
            raise InvalidRequest("there is no such copy; begin again")
        with copy.path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def forget(self, identity: str) -> None:
        copy = self._copies.pop(identity, None)
        if copy is not None:
            copy.path.unlink(missing_ok=True)

    def expire(self, made_before: float) -> None:
        for identity in [key for key, copy in self._copies.items() if copy.made_at < made_before]:
            self.forget(identity)


def _described(path: Path) -> _Copy:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Copy(path, path.stat().st_size, digest, time.monotonic())


def _worker(core: Core) -> Any:
    if core.regions is None:
        raise InvalidRequest("a server in memory takes no part in regions")
    return core.regions


# --- the joining side -------------------------------------------------------------------------------------


async def enrol(text: str, *, region: str, endpoints: list[str], links: list[str]) -> Enrolment:
    """Spend the ticket at the first address that answers. Raises InvalidRequest with what each one said."""
    check_name(region)
    ticket = Ticket.parse(text)
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


async def fetch_state(enrolment: Enrolment, target: Path) -> None:
    """The whole state into `target`, verified. Raises InvalidRequest if it cannot be had."""
    _, client = pki.peer_contexts(enrolment.authority_certificate, enrolment.own)
    links = Links(client, enrolment.cluster_id)
    try:
        await _fetch(links, enrolment, target)
    finally:
        await links.close()


async def _fetch(links: Links, enrolment: Enrolment, target: Path) -> None:
    source = (enrolment.source, enrolment.links[:1])  # a copy lies on one node
    described = msgspec.json.decode(await _piece(links, source, {}))
    digest, size = hashlib.sha256(), 0
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        while size < described["bytes"]:
            piece = await _piece(links, source, {"id": described["id"], "offset": size})
            if not piece:
                raise InvalidRequest("the copy of the state ended early")
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != described["sha256"]:
        raise InvalidRequest("the copy of the state arrived damaged")
    await _piece(links, source, {"id": described["id"], "done": True})


async def _piece(links: Links, source: tuple[str, tuple[str, ...]], asked: dict[str, Any]) -> bytes:
    problem = ""
    for _ in range(PIECE_ATTEMPTS_MAX):
        try:
            answer = await links.ask(
                *source, SNAPSHOT, body=msgspec.json.encode(asked), timeout_s=PIECE_TIMEOUT_S
            )
        except (Unreachable, Interrupted) as error:
            problem = str(error)
            continue
        if answer.status == 200:
            return answer.body
        problem = f"HTTP {answer.status}"
        break
    raise InvalidRequest(f"the state could not be fetched: {problem}")
