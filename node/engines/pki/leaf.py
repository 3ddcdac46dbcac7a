"""Issuing and signing: certificates for others, under a role."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from node.auth.fields import SECOND_NS, boolean, duration_ns, go_duration, text
from node.auth.ttl import Limits, limits
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import Operation, Request, Response
from node.core.router import Handler, Route
from node.engines.pki import authority, names, roles
from node.engines.pki import certificates as c
from node.engines.shelf import Shelf, shelf
from node.errors import InvalidRequest
from node.leases import manager

FORMATS = ("pem", "der", "pem_bundle")
_UNSUPPORTED = (
    "excluded_dns_domains",
    "metadata",
    "not_after",
    "not_before",
    "other_sans",
    "permitted_dns_domains",
    "permitted_email_addresses",
    "permitted_ip_ranges",
    "permitted_uri_domains",
    "serial_number",
    "signature_bits",
    "skid",
    "use_pss",
    "user_ids",
)
REFUSED = tuple(Field(name, Kind.ANY, "Not offered: refused, unless it is empty.") for name in _UNSUPPORTED)

_FIELDS = (
    in_path("role", "The role to issue under."),
    Field("common_name", summary="The name that the certificate is for."),
    Field("alt_names", Kind.STRINGS, "More host names and e-mail addresses."),
    Field("ip_sans", Kind.STRINGS, "IP addresses."),
    Field("uri_sans", Kind.STRINGS, "URIs."),
    Field("ttl", Kind.DURATION, "For how long; at most the role's max_ttl."),
    Field("format", summary="pem, der or pem_bundle."),
    Field("private_key_format", summary="der (the kind's own format) or pkcs8."),
    Field("remove_roots_from_chain", Kind.BOOLEAN, "Whether ca_chain leaves out what signs itself."),
    Field("exclude_cn_from_sans", Kind.BOOLEAN, "Whether the common name is no alternative name."),
    *REFUSED,
)
_CSR = Field("csr", summary="The request to sign, PEM.")
CERTIFICATE = (
    *named(Kind.STRING, "certificate issuing_ca serial_number"),
    Field("ca_chain", Kind.STRINGS, "Those above it, the nearest first."),
    *named(Kind.INTEGER, "expiration not_before"),
)
PRIVATE = named(Kind.STRING, "private_key private_key_type")


def routes() -> list[Route]:
    """The paths of a mount that hand out certificates, relative to it."""
    signing = (*_FIELDS, _CSR)
    made = (*CERTIFICATE, *PRIVATE)
    return [
        _route("issue/{role}", _issue, "Makes a key and a certificate for it.", _FIELDS, made),
        _route("issuer/{issuer}/issue/{role}", _issue, "As issue, by this issuer.", _FIELDS, made),
        _route("sign/{role}", _sign, "Signs a request.", signing, CERTIFICATE),
        _route("issuer/{issuer}/sign/{role}", _sign, "As sign, by this issuer.", signing, CERTIFICATE),
        _route("sign-verbatim", _verbatim, "Signs a request as it stands.", signing[1:], CERTIFICATE),
        _route("sign-verbatim/{role}", _verbatim, "Signs a request as it stands.", signing, CERTIFICATE),
    ]


def _route(
    pattern: str, handler: Handler, summary: str, fields: tuple[Field, ...], made: tuple[Field, ...]
) -> Route:
    update = Operation.UPDATE
    return Route(pattern, {update: handler}, summary=summary, fields=fields, answers={update: made})


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be issued, checked."""

    template: c.Template
    signer: authority.Signer
    ttl_ns: int
    warnings: tuple[str, ...]


