"""Roles of an approle mount: what they hold, how a request changes them, how they are shown. Pure.

Fields, defaults and texts are those of Vault's approle method. Durations are nanoseconds, 0 for none.
"""

import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.cidr import as_written
from node.auth.fields import SECOND_NS
from node.auth.params import TokenParams
from node.auth.token import USES_MAX
from node.core.fields import Field, Kind
from node.errors import InvalidRequest

NAME_CHARACTERS_MAX = 512
ROLE_ID_CHARACTERS_MAX = 4096
VAGUE_TYPES = {"default-batch": "batch", "default-service": "service"}  # a login cannot ask for anything else
OLD_NAMES = {"token_policies": "policies", "token_period": "period"}

_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)  # ASCII: lower() leaves one spelling of a name


class Role(msgspec.Struct, frozen=True):
    name: str
    role_id: str
    bind_secret_id: bool = True
    secret_id_bound_cidrs: tuple[str, ...] = ()
    secret_id_num_uses: int = 0
    secret_id_ttl_ns: int = 0
    local_secret_ids: bool = False
    params: TokenParams = TokenParams()


FIELDS = (
    Field("role_id", Kind.STRING, "What logs in; drawn if it is not given."),
    Field("bind_secret_id", Kind.BOOLEAN, "Whether a login needs a secret id."),
    Field("secret_id_bound_cidrs", Kind.STRINGS, "From where one may log in."),
    Field("secret_id_num_uses", Kind.INTEGER, "For how many logins a secret id is good; 0 without limit."),
    Field("secret_id_ttl", Kind.DURATION, "For how long a secret id is good; 0 without end."),
    Field("local_secret_ids", Kind.BOOLEAN, "Kept and shown, without effect."),
    *params.FIELDS,
)
FORMER_FIELDS = (
    *params.formerly(OLD_NAMES),
    Field("bound_cidr_list", Kind.STRINGS, "secret_id_bound_cidrs of former times."),
)


def canonical(name: str) -> str:
    """The one spelling of a role's name. Raises InvalidRequest."""
    name = name.lower()
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise InvalidRequest(
            "invalid role name: letters, digits and . - _, the first and the last no punctuation"
        )
    return name


def new(name: str) -> Role:
    return Role(name=name, role_id=str(uuid.uuid4()))


def changed(role: Role, data: Mapping[str, Any], *, creating: bool) -> Role:
    """The role with what a request says; what it does not say stays. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    if data.get("role_id") is not None:
        given["role_id"] = _role_id(data["role_id"])
    if data.get("bind_secret_id") is not None:
        given["bind_secret_id"] = fields.boolean(data["bind_secret_id"], "bind_secret_id")
    for name in ("bound_cidr_list", "secret_id_bound_cidrs"):  # the later one is the name that it has now
        if data.get(name) is not None:
            given["secret_id_bound_cidrs"] = as_written(data[name], name)
    if data.get("secret_id_num_uses") is not None:
        given["secret_id_num_uses"] = uses(data["secret_id_num_uses"], "secret_id_num_uses")
    if data.get("secret_id_ttl") is not None:
        given["secret_id_ttl_ns"] = fields.duration_ns(data["secret_id_ttl"], "secret_id_ttl")
    if data.get("local_secret_ids") is not None:
        given["local_secret_ids"] = fields.boolean(data["local_secret_ids"], "local_secret_ids")
        if not creating and given["local_secret_ids"] != role.local_secret_ids:
            raise InvalidRequest("local_secret_ids can only be modified during role creation")
    held = params.changed(role.params, data, old_names=OLD_NAMES)
    given["params"] = msgspec.structs.replace(held, type=VAGUE_TYPES.get(held.type, held.type))
    return checked(msgspec.structs.replace(role, **given))


def checked(role: Role) -> Role:
    """The role, if something stands between it and the world. Raises InvalidRequest."""
    if not (role.bind_secret_id or role.secret_id_bound_cidrs or role.params.bound_cidrs):
        raise InvalidRequest("at least one constraint should be enabled on the role")
    return role


def uses(value: Any, field: str) -> int:
    """How often something may be used; 0 without limit. Raises InvalidRequest."""
    number = fields.integer(value, field)
    if not 0 <= number <= USES_MAX:
        raise InvalidRequest(f"{field} cannot be negative" if number < 0 else f"{field} is too large")
    return number


def _role_id(value: Any) -> str:
    role_id = fields.text(value, "role_id")
    if not role_id:
        raise InvalidRequest("invalid role_id supplied, or failed to generate a role_id")
    if len(role_id) > ROLE_ID_CHARACTERS_MAX:
        raise InvalidRequest(f"a role_id has at most {ROLE_ID_CHARACTERS_MAX} characters")
    return role_id


def data(role: Role) -> dict[str, Any]:
    """The role as it is shown; its id has a path of its own."""
    shown = {
        "bind_secret_id": role.bind_secret_id,
        "local_secret_ids": role.local_secret_ids,
        "secret_id_bound_cidrs": list(role.secret_id_bound_cidrs) or None,
        "secret_id_num_uses": role.secret_id_num_uses,
        "secret_id_ttl": role.secret_id_ttl_ns // SECOND_NS,
        **params.data(role.params),
    }
    return dict(sorted(shown.items()))


# Paths below a role that show, change and reset one field: the field, and what it is after a reset.
SINGLE_FIELDS: Mapping[str, tuple[str, Any]] = {
    "policies": ("token_policies", []),
    "local-secret-ids": ("local_secret_ids", None),
    "bind-secret-id": ("bind_secret_id", True),
    "secret-id-bound-cidrs": ("secret_id_bound_cidrs", []),
    "bound-cidr-list": ("secret_id_bound_cidrs", []),
    "token-bound-cidrs": ("token_bound_cidrs", []),
    "secret-id-num-uses": ("secret_id_num_uses", 0),
    "secret-id-ttl": ("secret_id_ttl", 0),
    "token-num-uses": ("token_num_uses", 0),
    "token-ttl": ("token_ttl", 0),
    "token-max-ttl": ("token_max_ttl", 0),
    "period": ("token_period", 0),
}
TWIN_PATHS = {"bound-cidr-list": "secret-id-bound-cidrs", "secret-id-bound-cidrs": "bound-cidr-list"}
OLD_PATHS = {"bound-cidr-list": "bound_cidr_list"}  # shown by the name that the path has
OLD_FIELDS = {"policies": "policies", "period": "period", **OLD_PATHS}


def shown_at(path: str, role: Role) -> dict[str, Any]:
    """What a path for one field shows: the field, and by its former name too if it was set by that."""
    name, _ = SINGLE_FIELDS[path]
    shown = data(role)
    if path in OLD_PATHS:
        return {OLD_PATHS[path]: shown[name]}
    return {each: shown[each] for each in (name, OLD_FIELDS.get(path, name)) if each in shown}


def single_field(path: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a request that a path for one field may change. Raises InvalidRequest if it is missing."""
    name, _ = SINGLE_FIELDS[path]
    old = OLD_FIELDS.get(path, name)
    said = {each: data[each] for each in (name, old) if data.get(each) is not None}
    if not said:
        raise InvalidRequest(f"missing {name}")
    return said
