"""auth/approle: roles, secret ids, logins, and that a secret id is good for just as much as it was made for."""

import asyncio
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import call, opened
from support.patience import PATIENCE_S

from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied

INVALID = "invalid role or secret ID"
ROLE = "auth/ap/role/web"


async def with_role(core, **fields: Any) -> Asker:
    ask = Asker(core)
    await ask.post("sys/auth/ap", type="approle")
    await ask.post(ROLE, **({"role_id": "web-id", "token_policies": "default"} | fields))
    return ask


async def make(ask: Asker, **fields: Any) -> dict[str, Any]:
    made = (await ask.post(f"{ROLE}/secret-id", **fields)).data
    assert made is not None
    return made


async def login(ask: Asker, secret_id: str) -> dict[str, Any]:
    return await ask.by(None).auth("auth/ap/login", role_id="web-id", secret_id=secret_id)


def let_all_read_before_any_writes(core: Core) -> None:
    """As if each request came to another node: a write waits until everybody has read."""
    store = core.unsealed
    submit = store.submit

    async def later(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return await submit(*arguments, **options)

    store.submit = later  # type: ignore[method-assign]


async def test_a_machine_logs_in(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core, token_ttl="20m", secret_id_ttl="1h", secret_id_num_uses="3")
        made = await make(ask, metadata='{"team": "a"}')
        assert (made["secret_id_num_uses"], made["secret_id_ttl"]) == (3, 3600)
        auth = await login(ask, made["secret_id"])
        assert auth["metadata"] == {"role_name": "web", "team": "a"}
        assert (auth["policies"], auth["lease_duration"], auth["orphan"]) == (["default"], 1200, True)
        own = await ask.by(auth["client_token"]).get("auth/token/lookup-self")
        assert (own["display_name"], own["path"], own["entity_id"]) == (
            "ap",
            "auth/ap/login",
            auth["entity_id"],
        )
        for by, value in (("secret-id", "secret_id"), ("secret-id-accessor", "secret_id_accessor")):
            found = (await ask.post(f"{ROLE}/{by}/lookup", **{value: made[value]})).data
            assert found is not None
            assert (found["secret_id_num_uses"], found["metadata"]) == (2, {"team": "a"})


async def test_the_secret_ids_of_a_role_are_listed_in_pages(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        made = sorted([(await make(ask))["secret_id_accessor"] for _ in range(3)])
        assert await ask.keys(f"{ROLE}/secret-id") == made
        query = {"after": made[0], "limit": "1"}
        page = await call(core, Operation.LIST, f"{ROLE}/secret-id", query=query)
        assert (page.data, page.warnings) == ({"keys": [made[1]]}, None)


async def test_roles_are_changed_in_parts_and_removed_with_all_that_they_have(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        await ask.post("auth/ap/role/WEB", policies=["a", "b"], period="3m")
        shown = await ask.get(ROLE)
        assert (shown["policies"], shown["token_policies"], shown["period"]) == (["a", "b"], ["a", "b"], 180)
        assert (await ask.get(f"{ROLE}/role-id"))["role_id"] == "web-id"
        made = await make(ask)
        await ask.post("auth/ap/role/web2", role_id="other")
        other = (await ask.post("auth/ap/role/web2/secret-id")).data
        assert other is not None
        await ask.post(f"{ROLE}/role-id", role_id="new-id")
        assert (await ask.refused("auth/ap/login", role_id="web-id", secret_id="x")).message == INVALID
        await ask.delete(ROLE)
        assert isinstance(await ask.refused(ROLE, Operation.READ), NotFound)
        await ask.post(ROLE, role_id="web-id")
        assert (
            await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
        ).message == INVALID
        await ask.auth("auth/ap/login", role_id="other", secret_id=other["secret_id"])
        assert await ask.keys("auth/ap/role") == ["web", "web2"]


async def test_fields_are_shown_by_the_names_that_they_were_set_by(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        await ask.post(f"{ROLE}/policies", policies=["p"])
        assert await ask.get(f"{ROLE}/policies") == {"policies": ["p"], "token_policies": ["p"]}
        await ask.post(f"{ROLE}/period", period="1h")
        assert await ask.get(f"{ROLE}/period") == {"period": 3600, "token_period": 3600}


@pytest.mark.parametrize(
    ("path", "field", "value", "reset"),
    [
        ("policies", "token_policies", ["p"], []),
        ("secret-id-bound-cidrs", "secret_id_bound_cidrs", ["127.0.0.1/32"], None),
        ("token-bound-cidrs", "token_bound_cidrs", ["127.0.0.0/8"], []),
        ("secret-id-num-uses", "secret_id_num_uses", 7, 0),
        ("secret-id-ttl", "secret_id_ttl", 600, 0),
        ("token-num-uses", "token_num_uses", 3, 0),
        ("token-ttl", "token_ttl", 300, 0),
        ("token-max-ttl", "token_max_ttl", 3600, 0),
        ("period", "token_period", 60, 0),
    ],
)
async def test_each_field_has_a_path_of_its_own(tmp_path, path, field, value, reset) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        await ask.post(f"{ROLE}/{path}", **{field: value})
        assert await ask.get(f"{ROLE}/{path}") == {field: value}
        assert (await ask.get(ROLE))[field] == value
        await ask.delete(f"{ROLE}/{path}")
        assert await ask.get(f"{ROLE}/{path}") == {field: reset} or path == "policies"
        assert (await ask.refused(f"{ROLE}/{path}")).message == f"missing {field}"
        assert isinstance(await ask.refused(f"auth/ap/role/nope/{path}", **{field: value}), NotFound)


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (ROLE, {"bind_secret_id": False}, "at least one constraint should be enabled on the role"),
        (ROLE, {"secret_id_num_uses": -1}, "secret_id_num_uses cannot be negative"),
        (ROLE, {"local_secret_ids": True}, "can only be modified during role creation"),
        ("auth/ap/role/other", {"role_id": "web-id"}, "role_id already in use"),
        ("auth/ap/role/n o", {}, "invalid role name"),
        (f"{ROLE}/secret-id", {"ttl": "2h"}, "ttl cannot be longer than the role's secret_id_ttl"),
        (f"{ROLE}/secret-id", {"ttl": 0}, "ttl cannot be longer than the role's secret_id_ttl"),
        (f"{ROLE}/secret-id", {"num_uses": 9}, "num_uses cannot be higher"),
        (f"{ROLE}/secret-id", {"num_uses": 0}, "num_uses cannot be higher"),
        (f"{ROLE}/secret-id", {"metadata": "zz"}, "failed to parse metadata"),
        (f"{ROLE}/secret-id", {"cidr_list": "zz"}, "cidr_list"),
        (f"{ROLE}/custom-secret-id", {}, "missing secret_id"),
        (f"{ROLE}/secret-id/lookup", {}, "missing secret_id"),
        (f"{ROLE}/secret-id-accessor/destroy", {}, "missing secret_id_accessor"),
        ("auth/ap/login", {}, "missing role_id"),
        ("auth/ap/login", {"role_id": "web-id"}, "missing secret_id"),
        ("auth/ap/login", {"role_id": "web-id", "secret_id": "x" * 5000}, INVALID),
        ("auth/ap/login", {"role_id": "nope", "secret_id": "x"}, INVALID),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core, secret_id_ttl="1h", secret_id_num_uses=3)
        error = await ask.refused(path, **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_what_is_not_there(tmp_path) -> None:
    """As recorded: a lookup of nothing is an empty answer, and so is its destruction."""
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        assert (await ask.post(f"{ROLE}/secret-id/lookup", secret_id="nope")).status == 204
        assert (await ask.post(f"{ROLE}/secret-id/destroy", secret_id="nope")).status == 204
        for path in ("lookup", "destroy"):
            error = await ask.refused(f"{ROLE}/secret-id-accessor/{path}", secret_id_accessor="no/pe")
            assert isinstance(error, NotFound)
        assert isinstance(await ask.refused(f"{ROLE}/secret-id", Operation.LIST), NotFound)
        assert (await ask.refused("auth/ap/role/nope/secret-id")).message == 'role "nope" does not exist'


async def test_destroyed_by_itself_or_by_its_accessor(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        first, second = await make(ask), await make(ask)
        assert sorted(await ask.keys(f"{ROLE}/secret-id")) == sorted(
            [first["secret_id_accessor"], second["secret_id_accessor"]]
        )
        await ask.post(f"{ROLE}/secret-id/destroy", secret_id=first["secret_id"])
        await ask.post(f"{ROLE}/secret-id-accessor/destroy", secret_id_accessor=second["secret_id_accessor"])
        for made in (first, second):
            error = await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
            assert error.message == INVALID
        assert isinstance(await ask.refused(f"{ROLE}/secret-id", Operation.LIST), NotFound)


async def test_a_custom_secret_id_is_kept_once(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        await ask.post(f"{ROLE}/custom-secret-id", secret_id="mine")
        assert (
            "already registered" in (await ask.refused(f"{ROLE}/custom-secret-id", secret_id="mine")).message
        )
        await login(ask, "mine")


async def test_uses_run_out_however_many_ask_at_once(tmp_path) -> None:
    """Each use is one write with its token, so no two can spend the same one, whoever read the count meanwhile."""
    async with opened(tmp_path) as core:
        ask = await with_role(core, secret_id_num_uses=3)
        let_all_read_before_any_writes(core)
        secret_id = (await make(ask))["secret_id"]
        answers = await asyncio.gather(*(login(ask, secret_id) for _ in range(12)), return_exceptions=True)
        given = [answer for answer in answers if isinstance(answer, dict)]
        assert len(given) == 3
        assert len({auth["client_token"] for auth in given}) == 3
        assert {str(answer) for answer in answers if not isinstance(answer, dict)} == {INVALID}
        assert (await ask.post(f"{ROLE}/secret-id/lookup", secret_id=secret_id)).status == 204


async def test_a_secret_id_ends_with_its_ttl(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        made = await make(ask, ttl="3s")
        await login(ask, made["secret_id"])
        async with asyncio.timeout(PATIENCE_S):
            while (await ask.post(f"{ROLE}/secret-id/lookup", secret_id=made["secret_id"])).status == 200:
                await asyncio.sleep(0.05)
        error = await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
        assert error.message == INVALID


async def test_networks(tmp_path) -> None:
    """The pipeline's caller is 127.0.0.1."""
    async with opened(tmp_path) as core:
        ask = await with_role(core, secret_id_bound_cidrs="127.0.0.0/8")
        assert "not a subset" in (await ask.refused(f"{ROLE}/secret-id", cidr_list="10.0.0.0/8")).message
        made = await make(ask, cidr_list="127.0.0.9/32", token_bound_cidrs="127.0.0.0/8")
        error = await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
        assert "unauthorized by CIDR restrictions on the secret ID" in error.message
        made = await make(ask, cidr_list="127.0.0.1/32", token_bound_cidrs="127.0.0.0/8")
        assert await login(ask, made["secret_id"])
        await ask.post(ROLE, secret_id_bound_cidrs="10.0.0.0/8")
        error = await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
        assert "on the role" in error.message
        await ask.post(ROLE, secret_id_bound_cidrs=[], token_bound_cidrs="10.0.0.0/8")
        made = await make(ask)
        error = await ask.refused("auth/ap/login", role_id="web-id", secret_id=made["secret_id"])
        assert isinstance(error, PermissionDenied)


async def test_a_role_without_secret_id_needs_a_network(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core, bind_secret_id=False, secret_id_bound_cidrs="127.0.0.1/32")
        assert await ask.by(None).auth("auth/ap/login", role_id="web-id")
        assert (await ask.refused(f"{ROLE}/secret-id")).message == "bind_secret_id is not set on the role"


async def test_a_renewal_follows_the_role_as_it_is_now(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core, token_ttl="10m", token_max_ttl="1h")
        own = ask.by((await login(ask, (await make(ask))["secret_id"]))["client_token"])
        await ask.post(ROLE, token_ttl="20m", token_max_ttl="30m")
        assert (await own.auth("auth/token/renew-self"))["lease_duration"] == 1200
        assert (await own.auth("auth/token/renew-self", increment="2h"))["lease_duration"] <= 1800
        await ask.delete(ROLE)
        assert "does not exist during renewal" in (await own.refused("auth/token/renew-self")).message


async def test_secret_ids_are_known_by_keyed_digests_only(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = await with_role(core)
        made = await make(ask)
        await login(ask, made["secret_id"])
        assert made["secret_id"] not in core.settings.audit_files[0].read_text()
        mount = core.unsealed.mount_for("auth/ap/")
        assert mount is not None
        kept = " ".join(core.unsealed.reads.entry_scan(mount.mount_id, ""))
        assert made["secret_id"] not in kept
        assert "secret-id/web/" in kept
