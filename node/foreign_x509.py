"""X.509 from outside. The library reads some parts only when they are asked for, and raises there if it cannot."""

from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

Signed = TypeVar("Signed", x509.Certificate, x509.CertificateSigningRequest)


def read_whole(signed: Signed) -> Signed:
    """The same, whose names and extensions can be read, all of them. Raises one of UNREADABLE."""
    list(signed.subject)
    list(signed.extensions)
    if isinstance(signed, x509.Certificate):
        list(signed.issuer)
    return signed
