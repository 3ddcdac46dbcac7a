"""A core to ask, with few words: what most tests of the API begin with."""

from typing import Any

from support.corefixture import ROOT_TOKEN, call

from node.core.core import Core
from node.core.request import Operation, Response
from node.errors import NodeError


class Asker:
    """One who asks a core through the whole pipeline."""

    def __init__(self, core: Core, token: str | None = ROOT_TOKEN) -> None:
        self.core, self.token = core, token

    def by(self, token: str | None) -> "Asker":
        return Asker(self.core, token)

    async def post(self, path: str, /, **data: Any) -> Response:
        return await call(self.core, Operation.UPDATE, path, data, token=self.token)

    async def get(self, path: str, /, **query: str) -> dict[str, Any]:
        response = await call(self.core, Operation.READ, path, token=self.token, query=query)
        assert response.data is not None
        return response.data

    async def keys(self, path: str) -> list[str]:
        response = await call(self.core, Operation.LIST, path, token=self.token)
        assert response.data is not None
        keys: list[str] = response.data["keys"]
        return keys

    async def delete(self, path: str) -> Response:
        return await call(self.core, Operation.DELETE, path, token=self.token)

    async def auth(self, path: str, /, **data: Any) -> dict[str, Any]:
        """The auth block of a login or of a token that is made."""
        response = await call(self.core, Operation.UPDATE, path, data, token=self.token)
        assert response.auth is not None
        return response.auth

    async def refused(self, path: str, operation: Operation = Operation.UPDATE, /, **data: Any) -> NodeError:
        """The error that it ends in."""
        try:
            await call(self.core, operation, path, data, token=self.token)
        except NodeError as error:
            return error
        raise AssertionError(f"{path} was not refused")

    async def policy(self, name: str, text: str) -> None:
        await self.post(f"sys/policies/acl/{name}", policy=text)
