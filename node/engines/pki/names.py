"""Which names a certificate may carry: subjects and alternative names out of a request, checked against a role."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from node.auth.fields import boolean, strings, text
from node.core.fields import Field, Kind, named
from node.errors import InvalidRequest

NAMES_MAX = 256
NAME_CHARACTERS_MAX = 253

_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_HOSTNAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?")
SUBJECT = named(Kind.STRINGS, "country province locality street_address postal_code organization ou")
SERIAL_NUMBER = Field("serial_number", summary="Of the subject, not of the certificate.")
_SUBJECT_FIELDS: tuple[tuple[str, ObjectIdentifier], ...] = (
    ("country", NameOID.COUNTRY_NAME),
    ("province", NameOID.STATE_OR_PROVINCE_NAME),
    ("locality", NameOID.LOCALITY_NAME),
    ("street_address", NameOID.STREET_ADDRESS),
    ("postal_code", NameOID.POSTAL_CODE),
    ("organization", NameOID.ORGANIZATION_NAME),
    ("ou", NameOID.ORGANIZATIONAL_UNIT_NAME),
)
_OF_FEW_CHARACTERS = frozenset({NameOID.COUNTRY_NAME, NameOID.SERIAL_NUMBER})  # PrintableString (X.680)
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]+")


@dataclass(frozen=True, slots=True)
class Names:
    """What was asked for."""

    common_name: str
    dns: tuple[str, ...]
    emails: tuple[str, ...]
    ips: tuple[str, ...]
    uris: tuple[str, ...]

    def general(self) -> tuple[x509.GeneralName, ...]:
        """As they stand in the certificate. Raises InvalidRequest."""
        try:
            return (
                *(x509.DNSName(name) for name in self.dns),
                *(x509.RFC822Name(name) for name in self.emails),
                *(x509.IPAddress(ipaddress.ip_address(name)) for name in self.ips),
                *(x509.UniformResourceIdentifier(name) for name in self.uris),
            )
        except ValueError:
            raise InvalidRequest("an alternative name is not valid: use ASCII (IDNA) names") from None


def subject(common_name: str, data: Mapping[str, Any]) -> x509.Name:
    """A distinguished name from a common name and the fields of a role or a request. Raises InvalidRequest."""
    attributes = [
        x509.NameAttribute(oid, value) for name, oid in _SUBJECT_FIELDS for value in _values(data, name, oid)
    ]
    serial_number = text(data.get("serial_number"), "serial_number")
    if serial_number:
        _check_attribute("serial_number", NameOID.SERIAL_NUMBER, serial_number)
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial_number))
    try:
        if common_name:
            attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    except ValueError:
        raise InvalidRequest("the common name has at most 64 characters") from None
    return x509.Name(attributes)


def _values(data: Mapping[str, Any], name: str, oid: ObjectIdentifier) -> list[str]:
    values = strings(data.get(name), name)
    for value in values:
        _check_attribute(name, oid, value)
    return values


def _check_attribute(name: str, oid: ObjectIdentifier, value: str) -> None:
    """Raises InvalidRequest for what cannot stand in a subject, or could not be read again there."""
    try:
        x509.NameAttribute(oid, value)
    except ValueError:
        fits = False
    else:
        fits = oid not in _OF_FEW_CHARACTERS or _PRINTABLE.fullmatch(value) is not None
    if not fits:
        raise InvalidRequest(f'the value of "{name}" cannot stand in a subject')


def asked(
    data: Mapping[str, Any], *, common_name: str = "", csr_names: Sequence[x509.GeneralName] = ()
) -> Names:
    """The names of a request; `common_name` and `csr_names` are a signing request's. Raises InvalidRequest."""
    common = text(data.get("common_name"), "common_name") or common_name
    alternative = strings(data.get("alt_names"), "alt_names")
    ips, uris = strings(data.get("ip_sans"), "ip_sans"), strings(data.get("uri_sans"), "uri_sans")
    for name in csr_names:
        if isinstance(name, x509.DNSName | x509.RFC822Name):
            alternative.append(name.value)
        elif isinstance(name, x509.IPAddress):
            ips.append(str(name.value))
        elif isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
    if common and not boolean(data.get("exclude_cn_from_sans"), "exclude_cn_from_sans") and _is_name(common):
        alternative.insert(0, common)
    if len(alternative) + len(ips) + len(uris) > NAMES_MAX:
        raise InvalidRequest(f"a certificate has at most {NAMES_MAX} names")
    for ip in ips:
        _check_ip(ip)
    emails = [name for name in alternative if "@" in name]
    dns = [name for name in alternative if "@" not in name]
    return Names(common, _unique(dns), _unique(emails), _unique(ips), _unique(uris))


