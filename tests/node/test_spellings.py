"""A rule for a name holds for every spelling of it, and a rule for a path for the other path that does the same."""

import contextlib

import pytest
from support.asking import Asker
from support.corefixture import call, new_token, opened

from node.core.core import Core
from node.core.request import Operation
from node.core.router import filled
from node.errors import InvalidRequest, NotFound, PermissionDenied, Unsupported

ALL = '{ capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
DENY = '{ capabilities = ["deny"] }'

# What the caller may do, what is denied to him, and how he tries all the same.
ESCAPES = [
    ("auth/up/users/*", "auth/up/users/admin", "auth/up/users/ADMIN"),
    ("auth/up/users/*", "auth/up/users/admin/password", "auth/up/users/Admin/password"),
    ("auth/ap/role/*", "auth/ap/role/admin", "auth/ap/role/ADMIN"),
    ("auth/ap/role/*", "auth/ap/role/admin/secret-id", "auth/ap/role/Admin/secret-id"),
    ("auth/ap/role/*", "auth/ap/role/admin/role-id", "auth/ap/role/aDMIN/role-id"),
    ("auth/ap/role/*", "auth/ap/role/admin/secret-id-bound-cidrs", "auth/ap/role/admin/bound-cidr-list"),
    ("auth/k/role/*", "auth/k/role/admin", "auth/k/role/ADMIN"),
    ("identity/*", "identity/entity/name/admin", "identity/entity/name/ADMIN"),
    ("identity/*", "identity/group/name/admin", "identity/group/name/Admin"),
    ("identity/*", "identity/entity-alias", "identity/alias"),
    ("identity/*", "identity/alias/id/x", "identity/entity-alias/id/x"),
    ("sys/*", "sys/auth/up/tune", "sys/mounts/auth/up/tune"),
    ("sys/*", "sys/policies/acl/admin", "sys/policies/acl/ADMIN"),
    ("sys/*", "sys/policies/acl/admin", "sys/policy/admin"),
    ("sys/*", "sys/policy/admin", "sys/policies/acl/Admin"),
]


async def mounted(core: Core) -> None:
    ask = Asker(core)
    for path, kind in (("up", "userpass"), ("ap", "approle"), ("k", "kubernetes")):
        await ask.post(f"sys/auth/{path}", type=kind)
    await ask.post("auth/up/users/admin", password="pw")
    await ask.post("auth/ap/role/admin")


@pytest.mark.parametrize(("granted", "denied", "tried"), ESCAPES)
@pytest.mark.parametrize("operation", [Operation.READ, Operation.UPDATE, Operation.DELETE])
async def test_a_denial_is_not_escaped(tmp_path, granted, denied, tried, operation) -> None:
    async with opened(tmp_path) as core:
        await mounted(core)
        token = await new_token(core, policy=f'path "{granted}" {ALL}\npath "{denied}" {DENY}')
        for path in (denied, tried):
            assert isinstance(await Asker(core, token).refused(path, operation), PermissionDenied), path


@pytest.mark.parametrize(("granted", "denied", "tried"), ESCAPES)
async def test_what_is_not_denied_is_allowed_by_each_spelling(tmp_path, granted, denied, tried) -> None:
    async with opened(tmp_path) as core:
        await mounted(core)
        asker = await new_token(core, policy=f'path "{granted}" {ALL}')
        for path in (denied, tried):
            with contextlib.suppress(InvalidRequest, NotFound, Unsupported):  # whatever is there, or not
                await call(core, Operation.READ, path, token=asker)


async def test_a_grant_for_one_spelling_is_a_grant_for_that_one(tmp_path) -> None:
    """Who may read "bob" may not read what "BOB" is without being allowed "bob"."""
    async with opened(tmp_path) as core:
        await mounted(core)
        upper = Asker(core, await new_token(core, policy=f'path "auth/up/users/ADMIN" {ALL}'))
        assert isinstance(await upper.refused("auth/up/users/ADMIN", Operation.READ), PermissionDenied)


def test_patterns_are_filled() -> None:
    assert filled("role/{role}/secret-id", {"role": "a.b"}) == "role/a.b/secret-id"
    assert filled("sys/policy/{name...}", {"name": "a/b"}) == "sys/policy/a/b"
    assert filled("sys/auth", {}) == "sys/auth"
