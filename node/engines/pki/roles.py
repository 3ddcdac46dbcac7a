"""Roles of the PKI engine: what may be issued to those who may ask. Parsed once, stored as JSON, shown as stored."""

from collections.abc import Mapping
from typing import Any

from cryptography.x509.oid import ObjectIdentifier

from node.auth.fields import SECOND_NS, boolean, duration_ns, integer, strings, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, like
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.engines.pki import names
from node.engines.pki.certificates import EXT_KEY_USAGES, KEY_USAGES, key_bits
from node.engines.shelf import listed, shelf
from node.errors import InvalidRequest, NotFound

ROLES = "role/"

_DEFAULTS: dict[str, Any] = {
    "allow_any_name": False,
    "allow_bare_domains": False,
    "allow_glob_domains": False,
    "allow_globs_in_identity_templates": False,
    "allow_ip_sans": True,
    "allow_localhost": True,
    "allow_subdomains": False,
    "allow_token_displayname": False,
    "allow_wildcard_certificates": True,
    "allowed_domains": [],
    "allowed_domains_template": False,
    "allowed_ip_sans_cidr": [],
    "allowed_other_sans": [],
    "allowed_serial_numbers": [],
    "allowed_uri_sans": [],
    "allowed_uri_sans_template": False,
    "allowed_user_ids": [],
    "basic_constraints_valid_for_non_ca": False,
    "client_flag": True,
    "cn_validations": ["email", "hostname"],
    "code_signing_flag": False,
    "country": [],
    "email_protection_flag": False,
    "enforce_hostnames": True,
    "ext_key_usage": [],
    "ext_key_usage_oids": [],
    "generate_lease": False,
    "issuer_ref": "default",
    "key_bits": 0,
    "key_type": "rsa",
    "key_usage": ["DigitalSignature", "KeyAgreement", "KeyEncipherment"],
    "locality": [],
    "max_ttl": 0,
    "no_store": False,
    "not_after": "",
    "not_after_bound": "permit",
    "not_before": "",
    "not_before_bound": "permit",
    "not_before_duration": 30,
    "organization": [],
    "ou": [],
    "policy_identifiers": [],
    "postal_code": [],
    "province": [],
    "require_cn": True,
    "server_flag": True,
    "signature_bits": 0,
    "street_address": [],
    "ttl": 0,
    "use_csr_common_name": True,
    "use_csr_sans": True,
    "use_pss": False,
}
_NOT_BOTH = (
    "mutually exclusive values no_store=true and generate_lease=true were both specified; "
    "no_store=true takes priority"
)
_DURATIONS = frozenset({"ttl", "max_ttl", "not_before_duration"})
_FIELDS = tuple(
    Field(each.name, Kind.DURATION) if each.name in _DURATIONS else each for each in like(_DEFAULTS)
)
_UNSUPPORTED = (  # refused, rather than kept without effect: most of them would have forbidden something
    "allow_globs_in_identity_templates",
    "allowed_domains_template",
    "allowed_serial_numbers",
    "allowed_uri_sans_template",
    "allowed_user_ids",
    "not_after",
    "not_after_bound",
    "not_before",
    "not_before_bound",
    "signature_bits",
    "use_pss",
)


def routes() -> list[Route]:
    """The paths of a mount about roles, relative to it."""
    one = {
        Operation.READ: _read,
        Operation.UPDATE: _put,
        Operation.PATCH: _patch,
        Operation.DELETE: _delete,
    }
    name = in_path("name", "The role.")
    return [
        Route(
            "roles/{name}",
            one,
            summary="What may be issued under a role.",
            fields=(name, *_FIELDS),
            exists=_exists,
            answers=dict.fromkeys((Operation.READ, Operation.UPDATE, Operation.PATCH), like(_DEFAULTS)),
        ),
        Route("roles", {Operation.LIST: _list}, summary="Lists the roles."),
        Route("roles/", {Operation.LIST: _list}, summary="Lists the roles."),
    ]


def find(core: Core, request: Request, name: str) -> dict[str, Any] | None:
    """A role by name."""
    item = shelf(core, request).get(ROLES + name)
    return None if item is None else _DEFAULTS | item.value


def verbatim() -> dict[str, Any]:
    """The role of who may have signed what he likes."""
    return _DEFAULTS | {
        "allow_any_name": True,
        "enforce_hostnames": False,
        "key_type": "any",
        "require_cn": False,
    }


def parse(old: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A role with what a request says of it. Raises InvalidRequest."""
    role = {name: _value(name, default, data.get(name), old) for name, default in _DEFAULTS.items()}
    for name in _UNSUPPORTED:
        if role[name] != _DEFAULTS[name]:
            raise InvalidRequest(f'"{name}" is not offered')
    if role["max_ttl"] and role["ttl"] > role["max_ttl"]:
        raise InvalidRequest('"ttl" value must be less than "max_ttl" value')
    role["key_bits"] = key_bits(role["key_type"], role["key_bits"] if "key_bits" in data or old else 0)
    for usage in role["key_usage"]:
        if usage.lower() not in KEY_USAGES:
            raise InvalidRequest(f"unknown key usage {usage}")
    for usage in role["ext_key_usage"]:
        if usage.lower() not in EXT_KEY_USAGES:
            raise InvalidRequest(f"unknown extended key usage {usage}")
    for network in role["allowed_ip_sans_cidr"]:
        names.check_network(network)
    for oid in (*role["ext_key_usage_oids"], *role["policy_identifiers"]):
        _check_oid(oid)
    role["issuer_ref"] = role["issuer_ref"] or _DEFAULTS["issuer_ref"]
    role["generate_lease"] = (
        role["generate_lease"] and not role["no_store"]
    )  # nothing is kept to be taken back
    return role


def _value(name: str, default: Any, given: Any, old: Mapping[str, Any]) -> Any:
    if given is None:
        return old.get(name, default)
    if name in _DURATIONS:
        return duration_ns(given, name) // SECOND_NS
    if isinstance(default, bool):
        return boolean(given, name)
    if isinstance(default, int):
        return integer(given, name)
    return text(given, name) if isinstance(default, str) else strings(given, name)


def _check_oid(oid: str) -> None:
    try:
        ObjectIdentifier(oid)
    except ValueError:
        raise InvalidRequest(f'"{oid[:64]}" is not a valid OID') from None


def _exists(core: Core, request: Request, params: dict[str, str]) -> bool:
    return find(core, request, params["name"]) is not None


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = find(core, request, params["name"])
    if role is None:
        raise NotFound
    return Response(data=role)


async def _put(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await _keep(core, request, params["name"], {}, None)


async def _patch(core: Core, request: Request, params: dict[str, str]) -> Response:
    """What is not said stays."""
    item = shelf(core, request).get(ROLES + params["name"])
    if item is None:
        raise InvalidRequest("Unable to fetch role entry to patch")
    return await _keep(core, request, params["name"], _DEFAULTS | item.value, item.revision)


async def _keep(
    core: Core, request: Request, name: str, old: Mapping[str, Any], expect: int | None
) -> Response:
    """`expect`: the revision of what is changed in parts."""
    role, view = parse(old, request.data), shelf(core, request)
    await view.write(view.put(ROLES + name, role, expect=expect), request_id=request.request_id)
    both = boolean(request.data.get("generate_lease"), "generate_lease") and not role["generate_lease"]
    return Response(data=role, warnings=[_NOT_BOTH] if both else None)


async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    await view.write(view.delete(ROLES + params["name"]), request_id=request.request_id)
    return Response(status=NO_CONTENT)


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": listed(core, request, ROLES)})
