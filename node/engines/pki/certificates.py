"""X.509 for the PKI engine: keys, certificates, requests and revocation lists, as pure functions but for randomness.

Names of fields, kinds of keys and texts of errors are those of Vault's pki engine; the profiles are RFC 5280's.
"""

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ObjectIdentifier

from node.auth.fields import SECOND_NS
from node.errors import InvalidRequest
from node.foreign_x509 import UNREADABLE, read_whole

PEM_BYTES_MAX = 256 * 1024
PEM_OBJECTS_MAX = 32
MOMENT_NS_MIN = int(datetime.datetime(1950, 1, 1, tzinfo=datetime.UTC).timestamp()) * SECOND_NS
RSA_BITS = (2048, 3072, 4096, 8192)
CURVES: dict[int, type[ec.EllipticCurve]] = {
    224: ec.SECP224R1,
    256: ec.SECP256R1,
    384: ec.SECP384R1,
    521: ec.SECP521R1,
}
_DIGESTS: dict[int, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    256: hashes.SHA256,
    384: hashes.SHA384,
    512: hashes.SHA512,
}
DEFAULT_BITS = {"rsa": 2048, "ec": 256, "ed25519": 0, "any": 0}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

KEY_USAGES = {
    "digitalsignature": "digital_signature",
    "contentcommitment": "content_commitment",
    "keyencipherment": "key_encipherment",
    "dataencipherment": "data_encipherment",
    "keyagreement": "key_agreement",
    "certsign": "key_cert_sign",
    "crlsign": "crl_sign",
    "encipheronly": "encipher_only",
    "decipheronly": "decipher_only",
}
EXT_KEY_USAGES = {
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "serverauth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientauth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "codesigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailprotection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocspsigning": ExtendedKeyUsageOID.OCSP_SIGNING,
}


# --- keys ---


def key_bits(kind: str, bits: int) -> int:
    """The size of a key of this kind, the default for 0. Raises InvalidRequest."""
    if kind not in DEFAULT_BITS:
        raise InvalidRequest(f"unknown key type {kind}")
    bits = bits or DEFAULT_BITS[kind]
    if kind == "rsa" and bits not in RSA_BITS:
        if bits < RSA_BITS[0]:
            raise InvalidRequest(f"RSA keys < {RSA_BITS[0]} bits are unsafe and not supported: got {bits}")
        raise InvalidRequest(f"unsupported bit length for RSA key: {bits}")
    if kind == "ec" and bits not in CURVES:
        raise InvalidRequest(f"unsupported bit length for EC key: {bits}")
    return bits


def make_key(kind: str, bits: int) -> PrivateKey:
    """A new private key. Takes up to seconds for RSA: not on the event loop."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    if kind == "ec":
        return ec.generate_private_key(CURVES[bits]())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    raise InvalidRequest(f"keys of type {kind} cannot be made")


def key_kind(key: PrivateKey | PublicKey) -> str:
    """rsa, ec or ed25519."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return "rsa"
    return "ec" if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) else "ed25519"


def public_bytes(key: PublicKey) -> bytes:
    """What two equal keys have in common: the DER of SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """What two equal keys have in common, short."""
    return hashlib.sha256(public_bytes(key)).hexdigest()


def private_pem(key: PrivateKey, *, pkcs8: bool = True) -> str:
    """PKCS#8, or the format that is named after the kind of the key."""
    return _private_bytes(key, serialization.Encoding.PEM, pkcs8=pkcs8).decode().strip()


def private_der(key: PrivateKey, *, pkcs8: bool = True) -> bytes:
    return _private_bytes(key, serialization.Encoding.DER, pkcs8=pkcs8)


def _private_bytes(key: PrivateKey, encoding: serialization.Encoding, *, pkcs8: bool) -> bytes:
    old = not pkcs8 and not isinstance(key, ed25519.Ed25519PrivateKey)
    form = serialization.PrivateFormat.TraditionalOpenSSL if old else serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def load_key(pem: bytes) -> PrivateKey:
    """A private key that was made here, or came in by import_key(): an RSA key is not looked over again.

    That would hold up the whole process for 0.2 s, and for several with large keys.
    """
    key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, PrivateKey)
    return key


