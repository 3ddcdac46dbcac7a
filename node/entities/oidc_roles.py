"""Roles of identity tokens: which key signs, for how long, and what the token says besides. Pure.

A template is JSON with placeholders of templated policies, which stand for JSON values here, and a few more: whole
lists and maps of the entity, and the time. Durations are nanoseconds.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.auth.identity import random_base62
from node.core.fields import Field, Kind
from node.entities.directory import Identity
from node.entities.oidc_keys import DAY_NS
from node.errors import InvalidRequest
from node.policy.template import value
from storage.rows import Token

TEMPLATE_CHARACTERS_MAX = 16 * 1024
CLIENT_ID_CHARACTERS = 26
CLIENT_ID_CHARACTERS_MAX = 256
RESTRICTED = ("iat", "aud", "exp", "iss", "sub", "namespace", "nonce", "auth_time", "at_hash", "c_hash")

FIELDS = (
    Field("key", Kind.STRING, "The named key that signs."),
    Field("template", Kind.STRING, "What a token says besides, as JSON or in base64."),
    Field("client_id", Kind.STRING, "Who it is for; drawn if it is not given."),
    Field("ttl", Kind.DURATION, "How long a token is good."),
)

_PLACEHOLDER = re.compile(r'"?\{\{\s*([^{}]*?)\s*\}\}"?')


class Role(msgspec.Struct, frozen=True):
    name: str
    key: str
    client_id: str
    template: str = ""
    ttl_ns: int = DAY_NS


def new(name: str) -> Role:
    return Role(name, "", random_base62(CLIENT_ID_CHARACTERS))


def changed(role: Role, data: Mapping[str, Any]) -> Role:
    """A role with what a request says. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    if data.get("key") is not None:
        given["key"] = fields.text(data["key"], "key")
    if data.get("template") is not None:
        given["template"] = fields.base64_or_text(data["template"], "template")
        _check_template(given["template"])
    if data.get("client_id"):
        given["client_id"] = fields.text(data["client_id"], "client_id")
        if len(given["client_id"]) > CLIENT_ID_CHARACTERS_MAX:
            raise InvalidRequest(f"a client id has at most {CLIENT_ID_CHARACTERS_MAX} characters")
    if data.get("ttl") is not None:
        given["ttl_ns"] = fields.duration_ns(data["ttl"], "ttl")
    role = msgspec.structs.replace(role, **given)
    if not role.key:
        raise InvalidRequest("the key parameter is required")
    return role


def _check_template(template: str) -> None:
    if len(template) > TEMPLATE_CHARACTERS_MAX:
        raise InvalidRequest(f"a template has at most {TEMPLATE_CHARACTERS_MAX} characters")
    if not template:
        return
    claims = _parsed(_PLACEHOLDER.sub("null", template))
    for name in claims:
        if name in RESTRICTED:
            raise InvalidRequest(
                f'top level key "{name}" not allowed. Restricted keys: {", ".join(RESTRICTED)}'
            )


def _parsed(text: str) -> dict[str, Any]:
    try:
        claims = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = (
            f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise InvalidRequest(f"error parsing template JSON{where}") from None
    if not isinstance(claims, dict):
        raise InvalidRequest("error parsing template JSON: expected an object")
    return claims


def claims(role: Role, token: Token, identity: Identity, now_ns: int) -> dict[str, Any]:
    """What the template says of this caller. Raises InvalidRequest."""
    if not role.template:
        return {}

    def filled(match: re.Match[str]) -> str:
        return json.dumps(_value(match[1], token, identity, now_ns))

    said = _parsed(_PLACEHOLDER.sub(filled, role.template))
    return {name: each for name, each in said.items() if name not in RESTRICTED}


def _value(name: str, token: Token, identity: Identity, now_ns: int) -> Any:
    entity = identity.entity
    whole: dict[str, Any] = {
        "identity.entity.metadata": entity.metadata or {},
        "identity.entity.groups.names": [group.name for group in identity.groups],
        "identity.entity.groups.ids": [group.id for group in identity.groups],
        "time.now": now_ns // SECOND_NS,
    }
    if name in whole:
        return whole[name]
    for sign, prefix in ((1, "time.now.plus."), (-1, "time.now.minus.")):
        if name.startswith(prefix):
            return (now_ns + sign * fields.duration_ns(name.removeprefix(prefix), "template")) // SECOND_NS
    accessor, _, rest = name.removeprefix("identity.entity.aliases.").partition(".")
    if name.startswith("identity.entity.aliases.") and rest in ("metadata", "custom_metadata"):
        alias = next((each for each in entity.aliases if each.mount_accessor == accessor), None)
        return (getattr(alias, rest) if alias else None) or {}
    return value(name, token, identity) or ""


def data(role: Role) -> dict[str, Any]:
    """A role as it is shown."""
    return {
        "client_id": role.client_id,
        "key": role.key,
        "template": role.template,
        "ttl": role.ttl_ns // SECOND_NS,
    }
