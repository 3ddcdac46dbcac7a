"""Policies as text: what parses, what is refused and how it is said."""

import contextlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.corefixture import call, new_token, opened

from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied
from node.policy.default import DEFAULT_POLICY
from node.policy.parse import (
    CREATE,
    DELETE,
    DENY,
    LIST,
    POLICY_BYTES_MAX,
    READ,
    SUDO,
    UPDATE,
    Pattern,
    PolicyError,
    parse,
    policy_name,
)

FULL = """
# the team's own drawer
path "secret/data/team/*" {
  comment = "by hand"
  capabilities = ["create", "update",]   // trailing comma
  required_parameters = ["Data"]
  allowed_parameters = { "data" = [], "ttl" = ["1*", 60, true] }
  denied_parameters { "Options" = ["cas"] }
  min_wrapping_ttl = "1h"
  max_wrapping_ttl = 7200
}
/* old
   style */
path "old/+/x" { policy = "write" }
path "/closed" { capabilities = ["read", "deny"] }
"""


def test_hcl() -> None:
    team, old, closed = parse("p", FULL).rules
    assert (team.path, team.pattern, team.capabilities) == (
        "secret/data/team/",
        Pattern.PREFIX,
        CREATE | UPDATE,
    )
    assert team.required == ("data",)
    assert team.allowed == {"data": (), "ttl": ("1*", 60, True)}
    assert team.denied == {"options": ("cas",)}
    assert (team.min_wrapping_ttl_ns, team.max_wrapping_ttl_ns) == (3600 * 10**9, 7200 * 10**9)
    assert (old.path, old.pattern) == ("old/+/x", Pattern.SEGMENTS)
    assert old.capabilities == CREATE | READ | UPDATE | DELETE | LIST
    assert (closed.path, closed.pattern, closed.capabilities) == ("closed", Pattern.EXACT, DENY)


@pytest.mark.parametrize(
    "text",
    [
        '{"path": {"a/*": {"capabilities": ["read"]}, "b": {"policy": "sudo"}}}',
        '{"path": [{"a/*": {"capabilities": ["read"]}}, {"b": [{"policy": "sudo"}]}], "name": "ignored"}',
        '\n name = "ignored"\n path "a/*" { capabilities = ["read"] } path b { "policy" = "sudo" }',
    ],
)
def test_json_and_hcl_mean_the_same(text: str) -> None:
    rules = parse("p", text).rules
    assert [(rule.path, rule.pattern) for rule in rules] == [("a/", Pattern.PREFIX), ("b", Pattern.EXACT)]
    assert rules[0].capabilities == READ
    assert rules[1].capabilities & SUDO


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path "x" { capabilities = ["nope"] }', 'path "x": path "x": invalid capability "nope"'),
        ('path "x" { capabilities = ["READ"] }', 'path "x": path "x": invalid capability "READ"'),
        ('path "x" { policy = "nope" }', 'path "x": path "x": invalid policy "nope"'),
        ('path "x" { foo = 1 }', 'path "x": invalid key "foo"'),
        ("x = 1", 'invalid key "x"'),
        ('path "a/+*" {}', "path \"a/+*\": path \"a/+*\": invalid use of wildcards ('+*' is forbidden)"),
        ('path "a" {\n  capabilities = ["read"', "unexpected end of text, expected"),
        ('path "a" {\n  oops\n}', 'unexpected "}" at line 3 column 1'),
        ('path "a" { capabilities = [read] }', 'unexpected "read", expected a value at line 1 column 28'),
        ('path "a" { policy = "read"; }', "illegal character ';' at line 1 column 27"),
        ('path "a" { capabilities = "read" }', 'path "a": "capabilities" must be a list of strings'),
        ('path "a" {\n policy = "deny"\n policy = "read"\n}', 'the argument "policy" is set twice at line 3 column 9'),
        ('{"path": {"a": {"policy": "deny"}, "a": {"policy": "read"}}}', "a key is given twice in one object"),
        ('{"path": {"a": {"policy": "read"}', "Expecting ',' delimiter at line 1 column 34"),
        ('path "a" { min_wrapping_ttl = "2h" max_wrapping_ttl = "1h" }', 'path "a": max_wrapping_ttl cannot be less'),
        ('path "a" { allowed_parameters = { "x" = ["a"], "X" = ["b"] } }', 'path "a": "allowed_parameters" names'),
        ("x" * (POLICY_BYTES_MAX + 1), f"more than {POLICY_BYTES_MAX} bytes"),
    ],
)  # fmt: skip
def test_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse("p", text)
    assert str(caught.value).startswith(f"failed to parse policy: {message}")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        '"a" ' * 15_000,
        'path "a" {' * 6_000,
        '{"path":' * 8_000,
        '{"path":{"a":{"allowed_parameters":{"x":' + "[" * 900 + "]" * 900 + "}}}}",
        'path "a" { allowed_parameters = ' + "[" * 30_000,
        '{"a":' + "9" * 60_000 + "}",
        '"' + "\\" * 65_000,
        "/*" + "*" * 65_000,
        "-" * 65_000,
        "#" * 65_000 + "x",
        '"' + "a" * 65_000,
    ],
)
def test_a_bomb_is_a_policy_error_or_nothing_and_soon(text: str) -> None:
    """Depth, length and backtracking are bounded; ten seconds are far beyond any honest parse."""
    began = time.process_time()
    with contextlib.suppress(PolicyError):
        assert parse("p", text).rules == ()
    assert time.process_time() - began < 10


