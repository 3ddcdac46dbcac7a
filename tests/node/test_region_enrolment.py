"""Regions that ask to follow."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from support.corefixture import opened

from node import pki
from node.core.core import Core
from node.enrol import REGION, Ticket
from node.errors import InvalidRequest
from node.regions import authority, enrol
from node.regions.worker import RegionsWorker
from node.view import write
from storage.command import RegionDemote, RegionFound, RegionRemove


async def asking(core: Core, name: str, link: str) -> enrol.EnrolRequest:
    """What the first node of a region shows, with a ticket of its own."""
    ca = pki.new_ca("test")
    ticket = Ticket.parse(await enrol.ticket(core, ttl_s=60, ca_certificate=ca.certificate, pin=b""), REGION)
    public = base64.b64encode(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    return enrol.EnrolRequest(ticket.secret.hex(), name, ["https://127.0.0.1:1"], [link], public)


async def test_of_two_that_join_under_one_name_at_once_one_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would follow, and be called to order writes at once."""
    async with opened(tmp_path) as core:
        store = core.unsealed
        found = RegionFound(store.now_ns(), "eu", ("https://127.0.0.1:1",), ("127.0.0.1:1",))
        await write(store, found, authority.found(store))
        core.regions = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        store.cleared.set()
        both_are_new, spend = asyncio.Barrier(2), enrol.spend_ticket

        async def spend_together(*what: Any) -> None:
            await both_are_new.wait()
            await spend(*what)

        monkeypatch.setattr(enrol, "spend_ticket", spend_together)
        both = [await asking(core, "us", link) for link in ("127.0.0.1:2", "127.0.0.1:3")]
        told = await asyncio.gather(*(enrol.admit(core, each) for each in both), return_exceptions=True)
        (refused,) = (each for each in told if isinstance(each, BaseException))
        assert isinstance(refused, InvalidRequest)
        assert "us" in refused.message
        monkeypatch.undo()
        (admitted,) = (request for request, each in zip(both, told, strict=True) if isinstance(each, dict))
        assert [list(each.links) for each in store.regions() if each.name == "us"] == [admitted.links]
        await store.submit(RegionRemove(store.now_ns(), "us"))
        again = await asking(core, "us", "127.0.0.1:4")
        assert (await enrol.admit(core, again))["sealed"], "a name that is free again can be taken"
        late = await asking(core, "asia", "127.0.0.1:5")
        await store.submit(RegionDemote(store.now_ns()))
        with pytest.raises(InvalidRequest, match="ticket of eu is needed"):
            await enrol.admit(core, late)
