"""Roles of a jwt mount: which claims let somebody in, and what they say of him. Pure.

Fields, defaults and texts are those of Vault's JWT method. Durations are nanoseconds; of a leeway 0 means the default
and -1 none.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.fields import SECOND_NS
from node.auth.params import TokenParams
from node.core.fields import Field, Kind
from node.errors import InvalidRequest

ITEMS_MAX = 256
CLAIM_NAME_CHARACTERS_MAX = 512
OLD_NAMES = {
    f"token_{name}": name for name in ("policies", "ttl", "max_ttl", "period", "num_uses", "bound_cidrs")
}
LEEWAYS = ("clock_skew_leeway", "expiration_leeway", "not_before_leeway")


class Role(msgspec.Struct, frozen=True):
    name: str
    user_claim: str = ""
    user_claim_json_pointer: bool = False
    groups_claim: str = ""
    bound_audiences: tuple[str, ...] = ()
    bound_subject: str = ""
    bound_claims: dict[str, Any] = {}
    bound_claims_type: str = "string"
    claim_mappings: dict[str, str] = {}
    clock_skew_leeway_s: int = 0
    expiration_leeway_s: int = 0
    not_before_leeway_s: int = 0
    allowed_redirect_uris: tuple[str, ...] = ()
    params: TokenParams = TokenParams()


FIELDS = (
    Field("role_type", Kind.STRING, "jwt; nothing else is offered."),
    Field("user_claim", Kind.STRING, "The claim that says who it is."),
    Field("user_claim_json_pointer", Kind.BOOLEAN, "Whether user_claim is a JSON pointer."),
    Field("groups_claim", Kind.STRING, "The claim that lists external groups he is in."),
    Field("bound_audiences", Kind.STRINGS, "One of which must be in aud."),
    Field("bound_subject", Kind.STRING, "What sub must be."),
    Field("bound_claims", Kind.OBJECT, "Claims and the values that they must have one of."),
    Field("bound_claims_type", Kind.STRING, "string, or glob for values with *."),
    Field("claim_mappings", Kind.STRING_MAP, "Claims that become metadata, by which name."),
    *(Field(name, Kind.ANY, "How much clocks may differ: 0 the default, -1 nothing.") for name in LEEWAYS),
    Field("allowed_redirect_uris", Kind.STRINGS, "Kept and shown, without effect."),
    *params.FIELDS,
)


def changed(role: Role, data: Mapping[str, Any]) -> Role:
    """The role with what a request says; what it does not say stays. Raises InvalidRequest."""
    kind = fields.text(data.get("role_type"), "role_type") or "jwt"
    if kind == "oidc":
        raise InvalidRequest("'role_type' oidc, a login through a browser, is not offered by this server")
    if kind != "jwt":
        raise InvalidRequest(f"invalid 'role_type': {kind}")
    given: dict[str, Any] = {}
    for name in ("user_claim", "groups_claim", "bound_subject", "bound_claims_type"):
        if data.get(name) is not None:
            given[name] = fields.text(data[name], name)
    if data.get("user_claim_json_pointer") is not None:
        given["user_claim_json_pointer"] = fields.boolean(
            data["user_claim_json_pointer"], "user_claim_json_pointer"
        )
    for name in ("bound_audiences", "allowed_redirect_uris"):
        if data.get(name) is not None:
            given[name] = tuple(fields.bounds(data[name], name))
    if data.get("bound_claims") is not None:
        given["bound_claims"] = _bound_claims(data["bound_claims"])
    if data.get("claim_mappings") is not None:
        given["claim_mappings"] = fields.string_map(data["claim_mappings"], "claim_mappings")
    given |= {f"{name}_s": _leeway(data[name], name) for name in LEEWAYS if data.get(name) is not None}
    given["params"] = params.changed(role.params, data, old_names=OLD_NAMES)
    return _checked(msgspec.structs.replace(role, **given))


def _checked(role: Role) -> Role:
    if not role.user_claim:
        raise InvalidRequest("a user claim must be defined on the role")
    if role.bound_claims_type not in ("string", "glob"):
        raise InvalidRequest(f"invalid 'bound_claims_type': {role.bound_claims_type}")
    if not (role.bound_audiences or role.bound_subject or role.bound_claims or role.params.bound_cidrs):
        raise InvalidRequest("must have at least one bound constraint when creating/updating a role")
    if len(set(role.claim_mappings.values())) != len(role.claim_mappings):
        raise InvalidRequest("multiple keys are mapped to the same metadata key")
    if "role" in role.claim_mappings.values():
        raise InvalidRequest("metadata key 'role' is reserved and may not be a mapping destination")
    sizes = (len(role.bound_audiences), len(role.bound_claims), len(role.claim_mappings))
    if max(sizes) > ITEMS_MAX or len(role.user_claim) > CLAIM_NAME_CHARACTERS_MAX:
        raise InvalidRequest(f"a role has at most {ITEMS_MAX} audiences, bound claims and mappings")
    return role


def _bound_claims(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest('error converting input for field "bound_claims": expected a map')
    for expected in value.values():
        values = expected if isinstance(expected, list) else [expected]
        if len(values) > ITEMS_MAX or not all(isinstance(each, str | int | float | bool) for each in values):
            raise InvalidRequest(f"a bound claim is a value, or a list of at most {ITEMS_MAX}")
    return value


def _leeway(value: Any, name: str) -> int:
    """Seconds; -1 for none at all."""
    if value in (-1, "-1"):
        return -1
    return fields.duration_ns(value, name) // SECOND_NS


def data(role: Role) -> dict[str, Any]:
    """The role as it is shown."""
    shown = {
        "allowed_redirect_uris": list(role.allowed_redirect_uris) or None,
        "bound_audiences": list(role.bound_audiences) or None,
        "bound_claims": role.bound_claims or None,
        "bound_claims_type": role.bound_claims_type,
        "bound_subject": role.bound_subject,
        "claim_mappings": role.claim_mappings or None,
        "clock_skew_leeway": role.clock_skew_leeway_s,
        "expiration_leeway": role.expiration_leeway_s,
        "groups_claim": role.groups_claim,
        "not_before_leeway": role.not_before_leeway_s,
        "role_type": "jwt",
        "user_claim": role.user_claim,
        "user_claim_json_pointer": role.user_claim_json_pointer,
        **params.data(role.params),
    }
    return dict(sorted(shown.items()))
