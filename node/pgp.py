"""OpenPGP, for what is handed out once and should be read by one person only: key shares and root tokens.

Keys come as Vault takes them: base64 of the binary public key (or of an armoured one). Trust is the caller's matter.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from node.errors import InvalidRequest

KEY_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key that can encrypt."""

    fingerprint: str  # hexadecimal, lower case
    _certificate: Any

    @classmethod
    def parse(cls, text: str) -> "Recipient":
        """Raises InvalidRequest for what is no public key, or one that cannot encrypt."""
        from pysequoia import Cert  # its library is large, and few ask for it

        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("error parsing PGP key: not base64") from None
        if len(raw) > KEY_BYTES_MAX:
            raise InvalidRequest(f"error parsing PGP key: more than {KEY_BYTES_MAX} bytes")
        try:
            certificate = Cert.from_bytes(raw)
            found = cls(certificate.fingerprint.lower(), certificate)
            found.encrypt(b"trial")
        except Exception:  # noqa: BLE001 - the library raises its own sort of everything
            raise InvalidRequest("error parsing PGP key: not a public key that can encrypt") from None
        return found

    def encrypt(self, plaintext: bytes) -> bytes:
        """A binary message for this key."""
        from pysequoia import encrypt

        return bytes(encrypt(plaintext, recipients=[self._certificate], armor=False))
