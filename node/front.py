"""What answers while the rest of a server is still being loaded: whether there is a store, and nothing else.

Loading all engines, methods and the store's own machinery takes longer than clients want to wait for a new server's
first word. Every other request waits until all is there, and is then answered as if it had come later. Like Vault's,
these answers are in no audit record: there is no store yet that could be asked for.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, cast

from node.config import Settings
from node.core import pipeline
from node.core.core import Core
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Route, Table
from node.telemetry.metrics import Metrics

_ABSENT: Any = cast("Any", None)  # nothing that is served here reaches for it


class Front:
    """A core with two routes, which becomes a whole one."""

    def __init__(self, settings: Settings, initialized: Callable[[], bool]) -> None:
        self._initialized = initialized
        self._whole = asyncio.Event()
        self.core = Core(
            settings=settings,
            lifecycle=_ABSENT,
            audit=_ABSENT,
            policies=_ABSENT,
            tokens=_ABSENT,
            directory=_ABSENT,
            metrics=Metrics(),
            system=Table([_open("sys/init", self._init_or_wait), *map(self._waiting, ("", "{path...}"))]),
            engines={},
            revokers={},
            methods={},
        )

    def complete(self, whole: Core) -> None:
        """From now on everything is answered, by this core: listeners go on holding it."""
        for field in dataclasses.fields(whole):
            setattr(self.core, field.name, getattr(whole, field.name))
        self._whole.set()

    async def _init_or_wait(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        if request.operation is Operation.READ:
            return Response(data={"initialized": self._initialized()})
        return await self._wait(core, request, params)

    def _waiting(self, pattern: str) -> Route:
        return _open(pattern, self._wait)

    async def _wait(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        await self._whole.wait()
        response, match = await pipeline.handle(self.core, request)
        if response.shape is None and match is not None:
            response.shape = match.route.shape
        return response


def _open(pattern: str, handler: Any) -> Route:
    return Route(
        pattern,
        dict.fromkeys(Operation, handler),
        authenticated=False,
        sealed=True,
        fresh=False,
        audited=False,
        shape=Shape.RAW,  # what waited has been laid out, and wrapped, already
    )
