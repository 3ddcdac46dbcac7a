"""Who may do what: the same answers as a real server's, and the corners that it does not show."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import call, new_token, opened

from node.core.request import Operation
from node.errors import PermissionDenied
from node.policy.acl import ACL, ROOT_ACL
from node.policy.parse import parse

# Answers of OpenBao 2.7.2, asked over HTTP. The one difference that is meant: it never finds a number of a
# request equal to a number of a policy; here 1 is 1 (see test_numbers_are_compared).
RECORDED = json.loads(Path(__file__).with_name("acl_recorded.json").read_text())
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
NUMBER_IN_POLICY = {"bar": 1}


def compiled(*texts: str) -> ACL:
    return ACL([parse(f"p{number}", text) for number, text in enumerate(texts)])


def rule(path: str, *capabilities: str) -> str:
    return f'path "{path}" {{ capabilities = {json.dumps(capabilities)} }}\n'


@pytest.mark.parametrize("case", RECORDED["capabilities"], ids=lambda case: str(case["name"]))
def test_capabilities_as_recorded(case: dict[str, Any]) -> None:
    acl = compiled(*case["policies"])
    answers = {path: acl.capabilities(path.lstrip("/")) for path in RECORDED["paths"]}
    assert answers == {path: case["granted"].get(path, ["deny"]) for path in RECORDED["paths"]}


@pytest.mark.parametrize("case", RECORDED["parameters"], ids=lambda case: str(case["name"]))
def test_parameters_as_recorded(case: dict[str, Any]) -> None:
    acl = compiled(*case["policies"])
    for data, allowed in zip(RECORDED["data"], case["allowed"], strict=True):
        if case["name"] == "allowed" and data == NUMBER_IN_POLICY:
            continue
        assert acl.allows(Operation.UPDATE, "kv1/p", data, sudo=False) == bool(allowed), data


def test_numbers_are_compared() -> None:
    """A denied number is denied; true is no 1."""
    acl = compiled('path "a" { capabilities = ["update"]\n denied_parameters = { "n" = [1], "b" = [true] } }')
    for data, allowed in [({"n": 1}, False), ({"n": 1.0}, False), ({"n": 2}, True), ({"n": True}, True),
                          ({"b": True}, False), ({"b": 1}, True), ({"n": "1"}, True)]:  # fmt: skip
        assert acl.allows(Operation.UPDATE, "a", data, sudo=False) is allowed, data


def test_every_operation_needs_its_own_capability() -> None:
    for granted in set(Operation) - {Operation.HELP}:
        acl = compiled(rule("a/*", granted.value))
        allowed = {operation for operation in Operation if acl.allows(operation, "a/b", {}, sudo=False)}
        assert allowed == {granted}


def test_no_policy_grants_nothing_and_root_everything() -> None:
    for operation in Operation:
        assert not compiled().allows(operation, "a", {}, sudo=False)
        assert ROOT_ACL.allows(operation, "a", {"x": 1}, sudo=True)
    assert compiled().capabilities("a") == ["deny"]
    assert ROOT_ACL.capabilities("a") == ["root"]


def test_sudo_is_asked_for_on_top() -> None:
    acl = compiled(rule("plain", "update"), rule("high", "update", "sudo"), rule("only", "sudo"))
    assert not acl.allows(Operation.UPDATE, "plain", {}, sudo=True)
    assert acl.allows(Operation.UPDATE, "high", {}, sudo=True)
    assert not acl.allows(Operation.UPDATE, "only", {}, sudo=True)
    assert [acl.has_sudo(path) for path in ("plain", "high", "only", "none")] == [False, True, True, False]


@pytest.mark.parametrize(
    ("path", "pattern", "listed"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", True),
        ("a/b/", "a/b", True),
        ("a/b", "a/b/*", True),
        ("a/b", "a/+", True),
        ("a/b", "a/+/", True),
        ("a/b", "a/c", False),
        ("a/bc", "a/b/*", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_a_folder_is_listed_however_it_is_spelled(path: str, pattern: str, listed: bool) -> None:
    acl = compiled(rule(pattern, "list", "scan"))
    assert acl.allows(Operation.LIST, path, {}, sudo=False) is listed
    assert acl.allows(Operation.SCAN, path, {}, sudo=False) is listed


def test_a_trailing_slash_is_another_path_for_everything_but_lists() -> None:
    acl = compiled(rule("a/b", "read", "update"))
    assert not acl.allows(Operation.READ, "a/b/", {}, sudo=False)
    assert not acl.allows(Operation.UPDATE, "a/b/", {}, sudo=False)


def test_parameters_do_not_concern_lists_and_deletes() -> None:
    acl = compiled('path "a" { capabilities = ["list", "delete", "read"]\n required_parameters = ["x"] }')
    assert acl.allows(Operation.LIST, "a", {}, sudo=False)
    assert acl.allows(Operation.DELETE, "a", {}, sudo=False)
    assert not acl.allows(Operation.READ, "a", {}, sudo=False)


def test_the_order_of_policies_never_matters() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    patterns = ["a", "a/", "a/*", "a/b", "a/b*", "a/+", "+/b", "a/+/c", "a/+/*", "+/+/c", "*", "a/b/c"]
    paths = ["a", "a/", "a/b", "a/b/", "a/bc", "a/b/c", "b/b", "x/y/c", "a/b/c/d"]
    for _ in range(200):
        names = ["read", "list", "update", "sudo", "deny"]
        texts = [rule(draw.choice(patterns), *draw.sample(names, draw.choice([1, 1, 2]))) for _ in range(6)]
        first = compiled(*texts)
        draw.shuffle(texts)
        second, merged = compiled(*texts), compiled("".join(texts))
        for path in paths:
            assert first.capabilities(path) == second.capabilities(path) == merged.capabilities(path), texts


DRAWER = """
path "secret/data/team/*" { capabilities = ["create", "update", "read"] }
path "secret/data/team/closed" { capabilities = ["deny"] }
path "secret/metadata/team/*" { capabilities = ["list"] }
"""


def test_where_names_of_a_folder_are_decided_alike_they_are() -> None:
    """Whatever the rules: a folder is only taken for uniform where allows() says the same of every name in it."""
    print("seed", SEED)
    rng, names, alike = random.Random(SEED), ("a", "b", "ab", "x-1"), 0
    for _ in range(2000):
        patterns = {
            "/".join(rng.choice(["a", "b", "ab", "+"]) for _ in range(rng.randint(1, 4)))
            + rng.choice(["", "/", "*", "/*"])
            for _ in range(rng.randint(0, 4))
        }
        acl = compiled(
            *(
                rule(each, rng.choice(["read", "deny", "list"]))
                for each in sorted(patterns)
                if "+*" not in each
            )
        )
        folder = "".join(f"{rng.choice(names[:3])}/" for _ in range(rng.randint(1, 3)))
        if acl.decides_alike(folder):
            alike += 1
            said = {name: acl.allows(Operation.READ, folder + name, {}, sudo=False) for name in names}
            assert len(set(said.values())) == 1, (patterns, folder, said)
    assert alike > 500, "too few to mean anything"


@pytest.mark.parametrize(
    ("pattern", "alike"),
    [
        *[
            ("kv/*", True),
            ("kv/data/a/*", True),
            ("kv/data/*", True),
            ("other/x", True),
            ("kv/data/a/b/*", False),
        ],
        *[("kv/data/a/b", False), ("kv/data/a/b*", False), ("kv/data/a", True), ("kv/data/a/b/c", False)],
        *[("kv/+/a/*", True), ("+/data/+/+", True), ("kv/+/a/b", False), ("kv/+/b/c", True), ("kv/+", True)],
    ],
)
def test_a_rule_that_names_something_in_a_folder_tells_its_names_apart(pattern: str, alike: bool) -> None:
    assert compiled(rule(pattern, "read")).decides_alike("kv/data/a/") is alike


async def test_the_pipeline_asks_the_policies(tmp_path) -> None:
    """What a token may do in the KV engine is what its policies say, and nothing more."""
    async with opened(tmp_path) as core:
        token = await new_token(core, policy=DRAWER)
        written = {"data": {"x": "1"}}
        await call(core, Operation.UPDATE, "secret/data/team/a", written, token=token)
        assert (await call(core, Operation.READ, "secret/data/team/a", token=token)).status == 200
        listing = await call(core, Operation.LIST, "secret/metadata/team", token=token)
        assert listing.data == {"keys": ["a"]}
        for operation, path, data in [
            (Operation.UPDATE, "secret/data/team/closed", written),
            (Operation.UPDATE, "secret/data/other", written),
            (Operation.DELETE, "secret/data/team/a", None),
            (Operation.LIST, "secret/metadata", None),
            (Operation.READ, "secret/data/Team/a", None),
            (Operation.READ, "sys/policies/acl/default", None),
            (Operation.READ, "nowhere/at/all", None),
        ]:
            with pytest.raises(PermissionDenied):
                await call(core, operation, path, data, token=token)


async def test_create_and_update_are_different_rights(tmp_path) -> None:
    async with opened(tmp_path) as core:
        creator = await new_token(core, policy=rule("secret/data/*", "create"))
        updater = await new_token(core, policy=rule("secret/data/*", "update"))
        written = {"data": {"x": "1"}}
        with pytest.raises(PermissionDenied):
            await call(core, Operation.UPDATE, "secret/data/a", written, token=updater)
        await call(core, Operation.UPDATE, "secret/data/a", written, token=creator)
        with pytest.raises(PermissionDenied):
            await call(core, Operation.UPDATE, "secret/data/a", written, token=creator)
        await call(core, Operation.UPDATE, "secret/data/a", written, token=updater)


async def test_capabilities_over_the_api(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policy=DRAWER + rule("sys/capabilities-self", "update"))
        asked = {"paths": ["secret/data/team/a", "secret/data/team/closed", "/secret/metadata/team/"]}
        want = {
            "secret/data/team/a": ["create", "read", "update"],
            "secret/data/team/closed": ["deny"],
            "/secret/metadata/team/": ["list"],
        }
        assert (await call(core, Operation.UPDATE, "sys/capabilities-self", asked, token=token)).data == want
        response = await call(core, Operation.UPDATE, "sys/capabilities", {"path": "x", "token": token})
        assert response.data == {"x": ["deny"], "capabilities": ["deny"]}
        looked_up = await call(core, Operation.UPDATE, "auth/token/lookup", {"token": token})
        assert looked_up.data is not None
        by_accessor = {"accessor": looked_up.data["accessor"], "paths": "secret/data/team/closed,sys/x"}
        response = await call(core, Operation.UPDATE, "sys/capabilities-accessor", by_accessor)
        assert response.data == {"secret/data/team/closed": ["deny"], "sys/x": ["deny"]}
        response = await call(core, Operation.UPDATE, "sys/capabilities-self", {"path": "x"})
        assert response.data == {"x": ["root"], "capabilities": ["root"]}
