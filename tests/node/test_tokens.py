"""Tokens: who may make which, how long they live, and that a dead one is dead."""

import asyncio
import contextlib
import time
from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, call, new_token, opened
from support.patience import PATIENCE_S

from consensus.memory import SoloGroup
from node.auth.identity import TokenAuthority
from node.auth.token import expire_tokens
from node.core.core import Core
from node.core.request import Operation
from node.entities.directory import Directory
from node.errors import InvalidRequest, NodeError, PermissionDenied
from storage.secret import Secret

HOUR = 3600
DEFAULT_TTL = 768 * HOUR
MAKE = 'path "auth/token/*" { capabilities = ["create", "update", "read", "list"] }'
MAKE_SUDO = 'path "auth/token/*" { capabilities = ["create", "update", "read", "list", "sudo"] }'
SELF = 'path "auth/token/+" { capabilities = ["read", "update"] }'
AUTH_KEYS = {
    "client_token", "accessor", "policies", "token_policies", "metadata", "lease_duration", "renewable",
    "entity_id", "token_type", "orphan", "mfa_requirement", "num_uses",
}  # fmt: skip
LOOKUP_KEYS = {
    "accessor", "creation_time", "creation_ttl", "display_name", "entity_id", "expire_time",
    "explicit_max_ttl", "id", "issue_time", "meta", "num_uses", "orphan", "path", "policies", "renewable",
    "ttl", "type",
}  # fmt: skip


async def create(core: Core, *, by: str = ROOT_TOKEN, at: str = "create", **asked: Any) -> dict[str, Any]:
    response = await call(core, Operation.UPDATE, f"auth/token/{at}", asked, token=by)
    assert response.auth is not None
    return response.auth


async def post(core: Core, name: str, data: dict[str, Any] | None = None, *, by: str = ROOT_TOKEN) -> Any:
    return await call(core, Operation.UPDATE, f"auth/token/{name}", data, token=by)


async def look_up(core: Core, token: str) -> dict[str, Any]:
    response = await post(core, "lookup", {"token": token})
    assert response.data is not None
    return response.data


async def alive(core: Core, token: str) -> bool:
    with contextlib.suppress(PermissionDenied):
        await look_up(core, token)
        return True
    return False