def _check_ip(ip: str) -> None:
    try:
        ipaddress.ip_address(ip)
    except ValueError:
        raise InvalidRequest(f'the value "{ip[:64]}" is not a valid IP address') from None


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _is_name(common_name: str) -> bool:
    """Whether a common name can be an alternative name too: a host's or an e-mail address."""
    return _is_hostname(common_name) or ("@" in common_name and _is_hostname(common_name.partition("@")[2]))


def _is_hostname(name: str) -> bool:
    return len(name) <= NAME_CHARACTERS_MAX and _HOSTNAME.fullmatch(name) is not None


def check(role: Mapping[str, Any], names: Names) -> None:
    """Raises InvalidRequest for the first name that a role does not allow."""
    if names.common_name and not _allowed(role, names.common_name, common=True):
        raise InvalidRequest(f"common name {names.common_name} not allowed by this role")
    for kind, alternative in (("subject alternate name", names.dns), ("email address", names.emails)):
        for name in alternative:
            if not _allowed(role, name, common=False):
                raise InvalidRequest(f"{kind} {name} not allowed by this role")
    if names.ips and not role["allow_ip_sans"]:
        raise InvalidRequest(
            "IP Subject Alternative Names are not allowed in this role, but was provided some via the API"
        )
    for ip in names.ips:
        if not _in_networks(role["allowed_ip_sans_cidr"], ip):
            raise InvalidRequest(f"IP Subject Alternative Name {ip} not allowed by this role")
    for uri in names.uris:
        if not any(glob(pattern, uri) for pattern in role["allowed_uri_sans"]):
            raise InvalidRequest(f"URI Subject Alternative Name {uri} not allowed by this role")


def check_network(network: str) -> None:
    """Raises InvalidRequest for what is no network in CIDR notation."""
    try:
        ipaddress.ip_network(network)
    except ValueError:
        raise InvalidRequest(f'"{network[:64]}" is not a valid CIDR') from None


def _in_networks(networks: Sequence[str], ip: str) -> bool:
    """Whether an address is in one of them; no networks are all."""
    return not networks or any(ipaddress.ip_address(ip) in ipaddress.ip_network(each) for each in networks)


def _allowed(role: Mapping[str, Any], name: str, *, common: bool) -> bool:
    address, _, host = name.rpartition("@")
    if "@" in address:
        return False
    host = host.lower()
    if (host.startswith("*.") or host == "*") and (not role["allow_wildcard_certificates"] or address):
        return False
    if role["enforce_hostnames"] and not _is_hostname(host):
        unchecked = common and "disabled" in role["cn_validations"]
        if not unchecked:
            return False
    if role["allow_any_name"]:
        return True
    if role["allow_localhost"] and host in ("localhost", "localdomain"):
        return True
    return any(_within(role, domain.lower(), name.lower(), host) for domain in role["allowed_domains"])


def _within(role: Mapping[str, Any], domain: str, name: str, host: str) -> bool:
    """Whether a domain of the role covers a name, in lower case, of this host; an address at a domain is bare, too."""
    bare = host.removeprefix("*.")
    if role["allow_bare_domains"] and domain in (host, name):
        return True
    if role["allow_subdomains"] and (bare.endswith(f".{domain}") or (host != bare and bare == domain)):
        return True
    return bool(role["allow_glob_domains"]) and "*" in domain and glob(domain, name)


def glob(pattern: str, value: str) -> bool:
    """Whether a pattern with any number of "*" matches, in time linear in both."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == value
    if not value.startswith(first):
        return False
    position = len(first)
    for part in rest[:-1]:
        found = value.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return value.endswith(rest[-1]) and len(value) - len(rest[-1]) >= position
