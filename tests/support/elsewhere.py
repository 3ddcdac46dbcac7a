"""What a subscriber on one node must notice of what is asked of another: on a follower, or in another region."""

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from support.listening import Listener, listening
from support.patience import PATIENCE_S

READER = """
path "secret/data/told/*" { capabilities = ["read"] }
path "sys/events/subscribe/*" { capabilities = ["read"] }
"""
MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass
class Place:
    """A node as clients reach it."""

    url: str
    ca: Path

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


class Writer:
    """Asks one node, and knows how far another one has to have come to see it."""

    def __init__(self, client: httpx.AsyncClient, place: Place, token: str, mount: str) -> None:
        self._client, self._place, self._token, self.mount = client, place, token, mount
        self.index = ""

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"X-Vault-Token": self._token} | {
            name.replace("_", "-"): each for name, each in headers.items()
        }
        url = f"{self._place.url}/v1/{path}"
        answer = await self._client.request(method, url, json=body, headers=sent)
        assert answer.status_code < 300, (method, path, answer.status_code, answer.text)
        self.index = answer.headers.get("X-Vault-Index", self.index)
        return answer.json() if answer.content else None

    async def put(self, name: str) -> None:
        await self.ask("PUT", f"{self.mount}/data/{name}", {"data": {"v": "1"}})

    async def policy(self, text: str) -> None:
        await self.ask("PUT", "sys/policies/acl/told", {"policy": text.replace("secret/", f"{self.mount}/")})

    async def reader(self) -> str:
        """A token that may read below told/ and subscribe."""
        await self.policy(READER)
        made = await self.ask("PUT", "auth/token/create", {"policies": ["told"], "no_default_policy": True})
        return str(made["auth"]["client_token"])


@asynccontextmanager
async def writing(place: Place, token: str, mount: str) -> AsyncIterator[Writer]:
    async with httpx.AsyncClient(verify=place.tls, timeout=PATIENCE_S, trust_env=False) as client:
        yield Writer(client, place, token, mount)


@asynccontextmanager
async def hearing(place: Place, token: str, writer: Writer, **options: Any) -> AsyncIterator[Listener]:
    async with listening(
        place.url, token, "kv-v2/*", verify=place.tls, index=writer.index, **options
    ) as heard:
        yield heard


async def all_of_it_is_told(here: Place, there: Place, token: str, mount: str = "secret") -> None:
    """Asked `here`, heard `there`."""
    async with writing(here, token, mount) as writer:
        await every_kind_of_change(writer, there)
        await no_more_than_policies_allow(writer, there)
        await nothing_for_a_revoked_token(writer, there)


async def every_kind_of_change(writer: Writer, there: Place) -> None:
    name, token = "told/all", await writer.reader()
    data = f"{writer.mount}/data/{name}"
    async with hearing(there, token, writer) as heard:
        await writer.put(name)
        await writer.ask("PATCH", data, {"data": {"w": "2"}}, **MERGE)
        await writer.ask("DELETE", data)
        for change in ("undelete", "delete", "destroy"):
            await writer.ask("PUT", f"{writer.mount}/{change}/{name}", {"versions": [1, 2]})
        await writer.ask("DELETE", f"{writer.mount}/metadata/{name}")
        await writer.ask("PUT", f"{writer.mount}/metadata/told/brief", {"delete_version_after": "1s"})
        await writer.put("told/brief")
        told = [each.what for each in await heard.events(8)]
    kinds = ["data-write", "data-patch", "data-delete", "undelete", "delete", "destroy"]
    assert told == [
        *((f"kv-v2/{kind}", data) for kind in kinds),
        ("kv-v2/data-write", f"{writer.mount}/data/told/brief"),
        ("kv-v2/expired", f"{writer.mount}/data/told/brief"),
    ], "in order, and of metadata nothing: that path may not be read"


async def no_more_than_policies_allow(writer: Writer, there: Place) -> None:
    token = await writer.reader()
    async with hearing(there, token, writer) as heard:
        await writer.put("untold/x")
        await writer.put("told/one")
        await writer.policy(READER + 'path "secret/data/told/no" { capabilities = ["deny"] }')
        await writer.put("told/no")
        await writer.put("told/two")
        told = [each.what[1].rpartition("/")[2] for each in await heard.events(2)]
        assert told == ["one", "two"]
        await writer.policy('path "secret/data/told/*" { capabilities = ["read"] }')
        await writer.put("told/three")
        assert "do not allow" in await heard.ended()
        assert len(heard.told) == 2


async def nothing_for_a_revoked_token(writer: Writer, there: Place) -> None:
    token = await writer.reader()
    async with hearing(there, token, writer) as heard:
        await writer.ask("PUT", "auth/token/revoke", {"token": token})
        await writer.put("told/after")
        assert "not valid" in await heard.ended()
        assert heard.told == []


async def a_cursor_that_is_too_old_is_answered_by_read_again(
    here: Place, there: Place, token: str, mount: str = "secret"
) -> None:
    """The node `there` was not there at the beginning of the history."""
    async with writing(here, token, mount) as writer:
        reader = await writer.reader()
        newest = json.loads(base64.b64decode(writer.index))
        ancient = base64.b64encode(json.dumps(newest | {"value": "1"}).encode()).decode()
        async with hearing(there, reader, writer, after=ancient) as heard:
            await writer.put("told/now")
            again, now = await heard.events(2)
    assert (again.type, again.metadata.get("reason")) == ("sys/events/reread", "window")
    assert now.what == ("kv-v2/data-write", f"{mount}/data/told/now")
