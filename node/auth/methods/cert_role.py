"""Roles of a cert mount: which client certificates let somebody in, and what they say of him. Pure.

Fields, defaults and texts are those of Vault's TLS certificate method. That a certificate is good - its signature, its
time, those above it - has been seen to by TLS: here it is only asked whose it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from node.auth import fields, params
from node.auth.globs import matches
from node.auth.params import TokenParams
from node.core.fields import Field, Kind
from node.errors import InvalidRequest
from node.foreign_x509 import UNREADABLE, read_whole

ITEMS_MAX = 256
CERTIFICATES_MAX = 32
PEM_CHARACTERS_MAX = 128 * 1024
OLD_NAMES = {f"token_{name}": name for name in ("policies", "ttl", "max_ttl", "period", "bound_cidrs")}

_BOUNDS = {
    "allowed_names": "Names of any kind, of which one must be in it, as patterns with *.",
    "allowed_common_names": "Common names, of which one must be in it, as patterns with *.",
    "allowed_dns_sans": "DNS names, of which one must be in it, as patterns with *.",
    "allowed_email_sans": "E-mail addresses, of which one must be in it, as patterns with *.",
    "allowed_uri_sans": "URIs, of which one must be in it, as patterns with *.",
    "allowed_organizational_units": "Units, of which one must be in it, as patterns with *.",
}
_UNSUPPORTED = ("required_extensions", "allowed_metadata_extensions", "ocsp_enabled")


class Role(msgspec.Struct, frozen=True):
    name: str
    certificate: str = ""  # PEM
    display_name: str = ""
    allowed_names: tuple[str, ...] = ()
    allowed_common_names: tuple[str, ...] = ()
    allowed_dns_sans: tuple[str, ...] = ()
    allowed_email_sans: tuple[str, ...] = ()
    allowed_uri_sans: tuple[str, ...] = ()
    allowed_organizational_units: tuple[str, ...] = ()
    params: TokenParams = TokenParams()


FIELDS = (
    Field("certificate", Kind.STRING, "Whose: the client's own certificate, or one above it, in PEM."),
    Field("display_name", Kind.STRING, "What tokens are called; else the name of the role."),
    *(Field(name, Kind.STRINGS, summary) for name, summary in _BOUNDS.items()),
    *params.FIELDS,
)


def changed(role: Role, data: Mapping[str, Any]) -> Role:
    """The role with what a request says; what it does not say stays. Raises InvalidRequest."""
    for name in _UNSUPPORTED:
        if data.get(name):
            raise InvalidRequest(f"{name} is not offered by this server")
    given: dict[str, Any] = {}
    for name in ("certificate", "display_name"):
        if data.get(name) is not None:
            given[name] = fields.text(data[name], name)
    for name in _BOUNDS:
        if data.get(name) is not None:
            given[name] = tuple(fields.bounds(data[name], name))
            if len(given[name]) > ITEMS_MAX:
                raise InvalidRequest(f"{name} has at most {ITEMS_MAX} items")
    given["params"] = params.changed(role.params, data, old_names=OLD_NAMES)
    role = msgspec.structs.replace(role, **given)
    certificates(role.certificate)
    return role if role.display_name else msgspec.structs.replace(role, display_name=role.name)


def certificates(pem: str) -> list[x509.Certificate]:
    """Those in a PEM text. Raises InvalidRequest."""
    if len(pem) > PEM_CHARACTERS_MAX:
        raise InvalidRequest(f"certificate has at most {PEM_CHARACTERS_MAX} characters")
    try:
        found = [read_whole(each) for each in x509.load_pem_x509_certificates(pem.encode("ascii"))]
    except UNREADABLE:  # UnicodeEncodeError is a ValueError
        raise InvalidRequest("failed to parse certificate") from None
    if len(found) > CERTIFICATES_MAX:
        raise InvalidRequest(f"at most {CERTIFICATES_MAX} certificates")
    return found


def data(role: Role) -> dict[str, Any]:
    """The role as it is shown."""
    bounds = {name: list(getattr(role, name)) for name in _BOUNDS}
    shown = {"certificate": role.certificate, "display_name": role.display_name, **bounds}
    return dict(sorted((shown | params.data(role.params)).items()))


# --- who is let in ---


def admits(role: Role, chain: Sequence[x509.Certificate]) -> bool:
    """Whether a chain that TLS has verified, the client's own certificate first, is one that the role is for."""
    return any(_is_of(chain, each) for each in certificates(role.certificate)) and _is_named(role, chain[0])


def _is_of(chain: Sequence[x509.Certificate], known: x509.Certificate) -> bool:
    """Whether `known` is in the chain, or stands right above the client's own certificate.

    What verified the chain may have stopped below `known`, or a resumed session may tell no more than its first link.
    """
    if known in chain:
        return True
    if not is_authority(known):
        return False
    try:
        chain[0].verify_directly_issued_by(known)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may stand above others (RFC 5280, section 4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _is_named(role: Role, certificate: x509.Certificate) -> bool:
    names = common_names(certificate)
    dns, emails, uris = (
        _alternative(certificate, kind)
        for kind in (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)
    )
    units = _of_subject(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    return all(
        not wanted or any(matches(glob, name) for glob in wanted for name in found)
        for wanted, found in (
            (role.allowed_names, [*names, *dns, *emails]),
            (role.allowed_common_names, names),
            (role.allowed_dns_sans, dns),
            (role.allowed_email_sans, emails),
            (role.allowed_uri_sans, uris),
            (role.allowed_organizational_units, units),
        )
    )


def common_names(certificate: x509.Certificate) -> list[str]:
    return _of_subject(certificate, NameOID.COMMON_NAME)


def _of_subject(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    found: Iterable[x509.NameAttribute[Any]] = certificate.subject.get_attributes_for_oid(oid)
    return [each.value for each in found if isinstance(each.value, str)]


def _alternative(certificate: x509.Certificate, kind: Any) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return list(names.get_values_for_type(kind))
    except (x509.ExtensionNotFound, ValueError):
        return []


# --- what they say of him ---


def metadata(role: Role, certificate: x509.Certificate) -> dict[str, str]:
    """Of the token."""
    return {
        "cert_name": role.name,
        "common_name": next(iter(common_names(certificate)), ""),
        "serial_number": str(certificate.serial_number),
        **key_ids(certificate),
    }


def key_ids(certificate: x509.Certificate) -> dict[str, str]:
    """By which a renewal recognises the certificate of the log-in: its own key's id and that of the key above."""
    own = authority = b""
    try:
        extensions = certificate.extensions
        own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        authority = (
            extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
        )
    except (x509.ExtensionNotFound, ValueError):
        pass
    return {"subject_key_id": own.hex(":"), "authority_key_id": authority.hex(":")}