async def _issue(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = _role(core, request, params["role"])
    if role["key_type"] == "any":
        raise InvalidRequest('role key type "any" not allowed for issuing certificates, only signing')
    form = form_of(request.data)
    wanted = names.asked(request.data)
    order = _order(core, request, params, role, wanted)
    key = await asyncio.to_thread(c.make_key, role["key_type"], role["key_bits"])
    made = await _make(order, key.public_key())
    response = await _hand_out(core, request, role, order, made)
    assert response.data is not None
    response.data |= private_fields(key, request.data, form)
    if form == "pem_bundle":
        own = c.private_pem(key, pkcs8=False)
        response.data["certificate"] = "\n".join([own, c.to_pem(made), *response.data["ca_chain"]])
    return response


async def _sign(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = _role(core, request, params["role"])
    csr = c.load_request(text(request.data.get("csr"), "csr"))
    key = c.public_key(csr)
    _check_key(role, key)
    wanted = names.asked(
        request.data if not role["use_csr_sans"] else {"common_name": request.data.get("common_name")},
        common_name=_common_name(csr) if role["use_csr_common_name"] else "",
        csr_names=_alternative(csr) if role["use_csr_sans"] else (),
    )
    order = _order(core, request, params, role, wanted)
    return await _hand_out(core, request, role, order, await _make(order, key))


def _check_key(role: Mapping[str, Any], key: c.PublicKey) -> None:
    """Raises InvalidRequest for a key of another kind than the role's, or a smaller one."""
    kind, bits = c.key_kind(key), getattr(key, "key_size", 0)
    if role["key_type"] not in ("any", kind):
        raise InvalidRequest(f"role requires keys of type {role['key_type']}")
    c.key_bits(kind, bits)
    if role["key_type"] == kind and 0 < bits < role["key_bits"]:
        raise InvalidRequest(
            f"role requires a minimum of a {role['key_bits']}-bit key, but CSR's key is {bits} bits"
        )


async def _verbatim(core: Core, request: Request, params: dict[str, str]) -> Response:
    """The subject and the names of the request as they stand; only the lifetime is the role's."""
    role = roles.verbatim()
    if "role" in params:
        named = _role(core, request, params["role"])
        role |= {name: named[name] for name in ("ttl", "max_ttl", "generate_lease", "no_store", "issuer_ref")}
    csr = c.load_request(text(request.data.get("csr"), "csr"))
    wanted = names_of(csr)
    order = _order(core, request, params, role, wanted, subject=csr.subject)
    return await _hand_out(core, request, role, order, await _make(order, c.public_key(csr)))


def refuse_unsupported(data: Mapping[str, Any]) -> None:
    """What would change the certificate and is not offered must not be left out in silence. Raises InvalidRequest."""
    asked = [name for name in _UNSUPPORTED if data.get(name) not in (None, "", 0, False, [], "0")]
    if asked:
        raise InvalidRequest(f'"{asked[0]}" is not offered')


def _order(
    core: Core,
    request: Request,
    params: Mapping[str, str],
    role: Mapping[str, Any],
    wanted: names.Names,
    *,
    subject: x509.Name | None = None,
) -> _Order:
    if not wanted.common_name and role["require_cn"]:
        raise InvalidRequest(
            'the common_name field is required, or must be provided in a CSR with "use_csr_common_name" set to'
            ' true, unless "require_cn" is set to false'
        )
    names.check(role, wanted)
    refuse_unsupported(request.data)
    now_ns = core.unsealed.now_ns()
    ttl_ns, warnings = lifetime(limits(core.settings, request.served_by), role, request.data)
    signer = authority.find_signer(shelf(core, request), params.get("issuer") or role["issuer_ref"])
    template = c.Template(
        subject=subject if subject is not None else names.subject(wanted.common_name, role),
        names=wanted.general(),
        not_before_ns=now_ns - role["not_before_duration"] * SECOND_NS,
        not_after_ns=authority.check_end(
            signer, now_ns + ttl_ns, chosen=bool(request.data.get("ttl") or role["ttl"])
        ),
        key_usage=frozenset(c.KEY_USAGES[usage.lower()] for usage in role["key_usage"]),
        ext_key_usage=_ext_key_usage(role),
        constrain=role["basic_constraints_valid_for_non_ca"],
        policies=tuple(role["policy_identifiers"]),
        urls=authority.urls(shelf(core, request)),
    )
    return _Order(template, signer, ttl_ns, warnings)


def lifetime(bounds: Limits, role: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """For how long a certificate is good, in nanoseconds, and what to say if that is less than was asked for."""
    longest_ns = min(role["max_ttl"] * SECOND_NS or bounds.max_ns, bounds.max_ns)
    asked_ns = duration_ns(data.get("ttl"), "ttl")
    ttl_ns = asked_ns or role["ttl"] * SECOND_NS or bounds.default_ns
    if ttl_ns <= longest_ns:
        return ttl_ns, ()
    asked, longest = go_duration(ttl_ns), go_duration(longest_ns)
    return longest_ns, (
        f'TTL "{asked}" is longer than permitted maxTTL "{longest}", so maxTTL is being used',
    )


def _ext_key_usage(role: Mapping[str, Any]) -> tuple[ObjectIdentifier, ...]:
    flags = (
        ("server_flag", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client_flag", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("code_signing_flag", ExtendedKeyUsageOID.CODE_SIGNING),
        ("email_protection_flag", ExtendedKeyUsageOID.EMAIL_PROTECTION),
    )
    usages = [oid for flag, oid in flags if role[flag]]
    usages += [c.EXT_KEY_USAGES[usage.lower()] for usage in role["ext_key_usage"]]
    usages += [ObjectIdentifier(oid) for oid in role["ext_key_usage_oids"]]
    return tuple(dict.fromkeys(usages))


async def _make(order: _Order, key: c.PublicKey) -> x509.Certificate:
    issuer, signer = order.signer.issuer.certificate, order.signer.key
    return await asyncio.to_thread(c.make_certificate, order.template, key, issuer=issuer, signer=signer)


async def _hand_out(
    core: Core, request: Request, role: Mapping[str, Any], order: _Order, made: x509.Certificate
) -> Response:
    """Keep the certificate, with a lease if the role says so, and answer with it."""
    view, issuer = shelf(core, request), order.signer.issuer
    keep = [] if role["no_store"] else [authority.put_certificate(view, made, issuer.id)]
    warnings, lease = list(order.warnings), None
    if role["generate_lease"]:
        data = {"serial": c.serial(made.serial_number)}
        issued = manager.issue(
            view.store,
            request,
            limits(core.settings, request.served_by),
            asked_ns=order.ttl_ns,
            longest_ns=order.ttl_ns,
            renewable=False,
            data=data,
        )
        await manager.submit(view.store, issued, *keep)
        lease = issued.lease
    elif keep:
        await view.write(*keep)
    without_roots = boolean(request.data.get("remove_roots_from_chain"), "remove_roots_from_chain")
    shown = certificate_fields(view, made, issuer, form_of(request.data), without_roots=without_roots)
    shown["not_before"] = c.begins_ns(made) // SECOND_NS
    return Response(data=shown, lease=lease, warnings=warnings or None)


def certificate_fields(
    view: Shelf, made: x509.Certificate, issuer: authority.Issuer, form: str, *, without_roots: bool = False
) -> dict[str, Any]:
    """A new certificate as it is answered."""
    chain = [link.certificate for link in authority.chain(view, issuer)]
    if without_roots:
        chain = [link for link in chain if link.issuer != link.subject]
    show = encoded if form == "der" else c.to_pem
    certificate = show(made)
    if form == "pem_bundle":
        certificate = "\n".join([certificate, *map(c.to_pem, chain)])
    return {
        "ca_chain": [show(link) for link in chain],
        "certificate": certificate,
        "expiration": c.ends_ns(made) // SECOND_NS,
        "issuing_ca": show(issuer.certificate),
        "serial_number": c.serial(made.serial_number),
    }


def private_fields(key: c.PrivateKey, data: Mapping[str, Any], form: str) -> dict[str, Any]:
    """A new private key as it is answered: the only time that anybody sees it."""
    pkcs8 = text(data.get("private_key_format"), "private_key_format") == "pkcs8"
    shown = c.private_pem(key, pkcs8=pkcs8)
    if form == "der":
        shown = base64.b64encode(c.private_der(key, pkcs8=pkcs8)).decode()
    return {"private_key": shown, "private_key_type": c.key_kind(key)}


def encoded(signed: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """DER, in base64."""
    return base64.b64encode(c.to_der(signed)).decode()


def form_of(data: Mapping[str, Any]) -> str:
    """The form that certificates are wanted in. Raises InvalidRequest."""
    form = text(data.get("format"), "format") or "pem"
    if form not in FORMATS:
        raise InvalidRequest('the "format" path parameter must be "pem", "der", or "pem_bundle"')
    return form


def _role(core: Core, request: Request, name: str) -> dict[str, Any]:
    role = roles.find(core, request, name)
    if role is None:
        raise InvalidRequest(f"unknown role: {name}")
    return role


def names_of(csr: x509.CertificateSigningRequest) -> names.Names:
    """The names of a request as they stand."""
    return names.asked({}, common_name=_common_name(csr), csr_names=_alternative(csr))


def _common_name(csr: x509.CertificateSigningRequest) -> str:
    found = csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _alternative(csr: x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    try:
        extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    except ValueError:
        raise InvalidRequest("the request's extensions cannot be read") from None
    return tuple(extension.value)