def import_key(pem: bytes) -> PrivateKey:
    """A private key that somebody sent, unencrypted. Blocking: an RSA key takes a while.

    Raises InvalidRequest; the text says nothing of the key.
    """
    try:
        key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        if isinstance(key, rsa.RSAPrivateKey):
            key_bits("rsa", key.key_size)  # before the look at it, which takes seconds if it is very large
            key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest("the private key cannot be read") from None
    if not isinstance(key, PrivateKey):
        raise InvalidRequest("the private key is of a kind that is not supported")
    return key


# --- reading what clients send ---


def pem_objects(text: str) -> tuple[list[x509.Certificate], list[PrivateKey]]:
    """The certificates and keys of a PEM bundle, in order. Blocking: see import_key(). Raises InvalidRequest."""
    if len(text) > PEM_BYTES_MAX:
        raise InvalidRequest(f"a PEM bundle has at most {PEM_BYTES_MAX} bytes")
    certificates: list[x509.Certificate] = []
    keys: list[PrivateKey] = []
    blocks = text.split("-----BEGIN ")[1:]
    if len(blocks) > PEM_OBJECTS_MAX:
        raise InvalidRequest(f"a PEM bundle has at most {PEM_OBJECTS_MAX} objects")
    for block in blocks:
        pem = f"-----BEGIN {block}".strip().encode()
        kind = block.partition("-----")[0]
        if kind == "CERTIFICATE":
            certificates.append(load_certificate(pem))
        elif kind.endswith("PRIVATE KEY"):
            keys.append(import_key(pem))
    return certificates, keys


def load_certificate(pem: bytes) -> x509.Certificate:
    """Raises InvalidRequest."""
    try:
        certificate = read_whole(x509.load_pem_x509_certificate(pem))
    except UNREADABLE:
        raise InvalidRequest("the certificate cannot be read") from None
    if certificate.serial_number < 0:
        raise InvalidRequest("the certificate's serial number is negative")
    return certificate


def load_request(pem: str) -> x509.CertificateSigningRequest:
    """A request whose signature is right. Raises InvalidRequest."""
    if not pem:
        raise InvalidRequest('"csr" is empty')
    if "-----BEGIN" not in pem or len(pem) > PEM_BYTES_MAX:
        raise InvalidRequest("csr contains no data")
    try:
        request = read_whole(x509.load_pem_x509_csr(pem.encode()))
        valid, key = request.is_signature_valid, request.public_key()
    except UNREADABLE:
        raise InvalidRequest("certificate request could not be parsed") from None
    if not valid or not isinstance(key, PublicKey):
        raise InvalidRequest("the request's signature or its kind of key is not valid")
    return request


def public_key(signed: x509.Certificate | x509.CertificateSigningRequest) -> PublicKey:
    """The key that something is about. Raises InvalidRequest for kinds that are not offered."""
    try:
        key = signed.public_key()
    except UNREADABLE:
        raise InvalidRequest("the public key cannot be read, or is of a kind that is not supported") from None
    if not isinstance(key, PublicKey):
        raise InvalidRequest("the public key is of a kind that is not supported")
    return key


# --- making ---


@dataclass(frozen=True, slots=True)
class Urls:
    """Where verifiers find what belongs to a certificate."""

    issuing: tuple[str, ...] = ()
    crl: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """What a certificate is to say. Times are nanoseconds since 1970."""

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    not_before_ns: int
    not_after_ns: int
    key_usage: frozenset[str] = frozenset()  # attribute names of x509.KeyUsage
    ext_key_usage: tuple[ObjectIdentifier, ...] = ()
    ca: bool = False
    path_length: int | None = None
    constrain: bool = False  # basic constraints also where it is no authority
    policies: tuple[str, ...] = ()
    urls: Urls = Urls()


def make_certificate(
    template: Template, key: PublicKey, *, issuer: x509.Certificate | None, signer: PrivateKey
) -> x509.Certificate:
    """A certificate on `key`; without an issuer it signs itself."""
    builder = x509.CertificateBuilder(
        subject_name=template.subject,
        issuer_name=issuer.subject if issuer is not None else template.subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=moment(template.not_before_ns),
        not_valid_after=moment(template.not_after_ns),
    )
    for extension, critical in _extensions(template, key, issuer):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, _hash(signer))


