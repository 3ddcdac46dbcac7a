"""Revocation lists: made when somebody asks, kept until one more certificate is revoked or half their time is over.

Anybody may ask, and a long list takes seconds to make. So those who ask meanwhile wait for the same one, and a node
remembers for a while what could not be kept in the store: too long a list, or one made where nothing can be written.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from node.auth.fields import SECOND_NS, duration_ns
from node.engines.pki import certificates as c
from node.engines.pki.authority import (
    CRL,
    CRL_DEFAULTS,
    REVOKED,
    Issuer,
    config,
    find_issuer,
    signing_key,
)
from node.engines.shelf import Shelf
from node.errors import InvalidRequest, NodeError
from node.store import Store

REVOKED_MAX = 100_000  # of one mount, on its lists
REVOKED_STEP = 500  # entries read between two turns of the loop
REMEMBERED_MAX = 16  # lists, of up to some megabytes
REMEMBERED_NS = 60 * SECOND_NS


@dataclass(frozen=True, slots=True)
class _Made:
    """A list, made where the store's own was in this revision."""

    store: Store
    revision: int
    made_ns: int
    crl: x509.CertificateRevocationList

    def is_of(self, store: Store, revision: int) -> bool:
        return self.store is store and self.revision == revision


class RevocationLists:
    """The lists of all mounts, as this node gives them out."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, _Made] = OrderedDict()  # by the issuer's id
        self._making: dict[tuple[str, int], asyncio.Task[x509.CertificateRevocationList]] = {}

    async def get(self, shelf: Shelf, reference: str, now_ns: int) -> x509.CertificateRevocationList:
        """The list of an issuer, made anew if it has to be. Raises InvalidRequest."""
        issuer = find_issuer(shelf, reference)
        settings = config(shelf, "crl", CRL_DEFAULTS)
        expiry_ns = duration_ns(settings["expiry"], "expiry")
        item = shelf.get(CRL + issuer.id)
        if item is not None and item.value["made_ns"] + expiry_ns // 2 > now_ns:
            return x509.load_pem_x509_crl(item.value["crl"].encode())
        revision = item.revision if item is not None else 0
        known = self._made.get(issuer.id)
        if known is not None and known.is_of(shelf.store, revision):
            if now_ns < known.made_ns + min(expiry_ns // 2, REMEMBERED_NS):
                return known.crl
            del self._made[issuer.id]
        place = (issuer.id, revision)
        making = self._making.get(place)
        if making is None:
            work = self._make(shelf, issuer, revision, now_ns, expiry_ns, empty=settings["disable"])
            making = self._making[place] = asyncio.create_task(work, name="revocation-list")
            making.add_done_callback(lambda done: self._over(place, done))
        return await asyncio.shield(making)  # one who gives up takes it from nobody

    def _over(self, place: tuple[str, int], making: "asyncio.Task[x509.CertificateRevocationList]") -> None:
        self._making.pop(place, None)
        if not making.cancelled():
            making.exception()  # whoever still waits is told; if nobody does, nobody misses it

    async def _make(
        self, shelf: Shelf, issuer: Issuer, revision: int, now_ns: int, expiry_ns: int, *, empty: bool
    ) -> x509.CertificateRevocationList:
        revoked = [] if empty else await _revoked(shelf, issuer.id, now_ns)
        key = signing_key(shelf, issuer)
        made = await asyncio.to_thread(
            c.make_crl, issuer.certificate, key, revoked, now_ns=now_ns, expiry_ns=expiry_ns
        )
        self._made[issuer.id] = _Made(shelf.store, revision, now_ns, made)
        self._made.move_to_end(issuer.id)
        if len(self._made) > REMEMBERED_MAX:
            self._made.popitem(last=False)
        entry = {"crl": c.to_pem(made), "made_ns": now_ns}
        # Refused if one more was revoked meanwhile, or where nothing can be written.
        with contextlib.suppress(NodeError):
            await shelf.write(shelf.put(CRL + issuer.id, entry, expect=revision))
        return made


async def _revoked(shelf: Shelf, issuer_id: str, now_ns: int) -> Sequence[tuple[int, int]]:
    """Serial numbers and times of what an issuer revoked; what has ended by itself needs no list any more."""
    listed: list[tuple[int, int]] = []
    after, seen = "", 0
    while names := shelf.children(REVOKED, after, REVOKED_STEP):
        after, seen = names[-1], seen + len(names)
        if seen > REVOKED_MAX:
            raise InvalidRequest(
                f"more than {REVOKED_MAX} certificates are revoked: tidy those that have ended"
            )
        for path in names:
            item = shelf.get(REVOKED + path)
            if item is not None and item.value["issuer_id"] == issuer_id and item.value["ends_ns"] > now_ns:
                listed.append((int(path.replace(":", ""), 16), int(item.value["revoked_ns"])))
        await asyncio.sleep(0)
    return listed
