"""Node certificates renew themselves, long before they end, by the authority that every open node can read."""

import dataclasses
import ssl
from collections.abc import Sequence

import structlog

from node import pki
from node.enrol import authority
from node.identity import Identity, Layout, write_identity
from node.listener_tls import ListenerTLS
from node.store import Store
from storage.keyring import PEER_IDENTITY

log = structlog.get_logger("renewal")


def renew(
    *,
    store: Store,
    identity: Identity,
    peer_contexts: Sequence[ssl.SSLContext],
    tls: ListenerTLS,
    layout: Layout,
) -> Identity:
    """Replace the peer and the listener certificate if they end within LEAF_RENEW_BEFORE.

    New handshakes use the new ones at once; open connections go on. Returns the identity now in force.
    """
    if identity.peer.expires_within(pki.LEAF_RENEW_BEFORE):
        ca = authority(store, identity.ca_certificate)
        peer = pki.credentials(ca, pki.peer_names(identity.node_id, identity.cluster_id))
        identity = dataclasses.replace(identity, peer=peer)
        write_identity(layout.identity, store.root.derive(PEER_IDENTITY), identity)
        for context in peer_contexts:
            pki.load_credentials(context, peer)
        log.info("peer certificate renewed")
    if tls.automatic and tls.own.expires_within(pki.LEAF_RENEW_BEFORE):
        ca = authority(store, identity.ca_certificate)
        tls.replace(identity.ca_certificate, pki.credentials(ca, pki.listener_names(tls.hosts)))
        log.info("listener certificate renewed")
    return identity
