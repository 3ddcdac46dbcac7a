"""A request that is repeated under its identity, as its answer was lost, is carried out once and answered alike."""

import uuid
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import call, opened

from node.core.core import Core
from node.core.request import Operation, Response
from node.errors import InvalidRequest

ROLE = "auth/ap/role/web"


async def twice(
    core: Core, path: str, data: dict[str, Any], meanwhile: Any = None
) -> tuple[Response, Response]:
    """The same request two times, with something else between them."""
    identity = uuid.uuid4().bytes
    first = await call(core, Operation.UPDATE, path, dict(data), request_id=identity)
    if meanwhile is not None:
        await meanwhile()
    return first, await call(core, Operation.UPDATE, path, dict(data), request_id=identity)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("identity/entity", {"name": "e"}),
        ("identity/entity", {"name": "e", "policies": "p"}),
        ("identity/group", {"name": "g"}),
        (f"{ROLE}/secret-id", {}),
        (f"{ROLE}/custom-secret-id", {"secret_id": "mine"}),
        ("auth/token/create/r", {"entity_alias": "web"}),
    ],
)
async def test_what_was_made_is_made_once(tmp_path, path, data) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        await ask.post(ROLE)
        await ask.post("auth/token/roles/r", allowed_policies="default", allowed_entity_aliases="*")
        first, second = await twice(core, path, data)
        assert (second.status, second.data) == (first.status, first.data)
        assert (second.auth or {}).get("client_token") == (first.auth or {}).get("client_token")
        if "secret-id" in path:
            assert len(await ask.keys(f"{ROLE}/secret-id")) == 1


@pytest.mark.parametrize("kind", ["entity-alias", "group-alias"])
async def test_aliases_are_made_once(tmp_path, kind) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        accessor = (await ask.get("sys/auth/ap"))["accessor"]
        first, second = await twice(core, f"identity/{kind}", {"name": "a", "mount_accessor": accessor})
        assert second.data == first.data
        assert len(await ask.keys(f"identity/{kind}/id")) == 1


async def test_a_repeated_change_does_not_undo_a_later_one(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        await ask.post(ROLE, token_policies="old")
        await ask.post("identity/entity/name/e", policies="old")

        async def later() -> None:
            await ask.post(ROLE, token_policies="newest")
            await ask.post("identity/entity/name/e", policies="newest")

        await twice(core, ROLE, {"token_policies": "new"}, later)
        assert (await ask.get(ROLE))["token_policies"] == ["newest"]
        await twice(core, "identity/entity/name/e", {"policies": "new"}, later)
        assert (await ask.get("identity/entity/name/e"))["policies"] == ["newest"]


async def test_a_secret_id_for_one_log_in_is_good_for_the_same_answer_again(tmp_path) -> None:
    """It is used up, and its answer may be lost; nobody else gets it, and under another identity nobody does."""
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        await ask.post("auth/ap/role/r", role_id="r", secret_id_num_uses=1, token_num_uses=3)
        made = (await ask.post("auth/ap/role/r/secret-id")).data
        assert made is not None
        proof = {"role_id": "r", "secret_id": made["secret_id"]}
        first, again = await twice(core, "auth/ap/login", proof)
        assert first.auth is not None
        assert again.auth is not None
        assert first.auth["client_token"] == again.auth["client_token"]
        assert "invalid role or secret ID" in (await ask.by(None).refused("auth/ap/login", **proof)).message
        identity = uuid.uuid4().bytes
        await ask.post("auth/ap/role/r/custom-secret-id", secret_id="one")
        for secret_id, told in (("one", True), ("two", False), ("one", True)):
            data = {"role_id": "r", "secret_id": secret_id}
            asked = call(core, Operation.UPDATE, "auth/ap/login", data, token=None, request_id=identity)
            if told:
                assert (await asked).auth is not None
            else:
                with pytest.raises(InvalidRequest):
                    await asked


async def test_two_logins_under_one_identity_are_not_one(tmp_path) -> None:
    """Whoever learns the identity of somebody else's login gets nothing by it."""
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        made = []
        for name in ("bob", "eve"):
            await ask.post(f"auth/ap/role/{name}", role_id=name, token_policies=name)
            made.append((await ask.post(f"auth/ap/role/{name}/secret-id")).data)
        identity = uuid.uuid4().bytes
        tokens = []
        for name, secret in zip(("bob", "eve"), made, strict=True):
            assert secret is not None
            data = {"role_id": name, "secret_id": secret["secret_id"]}
            try:
                answer = await call(
                    core, Operation.UPDATE, "auth/ap/login", data, token=None, request_id=identity
                )
            except Exception as error:
                tokens.append(type(error).__name__)
            else:
                assert answer.auth is not None
                tokens.append(answer.auth["client_token"])
        assert tokens[0].startswith("s.")
        assert tokens[1] == "OutcomeUnknown"
