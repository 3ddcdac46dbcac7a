"""What a Kubernetes API says of tokens, as far as logins ask it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import jwt
from aiohttp import web

SECRET = "k" * 32  # nobody but the API checks who signed


def token(name: str = "web", namespace: str = "shop", uid: str = "u-1", **claims: Any) -> str:
    account = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
    return jwt.encode({"iss": "k8s", "kubernetes.io": account} | claims, SECRET, "HS256")


class Api:
    """What a Kubernetes API says to reviews of tokens."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Any = self.knows()
        self.status = 201
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def knows(
        self, name: str = "web", namespace: str = "shop", uid: str = "u-1", **status: Any
    ) -> dict[str, Any]:
        user = {"username": f"system:serviceaccount:{namespace}:{name}", "uid": uid}
        return {"status": {"authenticated": True, "user": user} | status}

    async def review(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers["Authorization"], await request.json()))
        return web.json_response(self.answer, status=self.status)


@contextlib.asynccontextmanager
async def api() -> AsyncIterator[Api]:
    made, app = Api(), web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", made.review)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
