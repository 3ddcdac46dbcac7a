"""The rules of the token store: what may be created by whom, and how long it lives.

Pure, but for the sweep at the end; the clock comes in. The semantics are those of Vault's token store
(https://developer.hashicorp.com/vault/api-docs/auth/token), and so are the texts of errors and warnings,
because tools show them. Times and durations are nanoseconds, 0 for none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.auth import fields, token_roles
from node.auth.fields import SECOND_NS
from node.auth.identity import ROOT
from node.auth.token_roles import Role
from node.auth.ttl import Limits, grant
from node.errors import InvalidRequest
from node.policy.default import NAME as DEFAULT
from node.policy.default import WRAPPING
from node.policy.parse import PolicyError, policy_name
from node.store import Store
from storage.command import TokensExpire
from storage.rows import Token

EXPIRE_STEP_TOKENS_MAX = 256  # per command, so that a great expiry holds up no other write
EXPIRE_STEPS_MAX = 64  # per sweep
ID_CHARACTERS_MAX = 256
DISPLAY_NAME_CHARACTERS_MAX = 256
METADATA_BYTES_MAX = 16 * 1024
USES_MAX = 2**31

_DISPLAY_NAME = re.compile(r"[^a-zA-Z0-9-]")
_ID_PREFIXES = ("s.", "hvs.", "b.", "hvb.", "r.", "hvr.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token that may be created, checked against its creator. Names as in storage.command.TokenPut."""

    token: str | None  # None: to be drawn
    batch: bool
    parent: bytes | None
    policies: tuple[str, ...]
    path: str
    display_name: str
    metadata: dict[str, str] | None
    num_uses: int
    ttl_ns: int
    explicit_max_ttl_ns: int
    period_ns: int
    renewable: bool
    entity_id: str
    entity_alias: str  # of the token store, whose entity the token shall have; "": entity_id
    role: str
    bound_cidrs: tuple[str, ...]
    warnings: tuple[str, ...]


def wanted(
    creator: Token,
    data: Mapping[str, Any],
    *,
    sudo: bool,
    without_parent: bool,
    now_ns: int,
    bounds: Limits,
    role: Role | None = None,
) -> Wanted:
    """What `creator` gets if it asks for `data`; `sudo` if its policies grant that on the path, and
    `without_parent` if that path is the one of orphans.

    Raises InvalidRequest where Vault does; nothing is granted beyond the creator's own policies without sudo or
    a role that says so, and nothing at all makes a root token but a root token.
    """
    if creator.kind == "batch":
        raise InvalidRequest("batch tokens cannot create more tokens")
    if creator.num_uses != 0:
        raise InvalidRequest("restricted use token cannot generate child tokens")
    batch = _is_batch(data, role)
    token = _custom_id(data, sudo=sudo)
    orphan = without_parent or _orphan(data, role, sudo=sudo)
    period_ns, explicit_max_ns, lessened = _durations(data, role, sudo=sudo)
    policies = _policies(creator, data, role, sudo=sudo)
    if batch:
        _check_batch(token, period_ns, explicit_max_ns, _num_uses(data, role), policies)
    ttl_ns, warnings = _ttl(creator, data, policies, period_ns, explicit_max_ns, bounds, now_ns)
    return Wanted(
        token=token,
        batch=batch,
        parent=None if orphan else creator.digest,
        policies=policies,
        path=_path(role, without_parent=without_parent),
        display_name=_display_name(data),
        metadata=_metadata(data),
        num_uses=_num_uses(data, role),
        ttl_ns=ttl_ns,
        explicit_max_ttl_ns=explicit_max_ns,
        period_ns=period_ns,
        renewable=not batch and ttl_ns > 0 and _renewable(data) and (role is None or role.renewable),
        entity_id="" if orphan else creator.entity_id,
        entity_alias=_entity_alias(data, role),
        role=role.name if role else "",
        bound_cidrs=_bound_cidrs(creator, role, orphan=orphan),
        warnings=(*lessened, *warnings),
    )


def _ttl(
    creator: Token,
    data: Mapping[str, Any],
    policies: tuple[str, ...],
    period_ns: int,
    explicit_max_ns: int,
    bounds: Limits,
    now_ns: int,
) -> tuple[int, list[str]]:
    asked_ns = fields.duration_ns(data.get("ttl"), "ttl") or fields.duration_ns(data.get("lease"), "lease")
    if not (period_ns or asked_ns or explicit_max_ns) and ROOT in policies:
        if creator.expires_ns:
            raise InvalidRequest("expiring root tokens cannot create non-expiring root tokens")
        return 0, []
    return grant(
        bounds,
        asked_ns=asked_ns or (explicit_max_ns if ROOT in policies else 0),
        period_ns=period_ns,
        explicit_max_ns=explicit_max_ns,
        created_ns=now_ns,
        now_ns=now_ns,
    )


