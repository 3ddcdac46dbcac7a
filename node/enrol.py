"""How a node joins: a one-time ticket, spent for certificates and the sealed root key.

The ticket is an opaque string for people: base64url of msgpack {secret, ca fingerprint, addresses}. The
store keeps only a keyed digest of its secret. The joining node trusts nobody but the authority whose
fingerprint the ticket carries; the cluster trusts nobody but who shows the secret, once.
"""

import base64
import hmac
import secrets
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from cryptography import x509

from consensus.api import Member
from node import pki
from node.core.core import Core
from node.errors import InvalidRequest, NoQuorum, PermissionDenied
from node.outgoing import Connector
from node.store import CommandRejected, Store
from storage.command import AnyCommand, JoinTokenPut, JoinTokenTake, NodePut, batch
from storage.keyring import JOIN_TOKEN_DIGEST, KIND_SYSTEM, REGION_TICKET_DIGEST, Context
from storage.secret import Secret

TICKET_TTL_MAX_S = 24 * 3600
TICKET_BYTES_MAX = 4096
SOFTWARE_CHARS_MAX = 64
ANSWER_BYTES_MAX = 256 * 1024
JOIN_TIMEOUT_S = 30.0
CA_CONTEXT = Context(kind=KIND_SYSTEM, mount_id="", path="ca-key", version=0)


@dataclass(frozen=True, slots=True)
class Entrant:
    """What may enter with a ticket. One for a node gives the sealed root key, one for a region the key itself: so each
    kind has its digests under a key of its own, and none is good for the other.
    """

    kind: str
    digest_key: str
    ticket: str  # what its ticket is called
    source: str  # who prints one


NODE = Entrant("node", JOIN_TOKEN_DIGEST, "join token", "`operator join-token` on a member")
REGION = Entrant("region", REGION_TICKET_DIGEST, "ticket", "`region ticket` in the region that orders writes")


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """What a join token says, or a region's ticket."""

    secret: bytes
    ca_fingerprint: str
    addresses: list[str]  # the first one is the issuing node's
    pin: bytes = b""  # SHA-256 of the issuing node's listener certificate, where its operator brought one
    admits: str = NODE.kind  # of an Entrant

    def __repr__(self) -> str:
        return "Ticket(...)"

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, entrant: Entrant = NODE) -> "Ticket":
        """Raises InvalidRequest, also if it admits something else."""
        if len(text) > TICKET_BYTES_MAX:
            raise InvalidRequest(f"{entrant.ticket} too long")
        try:
            told = msgspec.msgpack.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (ValueError, msgspec.MsgspecError):
            raise InvalidRequest(f"this is not a {entrant.ticket}: {entrant.source} prints one") from None
        if told.admits != entrant.kind:
            raise InvalidRequest(
                f"this admits a {told.admits}, and no {entrant.kind}: {entrant.source} prints a {entrant.ticket}"
            )
        return told


class JoinRequest(msgspec.Struct, frozen=True):
    """What a joining node sends."""

    secret: str  # hex
    node_id: str
    region: str
    api_address: str
    cluster_address: str
    link_address: str
    hosts: list[str]  # names and addresses of its listener
    peer_request: str  # PEM
    listener_request: str  # PEM
    software: str = ""  # the version that it runs
    level: int = 1  # the newest feature level that this version knows


@dataclass(frozen=True, slots=True)
class Admission:
    """What the cluster answers a joining node with."""

    cluster_id: str
    ca_certificate: bytes
    peer_certificate: bytes
    listener_certificate: bytes
    seal_file: dict[str, Any]
    members: tuple[tuple[str, str], ...]


# --- the cluster's side ------------------------------------------------------------------------------------


def _digest(store: Store, secret: bytes, entrant: Entrant) -> bytes:
    return hmac.digest(store.root.derive(entrant.digest_key), secret, "sha256")


async def issue_ticket(core: Core, entrant: Entrant, *, ttl_s: int, ca_certificate: bytes, pin: bytes) -> str:
    """A new one-time ticket, good for ttl_s seconds."""
    store = core.unsealed
    secret = secrets.token_bytes(24)
    now = store.now_ns()
    await store.submit(
        JoinTokenPut(time_ns=now, digest=_digest(store, secret, entrant), expires_ns=now + ttl_s * 10**9)
    )
    own = core.settings.api_address
    addresses = [own, *(row.api_address for row in store.reads.nodes() if row.api_address != own)]
    return Ticket(secret, pki.fingerprint(ca_certificate), addresses, pin, entrant.kind).text()


def authority(store: Store, ca_certificate: bytes) -> pki.Credentials:
    """The CA with its key, out of the store."""
    sealed = store.reads.system_secret("ca-key")
    if sealed is None:
        raise NoQuorum("this node has not caught up with the cluster yet")
    return pki.Credentials(ca_certificate, Secret(store.open(CA_CONTEXT, sealed)))


async def spend_ticket(core: Core, entrant: Entrant, secret: str, taker: str, *also: AnyCommand) -> None:
    """Use a ticket up, and do what depends on it in the same step. Raises PermissionDenied.

    Who took it may show it again until it expires, so that a lost answer can be asked for again.
    """
    store = core.unsealed
    now = store.now_ns()
    try:
        take = JoinTokenTake(
            time_ns=now, digest=_digest(store, bytes.fromhex(secret), entrant), node_id=taker
        )
        await store.submit(batch(now, take, *also))
    except (CommandRejected, ValueError):
        raise PermissionDenied(f"{entrant.ticket} is invalid, expired or used up") from None


