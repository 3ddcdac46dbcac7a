"""identity/oidc: tokens that others check with what is published, and nothing else."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from support.asking import Asker
from support.corefixture import opened

from node.core.request import Operation
from node.entities.oidc_keys import ALGORITHMS
from node.errors import InvalidRequest, NotFound

AT = "identity/oidc"


async def with_bob(core) -> tuple[Asker, Asker, str]:
    """One who may do all, bob, and bob's entity."""
    ask = Asker(core)
    await ask.policy("sign", f'path "{AT}/*" {{ capabilities = ["read", "update"] }}')
    await ask.post("sys/auth/up", type="userpass")
    await ask.post("auth/up/users/bob", password="pw", token_policies="sign")
    auth = await ask.auth("auth/up/login/bob", password="pw")
    return ask, ask.by(auth["client_token"]), auth["entity_id"]


async def published(ask: Asker, kid: str) -> dict[str, Any]:
    keys = (await ask.by(None).get(f"{AT}/.well-known/keys"))["keys"]
    return next(key for key in keys if key["kid"] == kid)


def part(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return decoded


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


async def test_a_signature_is_checked_with_the_published_key(tmp_path) -> None:
    """By RSA itself, not by the library that made the token."""
    async with opened(tmp_path) as core:
        ask, bob, entity = await with_bob(core)
        await ask.post(f"{AT}/role/r", key="default", ttl="1h")
        answer = await bob.get(f"{AT}/token/r")
        token, claims = answer["token"], part(answer["token"], 1)
        assert (claims["sub"], claims["aud"], claims["exp"] - claims["iat"]) == (
            entity,
            answer["client_id"],
            3600,
        )
        assert claims["iss"] == (await ask.by(None).get(f"{AT}/.well-known/openid-configuration"))["issuer"]
        key = await published(ask, part(token, 0)["kid"])
        public = rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
        signed, _, signature = token.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        public.verify(raw, signed.encode(), padding.PKCS1v15(), SHA256())
        with pytest.raises(InvalidSignature):
            public.verify(raw, signed.encode() + b"x", padding.PKCS1v15(), SHA256())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm(tmp_path, algorithm) -> None:
    async with opened(tmp_path) as core:
        ask, bob, entity = await with_bob(core)
        await ask.post(f"{AT}/key/k", algorithm=algorithm, allowed_client_ids="*")
        await ask.post(f"{AT}/role/r", key="k")
        answer = await bob.get(f"{AT}/token/r")
        key = await published(ask, part(answer["token"], 0)["kid"])
        assert {"d", "p", "q"}.isdisjoint(key)
        claims = jwt.decode(answer["token"], jwt.PyJWK(key), [algorithm], audience=answer["client_id"])
        assert claims["sub"] == entity
        told = await ask.post(f"{AT}/introspect", token=answer["token"])
        assert told.data == {"active": True}


async def test_a_replaced_key_is_good_for_a_while(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, bob, _ = await with_bob(core)
        await ask.post(f"{AT}/key/k", algorithm="ES256", allowed_client_ids="*")
        await ask.post(f"{AT}/role/r", key="k")
        old = (await bob.get(f"{AT}/token/r"))["token"]
        await ask.post(f"{AT}/key/k/rotate")
        new = (await bob.get(f"{AT}/token/r"))["token"]
        assert part(old, 0)["kid"] != part(new, 0)["kid"]
        for token in (old, new):
            assert (await ask.post(f"{AT}/introspect", token=token)).data == {"active": True}
        await ask.post(f"{AT}/key/k/rotate", verification_ttl=0)
        for token, active in ((old, True), (new, False)):
            told = (await ask.post(f"{AT}/introspect", token=token)).data
            assert told is not None
            assert told["active"] is active


async def test_who_is_disabled_has_no_good_tokens(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, bob, entity = await with_bob(core)
        await ask.post(f"{AT}/role/r", key="default", client_id="app")
        token = (await bob.get(f"{AT}/token/r"))["token"]
        for client_id, active in (("app", True), ("other", False)):
            told = (await ask.post(f"{AT}/introspect", token=token, client_id=client_id)).data
            assert told is not None
            assert told["active"] is active
        await ask.post(f"identity/entity/id/{entity}", disabled=True)
        told = (await ask.post(f"{AT}/introspect", token=token)).data
        assert told is not None
        assert told["active"] is False


async def test_a_template_says_more(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, bob, entity = await with_bob(core)
        await ask.post(f"identity/entity/id/{entity}", name='Bo"b', metadata={"team": "a"})
        await ask.post("identity/group", name="crew", member_entity_ids=[entity])
        template = """{"who": {{identity.entity.name}}, "groups": {{identity.entity.groups.names}},
            "team": {"of": {{identity.entity.metadata.team}}}, "all": {{identity.entity.metadata}},
            "until": {{time.now.plus.1h}}, "none": {{identity.entity.metadata.nope}} }"""
        await ask.post(f"{AT}/role/r", key="default", template=template)
        claims = part((await bob.get(f"{AT}/token/r"))["token"], 1)
        assert (claims["who"], claims["groups"], claims["team"], claims["all"], claims["none"]) == (
            'Bo"b',
            ["crew"],
            {"of": "a"},
            {"team": "a"},
            "",
        )
        assert 3599 <= claims["until"] - claims["iat"] <= 3601


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("config", {"issuer": "zz"}, "invalid issuer"),
        ("config", {"issuer": "https://a.b/path"}, "invalid issuer"),
        ("key/k", {"algorithm": "none"}, 'unknown signing algorithm "none"'),
        ("key/k", {"algorithm": "HS256"}, 'unknown signing algorithm "HS256"'),
        ("key/k", {"rotation_period": "30s"}, "at least one minute"),
        ("key/k", {"rotation_period": "1m", "verification_ttl": "1h"}, "10x rotation_period"),
        ("key/n o", {}, "invalid name"),
        ("key/nope/rotate", {}, 'no named key found at "nope"'),
        ("role/r", {}, "the key parameter is required"),
        ("role/r", {"key": "nope"}, 'cannot find key "nope"'),
        ("role/r", {"key": "default", "ttl": "99h"}, "cannot be longer than the verification_ttl"),
        ("role/r", {"key": "default", "template": "zz"}, "error parsing template JSON"),
        ("role/r", {"key": "default", "template": '{"iss": "x"}'}, 'top level key "iss" not allowed'),
        ("introspect", {}, "token is required"),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        error = await Asker(core).refused(f"{AT}/{path}", **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_keys_in_use_stay_and_strangers_get_nothing(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, bob, _ = await with_bob(core)
        await ask.post(f"{AT}/key/k", allowed_client_ids="other", algorithm="EdDSA")
        await ask.post(f"{AT}/role/r", key="k")
        assert "does not list the client ID" in (await bob.refused(f"{AT}/token/r", Operation.READ)).message
        await ask.post(f"{AT}/key/k", allowed_client_ids="*")
        shorter = await ask.refused(f"{AT}/key/k", verification_ttl="1h")
        assert "roles with a token ttl greater than 3600 seconds" in shorter.message
        assert "no entity" in (await ask.refused(f"{AT}/token/r", Operation.READ)).message
        assert "referenced by these roles: r" in (await ask.refused(f"{AT}/key/k", Operation.DELETE)).message
        await ask.delete(f"{AT}/role/r")
        await ask.delete(f"{AT}/key/k")
        assert isinstance(await ask.refused(f"{AT}/key/k", Operation.READ), NotFound)
        assert await ask.keys(f"{AT}/key") == ["default"]
        assert (await ask.get(f"{AT}/key/default"))["allowed_client_ids"] == ["*"]
        told = (await ask.post(f"{AT}/introspect", token="zz")).data
        assert told is not None
        assert told["active"] is False