def _extensions(
    template: Template, key: PublicKey, issuer: x509.Certificate | None
) -> Iterable[tuple[x509.ExtensionType, bool]]:
    if template.key_usage:
        flags = {name: name in template.key_usage for name in KEY_USAGES.values()}
        if not flags["key_agreement"]:
            flags["encipher_only"] = flags["decipher_only"] = False
        yield x509.KeyUsage(**flags), True
    if template.ca or template.constrain:
        yield x509.BasicConstraints(template.ca, template.path_length if template.ca else None), True
    if template.ext_key_usage:
        yield x509.ExtendedKeyUsage(template.ext_key_usage), False
    yield x509.SubjectKeyIdentifier.from_public_key(key), False
    yield authority_identifier(issuer, key), False
    if template.names:
        yield x509.SubjectAlternativeName(template.names), not list(template.subject)
    if template.policies:
        policies = [x509.PolicyInformation(ObjectIdentifier(policy), None) for policy in template.policies]
        yield x509.CertificatePolicies(policies), False
    yield from _url_extensions(template.urls)


def _url_extensions(urls: Urls) -> Iterable[tuple[x509.ExtensionType, bool]]:
    access = [(AuthorityInformationAccessOID.OCSP, url) for url in urls.ocsp]
    access += [(AuthorityInformationAccessOID.CA_ISSUERS, url) for url in urls.issuing]
    if access:
        descriptions = [
            x509.AccessDescription(oid, x509.UniformResourceIdentifier(url)) for oid, url in access
        ]
        yield x509.AuthorityInformationAccess(descriptions), False
    if urls.crl:
        points = [
            x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
            for url in urls.crl
        ]
        yield x509.CRLDistributionPoints(points), False


def authority_identifier(issuer: x509.Certificate | None, key: PublicKey) -> x509.AuthorityKeyIdentifier:
    """Of the issuer, or of the key itself where that signs for itself."""
    if issuer is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key(issuer))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def make_request(
    subject: x509.Name, names: Sequence[x509.GeneralName], key: PrivateKey
) -> x509.CertificateSigningRequest:
    """A request for a certificate of an authority."""
    builder = x509.CertificateSigningRequestBuilder(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, _hash(key))


def make_crl(
    issuer: x509.Certificate,
    signer: PrivateKey,
    revoked: Sequence[tuple[int, int]],
    *,
    now_ns: int,
    expiry_ns: int,
) -> x509.CertificateRevocationList:
    """A revocation list of (serial number, time of revocation); its number is the time, so that it grows."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.subject, last_update=moment(now_ns), next_update=moment(now_ns + expiry_ns)
    )
    builder = builder.add_extension(authority_identifier(issuer, public_key(issuer)), critical=False)
    builder = builder.add_extension(x509.CRLNumber(now_ns), critical=False)
    for number, revoked_ns in revoked:
        entry = x509.RevokedCertificateBuilder(number, moment(revoked_ns)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer, _hash(signer))


def signature_algorithm(certificate: x509.Certificate) -> str:
    """How the holder of a certificate's key signs revocation lists, as Go names it."""
    key = certificate.public_key()
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSAWithSHA{_digest_bits(key.key_size)}"
    return "SHA256WithRSA"


def _hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _DIGESTS[_digest_bits(key.key_size)]()
    return hashes.SHA256()


def _digest_bits(curve_bits: int) -> int:
    return 256 if curve_bits <= 256 else 384 if curve_bits == 384 else 512


# --- forms ---


def to_pem(signed: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> str:
    """PEM without the newline at its end, as Vault gives it."""
    return signed.public_bytes(serialization.Encoding.PEM).decode().strip()


def to_der(
    signed: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList,
) -> bytes:
    return signed.public_bytes(serialization.Encoding.DER)


def serial(number: int) -> str:
    """A serial number as it is shown and asked for: "1a:2b:..."."""
    digits = f"{number:x}"
    return number.to_bytes((len(digits) + 1) // 2, "big").hex(":")


def moment(ns: int) -> datetime.datetime:
    """To the second: certificates say no more. Raises InvalidRequest for what they cannot say at all."""
    if ns < MOMENT_NS_MIN:
        raise InvalidRequest("a certificate cannot begin before 1950")
    return datetime.datetime.fromtimestamp(ns // SECOND_NS, datetime.UTC)


def ends_ns(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp()) * SECOND_NS


def begins_ns(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_before_utc.timestamp()) * SECOND_NS
