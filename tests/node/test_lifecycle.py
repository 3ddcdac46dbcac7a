"""A node's way from an empty directory to an open store, in this process."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import configuration

from node.backup import anew
from node.ceremonies import Shares
from node.config import load
from node.identity import Layout
from node.lifecycle import NodeLifecycle
from node.listener_tls import ListenerTLS
from node.server import compose

SLOW_DISK_S = 1.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeLifecycle]:
    """Empty, with a key file; nothing listens but its Raft port."""
    key = tmp_path / "seal.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    api, raft = free_ports(2)
    file = configuration(tmp_path, node_id="n1", api_port=api, cluster_port=raft, seal_key=key)
    settings = load([file], environ={})
    layout = Layout(settings.data_dir)
    layout.prepare()
    tls = ListenerTLS(settings, layout)
    tls.open()
    made = NodeLifecycle(settings=settings, tls=tls, layout=layout, on_failure=lambda: None)
    made.core = compose(settings, made)
    yield made
    await made.stop()
    made.core.audit.close()


async def test_a_store_that_is_asked_for_while_a_node_starts_is_not_taken_for_the_rest_of_an_attempt(
    node: NodeLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first look at the disk takes long, and requests come in already."""
    finish, loop, looking = anew.finish, asyncio.get_running_loop(), asyncio.Event()

    def slowly(layout: Layout) -> bool:
        loop.call_soon_threadsafe(looking.set)
        ends = time.monotonic() + SLOW_DISK_S
        while time.monotonic() < ends and not layout.database.exists():
            time.sleep(0.01)
        return finish(layout)

    monkeypatch.setattr(anew, "finish", slowly)
    starting = asyncio.create_task(node.start())
    async with asyncio.timeout(PATIENCE_S):
        await looking.wait()
        await node.initialize(seal=Shares(1, 1), recovery=None)
        await starting
    await node.stop()
    await node.start()
    assert node.unsealed, "all of it is there, from the first start on"
