"""The client for asyncio. It differs from the one for threads only in how it waits."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx

from strongroom._client import DEFAULT_MOUNT, ClientBase
from strongroom._consistency import Consistency
from strongroom._core import Core
from strongroom._drivers import AsyncDriver
from strongroom._events import Event, Subscription
from strongroom._kv import KvV1Core, KvV2Core, Metadata, SecretVersion, VersionInfo


class AsyncClient(ClientBase):
    """A client for asyncio, for one loop; otherwise as Client."""

    _driver: AsyncDriver

    def _connect(self, options: dict[str, Any]) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._driver = AsyncDriver(httpx.AsyncClient(**options))

    async def __aenter__(self) -> Self:
        for name, program in self._core.in_the_background():
            self._tasks.append(asyncio.create_task(self._driver.run(program), name=name))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the task and the connections. The token stays valid."""
        try:
            for each in self._tasks:
                each.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self._driver.close()

    @property
    def kv(self) -> "AsyncKvV2":
        """The version 2 engine at secret/."""
        return self.kv_v2()

    def kv_v2(self, mount: str = DEFAULT_MOUNT) -> "AsyncKvV2":
        return AsyncKvV2(self._driver, KvV2Core(self._core, mount))

    def kv_v1(self, mount: str) -> "AsyncKvV1":
        return AsyncKvV1(self._driver, KvV1Core(self._core, mount))

    @property
    def events(self) -> "AsyncEvents":
        """What happens to secrets."""
        return AsyncEvents(self._driver, self._core)

    async def read(
        self, path: str, *, query: Mapping[str, str] | None = None, consistency: Consistency | None = None
    ) -> Any:
        """GET of any path of the API: the answer's JSON. Values in it are not masked."""
        return await self._driver.run(self._core.call("GET", path, query=query, consistency=consistency))

    async def write(self, path: str, data: Mapping[str, Any] | None = None) -> Any:
        """PUT of any path of the API: the answer's JSON, or None."""
        return await self._driver.run(self._core.call("PUT", path, dict(data) if data is not None else None))

    async def delete(self, path: str) -> Any:
        """DELETE of any path of the API: the answer's JSON, or None."""
        return await self._driver.run(self._core.call("DELETE", path))

    async def log_out(self) -> None:
        """Revoke the token: nobody can use it any more, and neither can this client."""
        await self._driver.run(self._core.log_out())


class AsyncKvV2:
    """A KV engine of version 2; see KvV2."""

    def __init__(self, driver: AsyncDriver, core: KvV2Core) -> None:
        self._run, self._core = driver.run, core

    async def get(
        self, path: str, *, version: int | None = None, consistency: Consistency | None = None
    ) -> SecretVersion:
        return await self._run(self._core.get(path, version, consistency))

    async def put(self, path: str, data: Mapping[str, Any], *, cas: int | None = None) -> VersionInfo:
        return await self._run(self._core.put(path, data, cas))

    async def patch(self, path: str, changes: Mapping[str, Any], *, cas: int | None = None) -> VersionInfo:
        return await self._run(self._core.patch(path, changes, cas))

    async def delete(self, path: str, versions: Sequence[int] | None = None) -> None:
        await self._run(self._core.delete(path, versions))

    async def undelete(self, path: str, versions: Sequence[int]) -> None:
        await self._run(self._core.undelete(path, versions))

    async def destroy(self, path: str, versions: Sequence[int]) -> None:
        await self._run(self._core.destroy(path, versions))

    async def list(self, path: str = "", *, consistency: Consistency | None = None) -> list[str]:
        return await self._run(self._core.keys("metadata", path, consistency))

    async def metadata(self, path: str, *, consistency: Consistency | None = None) -> Metadata:
        return await self._run(self._core.metadata(path, consistency))

    async def put_metadata(self, path: str, **settings: Any) -> None:
        await self._run(self._core.put_metadata(path, settings))

    async def delete_metadata(self, path: str) -> None:
        await self._run(self._core.delete_metadata(path))


class AsyncKvV1:
    """A KV engine of version 1; see KvV1."""

    def __init__(self, driver: AsyncDriver, core: KvV1Core) -> None:
        self._run, self._core = driver.run, core

    async def get(self, path: str, *, consistency: Consistency | None = None) -> SecretVersion:
        return await self._run(self._core.get(path, consistency))

    async def put(self, path: str, data: Mapping[str, Any]) -> None:
        await self._run(self._core.put(path, data))

    async def delete(self, path: str) -> None:
        await self._run(self._core.delete(path))

    async def list(self, path: str = "", *, consistency: Consistency | None = None) -> list[str]:
        return await self._run(self._core.keys("", path, consistency))


class AsyncEvents:
    """Subscriptions; see Events."""

    def __init__(self, driver: AsyncDriver, core: Core) -> None:
        self._driver, self._core = driver, core

    def subscribe(self, pattern: str = "kv*", *, expression: str = "", after: str = "") -> "AsyncEventStream":
        return AsyncEventStream(self._driver, Subscription(self._core, pattern, expression, after))


class AsyncEventStream:
    """An iterator without end, for one task; see EventStream. Who is cancelled while he waits for an event, by a
    timeout say, can go on to wait.
    """

    def __init__(self, driver: AsyncDriver, subscription: Subscription) -> None:
        self._driver, self._subscription = driver, subscription

    @property
    def cursor(self) -> str:
        """Where another subscription can go on."""
        return self._subscription.cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._driver.run(self._subscription.next())
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        await self._driver.run(self._subscription.connect())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the server."""
        await self._driver.run(self._subscription.end())
