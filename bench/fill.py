"""Puts many secrets into the store of a stopped node, through its own log and state machine: `python -m bench.fill`.

The node runs inside of this process for as long as it takes, without a listener. Values are VALUE of bench.reads,
under the names that read.lua asks for.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from bench.reads import VALUE
from node.config import load
from node.core.core import Core
from node.engines.kv_writes import place
from node.identity import Layout
from node.lifecycle import NodeLifecycle
from node.listener_tls import ListenerTLS
from node.server import compose
from storage.command import KvPut

IN_FLIGHT = 2_000
WRITE_TIMEOUT_S = 300.0  # a machine that is busy with something else takes its time
BODY = f'{{"value":"{VALUE}"}}'.encode()
MOUNT = "secret/"


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Core]:
    """The node of this configuration, unsealed by its seal key."""
    settings = load([config], environ={})
    layout = Layout(settings.data_dir)
    tls = ListenerTLS(settings, layout)
    tls.open()
    lifecycle = NodeLifecycle(settings=settings, tls=tls, layout=layout, on_failure=lambda: None)
    core = lifecycle.core = compose(settings, lifecycle)
    await lifecycle.start()
    try:
        await core.unsealed.fresh()
        yield core
    finally:
        await lifecycle.stop()
        core.audit.close()


async def fill(config: Path, first: int, count: int) -> None:
    """Write the secrets number `first` to first + count - 1."""
    async with running(config) as core:
        store = core.unsealed
        mount = store.mount_for(MOUNT)
        assert mount is not None

        def put(number: int) -> KvPut:
            path = f"bench/{number:07d}"
            value = store.seal(place(mount.mount_id, path, 1), BODY)
            return KvPut(
                time_ns=store.now_ns(), mount_id=mount.mount_id, path=path, version=1, value=value, cas=None
            )

        for start in range(first, first + count, IN_FLIGHT):
            numbers = range(start, min(start + IN_FLIGHT, first + count))
            await asyncio.gather(*(store.submit(put(number), timeout=WRITE_TIMEOUT_S) for number in numbers))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, help="the configuration of a node that does not run")
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    uvloop.run(fill(options.config, options.first, options.count))
    print(f"{options.count} secrets in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
