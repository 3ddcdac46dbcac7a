"""A throwaway certificate authority."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consensus.identity import peer_name
from node import pki

DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates into `directory`; `ca` is its own, `<name>.pem` holds a certificate and its key."""

    def __init__(self, directory: Path, *, above: "Authority | None" = None) -> None:
        """`above` signs its certificate, which is its own root otherwise."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.ca = directory, directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test ca {directory.name}")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        issuer = above or self
        certificate = (
            issuer._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(True, 0 if above else 1), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key()), False
            )
            .sign(issuer._key, hashes.SHA256())
        )
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def node(self, node_id: str, cluster_id: str) -> Path:
        """The PEM file of a node's certificate and key."""
        return self.issue(node_id, [peer_name(node_id, cluster_id)])

    def issue(self, file_name: str, dns_names: list[str], *, unit: str = "") -> Path:
        """A certificate with these DNS names, valid for both ends of a connection."""
        key = ec.generate_private_key(ec.SECP256R1())
        said = {NameOID.COMMON_NAME: file_name, NameOID.ORGANIZATIONAL_UNIT_NAME: unit}
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in said.items() if value])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names]), False)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
            .add_extension(x509.ExtendedKeyUsage(usages), False)
            .sign(self._key, hashes.SHA256())
        )
        path = self.directory / f"{file_name}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
        )


def self_signed(directory: Path) -> tuple[Path, Path]:
    """cert.pem and key.pem for a listener on loopback; cert.pem holds its authority too, to verify it by."""
    ca = pki.new_ca("test")
    own = pki.credentials(ca, pki.listener_names([]))
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(own.certificate + ca.certificate)
    key.write_bytes(own.key.reveal())
    return cert, key
