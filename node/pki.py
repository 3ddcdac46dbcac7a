"""The cluster's own small certificate authority, and the TLS contexts made from it.

Two kinds of leaf: a *peer* certificate carries the DNS name that pins a node id (consensus.transport
checks it on both sides of a Raft link), a *listener* certificate carries the names and addresses at which
clients reach the API. EC P-256 throughout, TLS 1.3 only. Keys travel as PEM bytes inside Secret.
"""

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consensus.identity import peer_name
from node.foreign_x509 import UNREADABLE
from storage.secret import Secret

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=90)
LEAF_RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW_ALLOWED = timedelta(minutes=5)
CSR_BYTES_MAX = 8 * 1024


class InvalidCertificateRequest(ValueError):
    """A certificate signing request that is malformed, unsigned or of a kind that is not issued."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its key, both PEM."""

    certificate: bytes
    key: Secret

    def expires_within(self, margin: timedelta) -> bool:
        """Whether it should be replaced now."""
        leaf = x509.load_pem_x509_certificate(self.certificate)
        return leaf.not_valid_after_utc - datetime.now(UTC) < margin


def new_ca(name: str) -> Credentials:
    """A new authority for one cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Strongroom CA of {name}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(subject, subject, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Credentials(_pem(certificate), _key_pem(key))


def new_key() -> Secret:
    """A fresh private key, PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def signing_request(key: Secret) -> bytes:
    """A request that proves possession of `key`; the issuer decides every name in the certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_load_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def peer_names(node_id: str, cluster_id: str) -> list[x509.GeneralName]:
    """The one name that pins a node id."""
    return [x509.DNSName(peer_name(node_id, cluster_id))]


def listener_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Names for the addresses at which a listener is reached; loopback is always among them."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def issue(
    ca: Credentials, request: bytes, names: Sequence[x509.GeneralName], lifetime: timedelta = LEAF_LIFETIME
) -> bytes:
    """A leaf certificate (PEM) for the key of a signing request. Raises InvalidCertificateRequest."""
    if len(request) > CSR_BYTES_MAX:
        raise InvalidCertificateRequest("certificate signing request too large")
    try:
        csr = x509.load_pem_x509_csr(request)
        if not csr.is_signature_valid:
            raise InvalidSignature
        public = csr.public_key()
    except (*UNREADABLE, InvalidSignature) as error:
        raise InvalidCertificateRequest("not a signed PEM certificate signing request") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidCertificateRequest("only P-256 keys are certified")
    authority = x509.load_pem_x509_certificate(ca.certificate)
    signer = _load_key(ca.key)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(x509.Name([]), authority.subject, public, lifetime)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate)


def credentials(
    ca: Credentials, names: Sequence[x509.GeneralName], lifetime: timedelta = LEAF_LIFETIME
) -> Credentials:
    """A fresh key with its certificate."""
    key = new_key()
    return Credentials(issue(ca, signing_request(key), names, lifetime), key)


def fingerprint(certificate: bytes) -> str:
    """SHA-256 over the DER form, hex: what a join token carries to pin the authority."""
    der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def listener_context(own: Credentials) -> ssl.SSLContext:
    """TLS for clients of the API."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    load_credentials(context, own)
    return context


def peer_contexts(ca_certificate: bytes, own: Credentials) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts for Raft links: both sides show a certificate of this authority."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.num_tickets = 0  # no resumption: each connection proves its certificate
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca_certificate.decode())
        load_credentials(context, own)
    return server, client


def load_credentials(context: ssl.SSLContext, own: Credentials) -> None:
    """Use these credentials for handshakes from now on. The key passes through memory only."""
    fd = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(fd, own.certificate + own.key.reveal())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW_ALLOWED)
        .not_valid_after(now + lifetime)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _load_key(key: Secret) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.reveal(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded
