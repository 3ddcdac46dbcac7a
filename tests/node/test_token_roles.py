"""Roles of the token store, and batch tokens."""

from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import new_token, opened
from support.patience import eventually

from node.auth import batch
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied
from storage.secret import Secret

MAKE = 'path "auth/token/create/*" { capabilities = ["update"] }'
ROLE = "auth/token/roles/r"


# As answered by OpenBao 2.7.2: the role, what is asked for by root, then (policies, seconds, renewable, orphan).
UNDER = [
    ({"allowed_policies": "a,b"}, {}, ["a", "b", "default"], 2764800, True, False),
    ({"allowed_policies": "a,b"}, {"policies": "a"}, ["a", "default"], 2764800, True, False),
    (
        {"allowed_policies_glob": "team-*"},
        {"policies": "team-x"},
        ["default", "team-x"],
        2764800,
        True,
        False,
    ),
    ({"disallowed_policies": "c,default"}, {"policies": "d"}, ["d"], 2764800, True, False),
    ({"disallowed_policies": "c"}, {}, ["root"], 0, False, False),
    ({"allowed_policies": "a", "token_no_default_policy": True}, {}, ["a"], 2764800, True, False),
    ({"allowed_policies": "a", "orphan": True}, {}, ["a", "default"], 2764800, True, True),
    (
        {"allowed_policies": "a", "renewable": False},
        {"renewable": True},
        ["a", "default"],
        2764800,
        False,
        False,
    ),
    ({"allowed_policies": "a", "token_period": "1h"}, {"period": "2h"}, ["a", "default"], 3600, True, False),
    ({"allowed_policies": "a", "period": "1h"}, {}, ["a", "default"], 3600, True, False),
    (
        {"allowed_policies": "a", "token_explicit_max_ttl": "1h"},
        {"ttl": "9h"},
        ["a", "default"],
        3600,
        True,
        False,
    ),
    ({}, {}, ["root"], 0, False, False),
    ({}, {"ttl": "10h"}, ["root"], 36000, True, False),
]


@pytest.mark.parametrize(("role", "asked", "policies", "duration", "renewable", "orphan"), UNDER)
async def test_tokens_under_a_role(tmp_path, role, asked, policies, duration, renewable, orphan) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post(ROLE, **role)
        auth = await ask.auth("auth/token/create/r", **asked)
        got = (auth["policies"], auth["lease_duration"], auth["renewable"], auth["orphan"])
        assert got == (policies, duration, renewable, orphan)


@pytest.mark.parametrize(
    ("role", "asked", "message"),
    [
        ({"allowed_policies": "a"}, {"policies": "b"}, "must be subset of the role's allowed policies"),
        ({"allowed_policies": "a", "allowed_policies_glob": "x*"}, {"policies": "ax"}, "must be subset"),
        ({"disallowed_policies": "c"}, {"policies": "c"}, 'token policy "c" is disallowed by this role'),
        ({"disallowed_policies_glob": "c*"}, {"policies": "cc"}, 'token policy "cc" is disallowed'),
        ({"allowed_policies_glob": "*"}, {"policies": "root"}, "without parent token being root"),
        ({"allowed_policies": "root"}, {}, "without parent token being root"),
        ({}, {"policies": "other"}, "child policies must be subset of parent"),
        ({"allowed_policies": "a"}, {"period": "1h"}, "sudo privileges required to create periodic token"),
        ({"allowed_entity_aliases": "web-*"}, {"entity_alias": "db-1"}, "invalid 'entity_alias' value"),
    ],
)
async def test_what_a_role_does_not_give_to_one_who_is_not_root(tmp_path, role, asked, message) -> None:
    async with opened(tmp_path) as core:
        await Asker(core).post(ROLE, **role)
        maker = Asker(core, await new_token(core, policy=MAKE))
        error = await maker.refused("auth/token/create/r", **asked)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_a_role_gives_policies_that_its_user_does_not_have(tmp_path) -> None:
    """That is what roles are for: the right to the path is the right to what the role allows."""
    async with opened(tmp_path) as core:
        await Asker(core).post(ROLE, allowed_policies="a", path_suffix="suf", token_num_uses=5)
        maker = Asker(core, await new_token(core, policy=MAKE))
        auth = await maker.auth("auth/token/create/r", num_uses=9)
        assert (auth["policies"], auth["num_uses"]) == (["a", "default"], 5)
        data = (await Asker(core).post("auth/token/lookup", token=auth["client_token"])).data
        assert data is not None
        assert (data["role"], data["path"]) == ("r", "auth/token/create/r/suf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_type": "zz"}, "invalid 'token_type' value"),
        ({"token_type": "batch"}, "when role is set to generate non-orphan tokens"),
        ({"token_type": "batch", "orphan": True}, "when role is set to generate renewable tokens"),
        ({"token_bound_cidrs": "zz"}, "token_bound_cidrs"),
        ({"path_suffix": "a/../b"}, "role path suffix contains invalid characters"),
        ({"token_num_uses": -1}, "'token_num_uses' cannot be negative"),
        ({"token_period": "-1"}, "negative duration"),
        ({"allowed_policies": " root"}, None),
        ({"allowed_policies": ["ｒoot"]}, "invalid policy name"),
    ],
)
async def test_a_role_is_checked_when_it_is_written(tmp_path, fields, message) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        if message is None:
            await ask.post(ROLE, **fields)
        else:
            assert message in (await ask.refused(ROLE, **fields)).message
            assert isinstance(await ask.refused(ROLE, Operation.READ), NotFound)