async def admit(
    core: Core, request: JoinRequest, *, ca_certificate: bytes, seal_file: dict[str, Any]
) -> dict[str, Any]:
    """Spend a ticket: register the node and certify its keys. The leader makes it a member by itself.

    Raises PermissionDenied for a ticket that is unknown, expired or spent by another node, and
    InvalidRequest if the id belongs to a member (whose disk may have been lost: remove it first).
    """
    store = core.unsealed
    members = store.status().members
    cluster = store.reads.cluster()
    if cluster is None:
        raise NoQuorum("this node has not caught up with the cluster yet")
    cluster_id = cluster[0]
    names = _admissible(request, cluster_id, members, store.level)
    await spend_ticket(
        core,
        NODE,
        request.secret,
        request.node_id,
        NodePut(
            time_ns=store.now_ns(),
            node_id=request.node_id,
            region=request.region,
            api_address=request.api_address,
            cluster_address=request.cluster_address,
            link_address=request.link_address,
            software=request.software[:SOFTWARE_CHARS_MAX],
            level=request.level,
        ),
    )
    ca = authority(store, ca_certificate)
    try:
        peer = pki.issue(ca, request.peer_request.encode(), names)
        listener = pki.issue(ca, request.listener_request.encode(), pki.listener_names(request.hosts))
    except pki.InvalidCertificateRequest as error:
        raise InvalidRequest(str(error)) from None
    return {
        "cluster_id": cluster_id,
        "ca_certificate": ca_certificate.decode(),
        "peer_certificate": peer.decode(),
        "listener_certificate": listener.decode(),
        "seal_file": seal_file,
        "members": [[member.id, member.address] for member in members],
    }


def _admissible(
    request: JoinRequest, cluster_id: str, members: Iterable[Member], level: int
) -> list[x509.GeneralName]:
    """What its certificate will say. Raises InvalidRequest if it cannot be a new member of this cluster."""
    try:
        names = pki.peer_names(request.node_id, cluster_id)
    except ValueError as error:
        raise InvalidRequest(f"node id: {error}") from None
    if any(member.id == request.node_id for member in members):
        raise InvalidRequest(
            f"{request.node_id} is a member already; if its disk was lost, remove it first (operator remove-peer)"
        )
    if request.level < level:
        raise InvalidRequest(
            f"{request.node_id} runs a release ({request.software}) that knows feature level {request.level}: this"
            f" cluster is at {level}, so it needs a newer one"
        )
    return names


# --- the joining node's side -------------------------------------------------------------------------------


async def ask(ticket: Ticket, leader_api_address: str, request: JoinRequest) -> Admission:
    """Spend the ticket at the first address that answers. Raises InvalidRequest with what each one said."""
    body = msgspec.json.encode(request)
    data = await post(ticket, "/v1/sys/cluster/join", body, only_address=leader_api_address)
    return Admission(
        cluster_id=data["cluster_id"],
        ca_certificate=data["ca_certificate"].encode(),
        peer_certificate=data["peer_certificate"].encode(),
        listener_certificate=data["listener_certificate"].encode(),
        seal_file=data["seal_file"],
        members=tuple((str(node), str(raft)) for node, raft in data["members"]),
    )


async def post(ticket: Ticket, path: str, body: bytes, *, only_address: str = "") -> dict[str, Any]:
    """Show the ticket at the first of its addresses that answers; the answer's data.

    Only who shows the authority that the ticket names is told. Raises InvalidRequest with what each one said.
    """
    problems: dict[str, list[str]] = {}  # what was said, and by whom
    for address in [only_address] if only_address else ticket.addresses:
        try:
            return await _post_to(ticket, address.rstrip("/"), path, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problems.setdefault(str(error) or type(error).__name__, []).append(address)
    told = "; ".join(f"{', '.join(addresses)}: {problem}" for problem, addresses in problems.items())
    raise InvalidRequest(f"no node of the cluster admitted this one: {told}")


async def _post_to(ticket: Ticket, address: str, path: str, body: bytes) -> dict[str, Any]:
    if urlsplit(address).scheme != "https":
        raise ValueError("only https:// addresses can be joined")
    timeout = aiohttp.ClientTimeout(total=JOIN_TIMEOUT_S)
    async with aiohttp.ClientSession(
        timeout=timeout, auto_decompress=False, connector=Connector()
    ) as session:
        verified = await _verification(session, ticket, address)
        async with session.post(f"{address}{path}", data=body, ssl=verified) as answer:
            told = await _body(answer)
            if answer.status != 200:
                raise ValueError("; ".join(told.get("errors", [])) or f"HTTP {answer.status}")
    data: dict[str, Any] = told["data"]
    return data


async def _verification(
    session: aiohttp.ClientSession, ticket: Ticket, address: str
) -> ssl.SSLContext | aiohttp.Fingerprint:
    """How to know the node at `address`: by the certificate that the ticket pins, or by the cluster's CA."""
    if ticket.pin and address == ticket.addresses[0].rstrip("/"):
        return aiohttp.Fingerprint(ticket.pin)
    context = ssl.create_default_context(cadata=(await _pinned_ca(session, ticket, address)).decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


async def _pinned_ca(session: aiohttp.ClientSession, ticket: Ticket, address: str) -> bytes:
    """The CA certificate, believed only because its fingerprint is the ticket's."""
    async with session.get(f"{address}/v1/sys/cluster/ca", ssl=False) as answer:
        body = await _body(answer)
    pem = str(body["data"]["certificate"]).encode()
    if not hmac.compare_digest(pki.fingerprint(pem), ticket.ca_fingerprint):
        raise ValueError("this node's authority is not the one that the join token names")
    return pem


async def _body(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The whole JSON object of an answer, however many pieces it comes in. Raises ValueError."""
    data = b""
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long")
    return msgspec.json.decode(data, type=dict[str, Any])
