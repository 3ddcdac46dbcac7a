"""Roles of the token store: a rule under which others may make tokens. Pure, but for where they are kept.

Fields, defaults and texts are those of Vault (https://developer.hashicorp.com/vault/api-docs/auth/token#create-update-token-role).
Durations are nanoseconds, 0 for none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from node.auth import fields
from node.auth.cidr import networks
from node.auth.fields import SECOND_NS
from node.auth.globs import matches
from node.auth.identity import ROOT
from node.core.fields import Field, Kind
from node.errors import InvalidRequest
from node.policy.default import NAME as DEFAULT
from node.policy.parse import PolicyError, policy_name
from node.store import Store
from node.view import View

VIEW = "sys:token-roles"
NAME_CHARACTERS_MAX = 256
POLICIES_MAX = 256
NUM_USES_MAX = 2**31
TYPES = frozenset({"default-service", "default-batch", "service", "batch"})

FIELDS = (
    Field("allowed_policies", Kind.STRINGS, "The policies that its tokens may have."),
    Field("allowed_policies_glob", Kind.STRINGS, "The same, as patterns with *."),
    Field("disallowed_policies", Kind.STRINGS, "The policies that they may not have."),
    Field("disallowed_policies_glob", Kind.STRINGS, "The same, as patterns with *."),
    Field("allowed_entity_aliases", Kind.STRINGS, "Whose tokens they may be, as patterns with *."),
    Field("orphan", Kind.BOOLEAN, "Its tokens have no parent."),
    Field("renewable", Kind.BOOLEAN, "Its tokens can be renewed."),
    Field("path_suffix", Kind.STRING, "Added to the path of its tokens."),
    Field("token_period", Kind.DURATION, "Its tokens are periodic: each renewal grants this much."),
    Field("token_explicit_max_ttl", Kind.DURATION, "An end that no renewal moves."),
    Field("token_bound_cidrs", Kind.STRINGS, "From where they may be used."),
    Field("token_num_uses", Kind.INTEGER, "How often they may be used; 0 without limit."),
    Field("token_no_default_policy", Kind.BOOLEAN, "Leaves the policy default out."),
    Field("token_type", Kind.STRING, "service, batch, default-service or default-batch."),
)
FORMER_FIELDS = (
    Field("period", Kind.DURATION, "token_period of former times."),
    Field("explicit_max_ttl", Kind.DURATION, "token_explicit_max_ttl of former times."),
)

_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)


class Role(msgspec.Struct, frozen=True):
    """What tokens made under it are like; "" and 0 where it says nothing."""

    name: str
    allowed_policies: tuple[str, ...] = ()
    allowed_policies_glob: tuple[str, ...] = ()
    disallowed_policies: tuple[str, ...] = ()
    disallowed_policies_glob: tuple[str, ...] = ()
    allowed_entity_aliases: tuple[str, ...] = ()
    orphan: bool = False
    renewable: bool = True
    path_suffix: str = ""
    period_ns: int = 0
    explicit_max_ttl_ns: int = 0
    bound_cidrs: tuple[str, ...] = ()
    num_uses: int = 0
    no_default_policy: bool = False
    type: str = "default-service"
    old_names: tuple[str, ...] = ()  # which of "period" and "explicit_max_ttl" were set by these names

    @property
    def allows_some(self) -> bool:
        """Whether it says which policies there may be, and so which there are if none is asked for."""
        return bool(self.allowed_policies or self.allowed_policies_glob)

    @property
    def constrains_policies(self) -> bool:
        """Whether it decides on policies instead of those of the token that asks."""
        return bool(self.allows_some or self.disallowed_policies or self.disallowed_policies_glob)


def view(store: Store) -> View:
    return View(store, VIEW)


def find(store: Store, name: str) -> Role | None:
    """A role as this node has applied it."""
    item = view(store).get(name) if _NAME.fullmatch(name) and len(name) <= NAME_CHARACTERS_MAX else None
    return msgspec.json.decode(item.raw, type=Role) if item else None


def changed(role: Role, data: Mapping[str, Any]) -> tuple[Role, list[str]]:
    """A role (Role(name), if it is new) with what a request says, and warnings. Raises InvalidRequest."""
    if not _NAME.fullmatch(role.name) or len(role.name) > NAME_CHARACTERS_MAX:
        raise InvalidRequest("invalid role name")
    given: dict[str, Any] = {
        name: read(data[field], field)
        for name, (field, read) in _READERS.items()
        if data.get(field) is not None
    }
    if given.get("num_uses", 0) < 0:
        raise InvalidRequest("error parsing role fields: 'token_num_uses' cannot be negative")
    if given.get("num_uses", 0) > NUM_USES_MAX:
        raise InvalidRequest(f"error parsing role fields: 'token_num_uses' is at most {NUM_USES_MAX}")
    warnings = _durations(role, data, given)
    role = msgspec.structs.replace(role, **given)
    if role.type == "batch":
        _check_batch(role)
    return role, warnings


def _durations(role: Role, data: Mapping[str, Any], given: dict[str, Any]) -> list[str]:
    """token_period and token_explicit_max_ttl, or the names that they had before."""
    warnings = []
    old_names = set(role.old_names)
    for name in ("period", "explicit_max_ttl"):
        field = f"token_{name}"
        if data.get(field) is not None:
            given[f"{name}_ns"] = fields.duration_ns(data[field], field)
            old_names.discard(name)
            if data.get(name) is not None:
                warnings.append(
                    f"Both '{field}' and deprecated '{name}' value supplied, ignoring the deprecated value"
                )
        elif data.get(name) is not None:
            given[f"{name}_ns"] = fields.duration_ns(data[name], name)
            old_names.add(name)
    given["old_names"] = tuple(sorted(old_names))
    return warnings


def _policies(value: Any, field: str) -> tuple[str, ...]:
    try:
        return tuple(sorted({policy_name(name) for name in _texts(value, field)}))
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None


def _texts(value: Any, field: str) -> tuple[str, ...]:
    items = tuple(item.lower() for item in fields.strings(value, field))
    if len(items) > POLICIES_MAX:
        raise InvalidRequest(f'field "{field}" has more than {POLICIES_MAX} items')
    return items


def _suffix(value: Any, field: str) -> str:
    suffix = fields.text(value, field)
    if suffix and (not _NAME.fullmatch(suffix) or len(suffix) > NAME_CHARACTERS_MAX):
        raise InvalidRequest("given role path suffix contains invalid characters; must match \\w[\\w-.]+\\w")
    return suffix


def _type(value: Any, field: str) -> str:
    kind = fields.text(value, field) or "default-service"
    kind = "default-service" if kind == "default" else kind
    if kind not in TYPES:
        raise InvalidRequest(f"invalid 'token_type' value \"{kind}\"")
    return kind


_READERS: Mapping[str, tuple[str, Callable[[Any, str], Any]]] = {
    "allowed_policies": ("allowed_policies", _policies),
    "disallowed_policies": ("disallowed_policies", _policies),
    "allowed_policies_glob": ("allowed_policies_glob", _texts),
    "disallowed_policies_glob": ("disallowed_policies_glob", _texts),
    "allowed_entity_aliases": ("allowed_entity_aliases", _texts),
    "orphan": ("orphan", fields.boolean),
    "renewable": ("renewable", fields.boolean),
    "no_default_policy": ("token_no_default_policy", fields.boolean),
    "path_suffix": ("path_suffix", _suffix),
    "bound_cidrs": ("token_bound_cidrs", networks),
    "num_uses": ("token_num_uses", fields.integer),
    "type": ("token_type", _type),
}


def _check_batch(role: Role) -> None:
    problem = (
        "non-orphan tokens"
        if not role.orphan
        else "renewable tokens"
        if role.renewable
        else "periodic tokens"
        if role.period_ns
        else "tokens with limited use count"
        if role.num_uses
        else ""
    )
    if problem:
        raise InvalidRequest(f"'token_type' cannot be 'batch' when role is set to generate {problem}")


def data(role: Role) -> dict[str, Any]:
    """A role as it is shown."""
    shown: dict[str, Any] = {
        "allowed_entity_aliases": list(role.allowed_entity_aliases) or None,
        "allowed_policies": list(role.allowed_policies),
        "allowed_policies_glob": list(role.allowed_policies_glob),
        "disallowed_policies": list(role.disallowed_policies),
        "disallowed_policies_glob": list(role.disallowed_policies_glob),
        "explicit_max_ttl": role.explicit_max_ttl_ns // SECOND_NS
        if "explicit_max_ttl" in role.old_names
        else 0,
        "name": role.name,
        "orphan": role.orphan,
        "path_suffix": role.path_suffix,
        "period": role.period_ns // SECOND_NS if "period" in role.old_names else 0,
        "renewable": role.renewable,
        "token_explicit_max_ttl": role.explicit_max_ttl_ns // SECOND_NS,
        "token_no_default_policy": role.no_default_policy,
        "token_period": role.period_ns // SECOND_NS,
        "token_type": role.type,
    }
    if role.bound_cidrs:
        shown["token_bound_cidrs"] = list(role.bound_cidrs)
    if role.num_uses:
        shown["token_num_uses"] = role.num_uses
    return dict(sorted(shown.items()))


def policies(role: Role, base: tuple[str, ...], *, no_default: bool) -> tuple[str, ...]:
    """What a token made under a role that constrains policies gets. Raises InvalidRequest if it may not.

    `base`, which is asked for or follows from the role or from who asks, is canonical and sorted.
    """
    add_default = not (no_default or role.no_default_policy or _disallows(role, DEFAULT))
    extra = {DEFAULT} if add_default and ROOT not in base else set()
    names = (ROOT,) if ROOT in base else tuple(sorted({*base, *extra}))
    if role.allows_some:
        allowed = {*role.allowed_policies, *extra}
        if not all(name in allowed or _globbed(name, role.allowed_policies_glob) for name in names):
            raise InvalidRequest(
                f"token policies ({_quoted(names)}) must be subset of the role's allowed policies "
                f"({_quoted(sorted(allowed))}) or glob policies ({_quoted(role.allowed_policies_glob)})"
            )
    for name in names:
        if _disallows(role, name):
            raise InvalidRequest(f'token policy "{name}" is disallowed by this role')
    return names


def allows_alias(role: Role, alias: str) -> bool:
    """Whether a token made under this role may belong to the entity with this alias."""
    alias = alias.lower()
    return alias in role.allowed_entity_aliases or _globbed(alias, role.allowed_entity_aliases)


def _disallows(role: Role, name: str) -> bool:
    return name in role.disallowed_policies or _globbed(name, role.disallowed_policies_glob)


def _globbed(name: str, globs: Sequence[str]) -> bool:
    return any(matches(glob, name) for glob in globs)


def _quoted(names: Sequence[str]) -> str:
    return "[" + " ".join(f'"{name}"' for name in names) + "]"
