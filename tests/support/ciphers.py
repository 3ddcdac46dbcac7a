"""A real Cipher for tests: AES-256-GCM under a key derived from the segment's salt."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12


class AesSegment:
    """consensus.api.SegmentCipher."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, aad)

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        try:
            return self._aead.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], aad)
        except InvalidTag:
            raise ValueError("altered, or another key") from None


class AesCipher:
    """consensus.api.Cipher; equal keys read each other's files."""

    def __init__(self, key: bytes = b"k" * 32) -> None:
        self._key = key

    def segment(self, salt: bytes) -> AesSegment:
        derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=b"test journal")
        return AesSegment(derive.derive(self._key))