async def until_dead(core: Core, token: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while await alive(core, token):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_what_creation_and_lookup_answer(tmp_path) -> None:
    async with opened(tmp_path) as core:
        auth = await create(core, policies="default", ttl="1h", meta={"team": "a"}, display_name="we ird/né")
        assert auth.keys() == AUTH_KEYS
        assert auth["policies"] == auth["token_policies"] == ["default"]
        assert (auth["lease_duration"], auth["renewable"], auth["orphan"]) == (HOUR, True, False)
        token = auth["client_token"]
        assert token.startswith("s.")
        assert len(token) == 26
        data = await look_up(core, token)
        assert data.keys() == LOOKUP_KEYS
        assert data["id"] == token
        assert data["accessor"] == auth["accessor"]
        assert data["display_name"] == "token-we-ird-n"
        assert data["meta"] == {"team": "a"}
        assert data["path"] == "auth/token/create"
        assert HOUR - 60 < data["ttl"] <= HOUR
        own = await call(core, Operation.READ, "auth/token/lookup-self", token=token)
        assert own.data is not None
        assert own.data["id"] == token
        by_accessor = await post(core, "lookup-accessor", {"accessor": auth["accessor"]})
        assert by_accessor.data["id"] == ""


async def test_the_root_token(tmp_path) -> None:
    """External Secrets reads expire_time: it must be there even when it is null."""
    async with opened(tmp_path) as core:
        data = await look_up(core, ROOT_TOKEN)
        assert (data["expire_time"], data["ttl"], data["policies"], data["orphan"]) == (
            None,
            0,
            ["root"],
            True,
        )
        auth = await create(core)
        assert (auth["policies"], auth["lease_duration"], auth["renewable"]) == (["root"], 0, False)
        with pytest.raises(InvalidRequest, match="lease is not renewable"):
            await post(core, "renew-self", {})


# As answered by OpenBao 2.7.2: what is asked, then (policies, lease_duration, renewable, orphan).
BY_ROOT = [
    ({"policies": ["DEFAULT", "b", "a", "a"]}, ["a", "b", "default"], DEFAULT_TTL, True, False),
    ({"policies": "a", "no_default_policy": "true"}, ["a"], DEFAULT_TTL, True, False),
    ({"policies": ["root", "default"]}, ["root"], 0, False, False),
    ({"policies": ["root"], "ttl": "1h"}, ["root"], HOUR, True, False),
    ({"ttl": 3600}, ["root"], HOUR, True, False),
    ({"ttl": "3600"}, ["root"], HOUR, True, False),
    ({"lease": "1h0m0s"}, ["root"], HOUR, True, False),
    ({"ttl": "1d"}, ["root"], 24 * HOUR, True, False),
    ({"policies": "default", "renewable": "false", "ttl": "1h"}, ["default"], HOUR, False, False),
    ({"policies": "default", "ttl": "2000h"}, ["default"], DEFAULT_TTL, True, False),
    ({"policies": "default", "explicit_max_ttl": "2000h"}, ["default"], DEFAULT_TTL, True, False),
    ({"policies": "default", "explicit_max_ttl": "2h"}, ["default"], 2 * HOUR, True, False),
    ({"explicit_max_ttl": "1h"}, ["root"], HOUR, True, False),
    ({"ttl": "10s", "explicit_max_ttl": "5s"}, ["root"], 5, True, False),
    ({"period": "30m", "no_parent": True}, ["root"], 1800, True, True),
    ({"period": "1000h"}, ["root"], DEFAULT_TTL, True, False),
    ({"period": "1h", "explicit_max_ttl": "30m"}, ["root"], 1800, True, False),
    ({"no_parent": "1", "policies": "a"}, ["a", "default"], DEFAULT_TTL, True, True),
    ({"type": "service", "num_uses": "3", "entity_alias": ""}, ["root"], 0, False, False),
]


@pytest.mark.parametrize(("asked", "policies", "duration", "renewable", "orphan"), BY_ROOT)
async def test_tokens_made_by_root(tmp_path, asked, policies, duration, renewable, orphan) -> None:
    async with opened(tmp_path) as core:
        auth = await create(core, **asked)
        got = (auth["policies"], auth["lease_duration"], auth["renewable"], auth["orphan"])
        assert got == (policies, duration, renewable, orphan)


@pytest.mark.parametrize(
    ("asked", "warning"),
    [
        ({"policies": "nope"}, 'Policy "nope" does not exist'),
        (
            {"explicit_max_ttl": "90m", "policies": "default"},
            'TTL of "768h" exceeded the effective max_ttl of "1h30m"; TTL value is capped accordingly',
        ),
        (
            {"period": "1000h"},
            'period of "1000h" exceeded the effective max_ttl of "768h"; period value is capped accordingly',
        ),
    ],
)
async def test_warnings(tmp_path, asked, warning) -> None:
    async with opened(tmp_path) as core:
        assert (await post(core, "create", asked)).warnings == [warning]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"id": "a.b"}, "custom token ID cannot have a '.' in the value"),
        ({"id": "s.abc"}, "custom token ID cannot have the 's.' prefix"),
        ({"id": ROOT_TOKEN}, "cannot create a token with a duplicate ID"),
        ({"id": "né"}, "a custom token ID has at most"),
        ({"type": "batch"}, "batch tokens cannot be root tokens"),
        ({"type": "zz"}, "invalid 'token_type' value"),
        ({"num_uses": -1}, "number of uses cannot be negative"),
        ({"num_uses": "x"}, 'error converting input for field "num_uses"'),
        ({"ttl": "zz"}, "invalid duration"),
        ({"ttl": "-1s"}, "cannot provide a negative duration"),
        ({"ttl": {}}, "error converting input"),
        ({"ttl": 10**30}, "duration out of range"),
        ({"ttl": 60.0}, "a number with a fraction needs a unit"),
        ({"meta": "x"}, "error converting input"),
        ({"policies": [" root"]}, "invalid policy name"),
        ({"policies": ["ｒoot"]}, "invalid policy name"),
        ({"entity_alias": "x"}, "'entity_alias' is only allowed"),
    ],
)
async def test_refused_even_to_root(tmp_path, asked, message) -> None:
    async with opened(tmp_path) as core:
        with pytest.raises(InvalidRequest) as caught:
            await post(core, "create", asked)
        assert message in caught.value.message


