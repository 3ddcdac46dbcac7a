"""A subscriber to events over SSE, for tests: what it was told, in order, and where it stands."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from support.httpfixture import Answer, Wire
from support.patience import PATIENCE_S


@dataclass
class Told:
    """One event of the stream."""

    name: str
    cursor: str
    document: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.document["type"])

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self.document["data"]["event"]["metadata"]
        return found

    @property
    def what(self) -> tuple[str, str]:
        return self.type, self.metadata.get("data_path", "")


@dataclass
class Listener:
    """Reads a stream until it ends."""

    response: httpx.Response
    cursor: str = ""
    end: str = ""
    told: list[Told] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        name = data = ""
        with contextlib.suppress(httpx.TransportError):
            async for line in self.response.aiter_lines():
                part, _, value = line.partition(": ")
                match part:
                    case "id":
                        self.cursor = value
                    case "event":
                        name = value
                    case "data":
                        data = value
                    case "" if data and name == "end":
                        self.end = json.loads(data)["reason"]
                    case "" if data and not line:
                        self.told.append(Told(name, self.cursor, json.loads(data)))
                if not line:
                    name = data = ""
                self._news.set()
        self.end = self.end or "cut"
        self._news.set()

    async def until(self, enough: Any) -> None:
        """Waits until enough(self); fails with what there was."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(self):
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise AssertionError(
                    f"told only {[each.what for each in self.told]}, end {self.end!r}"
                ) from None

    async def events(self, count: int) -> list[Told]:
        await self.until(lambda _: len(self.told) >= count)
        return self.told[:count]

    async def ended(self) -> str:
        await self.until(lambda _: self.end)
        return self.end


@contextlib.asynccontextmanager
async def listening(
    url: str,
    token: str,
    pattern: str = "*",
    *,
    verify: Any = True,
    after: str = "",
    index: str = "",
    **query: str,
) -> AsyncIterator[Listener]:
    """Subscribe; ready once the answer has begun and the first cursor is here. Raises HTTPStatusError.

    index: an X-Vault-Index that the node has to have come to.
    """
    headers = {"X-Vault-Token": token, "Accept": "text/event-stream"} | (
        {"Last-Event-ID": after} if after else {}
    )
    headers |= {"X-Vault-Index": index} if index else {}
    async with (
        httpx.AsyncClient(verify=verify, timeout=PATIENCE_S, trust_env=False) as client,
        client.stream(
            "GET", f"{url}/v1/sys/events/subscribe/{pattern}", params=query, headers=headers
        ) as response,
    ):
        if response.status_code != 200:
            await response.aread()
            response.raise_for_status()
        listener = Listener(response)
        task = asyncio.create_task(listener.read())
        try:
            await listener.until(lambda each: each.cursor or each.end)
            yield listener
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def put(wire: Wire, path: str, value: str = "v", mount: str = "secret", **options: Any) -> Answer:
    """Write a secret, of which subscribers are told."""
    answer = await wire.ask("PUT", f"/v1/{mount}/data/{path}", {"data": {"x": value}, "options": options})
    assert answer.status == 200, answer.body
    return answer
