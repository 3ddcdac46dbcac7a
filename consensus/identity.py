"""Who a node is to the others: the name in its certificate, and what both ends of a connection insist on."""

import re
import ssl
from pathlib import Path
from typing import Any

_NAME_SUFFIX = ".peer.strongroom"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def peer_name(node_id: str, cluster_id: str) -> str:
    """The DNS name that a node's certificate carries. Raises ValueError for ids that are no DNS label."""
    for label in (node_id, cluster_id):
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is not a lower-case DNS label of at most 63 characters")
    return f"{node_id}.{cluster_id}{_NAME_SUFFIX}"


def peer_contexts(
    *, ca: Path, certificate: Path, key: Path | None = None
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts that accept only TLS 1.3 and certificates of `ca`. PEM files."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.num_tickets = 0  # no resumption: each connection proves its certificate
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
    return server, client


def check_context(context: ssl.SSLContext) -> None:
    """Raises ValueError unless it speaks TLS 1.3 only and verifies who answers."""
    if context.verify_mode is not ssl.CERT_REQUIRED:
        raise ValueError("peers must be verified: CERT_REQUIRED both ways")
    if context.minimum_version is not ssl.TLSVersion.TLSv1_3:
        raise ValueError("peers speak TLS 1.3: set minimum_version")
    if context.protocol is ssl.PROTOCOL_TLS_CLIENT and not context.check_hostname:
        raise ValueError("the dialler checks the peer's name: set check_hostname")


def certified_id(certified: ssl.SSLObject | None, cluster_id: str) -> str | None:
    """The node that the verified certificate names; None unless it names exactly one, of this cluster."""
    certificate: dict[str, Any] = (certified.getpeercert() if certified is not None else None) or {}
    names = [
        value
        for kind, value in certificate.get("subjectAltName", ())
        if kind == "DNS" and value.endswith(_NAME_SUFFIX)
    ]
    if len(names) != 1:
        return None
    node_id = names[0].split(".")[0]
    return node_id if _LABEL.fullmatch(node_id) and names[0] == peer_name(node_id, cluster_id) else None