@given(st.text(alphabet='path "a/*+{}[]=,\\\n#:1.eu\x00', max_size=60))
def test_any_text_parses_or_is_a_policy_error(text: str) -> None:
    with contextlib.suppress(PolicyError):
        parse("p", text)


def test_broken_policies_never_crash_the_parser() -> None:
    """A good text with characters changed, removed and doubled."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(2000):
        text = list(FULL)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(text))
            text[at : at + draw.randint(0, 2)] = draw.choice(
                ["", '"', "{", "}", "[", "]", "=", "\\", "*/", "x"]
            )
        try:
            parse("p", "".join(text))
        except PolicyError:
            continue


@pytest.mark.parametrize(
    "raw",
    [" root", "root ", "root\n", "\troot", "ro ot", "root\x00", "ｒｏｏｔ", "rооt", "roo\u0074\u200b", "\ufeffroot", "",
     "a,b", "x" * 257, "team/", "-x", "..", "K"],
)  # fmt: skip
def test_what_is_no_policy_name(raw: str) -> None:
    """Nothing is stripped or folded into another name: full-width, Cyrillic, zero-width, Kelvin sign."""
    if raw == "K":
        raw = "\u212a"
    with pytest.raises(PolicyError, match="invalid policy name"):
        policy_name(raw)


def test_policy_names_have_one_spelling() -> None:
    assert policy_name("Team_A.read-only/x:1@b+c") == "team_a.read-only/x:1@b+c"


def test_the_default_policy_parses_and_lets_a_token_care_for_itself() -> None:
    paths = {rule.path for rule in parse("default", DEFAULT_POLICY).rules}
    assert paths >= {"auth/token/lookup-self", "auth/token/renew-self", "auth/token/revoke-self",
                     "sys/capabilities-self", "cubbyhole/", "sys/wrapping/unwrap"}  # fmt: skip


READ_A = 'path "a" { policy = "read" }'


async def test_policies_over_the_api(tmp_path) -> None:
    """Both spellings of the API see the same policies, under canonical names."""
    async with opened(tmp_path) as core:
        update, read, delete = Operation.UPDATE, Operation.READ, Operation.DELETE
        assert (await call(core, update, "sys/policies/acl/Team", {"policy": READ_A})).status == 204
        assert (await call(core, read, "sys/policies/acl/team")).data == {"name": "team", "policy": READ_A}
        assert (await call(core, read, "sys/policy/TEAM")).data == {"name": "team", "rules": READ_A}
        assert (await call(core, update, "sys/policy/sl/ash", {"rules": READ_A})).status == 204
        encoded = "cGF0aCAiYSIgeyBwb2xpY3kgPSAicmVhZCIgfQ=="
        assert (await call(core, update, "sys/policies/acl/b64", {"policy": encoded})).status == 204
        assert (await call(core, read, "sys/policies/acl/b64")).data == {"name": "b64", "policy": READ_A}
        names = ["b64", "default", "root", "sl/ash", "team"]
        assert (await call(core, Operation.LIST, "sys/policies/acl")).data == {"keys": names}
        assert (await call(core, read, "sys/policy")).data == {"keys": names, "policies": names}
        for name in ("team", "team", "never-was"):
            assert (await call(core, delete, f"sys/policies/acl/{name}")).status == 204
        with pytest.raises(NotFound):
            await call(core, read, "sys/policies/acl/team")
        assert (await call(core, read, "sys/policies/acl/root")).data == {"name": "root", "policy": ""}


@pytest.mark.parametrize(
    ("operation", "name", "data", "message"),
    [
        (Operation.UPDATE, "ROOT", {"policy": READ_A}, 'cannot update "root" policy'),
        (Operation.DELETE, "Root", None, 'cannot delete "root" policy'),
        (Operation.DELETE, "DEFAULT", None, "cannot delete default policy"),
        (Operation.UPDATE, " root", {"policy": READ_A}, "invalid policy name"),
        (Operation.UPDATE, "ｒoot", {"policy": READ_A}, "invalid policy name"),
        (Operation.UPDATE, "x", {}, "'policy' parameter not supplied or empty"),
        (Operation.UPDATE, "x", {"policy": "path {"}, "failed to parse policy: "),
        (Operation.UPDATE, "x", {"policy": {"path": {}}}, "error converting input"),
    ],
)
async def test_refused_over_the_api(tmp_path, operation, name, data, message) -> None:
    """And nothing is stored."""
    async with opened(tmp_path) as core:
        for api in ("sys/policies/acl", "sys/policy"):
            with pytest.raises(InvalidRequest) as caught:
                await call(core, operation, f"{api}/{name}", data)
            assert caught.value.message.startswith(message)
        assert core.unsealed.reads.policies() == ["default"]


OPERATOR = """
path "sys/policies/acl/*" { capabilities = ["create", "read", "update", "delete"] }
path "sys/policy/*" { capabilities = ["create", "read", "update", "delete"] }
path "sys/policies/acl/admin" { capabilities = ["deny"] }
"""


@pytest.mark.parametrize(
    "path", ["sys/policies/acl/admin", "sys/policies/acl/ADMIN", "sys/policy/admin", "sys/policy/Admin"]
)
async def test_a_denied_policy_is_denied_under_every_spelling(tmp_path, path) -> None:
    """An operator kept from one policy reaches it neither by case nor through the older route."""
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "sys/policies/acl/admin", {"policy": READ_A})
        operator = await new_token(core, policy=OPERATOR)
        for operation, data in [
            (Operation.UPDATE, {"policy": 'path "*" { policy = "sudo" }'}),
            (Operation.READ, None),
            (Operation.DELETE, None),
        ]:
            with pytest.raises(PermissionDenied):
                await call(core, operation, path, data, token=operator)
        assert core.unsealed.reads.policy("admin") == READ_A
        for allowed in ("sys/policies/acl/Other", "sys/policy/other"):
            await call(core, Operation.UPDATE, allowed, {"policy": READ_A}, token=operator)


async def test_a_changed_policy_counts_at_the_next_request(tmp_path) -> None:
    """The cache of compiled policies never answers for a policy that was replaced or removed."""
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "sys/policies/acl/p", {"policy": 'path "a" { policy = "read" }'})
        token = await new_token(core, policies=["p", "never-was"], no_default_policy=True)
        asked = {"token": token, "path": "a"}

        async def granted() -> object:
            answer = await call(core, Operation.UPDATE, "sys/capabilities", asked)
            assert answer.data is not None
            return answer.data["a"]

        assert await granted() == ["list", "read"]
        await call(core, Operation.UPDATE, "sys/policies/acl/p", {"policy": 'path "a" { policy = "deny" }'})
        assert await granted() == ["deny"]
        await call(
            core,
            Operation.UPDATE,
            "sys/policies/acl/never-was",
            {"policy": 'path "a" { capabilities = ["list"] }'},
        )
        await call(core, Operation.DELETE, "sys/policies/acl/p")
        assert await granted() == ["list"]
