"""The token_* parameters that every auth method takes: what tokens are like that it gives to those who log in.

Names, checks and texts are those of Vault's token parameters. Durations are nanoseconds, 0 for none.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from node.auth import fields
from node.auth.cidr import networks
from node.auth.fields import SECOND_NS
from node.auth.token import USES_MAX, canonical_policies
from node.core.fields import Field, Kind, named
from node.errors import InvalidRequest
from node.policy.default import NAME as DEFAULT

POLICIES_MAX = 256
TYPES = frozenset({"default", "default-service", "default-batch", "service", "batch"})


class TokenParams(msgspec.Struct, frozen=True):
    """Of a user or a role."""

    policies: tuple[str, ...] = ()
    ttl_ns: int = 0
    max_ttl_ns: int = 0
    period_ns: int = 0
    explicit_max_ttl_ns: int = 0
    bound_cidrs: tuple[str, ...] = ()
    num_uses: int = 0
    no_default_policy: bool = False
    strictly_bind_ip: bool = False
    type: str = "default"
    old_names: tuple[str, ...] = ()  # "policies", "ttl", ...: what was last set by the name it had before

    @property
    def granted(self) -> tuple[str, ...]:
        """The policies of a token."""
        return canonical_policies([*self.policies, *(() if self.no_default_policy else (DEFAULT,))])


FIELDS = (
    Field("token_policies", Kind.STRINGS, "Policies of the tokens."),
    Field("token_ttl", Kind.DURATION, "How long they live at first."),
    Field("token_max_ttl", Kind.DURATION, "How long they live with all renewals."),
    Field("token_period", Kind.DURATION, "Makes them periodic: each renewal grants this much."),
    Field("token_explicit_max_ttl", Kind.DURATION, "An end that no renewal moves."),
    Field("token_bound_cidrs", Kind.STRINGS, "From where one may log in and use them."),
    Field("token_num_uses", Kind.INTEGER, "How often they may be used; 0 without limit."),
    Field("token_no_default_policy", Kind.BOOLEAN, "Leaves the policy default out."),
    Field("token_strictly_bind_ip", Kind.BOOLEAN, "Binds each token to the address of its login."),
    Field("token_type", Kind.STRING, "default, service, batch, default-service or default-batch."),
)

OLD_NAMES = (
    *named(Kind.INTEGER, "ttl max_ttl period num_uses"),
    *named(Kind.STRINGS, "policies bound_cidrs"),
)  # shown besides where they were used


def formerly(old_names: Mapping[str, str]) -> tuple[Field, ...]:
    """The fields that `changed` takes by the names that they had before; `old_names` is as there."""
    return tuple(
        dataclasses.replace(each, name=old_names[each.name], summary=f"{each.name} of former times.")
        for each in FIELDS
        if each.name in old_names
    )


def changed(params: TokenParams, data: Mapping[str, Any], *, old_names: Mapping[str, str]) -> TokenParams:
    """The parameters with what a request says; `old_names` maps token_* to the name it had before. InvalidRequest."""

    used = set(params.old_names)

    def said(name: str) -> Any:
        value, old = data.get(name), old_names.get(name, "")
        if old and data.get(old) is not None:
            used.add(old)
            return data[old] if value is None else value
        if value is not None:
            used.discard(old)
        return value

    given: dict[str, Any] = {}
    policies = said("token_policies")
    if policies is not None:
        given["policies"] = _policies(policies)
    for name in ("ttl", "max_ttl", "period", "explicit_max_ttl"):
        if (value := said(f"token_{name}")) is not None:
            given[f"{name}_ns"] = fields.duration_ns(value, f"token_{name}")
    if (value := said("token_bound_cidrs")) is not None:
        given["bound_cidrs"] = networks(value, "token_bound_cidrs")
    for name in ("no_default_policy", "strictly_bind_ip"):
        if (value := data.get(f"token_{name}")) is not None:
            given[name] = fields.boolean(value, f"token_{name}")
    if (value := said("token_num_uses")) is not None:
        given["num_uses"] = fields.integer(value, "token_num_uses")
    if (value := said("token_type")) is not None:
        given["type"] = fields.text(value, "token_type") or "default"
    params = msgspec.structs.replace(params, **given, old_names=tuple(sorted(used)))
    _check(params)
    return params


def _policies(value: Any) -> tuple[str, ...]:
    names = fields.strings(value, "token_policies")
    if len(names) > POLICIES_MAX:
        raise InvalidRequest(f"at most {POLICIES_MAX} policies")
    canonical = {name for one in names for name in canonical_policies([one])}
    return tuple(sorted(canonical))


def _check(params: TokenParams) -> None:
    if params.type not in TYPES:
        raise InvalidRequest(f"invalid 'token_type' value \"{params.type}\"")
    if not 0 <= params.num_uses <= USES_MAX:
        raise InvalidRequest(
            "'token_num_uses' cannot be negative" if params.num_uses < 0 else "too many uses"
        )
    if 0 < params.max_ttl_ns < params.ttl_ns:
        raise InvalidRequest("'token_ttl' cannot be greater than 'token_max_ttl'")
    if params.type.endswith("batch"):
        refused = "'token_type' cannot be 'batch' or 'default_batch' when set to generate "
        if params.num_uses:
            raise InvalidRequest(f"{refused}tokens with limited use count")
        if params.period_ns:
            raise InvalidRequest(f"{refused}periodic tokens")


def data(params: TokenParams) -> dict[str, Any]:
    """As a user or a role shows them."""
    shown = {
        "token_bound_cidrs": list(params.bound_cidrs),
        "token_explicit_max_ttl": params.explicit_max_ttl_ns // SECOND_NS,
        "token_max_ttl": params.max_ttl_ns // SECOND_NS,
        "token_no_default_policy": params.no_default_policy,
        "token_num_uses": params.num_uses,
        "token_period": params.period_ns // SECOND_NS,
        "token_policies": list(params.policies),
        "token_strictly_bind_ip": params.strictly_bind_ip,
        "token_ttl": params.ttl_ns // SECOND_NS,
        "token_type": params.type,
    }
    former = {name: shown[f"token_{name}"] for name in params.old_names}
    return shown | {name: value for name, value in former.items() if value}