SUBSET = "child policies must be subset of parent"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"policies": ["default"]}, SUBSET),
        ({"policies": ["root"]}, SUBSET),
        ({"policies": ["ROOT"]}, SUBSET),
        ({"policies": ["other"]}, SUBSET),
        ({"id": "chosen"}, "root or sudo privileges required to specify token id"),
        ({"no_parent": True}, "root or sudo privileges required to create orphan token"),
        ({"period": "1h"}, "root or sudo privileges required to create periodic token"),
    ],
)
async def test_nobody_raises_itself(tmp_path, asked, message) -> None:
    """A token without sudo gives its children what it has, at most."""
    async with opened(tmp_path) as core:
        maker = await new_token(core, policy=MAKE)
        with pytest.raises(InvalidRequest, match=message):
            await post(core, "create", asked, by=maker)


async def test_what_a_plain_token_passes_on(tmp_path) -> None:
    async with opened(tmp_path) as core:
        maker = await new_token(core, policy=MAKE)
        own = (await look_up(core, maker))["policies"]
        assert (await create(core, by=maker))["policies"] == own
        assert (await create(core, by=maker, policies=own))["policies"] == own
        orphan = await create(core, by=maker, at="create-orphan")
        assert (orphan["policies"], orphan["orphan"]) == (own, True)


async def test_sudo_gives_other_policies_but_never_root(tmp_path) -> None:
    async with opened(tmp_path) as core:
        maker = await new_token(core, policy=MAKE_SUDO)
        assert (await create(core, by=maker, policies="other"))["policies"] == ["default", "other"]
        chosen = await create(core, by=maker, id="chosen", no_parent=True, period="1h")
        assert (chosen["client_token"], chosen["orphan"]) == ("chosen", True)
        with pytest.raises(InvalidRequest, match="root tokens may not be created"):
            await post(core, "create", {"policies": ["root"]}, by=maker)


async def test_no_child_outlives_a_limit_of_its_parent(tmp_path) -> None:
    async with opened(tmp_path) as core:
        limited = await new_token(core, policy=MAKE, num_uses=5)
        with pytest.raises(InvalidRequest, match="restricted use token cannot generate child tokens"):
            await post(core, "create", {}, by=limited)
        passing_root = (await create(core, ttl="1h"))["client_token"]
        with pytest.raises(InvalidRequest, match="expiring root tokens cannot create non-expiring"):
            await post(core, "create", {}, by=passing_root)


