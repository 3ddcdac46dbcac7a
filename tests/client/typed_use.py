"""Not run: checked by mypy --strict, as a user's code would be. Every line must have the type that it says."""

from typing import assert_type

from strongroom import (
    AppRole,
    AsyncClient,
    Cache,
    Client,
    Metadata,
    Secret,
    SecretVersion,
    UserPass,
    VersionInfo,
)


def threads() -> None:
    with Client(["https://a:1"], AppRole("r", "s"), ca_file="ca.pem", cache=Cache(), discover=True) as client:
        assert_type(client, Client)
        assert_type(client.kv.get("x", version=1), SecretVersion)
        assert_type(client.kv.get("x").data["k"], Secret)
        assert_type(client.kv.get("x")["k"], Secret)
        assert_type(client.kv.put("x", {"k": 1}, cas=0), VersionInfo)
        assert_type(client.kv_v2("m").metadata("x"), Metadata)
        assert_type(client.kv_v1("m").list(), list[str])
        assert_type(client.endpoint, str | None)
    Client(endpoints=7)  # type: ignore[arg-type]
    Client("https://a:1", no_such_option=1)  # type: ignore[call-arg]


async def tasks() -> None:
    async with AsyncClient("https://a:1", UserPass("u", "p"), timeout_s=5) as client:
        assert_type(client, AsyncClient)
        assert_type(await client.kv.get("x"), SecretVersion)
        assert_type(await client.kv_v1("m").list("x"), list[str])
