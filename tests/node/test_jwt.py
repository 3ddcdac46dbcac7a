"""auth/jwt: whose tokens let in, and under which conditions."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from support.asking import Asker
from support.corefixture import opened

from node.auth.methods import fetching, jwt_keys
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
ROLE = "auth/j/role/r"
DEMANDS = {
    "user_claim": "sub",
    "bound_audiences": "app",
    "bound_claims": {"dept": ["eng", "ops"], "/deep/0/x": "y*"},
    "bound_claims_type": "glob",
    "claim_mappings": {"mail": "email"},
    "token_policies": "default",
}


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    text: str = key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    return text


def signed(key: Any = KEY, algorithm: str = "RS256", kid: str | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "sub": "bob", "aud": ["app", "x"], "iss": "me", "dept": "eng", "deep": [{"x": "yes"}], "mail": "b@x",
        "iat": now, "exp": now + 600,
    } | changes  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


async def with_role(core, **role: Any) -> Asker:
    ask = Asker(core)
    await ask.post("sys/auth/j", type="jwt")
    await ask.post("auth/j/config", jwt_validation_pubkeys=[pem(KEY)], bound_issuer="me", default_role="r")
    await ask.post(ROLE, **(DEMANDS | role))
    return ask


async def test_a_login(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core, token_ttl="10m")
        auth = await ask.by(None).auth("auth/j/login", jwt=signed())
        assert auth["metadata"] == {"role": "r", "email": "b@x"}
        assert (auth["policies"], auth["lease_duration"]) == (["default"], 600)
        own = await ask.by(auth["client_token"]).get("auth/token/lookup-self")
        assert (own["display_name"], own["entity_id"]) == ("j-bob", auth["entity_id"])
        again = await ask.auth("auth/j/login", jwt=signed(), role="r")
        assert again["entity_id"] == auth["entity_id"]
        shown = await ask.get(f"identity/entity/id/{auth['entity_id']}")
        assert shown["aliases"][0]["metadata"] == {"email": "b@x"}


NOW = int(time.time())
REFUSED = [
    ({"aud": "zz"}, "invalid audience (aud) claim"),
    ({"aud": None}, "invalid audience (aud) claim"),
    ({"iss": "zz"}, "invalid issuer (iss) claim"),
    ({"exp": NOW - 600}, "token is expired"),
    ({"nbf": NOW + 600}, "token not yet valid"),
    ({"iat": NOW + 600, "nbf": NOW}, "issued in the future"),
    ({"iat": None, "exp": None}, "no issued at (iat), not before (nbf), or expiration time (exp)"),
    ({"exp": "soon"}, "the exp claim is no time"),
    ({"exp": True}, "the exp claim is no time"),
    ({"dept": "x"}, 'claim "dept" does not match'),
    ({"dept": None}, 'claim "dept" is missing'),
    ({"deep": [{"x": "no"}]}, 'claim "/deep/0/x" does not match'),
    ({"deep": []}, 'claim "/deep/0/x" is missing'),
    ({"sub": None}, 'claim "sub" not found in token'),
    ({"sub": ["bob"]}, 'claim "sub" could not be converted'),
    ({"mail": {}}, "error converting claim 'mail'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
async def test_claims_that_are_not_what_the_role_demands(tmp_path, changes, message) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        now = int(time.time())  # the parameters were made when the tests were collected
        changes = {
            name: value + now - NOW if type(value) is int else value for name, value in changes.items()
        }
        error = await ask.refused("auth/j/login", jwt=jwt.encode({**claims(now), **changes}, KEY, "RS256"))
        assert isinstance(error, InvalidRequest)
        assert message in error.message


def claims(now: int) -> dict[str, Any]:
    return {
        "sub": "bob",
        "aud": "app",
        "iss": "me",
        "dept": "ops",
        "deep": [{"x": "y"}],
        "iat": now,
        "exp": now + 9,
    }


async def test_only_the_key_of_the_issuer_counts(tmp_path) -> None:
    """Neither another key, nor none, nor an HMAC under the public key's text."""
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        good = signed()
        forged = [
            signed(OTHER),
            good[:-8] + ("AAAAAAAA" if not good.endswith("AAAAAAAA") else "BBBBBBBB"),
            good.rpartition(".")[0] + ".",
            jwt.encode(claims(int(time.time())), None, "none"),  # type: ignore[arg-type]
            hmac_under(pem(KEY)),
            signed(ec.generate_private_key(ec.SECP256R1()), "ES256"),
            "zz",
            "a.b.c",
            "x" * 70_000,
        ]
        for token in forged:
            error = await ask.refused("auth/j/login", jwt=token)
            assert error.message.startswith("error validating token"), token[:40]
        assert await ask.auth("auth/j/login", jwt=good)


