"""Rights that can be taken, and some of them given again: of a token, by a policy, by an entity."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from chaos.guards.asking import World

SECRET = "secret/data/guards/read"
POLICY = "guards"
READER = """
path "secret/data/guards/*" { capabilities = ["create", "read", "update"] }
path "auth/token/create" { capabilities = ["update"] }
"""
NARROW = 'path "secret/data/other" { capabilities = ["read"] }'
APPROLE = "auth/guards"

Request = tuple[str, str, Any]  # method, path, body


@dataclass(frozen=True, slots=True)
class Right:
    """`subject` has it from now on; `give` None: once taken it never comes back."""

    subject: str
    token: str
    uses: tuple[Request, ...]
    take: Request
    give: Request | None

    async def taken(self, world: World) -> None:
        await world.change(self.subject, False, *self.take)

    async def given(self, world: World) -> None:
        assert self.give is not None
        await world.change(self.subject, True, *self.give)


Kind = Callable[[World], Awaitable[Right]]


async def prepare(world: World) -> None:
    """What rights are about. It may be there already."""
    await world.must("POST", SECRET, {"data": {"x": "y"}})
    await world.must("POST", f"sys/policies/acl/{POLICY}", {"policy": READER})
    methods = await world.must("GET", "sys/auth")
    if f"{APPROLE.removeprefix('auth/')}/" not in methods["data"]:
        await world.must("POST", f"sys/{APPROLE}", {"type": "approle"})


def _plain_uses(world: World) -> tuple[Request, ...]:
    """A read and a write, which take short ways."""
    written = f"secret/data/guards/{world.name('w')}"
    return ("GET", SECRET, None), ("POST", written, {"data": {"x": "y"}})


async def of_a_token(world: World) -> Right:
    """A token: revoked by itself, by its accessor or with its parent, while it renews itself."""
    subject, above = world.name("token"), world.name("parent")
    parent = await token(world, above)
    auth = await token(world, subject, parent=parent["client_token"])
    ways: list[Request] = [
        ("POST", "auth/token/revoke", {"token": auth["client_token"]}),
        ("POST", "auth/token/revoke-accessor", {"accessor": auth["accessor"]}),
        ("POST", "auth/token/revoke", {"token": parent["client_token"]}),
    ]
    others: tuple[Request, ...] = (
        ("GET", "auth/token/lookup-self", None),
        ("POST", "auth/token/renew-self", {"increment": "2h"}),
    )
    uses = (*_plain_uses(world), *others)
    return Right(subject, auth["client_token"], uses, world.rng.choice(ways), None)


async def token(world: World, subject: str, *, parent: str | None = None, **terms: Any) -> dict[str, Any]:
    """The auth block of a token with the policy of this module."""
    body = {"policies": [POLICY, "default"], "ttl": "1h", **terms}
    made = await world.change(subject, True, "POST", "auth/token/create", body, token=parent)
    auth: dict[str, Any] = made["auth"]
    return auth


async def by_a_policy(world: World) -> Right:
    """A policy: it loses the paths, or goes."""
    policy = world.name("policy")
    path = f"sys/policies/acl/{policy}"
    await world.change(policy, True, "POST", path, {"policy": READER})
    made = await world.must("POST", "auth/token/create", {"policies": [policy], "no_default_policy": True})
    ways: list[Request] = [("DELETE", path, None), ("POST", path, {"policy": NARROW})]
    wide: Request = ("POST", path, {"policy": READER})
    return Right(policy, made["auth"]["client_token"], _plain_uses(world), world.rng.choice(ways), wide)


async def by_an_entity(world: World) -> Right:
    """An entity: it is disabled, or loses its policies or its group."""
    subject = world.name("entity")
    auth = await _log_in(world, subject)
    entity = f"identity/entity/id/{auth['entity_id']}"
    group = f"identity/group/name/{world.name('group')}"
    mine: dict[str, Any] = {"policies": [POLICY], "disabled": False}
    ours: dict[str, Any] = {"policies": [POLICY], "member_entity_ids": [auth["entity_id"]]}
    ways: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (entity, mine, {"disabled": True}),
        (entity, mine, {"policies": []}),
        (group, ours, {"member_entity_ids": []}),
    ]
    path, given, taken = world.rng.choice(ways)
    await world.change(subject, True, "POST", path, given)
    take: Request = ("POST", path, taken)
    return Right(subject, auth["client_token"], _plain_uses(world), take, ("POST", path, given))


async def proof(world: World, role: str) -> dict[str, str]:
    """What logs in under an approle that is there."""
    read = await world.must("GET", f"{APPROLE}/role/{role}/role-id")
    made = await world.must("POST", f"{APPROLE}/role/{role}/secret-id", {})
    return {"role_id": read["data"]["role_id"], "secret_id": made["data"]["secret_id"]}


async def _log_in(world: World, role: str) -> dict[str, Any]:
    await world.must("POST", f"{APPROLE}/role/{role}", {})
    made = await world.must("POST", f"{APPROLE}/login", await proof(world, role), token="")
    auth: dict[str, Any] = made["auth"]
    return auth


KINDS: tuple[Kind, ...] = (of_a_token, by_a_policy, by_an_entity)
