"""The first half of entering a cluster: show a join token, and be given what membership takes."""

from dataclasses import dataclass

from consensus.api import Member
from node import VERSION, enrol, pki
from node.config import Settings
from node.errors import InvalidRequest
from node.listener_tls import ListenerTLS
from storage.command import LEVEL
from storage.seal import SealFile


@dataclass(frozen=True, slots=True)
class Admitted:
    """A cluster took this node in, and it is not on disk yet: with key shares it waits for `unseal`."""

    seal: SealFile
    cluster_id: str
    ca_certificate: bytes
    peer: pki.Credentials
    members: tuple[Member, ...]


async def admission(
    settings: Settings, tls: ListenerTLS, ticket: enrol.Ticket, leader_api_address: str
) -> Admitted:
    """Spend the ticket. From then on the listener shows a certificate of the cluster's authority.

    Raises InvalidRequest with the reason if the cluster, or this node's configuration, does not allow it.
    """
    peer_key, listener_key = pki.new_key(), pki.new_key()
    request = enrol.JoinRequest(
        secret=ticket.secret.hex(),
        node_id=settings.node_id,
        region=settings.region,
        api_address=settings.api_address,
        cluster_address=settings.cluster_address,
        link_address=settings.link_address,
        hosts=tls.hosts,
        peer_request=pki.signing_request(peer_key).decode(),
        listener_request=pki.signing_request(listener_key).decode(),
        software=VERSION,
        level=LEVEL,
    )
    given = await enrol.ask(ticket, leader_api_address, request)
    seal = SealFile.parse(given.seal_file)
    if seal.type != settings.seal.kind:
        raise InvalidRequest(
            f"the cluster's seal is {seal.type!r}, this node is configured for {settings.seal.kind!r}"
        )
    tls.replace(given.ca_certificate, pki.Credentials(given.listener_certificate, listener_key))
    tls.forget_authority()
    return Admitted(
        seal=seal,
        cluster_id=given.cluster_id,
        ca_certificate=given.ca_certificate,
        peer=pki.Credentials(given.peer_certificate, peer_key),
        members=tuple(Member(node, address) for node, address in given.members),
    )