def hmac_under(public: str) -> str:
    """What a library that confuses keys would take: HS256 with the public key's text as the secret."""
    import base64
    import hashlib
    import hmac
    import json

    def text(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    body = f"{text({'alg': 'HS256', 'typ': 'JWT'})}.{text(claims(int(time.time())))}"
    mac = hmac.digest(public.encode(), body.encode(), hashlib.sha256)
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_a_token_for_somebody_lets_in_only_where_a_role_says_for_whom(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        await ask.post("auth/j/role/s", user_claim="sub", bound_subject="bob")
        error = await ask.refused("auth/j/login", jwt=signed(), role="s")
        assert error.message == "audience claim found in JWT but no audiences bound to the role"
        assert await ask.auth("auth/j/login", jwt=signed(aud=None), role="s")
        assert (
            "invalid subject"
            in (await ask.refused("auth/j/login", jwt=signed(aud=None, sub="x"), role="s")).message
        )


async def test_a_mapped_claim_that_is_too_long_is_refused_rather_than_cut_off(tmp_path) -> None:
    """What is left might be what somebody else is, for a policy with that placeholder."""
    async with opened(tmp_path) as core:
        ask = await with_role(core, claim_mappings={"team": "team"})
        assert (await ask.auth("auth/j/login", role="r", jwt=signed(team="x" * 512)))["metadata"]["team"]
        error = await ask.refused("auth/j/login", role="r", jwt=signed(team="x" * 513))
        assert "claim 'team' has more than 512 characters" in error.message


async def test_algorithms_can_be_fewer(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        assert await ask.auth("auth/j/login", jwt=signed(algorithm="PS384"))
        config = {"jwt_validation_pubkeys": [pem(KEY)], "default_role": "r"}
        await ask.post("auth/j/config", **config, jwt_supported_algs=["RS256"])
        assert "no known key" in (await ask.refused("auth/j/login", jwt=signed(algorithm="PS384"))).message
        assert await ask.auth("auth/j/login", jwt=signed())


async def test_groups_that_the_token_names(tmp_path) -> None:
    """External groups with an alias of that name at this mount; a later login takes him out of the others."""
    async with opened(tmp_path) as core:
        ask = await with_role(core, groups_claim="groups")
        accessor = (await ask.get("sys/auth/j"))["accessor"]
        for name in ("devs", "admins"):
            made = (await ask.post("identity/group", name=name, type="external", policies=[name])).data
            assert made is not None
            alias = {"name": f"x-{name}", "mount_accessor": accessor, "canonical_id": made["id"]}
            await ask.post("identity/group-alias", **alias)
        first = await ask.auth("auth/j/login", jwt=signed(groups=["x-devs", "x-admins", "unknown"]))
        assert first["policies"] == ["admins", "default", "devs"]
        second = await ask.auth("auth/j/login", jwt=signed(groups="x-devs"))
        assert second["policies"] == ["default", "devs"]
        own = ask.by(first["client_token"])
        assert (await own.get("auth/token/lookup-self"))["identity_policies"] == ["devs"]
        assert "claim not found" in (await ask.refused("auth/j/login", jwt=signed())).message


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("config", {}, "exactly one of"),
        ("config", {"jwt_validation_pubkeys": "zz"}, "error parsing public key"),
        (
            "config",
            {"jwt_validation_pubkeys": pem(rsa.generate_private_key(65537, 1024))},
            "error parsing public key",
        ),
        ("config", {"jwks_url": "file:///etc/passwd"}, "error checking jwks URL: not an address of HTTP"),
        ("config", {"jwks_url": "http://127.0.0.1:1/"}, "error checking jwks URL"),
        (
            "config",
            {"jwt_validation_pubkeys": pem(KEY), "jwt_supported_algs": "HS256"},
            "unsupported signing algorithm",
        ),
        ("role/x", {}, "a user claim must be defined on the role"),
        ("role/x", {"user_claim": "sub"}, "must have at least one bound constraint"),
        ("role/x", {"user_claim": "sub", "role_type": "oidc"}, "is not offered"),
        ("role/x", {"user_claim": "sub", "bound_claims": {"a": {}}}, "a bound claim is a value"),
        ("role/x", DEMANDS | {"bound_claims_type": "zz"}, "invalid 'bound_claims_type': zz"),
        ("role/x", DEMANDS | {"bound_audiences": " "}, "an empty item"),
        ("role/x", DEMANDS | {"claim_mappings": {"a": "role"}}, "reserved"),
        ("login", {"jwt": "x", "role": "nope"}, 'role "nope" could not be found'),
        ("login", {"role": "r"}, "missing token"),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        error = await (await with_role(core)).refused(f"auth/j/{path}", **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_roles_are_kept_and_removed(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        token = (await ask.auth("auth/j/login", jwt=signed()))["client_token"]
        await ask.post(ROLE, token_bound_cidrs="10.0.0.0/8")
        shown = await ask.get(ROLE)
        assert (shown["bound_audiences"], shown["token_bound_cidrs"]) == (["app"], ["10.0.0.0/8"])
        assert isinstance(await ask.refused("auth/j/login", jwt=signed()), PermissionDenied)
        assert await ask.keys("auth/j/role") == ["r"]
        await ask.delete(ROLE)
        assert isinstance(await ask.refused(ROLE, Operation.READ), NotFound)
        assert "could not be found" in (await ask.by(token).refused("auth/token/renew-self")).message


# --- keys that are fetched ---


class Issuer:
    """Publishes what it is told to, and counts who looks."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.looks = 0
        self.broken = False
        self.url = ""

    def publish(self, key: Any, kid: str) -> None:
        jwk = jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key(), as_dict=True)
        self.keys = [{**jwk, "kid": kid, "use": "sig"}, {"kty": "oct", "k": "AAAA", "kid": "hmac"}]

    async def jwks(self, request: web.Request) -> web.Response:
        self.looks += 1
        if self.broken:
            raise web.HTTPInternalServerError
        return web.json_response({"keys": self.keys})

    async def discovery(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})

    async def elsewhere(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/jwks")

    async def endless(self, request: web.Request) -> web.Response:
        return web.Response(body=b'{"keys": []}' + b" " * fetching.DOCUMENT_BYTES_MAX)


@contextlib.asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    made, app = Issuer(), web.Application()
    app.router.add_get("/jwks", made.jwks)
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/moved", made.elsewhere)
    app.router.add_get("/endless", made.endless)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


async def test_keys_are_fetched_once_and_again_when_a_new_one_appears(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jwt_keys, "LOOK_AGAIN_S", 0.0)
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        other.publish(KEY, "one")
        await ask.post("auth/j/config", oidc_discovery_url=other.url, default_role="r")
        looks = other.looks
        for _ in range(3):
            assert await ask.auth("auth/j/login", jwt=signed(kid="one", iss=other.url))
        assert other.looks == looks + 1
        other.publish(OTHER, "two")
        assert await ask.auth("auth/j/login", jwt=signed(OTHER, kid="two", iss=other.url))
        assert other.looks == looks + 2
        other.broken = True
        assert await ask.auth("auth/j/login", jwt=signed(OTHER, kid="two", iss=other.url))
        assert (
            "no known key"
            in (await ask.refused("auth/j/login", jwt=signed(KEY, kid="x", iss=other.url))).message
        )
        assert "invalid issuer" in (await ask.refused("auth/j/login", jwt=signed(OTHER, kid="two"))).message


async def test_a_stranger_with_made_up_key_ids_does_not_make_us_ask_all_the_time(tmp_path) -> None:
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        other.publish(KEY, "one")
        await ask.post("auth/j/config", jwks_url=f"{other.url}/jwks", default_role="r")
        looks = other.looks
        await asyncio.gather(
            *(ask.refused("auth/j/login", jwt=signed(OTHER, kid=f"k{n}")) for n in range(20))
        )
        assert other.looks == looks + 1


async def test_who_logs_in_while_the_issuer_is_away_does_not_wait_for_a_try_of_his_own(tmp_path) -> None:
    """Each try may take seconds, and they come one after the other."""
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        other.publish(KEY, "one")
        await ask.post("auth/j/config", jwks_url=f"{other.url}/jwks", default_role="r")
        looks, other.broken = other.looks, True
        refused = await asyncio.gather(
            *(ask.refused("auth/j/login", jwt=signed(kid="one")) for _ in range(20))
        )
        assert {error.message for error in refused} == {
            "error validating token: the keys that tokens are checked with cannot be fetched"
        }
        assert other.looks == looks + 1


async def test_an_issuer_that_is_back_is_asked_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jwt_keys, "LOOK_AFTER_FAILURE_S", 0.0)
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        other.publish(KEY, "one")
        await ask.post("auth/j/config", jwks_url=f"{other.url}/jwks", default_role="r")
        other.broken = True
        await ask.refused("auth/j/login", jwt=signed(kid="one"))
        other.broken = False
        assert await ask.auth("auth/j/login", jwt=signed(kid="one"))


@pytest.mark.parametrize("path", ["/moved", "/endless", "/nope", "/.well-known/openid-configuration"])
async def test_what_is_no_key_set(tmp_path, path) -> None:
    """Nor do we go where a redirect sends us."""
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        error = await ask.refused("auth/j/config", jwks_url=f"{other.url}{path}")
        assert "error checking jwks URL" in error.message


async def test_a_discovery_document_of_another_issuer(tmp_path) -> None:
    async with opened(tmp_path) as core, issuer() as other:
        ask = await with_role(core)
        address = other.url.replace("127.0.0.1", "localhost")
        error = await ask.refused("auth/j/config", oidc_discovery_url=address)
        assert "error checking oidc discovery URL" in error.message