def _is_batch(data: Mapping[str, Any], role: Role | None) -> bool:
    kind = fields.text(data.get("type"), "type")
    if kind not in ("", "default", "service", "default-service", "batch"):
        raise InvalidRequest("invalid 'token_type' value")
    if role is None or (role.type.startswith("default") and kind in ("service", "batch")):
        return kind == "batch"
    return role.type.endswith("batch")


def _check_batch(
    token: str | None, period_ns: int, explicit_max_ns: int, num_uses: int, policies: tuple[str, ...]
) -> None:
    """What needs a row in the store, a batch token cannot have."""
    given = {"explicit_max_ttl": explicit_max_ns, "num_uses": num_uses, "period": period_ns, "id": token}
    for name, value in given.items():
        if value:
            raise InvalidRequest(f'batch tokens cannot have "{name}" set')
    if ROOT in policies:
        raise InvalidRequest("batch tokens cannot be root tokens")


def _orphan(data: Mapping[str, Any], role: Role | None, *, sudo: bool) -> bool:
    if role is not None:
        return role.orphan
    if fields.boolean(data.get("no_parent"), "no_parent"):
        _privileged(sudo, "create orphan token")
        return True
    return False


def _durations(data: Mapping[str, Any], role: Role | None, *, sudo: bool) -> tuple[int, int, list[str]]:
    """Period and explicit maximum: a role's hold, and what is asked for may only be less.

    With warnings where both say something.
    """
    period_ns = fields.duration_ns(data.get("period"), "period")
    if period_ns and not (role and role.period_ns):
        _privileged(sudo, "create periodic token")
    explicit_max_ns = fields.duration_ns(data.get("explicit_max_ttl"), "explicit_max_ttl")
    if role is None:
        return period_ns, explicit_max_ns, []
    both = (
        ("Explicit max TTL", explicit_max_ns, role.explicit_max_ttl_ns),
        ("Period", period_ns, role.period_ns),
    )
    warnings = [
        f"{what} specified both during creation call and in role; "
        f"using the lesser value of {min(asked, limit) // SECOND_NS} seconds"
        for what, asked, limit in both
        if asked and limit
    ]
    return _lesser(period_ns, role.period_ns), _lesser(explicit_max_ns, role.explicit_max_ttl_ns), warnings


def _lesser(asked: int, limit: int) -> int:
    return min(asked, limit) if asked and limit else asked or limit


def _path(role: Role | None, *, without_parent: bool) -> str:
    if role is None:
        return "auth/token/create-orphan" if without_parent else "auth/token/create"
    return f"auth/token/create/{role.name}" + (f"/{role.path_suffix}" if role.path_suffix else "")


def _entity_alias(data: Mapping[str, Any], role: Role | None) -> str:
    alias = fields.text(data.get("entity_alias"), "entity_alias")
    if not alias:
        return ""
    if role is None:
        raise InvalidRequest("'entity_alias' is only allowed in combination with token role")
    if len(alias) > ID_CHARACTERS_MAX or not token_roles.allows_alias(role, alias):
        raise InvalidRequest("invalid 'entity_alias' value")
    return alias


def _bound_cidrs(creator: Token, role: Role | None, *, orphan: bool) -> tuple[str, ...]:
    """A role says from where its tokens may be used, as in Vault; else a child is bound like its parent."""
    if role is not None and role.bound_cidrs:
        return role.bound_cidrs
    return () if orphan else creator.bound_cidrs


def _custom_id(data: Mapping[str, Any], *, sudo: bool) -> str | None:
    token = fields.text(data.get("id"), "id")
    if not token:
        return None
    _privileged(sudo, "specify token id")
    for prefix in _ID_PREFIXES[:2]:
        if token.startswith(prefix):
            raise InvalidRequest(f"custom token ID cannot have the '{prefix}' prefix")
    if "." in token:
        raise InvalidRequest("custom token ID cannot have a '.' in the value")
    if len(token) > ID_CHARACTERS_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequest(
            f"a custom token ID has at most {ID_CHARACTERS_MAX} printable ASCII characters and no space"
        )
    return token


def _privileged(sudo: bool, action: str) -> None:
    if not sudo:
        raise InvalidRequest(f"root or sudo privileges required to {action}")


def canonical_policies(names: Sequence[str]) -> tuple[str, ...]:
    """Canonical spelling, sorted, each once; root swallows the others. Raises InvalidRequest."""
    try:
        canonical = {policy_name(name) for name in names}
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None
    if WRAPPING in canonical:
        raise InvalidRequest(f'cannot assign policy "{WRAPPING}"')
    return (ROOT,) if ROOT in canonical else tuple(sorted(canonical))


