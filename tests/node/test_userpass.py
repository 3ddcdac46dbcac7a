"""auth/userpass: users, logins, and what a guesser gets."""

import asyncio
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import opened

from node.auth.methods import passwords
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied

WRONG = "invalid username or password"


async def with_bob(core, **config: Any) -> Asker:
    ask = Asker(core)
    await ask.post("sys/auth/up", type="userpass", config=config)
    await ask.post("auth/up/users/bob", password="pw", token_policies="default")
    return ask


@pytest.fixture
def hashes(monkeypatch) -> list[str]:
    """What was compared with passwords, in order."""
    seen: list[str] = []
    verify = passwords.verify

    def counted(password: str, kept: str) -> bool:
        seen.append(kept)
        return verify(password, kept)

    monkeypatch.setattr(passwords, "verify", counted)
    return seen


async def test_a_user_logs_in(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        auth = await ask.by(None).auth("auth/up/login/bob", password="pw")
        assert (auth["policies"], auth["orphan"], auth["token_type"]) == (["default"], True, "service")
        assert auth["metadata"] == {"username": "bob"}
        assert (auth["lease_duration"], auth["renewable"]) == (2764800, True)
        own = await ask.by(auth["client_token"]).get("auth/token/lookup-self")
        assert (own["display_name"], own["path"]) == ("up-bob", "auth/up/login/bob")
        assert own["entity_id"] == auth["entity_id"] != ""
        again = await ask.auth("auth/up/login/BOB", password="pw")
        assert again["entity_id"] == auth["entity_id"]
        assert again["client_token"] != auth["client_token"]


async def test_users_are_changed_in_parts_and_removed(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        await ask.post("auth/up/users/Bob", ttl="10m", policies="a,b", token_bound_cidrs="127.0.0.1/32")
        shown = await ask.get("auth/up/users/bob")
        assert (shown["policies"], shown["token_policies"]) == (["a", "b"], ["a", "b"])
        assert (shown["ttl"], shown["token_ttl"], shown["token_bound_cidrs"]) == (600, 600, ["127.0.0.1"])
        await ask.post("auth/up/users/bob/policies", token_policies="c")
        await ask.post("auth/up/users/bob/password", password="other")
        assert isinstance(await ask.refused("auth/up/login/bob", password="pw"), InvalidRequest)
        auth = await ask.auth("auth/up/login/bob", password="other")
        assert (auth["policies"], auth["lease_duration"]) == (["c", "default"], 600)
        assert await ask.keys("auth/up/users") == ["bob"]
        await ask.delete("auth/up/users/bob")
        assert isinstance(await ask.refused("auth/up/users", Operation.LIST), NotFound)
        assert isinstance(await ask.refused("auth/up/users/bob", Operation.READ), NotFound)
        assert (await ask.refused("auth/up/login/bob", password="other")).message == WRONG


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("users/x", {}, "must provide either password or password_hash"),
        ("users/x/password", {"password": "x"}, "username does not exist"),
        ("users/bob/password", {}, "must provide either password or password_hash"),
        ("users/bob", {"token_ttl": "2h", "token_max_ttl": "1h"}, "cannot be greater than 'token_max_ttl'"),
        ("users/bob", {"token_type": "zz"}, "invalid 'token_type' value"),
        ("users/bob", {"token_type": "batch", "token_num_uses": 2}, "limited use count"),
        ("users/bob", {"token_bound_cidrs": "zz"}, "token_bound_cidrs"),
        ("users/bob", {"token_bound_cidrs": [""]}, "an empty item"),  # not: from everywhere
        ("users/bob", {"password": "x" * 5000}, "a password has at most 4096 bytes"),
        ("users/no spaces", {"password": "x"}, "invalid username"),
        ("login/bob", {}, "missing password"),
        ("login/nope", {"password": "pw"}, WRONG),
        ("login/ｂob", {"password": "pw"}, WRONG),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        error = await (await with_bob(core)).refused(f"auth/up/{path}", **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_no_login_makes_a_root_token(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        await ask.post("auth/up/users/bob", token_policies="root")
        error = await ask.refused("auth/up/login/bob", password="pw")
        assert error.message == "auth methods cannot create root tokens"


async def test_an_unknown_user_costs_as_much_as_a_wrong_password(tmp_path, hashes) -> None:
    """Counted, not timed: one Argon2id each, of the same parameters."""
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        for name in ("bob", "nobody"):
            assert (await ask.refused(f"auth/up/login/{name}", password="wrong")).message == WRONG
        assert len(hashes) == 2
        assert len({kept.rsplit("$", 2)[0] for kept in hashes}) == 1


async def test_nobody_knows_the_password_of_an_unknown_user(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        for guess in ("", "pw", "A" * 43):
            error = await ask.refused("auth/up/login/nobody", password=guess)
            assert error.message in (WRONG, "missing password")


async def test_many_failures_lock_a_user_however_he_is_spelled(tmp_path, hashes) -> None:
    """As Vault: five; the password is not even looked at any more. Known or not makes no difference."""
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        for name in ("bob", "nobody"):
            for spelling in (name, name.upper(), name.capitalize(), name, name.upper()):
                error = await ask.refused(f"auth/up/login/{spelling}", password="wrong")
                assert isinstance(error, InvalidRequest)
            before = len(hashes)
            for spelling in (name, name.upper()):
                error = await ask.refused(f"auth/up/login/{spelling}", password="pw")
                assert isinstance(error, PermissionDenied)
            assert len(hashes) == before
        locked = await ask.get("sys/locked-users")
        assert locked["total"] == 2
        accessor = locked["by_namespace"][0]["mount_accessors"][0]["mount_accessor"]
        await ask.post(f"sys/locked-users/{accessor}/unlock/BOB")
        assert await ask.auth("auth/up/login/bob", password="pw")


async def test_a_success_forgives_earlier_failures(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        for _ in range(2):
            for _ in range(4):
                await ask.refused("auth/up/login/bob", password="wrong")
            await ask.auth("auth/up/login/bob", password="pw")


async def test_guesses_at_once_are_not_all_judged_by_the_same_count(tmp_path, hashes) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        errors = await asyncio.gather(
            *(ask.refused("auth/up/login/bob", password=f"wrong {n}") for n in range(20))
        )
        assert sum(isinstance(error, InvalidRequest) for error in errors) == 5
        assert len(hashes) == 5


async def test_the_lock_is_tuned(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        await ask.post("sys/auth/up/tune", user_lockout_config={"lockout_threshold": "2"})
        assert (await ask.get("sys/auth/up/tune"))["user_lockout_threshold"] == 2
        for _ in range(2):
            await ask.refused("auth/up/login/bob", password="wrong")
        assert isinstance(await ask.refused("auth/up/login/bob", password="pw"), PermissionDenied)
        await ask.post("sys/auth/up/tune", user_lockout_config={"lockout_disable": True})
        await ask.auth("auth/up/login/bob", password="pw")


async def test_a_renewal_follows_the_user_as_he_is_now(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        await ask.post("auth/up/users/bob", token_ttl="10m", token_max_ttl="1h")
        token = (await ask.auth("auth/up/login/bob", password="pw"))["client_token"]
        own = ask.by(token)
        assert (await own.auth("auth/token/renew-self", increment="2h"))["lease_duration"] <= 3600
        await ask.post("auth/up/users/bob", token_policies="default,more")
        assert (await own.refused("auth/token/renew-self")).message == "policies have changed, not renewing"
        await ask.delete("auth/up/users/bob")
        assert (await own.refused("auth/token/renew-self")).message == (
            "the user no longer exists, not renewing"
        )


async def test_logins_and_tokens_stay_inside_the_networks_that_they_are_bound_to(tmp_path) -> None:
    async with opened(tmp_path) as core:  # the pipeline's caller is 127.0.0.1
        ask = await with_bob(core)
        await ask.post("auth/up/users/bob", token_bound_cidrs="10.0.0.0/8")
        assert isinstance(await ask.refused("auth/up/login/bob", password="pw"), PermissionDenied)
        await ask.post("auth/up/users/bob", token_bound_cidrs="127.0.0.0/8")
        token = (await ask.auth("auth/up/login/bob", password="pw"))["client_token"]
        assert (await ask.by(token).get("auth/token/lookup-self"))["bound_cidrs"] == ["127.0.0.0/8"]


async def test_passwords_are_nowhere(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_bob(core)
        await ask.post("auth/up/users/canary", password="pw-canary-3141")
        await ask.auth("auth/up/login/canary", password="pw-canary-3141")
        assert "canary-3141" not in core.settings.audit_files[0].read_text()
        assert "password" not in await ask.get("auth/up/users/canary")
