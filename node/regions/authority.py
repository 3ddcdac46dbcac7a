"""Who may speak in a region's name: a certificate authority that all regions share.

It is made when there are regions, and kept in the store like any secret, so every unsealed node of every region can
certify itself, with a key that never leaves its memory, and verify the others: both ends of a link show a certificate.
"""

import asyncio
import re
import ssl

from cryptography import x509

from node import pki
from node.errors import PermissionDenied
from node.store import Store
from node.view import View
from storage.command import EntryPut
from storage.entries import REGIONS
from storage.secret import Secret

AUTHORITY = "authority"
LIFETIME = pki.LEAF_LIFETIME  # of certificates for links
_LINK_NAME = re.compile(r"[a-z0-9-]{1,32}\.region\.[0-9a-f-]+\.strongroom")
REGION_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


def link_name(region: str, cluster_id: str) -> str:
    """The DNS name by which a region is known on links."""
    return f"{region}.region.{cluster_id}.strongroom"


def found(store: Store) -> EntryPut:
    """The command that keeps a new authority."""
    ca = pki.new_ca("regions")
    value = {"certificate": ca.certificate.decode(), "key": ca.key.reveal().decode()}
    return View(store, REGIONS).put(AUTHORITY, value)


def authority(store: Store) -> pki.Credentials | None:
    """The authority, once there are regions."""
    item = View(store, REGIONS).get(AUTHORITY)
    if item is None:
        return None
    return pki.Credentials(item.value["certificate"].encode(), Secret(item.value["key"].encode()))


def certify(ca: pki.Credentials, region: str, cluster_id: str) -> pki.Credentials:
    """A fresh key with a certificate in the region's name."""
    return pki.credentials(ca, [x509.DNSName(link_name(region, cluster_id))], LIFETIME)


def peer_region(transport: asyncio.BaseTransport | None) -> str:
    """The region in whose name a link's other end showed its certificate; "" if it is none."""
    shown = {} if transport is None else transport.get_extra_info("peercert") or {}
    names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"]
    return next((name.partition(".")[0] for name in names if _LINK_NAME.fullmatch(name)), "")


async def admit_link(store: Store, region: str) -> None:
    """Raises PermissionDenied for a region that is not, or not any more, one of this store's."""
    if not _is_known(store, region):
        await store.fresh()  # another node may just have admitted it
        if not _is_known(store, region):
            raise PermissionDenied(f"region {region or 'without a name'} was removed, or is not known here")


def _is_known(store: Store, region: str) -> bool:
    return any(each.name == region for each in store.reads.regions())


def contexts(ca: pki.Credentials, own: pki.Credentials) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts for links."""
    return pki.peer_contexts(ca.certificate, own)
