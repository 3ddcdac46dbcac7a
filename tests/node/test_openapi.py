"""`?help=1` and the OpenAPI document: they speak of what the tables have, to whoever may know it."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.corefixture import assert_declared, call, new_token, opened

from node.core.core import Core
from node.core.fields import Field, Kind, Place, of_struct
from node.core.openapi import JSON, answered
from node.core.request import Operation, Response
from node.core.router import Route
from node.errors import InvalidRequest, NotFound, PermissionDenied, Sealed

HELP, READ, UPDATE = Operation.HELP, Operation.READ, Operation.UPDATE


@pytest.fixture
async def core(tmp_path: Path) -> Any:
    async with opened(tmp_path) as made:
        yield made


def listed(core: Core) -> list[Route]:
    tables = [core.system, *core.engines.values()]
    return [route for table in tables for route in table.routes if route.listed]


async def document(core: Core, **options: Any) -> dict[str, Any]:
    response = await call(core, READ, "sys/internal/specs/openapi", **options)
    assert response.data is not None
    return response.data


async def test_every_route_says_what_it_is_for_and_means_its_own_parameters(core: Core) -> None:
    for route in listed(core):
        assert route.summary, route.pattern
        named = {each.name for each in route.fields if each.place is Place.PATH}
        assert named <= set(re.findall(r"\{([^}.]+)", route.pattern)), route.pattern
        assert set(route.answers) <= set(route.handlers), route.pattern


# Of what this server does not have there is nothing to read.
ABSENT = {
    "sys/config/ui/headers/{name}",
    "sys/config/auditing/request-headers/{name}",
    "sys/quotas/rate-limit/{name}",
    "sys/namespaces/{path...}",
}


async def test_what_is_read_is_described_and_no_member_is_described_twice(core: Core) -> None:
    for route in listed(core):
        for operation in route.handlers:
            names = [each.name for each in answered(route, operation)]
            assert len(names) == len(set(names)), f"{operation} {route.pattern}"
            if operation is READ and route.media_type == JSON and route.pattern not in ABSENT:
                assert names, f"nothing says what {route.pattern} answers"


async def test_an_answer_that_is_not_as_described_is_noticed(core: Core) -> None:
    """The check that every other test of this folder makes of every answer that it gets."""
    match = core.system.match("sys/key-status")
    assert match is not None
    good = {"term": 1, "install_time": "", "encryptions": None}
    assert_declared(match.route, READ, Response(data=dict(good)))
    for bad in ({"term": "1"}, {"more": 1}):
        with pytest.raises(AssertionError):
            assert_declared(match.route, READ, Response(data=good | bad))
    with pytest.raises(AssertionError):
        assert_declared(match.route, READ, Response(data=dict(good), auth={"client_token": "t"}))
    nested = core.system.match("sys/storage/raft/configuration")
    assert nested is not None
    with pytest.raises(AssertionError):
        assert_declared(nested.route, READ, Response(data={"config": {"servers": [{"voter": "yes"}]}}))


class Inner(msgspec.Struct):
    word: str
    count: int | None = None


class Outer(msgspec.Struct):
    one: Inner
    many: tuple[Inner, ...] = ()
    names: tuple[str, ...] = ()
    ratio: float = 0.0


def test_members_follow_from_a_structure() -> None:
    inner = (Field("word", Kind.STRING), Field("count", Kind.INTEGER))
    assert of_struct(Outer) == (
        Field("one", Kind.OBJECT, members=inner),
        Field("many", Kind.OBJECTS, members=inner),
        Field("names", Kind.STRINGS),
        Field("ratio", Kind.NUMBER),
    )


async def test_the_document_says_what_is_inside_of_objects(core: Core) -> None:
    operation = (await document(core))["paths"]["/sys/storage/raft/configuration"]["get"]
    success = operation["responses"]["200"]["content"]["application/json"]["schema"]
    data = success["allOf"][1]["properties"]["data"]
    servers = data["properties"]["config"]["properties"]["servers"]
    assert set(servers["items"]["properties"]) == {
        "node_id",
        "address",
        "protocol_version",
        "leader",
        "voter",
    }


async def test_the_document_has_every_route_of_every_mount(core: Core) -> None:
    found = await document(core)
    for path in ("/sys/health", "/secret/data/{path}", "/secret/metadata/{path}", "/auth/token/create"):
        assert path in found["paths"], path
    item = found["paths"]["/secret/data/{path}"]
    assert set(item) >= {"get", "post", "patch", "delete"}
    body = item["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(body) == {"data", "options"}
    assert [each["name"] for each in item["get"]["parameters"]] == ["version"]
    both = found["paths"]["/secret/metadata/{path}"]["get"]["parameters"]
    assert {"list", "scan"} <= {each["name"] for each in both if not each["required"]}
    only = found["paths"]["/sys/policies/acl"]["get"]["parameters"]
    assert [(each["name"], each["required"]) for each in only] == [("list", True)]
    names = [
        operation["operationId"]
        for each in found["paths"].values()
        for operation in each.values()
        if isinstance(operation, dict)
    ]
    assert len(names) == len(set(names))


async def test_mounts_are_shown_to_those_who_reach_them(core: Core) -> None:
    token = await new_token(core, policy='path "other/*" { capabilities = ["read"] }')
    for known in (await document(core, token=token), await document(core, token=None)):
        assert "/sys/health" in known["paths"]
        assert not [path for path in known["paths"] if path.startswith("/secret/")]
    generic = await document(core, query={"generic_mount_paths": "true"})
    assert "/{kv_mount_path}/data/{path}" in generic["paths"]


async def test_help_names_parameters(core: Core) -> None:
    response = await call(core, HELP, "secret/data/anything")
    assert response.data is not None
    text = response.data["help"]
    assert "Matching Route: data/{path...}" in text
    assert "version (int)" in text
    assert set(response.data["openapi"]["paths"]) == {"/data/{path}"}
    mount = await call(core, HELP, "secret")
    assert mount.data is not None
    assert "destroy/{path...}" in mount.data["help"]
    system = await call(core, HELP, "sys")
    assert system.data is not None
    assert "sys/rekey/init" in system.data["help"]


async def test_help_is_for_every_token_and_nobody_else(core: Core) -> None:
    token = await new_token(core, policy='path "none" { capabilities = ["read"] }')
    assert (await call(core, HELP, "sys/rotate", token=token)).status == 200
    with pytest.raises(PermissionDenied):
        await call(core, HELP, "sys/health", token=None)
    with pytest.raises(NotFound, match="no handler for route"):
        await call(core, HELP, "nowhere/at/all")
    await core.lifecycle.seal()
    with pytest.raises(Sealed):
        await call(core, HELP, "sys/health", token=token)


async def test_a_body_of_the_wrong_type_never_reaches_a_handler(core: Core) -> None:
    """Every declared field of every route of the system, with what it cannot be."""
    tried = 0
    for route in core.system.routes:
        path = re.sub(r"\{[^}]+\}", "x", route.pattern)
        match = core.system.match(path)
        if match is None or UPDATE not in match.route.handlers or not match.route.authenticated:
            continue
        for each in match.route.fields:
            if each.place is Place.BODY and each.kind.value not in ("any", "object", "string map"):
                tried += 1
                with pytest.raises(InvalidRequest, match=each.name):
                    await call(core, UPDATE, path, {each.name: {"an": "object"}})
    assert tried > 20
