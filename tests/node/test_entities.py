"""identity/: entities, aliases, groups, and what they add to tokens."""

import asyncio
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import call, opened

from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied

READ_A = 'path "secret/data/a" { capabilities = ["read"] }'


async def entity(ask: Asker, name: str, **fields: Any) -> str:
    made = (await ask.post("identity/entity", name=name, **fields)).data
    assert made is not None
    return str(made["id"])


async def group(ask: Asker, name: str, **fields: Any) -> str:
    made = (await ask.post("identity/group", name=name, **fields)).data
    assert made is not None
    return str(made["id"])


async def alias(ask: Asker, name: str, **fields: Any) -> dict[str, Any]:
    made = (await ask.post("identity/entity-alias", name=name, **fields)).data
    assert made is not None
    return made


async def with_bob(core: Core) -> tuple[Asker, str]:
    """A userpass mount with bob in it; its accessor."""
    ask = Asker(core)
    await ask.post("sys/auth/up", type="userpass")
    await ask.post("auth/up/users/bob", password="pw")
    return ask, (await ask.get("sys/auth/up"))["accessor"]


async def test_an_entity_is_found_by_id_and_by_name_however_spelled(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        made = await entity(ask, "Alice", policies="P2,p1", metadata={"team": "a"})
        by_name = await ask.get("identity/entity/name/aLICE")
        assert by_name == await ask.get(f"identity/entity/id/{made}")
        assert (by_name["name"], by_name["policies"], by_name["metadata"]) == (
            "Alice",
            ["p1", "p2"],
            {"team": "a"},
        )
        assert (await ask.post("identity/entity", name="ALICE", disabled=True)).status == 204
        await ask.post(f"identity/entity/id/{made}", name="Ann")
        renamed = await ask.get("identity/entity/name/ann")
        assert (renamed["id"], renamed["disabled"], renamed["policies"]) == (made, True, ["p1", "p2"])
        assert isinstance(await ask.refused("identity/entity/name/alice", Operation.READ), NotFound)
        assert (await ask.post("identity/entity/name/Ann", id=made, policies="p3")).status == 204
        assert (await ask.get("identity/entity/name/ann"))["policies"] == ["p3"]
        for name, given in (("ann", "nope"), ("bea", made)):
            assert "not that of" in (await ask.refused(f"identity/entity/name/{name}", id=given)).message
        assert await ask.keys("identity/entity/id") == [made]
        assert await ask.keys("identity/entity/name") == ["Ann"]
        await ask.delete("identity/entity/name/ANN")
        assert isinstance(await ask.refused("identity/entity/id", Operation.LIST), NotFound)


async def test_lists_come_in_pages_and_nothing_is_left_out_of_them(tmp_path) -> None:
    async with opened(tmp_path, list_keys_max=3) as core:
        ask, accessor = await with_bob(core)
        for name in ("b/c", "A", "é", "a1"):
            await group(ask, f"g{name}", type="external")
            await alias(ask, name, mount_accessor=accessor, canonical_id=await entity(ask, name))
        await ask.post("identity/group-alias", name="x", mount_accessor=accessor)
        assert sorted(await _paged(ask, "identity/entity/name")) == ["A", "a1", "b/c", "é"]
        assert {"gA", "ga1", "gb/c", "gé"} < set(await _paged(ask, "identity/group/name"))
        for path in ("identity/entity/id", "identity/group/id", "identity/entity-alias/id"):
            found = await _paged(ask, path)
            assert found == sorted(set(found))
            assert len(found) == (5 if "group" in path else 4)
            assert "more than 3 keys" in (await ask.refused(path, Operation.LIST)).message


async def _paged(ask: Asker, path: str) -> list[str]:
    """Two at a time."""
    found: list[str] = []
    while True:
        query = {"limit": "2", **({"after": found[-1]} if found else {})}
        try:
            response = await call(ask.core, Operation.LIST, path, token=ask.token, query=query)
        except NotFound:
            return found
        assert response.data is not None
        assert response.warnings is None
        found += response.data["keys"]


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("entity", {"id": "nope"}, "entity not found from id"),
        ("entity", {"name": "x", "policies": ["root"]}, "policies cannot contain root"),
        ("entity", {"name": "x" * 600}, "at most 512"),
        ("entity", {"name": "x", "metadata": {str(n): "" for n in range(65)}}, "at most 64 pairs"),
        ("entity/name/b", {"policies": [" root"]}, "invalid policy name"),
        ("entity-alias", {"name": "x"}, "'id' or 'mount_accessor' and 'name' must be provided"),
        ("entity-alias", {"name": "x", "mount_accessor": "zz"}, 'invalid mount accessor "zz"'),
        ("entity-alias/id/nope", {"name": "x"}, "invalid alias ID provided"),
        ("entity/merge", {"to_entity_id": "x"}, "missing entity ids to merge from"),
        ("entity/merge", {"from_entity_ids": ["x"], "to_entity_id": "y"}, "entity id to merge to is invalid"),
        ("group", {"name": "g", "type": "zz"}, 'invalid group type "zz"'),
        ("group", {"name": "g", "type": "external", "member_entity_ids": ["x"]}, "can't be set manually"),
        ("group", {"name": "g", "member_entity_ids": ["zz"]}, 'invalid entity ID "zz"'),
        ("group", {"name": "g", "member_group_ids": ["zz"]}, 'invalid member group ID "zz"'),
        ("group/id/nope", {"name": "g"}, "invalid group ID"),
        ("group-alias", {"name": ""}, "missing alias name"),
        ("lookup/entity", {}, "query parameter not supplied"),
        ("lookup/entity", {"id": "a", "name": "b"}, "query parameter conflict"),
        ("lookup/group", {"alias_name": "a"}, "needs to be set"),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        error = await Asker(core).refused(f"identity/{path}", **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_an_alias_goes_from_one_entity_to_another(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, accessor = await with_bob(core)
        first, second = await entity(ask, "first"), await entity(ask, "second")
        made = await alias(
            ask, "bob", mount_accessor=accessor, canonical_id=first, custom_metadata={"k": "v"}
        )
        shown = await ask.get(f"identity/entity-alias/id/{made['id']}")
        assert (shown["canonical_id"], shown["mount_path"], shown["mount_type"]) == (
            first,
            "auth/up/",
            "userpass",
        )
        assert (await ask.auth("auth/up/login/bob", password="pw"))["entity_id"] == first
        error = await ask.refused(
            "identity/entity-alias", name="other", mount_accessor=accessor, canonical_id=first
        )
        assert error.message == "Alias already exists for requested entity and mount accessor"
        moved = await alias(ask, "bob", mount_accessor=accessor, canonical_id=second)
        assert moved == {"canonical_id": second, "id": made["id"]}
        assert (await ask.auth("auth/up/login/bob", password="pw"))["entity_id"] == second
        assert (await ask.get(f"identity/entity/id/{first}"))["aliases"] == []
        by_alias = (
            await ask.post("identity/lookup/entity", alias_name="BOB", alias_mount_accessor=accessor)
        ).data
        assert by_alias is not None
        assert by_alias["id"] == second
        await ask.delete(f"identity/entity-alias/id/{made['id']}")
        assert (await ask.post("identity/lookup/entity", alias_id=made["id"])).status == 204
        assert (await ask.auth("auth/up/login/bob", password="pw"))["entity_id"] not in (first, second)


async def test_first_logins_at_once_make_one_entity(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, _ = await with_bob(core)
        await ask.post("sys/auth/ap", type="approle")
        await ask.post("auth/ap/role/r", role_id="r", bind_secret_id=False, token_bound_cidrs="127.0.0.0/8")
        logins = await asyncio.gather(*(ask.auth("auth/ap/login", role_id="r") for _ in range(8)))
        assert len({auth["entity_id"] for auth in logins}) == 1
        assert len(await ask.keys("identity/entity/id")) == 1


async def test_policies_of_an_entity_and_its_groups_join_those_of_its_tokens(tmp_path) -> None:
    """At once, for tokens that exist already; and they leave as fast."""
    async with opened(tmp_path) as core:
        ask, _ = await with_bob(core)
        await ask.policy("read-a", READ_A)
        auth = await ask.auth("auth/up/login/bob", password="pw")
        own, bob = ask.by(auth["client_token"]), auth["entity_id"]
        assert "identity_policies" not in auth
        await ask.post("secret/data/a", data={"x": 1})
        assert isinstance(await own.refused("secret/data/a", Operation.READ), PermissionDenied)
        inner = await group(ask, "inner", member_entity_ids=[bob])
        outer = await group(ask, "outer", member_group_ids=[inner], policies=["read-a"])
        assert (await own.get("secret/data/a"))["data"] is not None
        shown = await ask.get(f"identity/entity/id/{bob}")
        assert (shown["direct_group_ids"], shown["inherited_group_ids"]) == ([inner], [outer])
        assert (await own.get("auth/token/lookup-self"))["identity_policies"] == ["read-a"]
        again = await ask.auth("auth/up/login/bob", password="pw")
        assert (again["policies"], again["token_policies"]) == (["default", "read-a"], ["default"])
        await ask.post(f"identity/group/id/{inner}", member_entity_ids=[])
        assert isinstance(await own.refused("secret/data/a", Operation.READ), PermissionDenied)
        await ask.post(f"identity/entity/id/{bob}", policies="read-a")
        assert await own.get("secret/data/a")
        await ask.delete("sys/policies/acl/read-a")
        assert isinstance(await own.refused("secret/data/a", Operation.READ), PermissionDenied)


async def test_a_disabled_or_removed_entity_has_no_tokens_and_no_logins(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, _ = await with_bob(core)
        auth = await ask.auth("auth/up/login/bob", password="pw")
        own, bob = ask.by(auth["client_token"]), auth["entity_id"]
        await ask.post(f"identity/entity/id/{bob}", disabled=True)
        assert isinstance(await own.refused("auth/token/lookup-self", Operation.READ), PermissionDenied)
        assert isinstance(await ask.refused("auth/up/login/bob", password="pw"), PermissionDenied)
        await ask.post(f"identity/entity/id/{bob}", disabled=False)
        assert await own.get("auth/token/lookup-self")
        await ask.delete(f"identity/entity/id/{bob}")
        assert isinstance(await own.refused("auth/token/lookup-self", Operation.READ), PermissionDenied)
        assert (await ask.auth("auth/up/login/bob", password="pw"))["entity_id"] != bob


async def test_merged_entities_are_one(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, _ = await with_bob(core)
        auth = await ask.auth("auth/up/login/bob", password="pw")
        source = auth["entity_id"]
        target = await entity(ask, "target", policies="p")
        inside = await group(ask, "g", member_entity_ids=[source])
        await ask.post("identity/entity/merge", from_entity_ids=[source], to_entity_id=target)
        shown = await ask.get(f"identity/entity/id/{target}")
        assert (shown["merged_entity_ids"], shown["direct_group_ids"]) == ([source], [inside])
        assert [each["name"] for each in shown["aliases"]] == ["bob"]
        assert isinstance(await ask.refused(f"identity/entity/id/{source}", Operation.READ), NotFound)
        own = ask.by(auth["client_token"])
        assert (await own.get("auth/token/lookup-self"))["identity_policies"] == ["p"]
        assert (await ask.auth("auth/up/login/bob", password="pw"))["entity_id"] == target
        assert (await ask.get(f"identity/group/id/{inside}"))["member_entity_ids"] == [target]


async def test_of_two_aliases_of_one_mount_a_merge_keeps_the_chosen_one(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, accessor = await with_bob(core)
        first, second = await entity(ask, "first"), await entity(ask, "second")
        one = await alias(ask, "one", mount_accessor=accessor, canonical_id=first)
        two = await alias(ask, "two", mount_accessor=accessor, canonical_id=second)
        merge = {"from_entity_ids": [second], "to_entity_id": first}
        assert "same mount accessor" in (await ask.refused("identity/entity/merge", **merge)).message
        await ask.post("identity/entity/merge", **merge, conflicting_alias_ids_to_keep=[two["id"]])
        shown = await ask.get(f"identity/entity/id/{first}")
        assert [each["id"] for each in shown["aliases"]] == [two["id"]]
        assert isinstance(
            await ask.refused(f"identity/entity-alias/id/{one['id']}", Operation.READ), NotFound
        )


async def test_groups_do_not_contain_themselves_and_leave_no_trace(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        inner = await group(ask, "Inner")
        middle = await group(ask, "middle", member_group_ids=[inner])
        outer = await group(ask, "outer", member_group_ids=[middle])
        for member in (outer, inner, middle):
            error = await ask.refused(f"identity/group/id/{inner}", member_group_ids=[member])
            assert "cyclic relationship detected" in error.message
        assert (await ask.refused(f"identity/group/id/{inner}", name="OUTER")).message == (
            "group name is already in use"
        )
        assert "not that of" in (await ask.refused("identity/group/name/outer", id=inner)).message
        assert (await ask.post("identity/group/name/outer", id=outer)).status == 204
        assert (await ask.refused(f"identity/group/id/{inner}", type="external")).message == (
            "group type cannot be changed"
        )
        assert (await ask.get("identity/group/name/iNNER"))["parent_group_ids"] == [middle]
        await ask.delete(f"identity/group/id/{middle}")
        assert (await ask.get(f"identity/group/id/{outer}"))["member_group_ids"] is None
        assert (await ask.get(f"identity/group/id/{inner}"))["parent_group_ids"] is None
        assert sorted(await ask.keys("identity/group/name")) == ["Inner", "outer"]


async def test_an_external_group_has_one_alias(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, accessor = await with_bob(core)
        external, internal = await group(ask, "x", type="external"), await group(ask, "i")
        error = await ask.refused(
            "identity/group-alias", name="a", mount_accessor=accessor, canonical_id=internal
        )
        assert error.message == "alias can't be set on an internal group"
        made = (
            await ask.post("identity/group-alias", name="a", mount_accessor=accessor, canonical_id=external)
        ).data
        assert made is not None
        assert (await ask.get(f"identity/group/id/{external}"))["alias"]["name"] == "a"
        await ask.post(f"identity/group-alias/id/{made['id']}", name="b")
        found = (await ask.post("identity/lookup/group", alias_name="b", alias_mount_accessor=accessor)).data
        assert found is not None
        assert found["id"] == external
        assert (
            await ask.post("identity/lookup/group", alias_name="a", alias_mount_accessor=accessor)
        ).status == 204
        assert await ask.keys("identity/group-alias/id") == [made["id"]]
        await ask.delete(f"identity/group/id/{external}")
        assert isinstance(await ask.refused("identity/group-alias/id", Operation.LIST), NotFound)


# --- templated policies ---

TEMPLATES = """
path "secret/data/by-id/{{identity.entity.id}}" { capabilities = ["read"] }
path "secret/data/by-name/{{identity.entity.name}}/*" { capabilities = ["read"] }
path "secret/data/team/{{identity.entity.metadata.team}}" { capabilities = ["read"] }
path "secret/data/alias/{{identity.entity.aliases.ACCESSOR.name}}" { capabilities = ["read"] }
path "secret/data/group/{{identity.groups.names.crew.metadata.ship}}" { capabilities = ["read"] }
path "secret/data/token/{{token.display_name}}" { capabilities = ["read"] }
path "secret/data/by-name/{{identity.entity.name}}/no" { capabilities = ["deny"] }
"""


async def test_templates_are_filled_in_for_the_one_who_asks(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, accessor = await with_bob(core)
        await ask.policy("mine", TEMPLATES.replace("ACCESSOR", accessor))
        await ask.post("auth/up/users/bob", token_policies="mine")
        auth = await ask.auth("auth/up/login/bob", password="pw")
        bob = auth["entity_id"]
        await ask.post(f"identity/entity/id/{bob}", name="Bobby", metadata={"team": "blue"})
        await group(ask, "crew", member_entity_ids=[bob], metadata={"ship": "ark"})
        mine = [f"by-id/{bob}", "by-name/Bobby/x/y", "team/blue", "alias/bob", "group/ark", "token/up-bob"]
        others = ["by-id/x", "by-name/x/y", "by-name/Bobby/no", "team/red", "alias/eve", "token/root"]
        paths = [f"secret/data/{path}" for path in (*mine, *others)]
        answer = (await ask.post("sys/capabilities", token=auth["client_token"], paths=paths)).data
        assert answer is not None
        assert [answer[path] for path in paths] == [["read"]] * len(mine) + [["deny"]] * len(others)
        plain = await ask.auth("auth/token/create", policies="mine", no_default_policy=True)
        answer = (await ask.post("sys/capabilities", token=plain["client_token"], paths=paths)).data
        assert answer is not None
        assert {tuple(answer[path]) for path in paths} == {("deny",)}


@pytest.mark.parametrize("name", ["*", "a*", "+", "x/+/y", "{{token.display_name}}"])
async def test_no_name_widens_a_rule_or_takes_away_a_denial(tmp_path, name) -> None:
    """A value that means something in a path grants nothing at all."""
    async with opened(tmp_path) as core:
        ask, _ = await with_bob(core)
        text = """
            path "secret/data/{{identity.entity.name}}" { capabilities = ["read"] }
            path "secret/data/*" { capabilities = ["list"] }
            path "secret/data/a/{{identity.entity.name}}" { capabilities = ["deny"] }
        """
        await ask.policy("mine", text)
        await ask.post("auth/up/users/bob", token_policies="mine")
        auth = await ask.auth("auth/up/login/bob", password="pw")
        await ask.post(f"identity/entity/id/{auth['entity_id']}", name=name)
        paths = ["secret/data/x", "secret/data/a/b", f"secret/data/{name}"]
        answer = (await ask.post("sys/capabilities", token=auth["client_token"], paths=paths)).data
        assert answer is not None
        assert {tuple(answer[path]) for path in paths} == {("deny",)}