async def test_a_role_is_changed_in_parts_listed_and_removed(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post(ROLE, allowed_policies="b,a", period="1h")
        await ask.post(ROLE, orphan=True)
        shown = await ask.get(ROLE)
        assert (shown["allowed_policies"], shown["orphan"]) == (["a", "b"], True)
        assert (shown["period"], shown["token_period"]) == (3600, 3600)
        both = await ask.post(ROLE, period="1h", token_period="2h")
        assert both.warnings == [
            "Both 'token_period' and deprecated 'period' value supplied, ignoring the deprecated value"
        ]
        assert ((await ask.get(ROLE))["period"], (await ask.get(ROLE))["token_period"]) == (0, 7200)
        assert await ask.keys("auth/token/roles") == ["r"]
        token = (await ask.auth("auth/token/create/r"))["client_token"]
        await ask.delete(ROLE)
        assert isinstance(await ask.refused("auth/token/roles", Operation.LIST), NotFound)
        assert (await ask.refused("auth/token/create/r")).message == "unknown role r"
        assert "original token role" in (await ask.by(token).refused("auth/token/renew-self")).message


async def test_a_token_is_bound_to_networks_and_so_are_its_children(tmp_path) -> None:
    """The pipeline's caller is 127.0.0.1."""
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post(ROLE, allowed_policies="default", token_bound_cidrs="10.0.0.0/8")
        away = (await ask.auth("auth/token/create/r"))["client_token"]
        error = await ask.by(away).refused("auth/token/lookup-self", Operation.READ)
        assert isinstance(error, PermissionDenied)
        await ask.policy("make", 'path "auth/token/create" { capabilities = ["update"] }')
        await ask.post(ROLE, allowed_policies="make", token_bound_cidrs="127.0.0.0/8")
        home = (await ask.auth("auth/token/create/r"))["client_token"]
        child = (await ask.by(home).auth("auth/token/create"))["client_token"]
        data = (await ask.post("auth/token/lookup", token=child)).data
        assert data is not None
        assert data["bound_cidrs"] == ["127.0.0.0/8"]


async def test_a_role_binds_its_tokens_wherever_who_asks_is_bound_to(tmp_path) -> None:
    """As with a real OpenBao: who makes tokens for others need not be where they are."""
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.policy("make", MAKE)
        await ask.post("auth/token/roles/maker", allowed_policies="make", token_bound_cidrs="127.0.0.0/8")
        maker = ask.by((await ask.auth("auth/token/create/maker"))["client_token"])
        await ask.post(ROLE, allowed_policies="default,make", token_bound_cidrs="10.0.0.0/8")
        made = (await maker.auth("auth/token/create/r"))["client_token"]
        data = (await ask.post("auth/token/lookup", token=made)).data
        assert data is not None
        assert data["bound_cidrs"] == ["10.0.0.0/8"]


async def test_an_entity_alias_makes_it_a_token_of_that_entity(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post(ROLE, allowed_policies="default", allowed_entity_aliases="web-*")
        first = await ask.auth("auth/token/create/r", entity_alias="web-1")
        again = await ask.auth("auth/token/create/r", entity_alias="web-1")
        other = await ask.auth("auth/token/create/r", entity_alias="web-2")
        assert first["entity_id"] == again["entity_id"] not in ("", other["entity_id"])


# --- batch tokens ---


async def batch_token(ask: Asker, **fields: Any) -> str:
    auth = await ask.auth(
        "auth/token/create", **({"type": "batch", "policies": "default", "ttl": "1h"} | fields)
    )
    assert (auth["accessor"], auth["token_type"], auth["renewable"]) == ("", "batch", False)
    token = auth["client_token"]
    assert token.startswith("b.")
    return str(token)


async def test_a_batch_token_is_known_without_being_kept(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        before = len(await ask.keys("auth/token/accessors"))
        token = await batch_token(ask, meta={"k": "v"})
        assert len(await ask.keys("auth/token/accessors")) == before
        own = await ask.by(token).get("auth/token/lookup-self")
        assert (own["type"], own["policies"], own["meta"], own["orphan"]) == (
            "batch",
            ["default"],
            {"k": "v"},
            False,
        )
        assert 3590 < own["ttl"] <= 3600


async def test_what_a_batch_token_cannot(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        token = await batch_token(ask)
        for path, data, message in (
            ("auth/token/renew", {"token": token}, "batch tokens cannot be renewed"),
            ("auth/token/revoke", {"token": token}, "batch tokens cannot be revoked"),
            ("auth/token/create", {"type": "batch"}, "batch tokens cannot be root tokens"),
            ("auth/token/create", {"type": "batch", "policies": "a", "num_uses": 2}, 'have "num_uses" set'),
            ("auth/token/create", {"type": "batch", "policies": "a", "period": 60}, 'have "period" set'),
            (
                "auth/token/create",
                {"type": "batch", "policies": "a", "meta": {"k": "x" * 9000}},
                "at most 4096",
            ),
        ):
            assert message in (await ask.refused(path, **data)).message
        await ask.policy("make", 'path "auth/token/create" { capabilities = ["update"] }')
        maker = ask.by(await batch_token(ask, policies="make"))
        assert (await maker.refused("auth/token/create")).message == "batch tokens cannot create more tokens"


async def test_a_batch_token_dies_with_its_parent_and_an_orphan_does_not(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.policy("make", 'path "auth/token/create*" { capabilities = ["update", "sudo"] }')
        parent = (await ask.auth("auth/token/create", policies="make"))["client_token"]
        child = await batch_token(ask.by(parent))
        orphan = await batch_token(ask.by(parent), no_parent=True)
        await ask.post("auth/token/revoke", token=parent)
        assert isinstance(
            await ask.by(child).refused("auth/token/lookup-self", Operation.READ), PermissionDenied
        )
        assert (await ask.by(orphan).get("auth/token/lookup-self"))["orphan"] is True


async def test_a_batch_token_ends(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        token = Secret((await batch_token(ask, ttl="3s")).encode())
        assert core.tokens.find(core.unsealed, token) is not None
        await eventually(lambda: core.tokens.find(core.unsealed, token) is None, "the end of the token")


async def test_only_what_this_store_has_sealed_is_a_batch_token(tmp_path) -> None:
    """Every changed character, every cut and every other store's token is refused."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with opened(tmp_path / "a") as core, opened(tmp_path / "b") as other:
        token = await batch_token(Asker(core))
        assert other.tokens.find(other.unsealed, Secret(token.encode())) is None
        for position in range(2, len(token) - 1):
            changed = "A" if token[position] != "A" else "B"
            forged = token[:position] + changed + token[position + 1 :]
            assert core.tokens.find(core.unsealed, Secret(forged.encode())) is None
        for forged in (token[:-4], token + "AAAA", "b.", "b.AQ", "b.é", "b." + "A" * 5000, batch.PREFIX * 9):
            assert core.tokens.find(core.unsealed, Secret(forged.encode())) is None