def _policies(creator: Token, data: Mapping[str, Any], role: Role | None, *, sudo: bool) -> tuple[str, ...]:
    no_default = fields.boolean(data.get("no_default_policy"), "no_default_policy")
    given = data.get("policies")
    asked = canonical_policies(fields.strings(given, "policies"))
    if role is not None and role.constrains_policies:
        base = asked if given else role.allowed_policies if role.allows_some else creator.policies
        names = token_roles.policies(role, base, no_default=no_default)
        if ROOT in names and ROOT not in creator.policies:
            raise InvalidRequest("root tokens may not be created without parent token being root")
        return names
    no_default = no_default or (role is not None and role.no_default_policy)
    add_default = False
    if not given:  # a list of empty names is one: whoever's template came out empty gets less, not everything
        asked = creator.policies
    elif sudo:
        add_default = not no_default
    else:
        if not set(asked) <= set(creator.policies) and ROOT not in creator.policies:
            raise InvalidRequest("child policies must be subset of parent")
        add_default = not no_default and DEFAULT in creator.policies
    if ROOT in asked:
        if ROOT not in creator.policies:
            raise InvalidRequest("root tokens may not be created without parent token being root")
        return (ROOT,)
    kept = set(asked) | ({DEFAULT} if add_default else set())
    if no_default:
        kept.discard(DEFAULT)
    return tuple(sorted(kept))


def _display_name(data: Mapping[str, Any]) -> str:
    name = fields.text(data.get("display_name"), "display_name")[:DISPLAY_NAME_CHARACTERS_MAX]
    return _DISPLAY_NAME.sub("-", f"token-{name}").removesuffix("-")


def _metadata(data: Mapping[str, Any]) -> dict[str, str] | None:
    metadata = fields.string_map(data.get("meta"), "meta")
    if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES_MAX:
        raise InvalidRequest(f"meta has more than {METADATA_BYTES_MAX} characters")
    return metadata or None


def _renewable(data: Mapping[str, Any]) -> bool:
    asked = data.get("renewable")
    return True if asked is None else fields.boolean(asked, "renewable")


def _num_uses(data: Mapping[str, Any], role: Role | None) -> int:
    num_uses = fields.integer(data.get("num_uses"), "num_uses")
    if num_uses < 0:
        raise InvalidRequest("number of uses cannot be negative")
    if num_uses > USES_MAX:
        raise InvalidRequest(f"number of uses cannot be more than {USES_MAX}")
    return _lesser(num_uses, role.num_uses if role else 0)


@dataclass(frozen=True, slots=True)
class Renewal:
    """What holds for a token's renewals: its own terms, and those that its role or its issuer has by now."""

    bounds: Limits
    period_ns: int
    ttl_ns: int = 0  # what is granted if nothing is asked for; 0: what was granted last
    max_ns: int = 0
    explicit_max_ns: int = 0  # of its role by now; its own holds besides


def renewal(row: Token, terms: Renewal, *, increment_ns: int, now_ns: int) -> tuple[int, list[str]]:
    """The time that a renewal grants, from now. Raises InvalidRequest."""
    if row.kind == "batch":
        raise InvalidRequest("batch tokens cannot be renewed")
    if not row.renewable or row.expires_ns == 0:
        raise InvalidRequest("lease is not renewable")
    ttl_ns, warnings = grant(
        terms.bounds,
        asked_ns=increment_ns or terms.ttl_ns or _granted_ns(row),
        period_ns=terms.period_ns,
        explicit_max_ns=_lesser(row.explicit_max_ttl_ns, terms.explicit_max_ns),
        created_ns=row.created_ns,
        now_ns=now_ns,
        role_max_ns=terms.max_ns,
    )
    return ttl_ns, warnings if increment_ns or terms.period_ns else []


def _granted_ns(row: Token) -> int:
    """What it was granted last; `row.ttl_ns` is what it was made with."""
    return row.expires_ns - row.last_renewal_ns if row.last_renewal_ns else row.ttl_ns


async def expire_tokens(store: Store) -> int:
    """Revoke what has expired, in steps; returns how many went. For the leader: every node would do, twice.

    Expired tokens are refused whether or not a sweep came by; this makes room and ends their children.
    """
    revoked = 0
    for _ in range(EXPIRE_STEPS_MAX):
        now_ns = store.now_ns()
        if not store.reads.tokens_due(now_ns):
            break
        _, value = await store.submit(TokensExpire(time_ns=now_ns, limit=EXPIRE_STEP_TOKENS_MAX))
        revoked += int(value["revoked"])
    return revoked
