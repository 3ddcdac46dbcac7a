"""sys/policies/explain: the same answer as a real request, and why."""

import pytest
from support.asking import Asker
from support.corefixture import call, new_token, opened

from node.core.request import Operation
from node.errors import NodeError, PermissionDenied

TEXT = """
path "secret/data/*" { capabilities = ["read", "update"] }
path "secret/data/+/x" { capabilities = ["read"] }
path "secret/data/no" { capabilities = ["deny"] }
path "secret/data/only" {
    capabilities = ["create", "update"]
    allowed_parameters = { "data" = [] }
}
path "sys/auth/*" { capabilities = ["update"] }
path "sys/policy/*" { capabilities = ["read"] }
path "sys/policies/acl/admin" { capabilities = ["deny"] }
"""

ASKED = [
    (Operation.READ, "secret/data/a", {}, True, "secret/data/*", "grants read"),
    (Operation.DELETE, "secret/data/a", {}, False, "secret/data/*", "does not grant delete"),
    (Operation.READ, "secret/data/b/x", {}, True, "secret/data/+/x", "grants read"),
    (Operation.UPDATE, "secret/data/b/x", {}, False, "secret/data/+/x", "does not grant update"),
    (Operation.READ, "secret/data/no", {}, False, "secret/data/no", "the most specific rule denies"),
    (Operation.CREATE, "secret/data/only", {"data": {}}, True, "secret/data/only", "grants create"),
    (
        Operation.CREATE,
        "secret/data/only",
        {"options": {}},
        False,
        "secret/data/only",
        "the parameters are not",
    ),
    (Operation.READ, "sys/policy/Admin", {}, False, "sys/policy/*", "another spelling"),
    (Operation.READ, "elsewhere/a", {}, False, "", "no rule matches this path"),
    (Operation.UPDATE, "sys/auth/x", {"type": "userpass"}, False, "sys/auth/*", "needs sudo"),
]


@pytest.mark.parametrize(("operation", "path", "data", "allowed", "pattern", "reason"), ASKED)
async def test_what_it_says_is_what_happens(
    tmp_path, operation, path, data, allowed, pattern, reason
) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        token = await new_token(core, policy=TEXT)
        asked = {"operation": operation.value, "path": path, "data": data, "token": token}
        told = (await ask.post("sys/policies/explain", **asked)).data
        assert told is not None
        assert (told["allowed"], told["deciding_path"]) == (allowed, pattern)
        assert reason in told["reason"]
        assert {rule["path"] for rule in told["deciding_rules"]} == ({pattern} if pattern else set())
        assert pattern not in {rule["path"] for rule in told["other_matching_rules"]}
        real = Operation.UPDATE if operation is Operation.CREATE else operation
        try:
            await call(core, real, path, data, token=token)
            refused = False
        except PermissionDenied:
            refused = True
        except NodeError:
            refused = False
        assert refused is not allowed


async def test_policies_that_nobody_has_yet_can_be_tried(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.policy("one", 'path "secret/*" { capabilities = ["read"] }')
        await ask.policy("two", 'path "secret/*" { capabilities = ["deny"] }')
        asked = {"operation": "read", "path": "/v1/secret/data/a", "policies": ["one", "two", "nope"]}
        told = (await ask.post("sys/policies/explain", **asked)).data
        assert told is not None
        assert told["allowed"] is False
        assert told["unknown_policies"] == ["nope"]
        assert [(rule["policy"], rule["capabilities"]) for rule in told["deciding_rules"]] == [
            ("one", ["read"]),
            ("two", ["deny"]),
        ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"path": "a"}, "operation must be one of"),
        ({"operation": "read"}, "missing path"),
        ({"operation": "read", "path": "a/../b"}, "no empty or relative segments"),
        ({"operation": "read", "path": "a", "token": "zz"}, "no such token"),
        ({"operation": "read", "path": "a", "token": "zz", "policies": "x"}, "only one of"),
    ],
)
async def test_refusals(tmp_path, asked, message) -> None:
    async with opened(tmp_path) as core:
        assert message in (await Asker(core).refused("sys/policies/explain", **asked)).message
