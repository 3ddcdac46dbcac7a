"""Rights that change while all nodes are asked for what they are for, one of them asleep meanwhile: `chaos.guards`."""

import asyncio
import random
import secrets
import ssl

import pytest

from chaos.guards.asking import World
from chaos.guards.ledger import GRANTED, REFUSED
from chaos.guards.rights import prepare
from chaos.guards.scenes import SCENES
from chaos.guards.sleepers import Sleepers
from chaos.machines import Machines
from chaos.workload import Endpoint
from node.cli.local_cluster import LocalCluster

NAPS = 3


@pytest.mark.timeout(240)
async def test_nobody_is_let_do_what_he_may_not_any_more_nor_refused_what_he_may(
    cluster: LocalCluster,
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    endpoints = [Endpoint(node.id, node.api_address.rstrip("/")) for node in cluster.nodes]
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    async with World(endpoints, cluster.token, tls, random.Random(seed)) as world:
        await prepare(world)
        await asyncio.gather(*(scene(world) for scene in SCENES))
        sleepers = Sleepers(Machines(cluster), world)
        for _ in range(NAPS):
            await sleepers.strike(world.rng)
        ledger = world.ledger
    assert ledger.violations() == []
    assert min(ledger.count(GRANTED), ledger.count(REFUSED)) > 100, "next to nothing was tried"