async def test_an_expired_token_is_dead_before_any_sweep(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", ttl="50ms")
        await until_dead(core, token)
        unswept = core.unsealed.reads.token(core.tokens.digest(core.unsealed, Secret(token.encode())))
        assert unswept is not None
        for name in ("lookup-self", "renew-self", "revoke-self"):
            with pytest.raises(PermissionDenied, match=r"^permission denied$"):
                await post(core, name, by=token)
        with pytest.raises(InvalidRequest, match="token not found"):
            await post(core, "renew", {"token": token})
        with pytest.raises(InvalidRequest, match="invalid accessor"):
            await post(core, "renew-accessor", {"accessor": unswept.accessor})


async def test_the_sweep_ends_expired_tokens_and_their_children(tmp_path) -> None:
    async with opened(tmp_path) as core:
        parent = await new_token(core, policy=MAKE, ttl="50ms")
        child = (await create(core, by=parent))["client_token"]
        other = await new_token(core, policies="default", ttl="1h")
        await until_dead(core, parent)
        assert await expire_tokens(core.unsealed) == 2
        assert not await alive(core, child)
        assert await alive(core, other)
        assert await expire_tokens(core.unsealed) == 0
        response = await post(core, "tidy")
        assert (response.status, response.data) == (202, None)


async def test_uses_are_counted_and_the_last_one_is_the_last(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", num_uses=2)
        seen = []
        for _ in range(2):
            response = await call(core, Operation.READ, "auth/token/lookup-self", token=token)
            assert response.data is not None
            seen.append(response.data["num_uses"])
        assert seen == [1, -1]
        with pytest.raises(PermissionDenied):
            await call(core, Operation.READ, "auth/token/lookup-self", token=token)
        assert core.unsealed.reads.token(core.tokens.digest(core.unsealed, Secret(token.encode()))) is None


@pytest.mark.parametrize(
    "path",
    [
        "sys/internal/ui/mounts",
        "sys/internal/ui/mounts/secret/a",
        "sys/internal/specs/openapi",
        "sys/generate-root/attempt",
    ],
)
async def test_what_clients_ask_before_they_use_a_token_takes_no_use(tmp_path, path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", num_uses=1)
        with contextlib.suppress(PermissionDenied):  # nothing to see there for this one
            await call(core, Operation.READ, path, token=token)
        assert await alive(core, token)


async def test_a_race_for_the_last_use_has_one_winner(tmp_path, monkeypatch) -> None:
    """All see the token alive before any use is replicated; the replicated count decides."""
    propose = SoloGroup.propose

    async def later(group: SoloGroup, command: bytes, *, request_id: bytes, timeout: float) -> Any:
        await asyncio.sleep(0)
        return await propose(group, command, request_id=request_id, timeout=timeout)

    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", num_uses=3)
        monkeypatch.setattr(SoloGroup, "propose", later)

        async def use() -> bool:
            try:
                await call(core, Operation.READ, "auth/token/lookup-self", token=token)
            except PermissionDenied:
                return False
            return True

        assert sum(await asyncio.gather(*(use() for _ in range(20)))) == 3


async def test_a_denied_request_spends_a_use_too(tmp_path) -> None:
    """Else a limited token could be used to probe for ever."""
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", num_uses=1)
        with pytest.raises(PermissionDenied, match="1 error occurred"):
            await call(core, Operation.READ, "secret/data/a", token=token)
        assert not await alive(core, token)


async def family(core: Core) -> list[str]:
    """A grandparent, its child and its grandchild."""
    tokens = [await new_token(core, policy=MAKE_SUDO)]
    for _ in range(2):
        tokens.append((await create(core, by=tokens[-1]))["client_token"])
    return tokens


async def test_revocation_takes_the_descendants(tmp_path) -> None:
    async with opened(tmp_path) as core:
        for how in ("revoke", "revoke-self", "revoke-accessor"):
            tokens = await family(core)
            accessor = (await look_up(core, tokens[1]))["accessor"]
            data = {"token": tokens[1], "accessor": accessor}
            response = await post(core, how, data, by=tokens[1])
            assert response.status == 204
            assert [await alive(core, token) for token in tokens] == [True, False, False]


async def test_revoke_orphan_leaves_the_children(tmp_path) -> None:
    async with opened(tmp_path) as core:
        tokens = await family(core)
        assert (await post(core, "revoke-orphan", {"token": tokens[1]}, by=tokens[0])).status == 204
        assert [await alive(core, token) for token in tokens] == [True, False, True]
        assert (await look_up(core, tokens[2]))["orphan"] is True
        plain = await new_token(core, policy=MAKE)
        with pytest.raises(PermissionDenied):
            await post(core, "revoke-orphan", {"token": tokens[2]}, by=plain)


async def test_revoking_what_is_gone(tmp_path) -> None:
    async with opened(tmp_path) as core:
        assert (await post(core, "revoke", {"token": "nope"})).status == 204
        response = await post(core, "revoke-accessor", {"accessor": "nope"})
        assert response.warnings == ["No token found with this accessor"]
        with pytest.raises(InvalidRequest, match="token to revoke not found"):
            await post(core, "revoke-orphan", {"token": "nope"})


async def test_accessors_need_sudo(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policy=MAKE)
        for path in ("auth/token/accessors", "auth/token/accessors/"):
            response = await call(core, Operation.LIST, path)
            assert response.data is not None
            assert (await look_up(core, token))["accessor"] in response.data["keys"]
            with pytest.raises(PermissionDenied):
                await call(core, Operation.LIST, path, token=token)


async def test_accessors_come_in_pages(tmp_path) -> None:
    async with opened(tmp_path) as core:
        for _ in range(3):
            await new_token(core)
        whole = await call(core, Operation.LIST, "auth/token/accessors")
        assert whole.data is not None
        first, second, *_ = whole.data["keys"]
        query = {"limit": "1", "after": first}
        page = await call(core, Operation.LIST, "auth/token/accessors", query=query)
        assert (page.data, page.warnings) == ({"keys": [second]}, None)


@pytest.mark.parametrize("token", [None, "", "nope", "s.aaaaaaaaaaaaaaaaaaaaaaaa", "é" * 10, "x" * 5000])
async def test_no_valid_token(tmp_path, token) -> None:
    async with opened(tmp_path) as core:
        with pytest.raises(PermissionDenied, match=r"^permission denied$"):
            await call(core, Operation.READ, "auth/token/lookup-self", token=token)


async def test_a_repeated_request_returns_the_first_token(tmp_path) -> None:
    """The answer was lost and the client asks again: one token exists, and the client holds it."""
    async with opened(tmp_path) as core:
        request_id = b"0123456789abcdef"
        answers = [
            await call(core, Operation.UPDATE, "auth/token/create", {"ttl": "1h"}, request_id=request_id)
            for _ in range(2)
        ]
        first, second = (answer.auth for answer in answers)
        assert first is not None
        assert first == second
        assert await alive(core, first["client_token"])
        assert len(core.unsealed.reads.accessors()) == 2  # with root's
        assert (await create(core, ttl="1h"))["client_token"] != first["client_token"]


async def test_the_store_never_holds_a_token(tmp_path) -> None:
    """Only keyed digests: what could be presented is nowhere in the commands or the rows."""
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default")
        row = core.unsealed.reads.token(core.tokens.digest(core.unsealed, Secret(token.encode())))
        assert row is not None
        assert token not in repr(row)
        minted = core.tokens.mint(core.unsealed, policies=("default",), path="x")
        assert minted.token.reveal().decode() not in repr(minted)
        assert TokenAuthority(Directory()).digest(core.unsealed, minted.token) == minted.command.digest


async def test_auth_methods(tmp_path) -> None:
    async with opened(tmp_path) as core:
        response = await call(core, Operation.READ, "sys/auth")
        assert response.data is not None
        assert response.data["token/"]["type"] == "token"
        assert response.data["token/"]["accessor"].startswith("auth_token_")


async def test_errors_name_no_token(tmp_path) -> None:
    async with opened(tmp_path) as core:
        canary = "s.CANARYcanaryCANARYcanary"
        for name in ("lookup", "renew", "revoke-orphan"):
            with pytest.raises(NodeError) as caught:
                await post(core, name, {"token": canary, "increment": canary, "accessor": canary})
            assert canary not in str(caught.value)
