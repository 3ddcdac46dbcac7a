"""The same scenario for both clients."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from strongroom import AsyncClient, Client


class Either:
    """A Client or an AsyncClient, called in one way. `upkeep`: with its thread or task."""

    def __init__(self, kind: str, *args: Any, upkeep: bool = False, **kwargs: Any) -> None:
        self._runner = asyncio.Runner() if kind == "async" else None
        self.client: Any = Client(*args, **kwargs) if self._runner is None else AsyncClient(*args, **kwargs)
        if upkeep:
            self._do(self.client.__enter__ if self._runner is None else self.client.__aenter__)

    def _do(self, action: Callable[[], Any]) -> Any:
        if self._runner is None:
            return action()

        async def awaited() -> Any:
            result = action()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(awaited())

    def __call__(self, action: Callable[[Any], Any]) -> Any:
        """action(client), awaited if it is to be."""
        return self._do(lambda: action(self.client))

    def at_once(self, action: Callable[[Any], Any], times: int) -> list[Any]:
        """The same so many times concurrently."""
        if self._runner is None:
            with ThreadPoolExecutor(times) as pool:
                return list(pool.map(lambda _: action(self.client), range(times)))

        async def gathered() -> list[Any]:
            return list(await asyncio.gather(*(action(self.client) for _ in range(times))))

        return self._runner.run(gathered())

    def close(self) -> None:
        self._do(self.client.close if self._runner is None else self.client.aclose)
        if self._runner is not None:
            self._runner.close()


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Either]]:
    """Makes clients of one kind, and closes them."""
    made: list[Either] = []

    def maker(*args: Any, **kwargs: Any) -> Either:
        made.append(Either(request.param, *args, **kwargs))
        return made[-1]

    yield maker
    for each in made:
        each.close()
