"""A real core with real worker processes in front of it: every connection is accepted by a worker."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

from support.httpfixture import Site
from support.patience import eventually

from node.config import Listener
from node.core.core import Core
from node.listeners import Listeners
from node.pki import Credentials
from node.workers.supervisor import Workers


@contextlib.asynccontextmanager
async def workers_of(
    core: Core,
    *,
    count: int = 1,
    token: str = "",
    listener: Listener | None = None,
    own: Callable[[], Credentials | None] = lambda: None,
    serving: bool = True,
) -> AsyncIterator[tuple[Site, Workers]]:
    """A site whose clients all get to workers, which end with the block; `listener` says how TLS is spoken there, with
    `own` certificate where it names no files. Not `serving`: while they start.
    """
    listeners = Listeners(core)
    await listeners.listen("127.0.0.1", 0, None)
    settings = dataclasses.replace(core.settings, read_workers=count)
    if listener is not None:
        settings = dataclasses.replace(settings, listeners=(listener,))
    workers = Workers(settings, listeners, core.metrics, core.audit, own=own)
    [(acceptors, server)] = listeners._open
    for acceptor in acceptors:
        acceptor._pause()
    port = acceptors[0].share().getsockname()[1]
    workers.open(core.unsealed, core.lifecycle.cluster_id)
    site = Site(core, "127.0.0.1", port, server, token)
    try:
        if serving:
            await eventually(lambda: len(workers.serving) == count, "all workers serve")
        yield site, workers
    finally:
        for wire in site.wires:
            await wire.close()
        await workers.drain()
        await listeners.drain(5.0)
