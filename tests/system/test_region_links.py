"""Links between regions: who is listened to, and what becomes of a node that cannot listen."""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import poll
from support.regions import RegionOfOne

from node import pki
from node.errors import InvalidRequest
from node.regions import enrol
from node.regions.enrol import Enrolment
from node.regions.following import STREAM
from node.regions.forwarding import EPOCH, NOT_PRIMARY
from node.regions.links import Answer, Interrupted, Links, Unreachable
from node.regions.worker import HELLO

LOSS = {"accept_loss": True}
STANDING = {"region": "us", "role": "secondary", "epoch": 1, "epoch_region": "eu", "position": 0}


def test_links_are_for_regions_of_the_store_and_who_knows_a_later_epoch_is_obeyed(tmp_path: Path) -> None:
    eu = RegionOfOne(tmp_path / "eu", "eu")
    host, _, port = eu.door.listen.rpartition(":")
    with eu.server, socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        eu.start(501)
        token = eu.must("", "PUT", "sys/init", {})["root_token"]
        eu.server.wait_health(200)
        eu.must(token, "POST", "sys/mounts/secret", {"type": "kv-v2"})
        eu.must(token, "POST", "sys/regions/create")
        # the address is somebody else's: the node serves all the same, says so, and tries again
        poll(lambda: "cannot be bound" in eu.regions(token)["link_problem"], what="it says so")
        assert "cannot be bound" in eu.must("", "GET", "sys/health")["region_link_problem"]
        assert b"strongroom_region_is_unreachable 1.0" in eu.server.text("sys/metrics", token=token)
        eu.must(token, "POST", "secret/data/a", {"data": {"v": 1}})
        taken.close()
        poll(lambda: eu.regions(token)["link_problem"] == "", what="it listens")

        ticket = eu.must(token, "POST", "sys/regions/ticket")["data"]["ticket"]
        asyncio.run(visited(eu, token, ticket, f"{host}:{port}"))


async def visited(eu: RegionOfOne, token: str, ticket: str, address: str) -> None:
    endpoints = {"endpoints": ["https://127.0.0.1:1"], "links": ["127.0.0.1:1"]}
    enrolment = await enrol.enrol(ticket, region="us", **endpoints)
    with pytest.raises(InvalidRequest, match="used up"):
        await enrol.enrol(ticket, region="asia", **endpoints)  # a ticket is good once
    with pytest.raises(InvalidRequest, match="remove it first"):
        await enrol.enrol(ticket, region="us", endpoints=[], links=["127.0.0.1:2"])
    enrolment = await enrol.enrol(
        ticket, region="us", **endpoints
    )  # who died while it joined shows it once more
    stranger = pki.new_ca("somebody else")
    shown = [None, pki.credentials(stranger, pki.peer_names("us", enrolment.cluster_id))]
    for own in shown:
        with pytest.raises((Unreachable, Interrupted)):
            await asked(enrolment, client(enrolment, own), address, HELLO, STANDING)
    as_us = client(enrolment, enrolment.own)
    assert (await asked(enrolment, as_us, address, HELLO, STANDING)).status == 200
    # a write that is carried here is done here, unless its sender knows that another region took over
    body, write = {"data": {"v": 2}}, "/v1/secret/data/a"
    carried = await asked(enrolment, as_us, address, write, body, token=token, **{EPOCH: "1 eu"})
    assert carried.status == 200
    fenced = await asked(enrolment, as_us, address, write, body, token=token, **{EPOCH: "2 us"})
    assert (fenced.status, NOT_PRIMARY in fenced.headers) == (503, True)
    await in_thread(lambda: eu.wait_role(token, "secondary"))
    await in_thread(lambda: eu.must(token, "POST", "sys/regions/promote", LOSS))
    version = await in_thread(lambda: eu.must(token, "GET", "secret/data/a")["data"]["metadata"]["version"])
    assert version == 2

    await in_thread(lambda: eu.must(token, "POST", "sys/regions/remove", {"name": "us"}))
    for path, body in ((HELLO, STANDING), (STREAM, {"standing": STANDING}), ("/v1/secret/data/a", {})):
        refused = await asked(enrolment, as_us, address, path, body, token=token)
        assert refused.status == 403, path
        assert b"was removed" in refused.body


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


def client(enrolment: Enrolment, own: pki.Credentials | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=enrolment.authority_certificate.decode())
    if own is not None:
        pki.load_credentials(context, own)
    return context


async def asked(
    enrolment: Enrolment,
    tls: ssl.SSLContext,
    address: str,
    path: str,
    body: Any,
    token: str = "",
    **headers: str,
) -> Answer:
    links = Links(tls, enrolment.cluster_id)
    try:
        sent = headers | ({"X-Vault-Token": token} if token else {})
        return await links.ask(
            "eu", (address,), path, body=json.dumps(body).encode(), headers=sent, timeout_s=5.0
        )
    finally:
        await links.close()
