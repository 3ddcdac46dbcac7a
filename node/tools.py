"""Random bytes and digests for clients who have no good ones at hand. Pure, but for the generator."""

import base64
import binascii
import hashlib
import os

from node.errors import InvalidRequest

RANDOM_BYTES_DEFAULT = 32
RANDOM_BYTES_MAX = 128 * 1024
ALGORITHMS = (
    "sha2-224",
    "sha2-256",
    "sha2-384",
    "sha2-512",
    "sha3-224",
    "sha3-256",
    "sha3-384",
    "sha3-512",
)
FORMATS = ("hex", "base64")


def random_bytes(count: int, form: str) -> str:
    """`count` bytes of the operating system's generator. Raises InvalidRequest."""
    if count < 1:
        raise InvalidRequest("'bytes' cannot be less than 1")
    if count > RANDOM_BYTES_MAX:
        raise InvalidRequest(f"'bytes' should be less than {RANDOM_BYTES_MAX}")
    return _encoded(os.urandom(count), form, f'"{form[:32]}"')


def digest(text: str, algorithm: str, form: str) -> str:
    """The digest of what `text` is the base64 of. Raises InvalidRequest."""
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(f"unsupported algorithm {algorithm[:32]}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("unable to decode input as base64") from None
    name = algorithm.replace("sha2-", "sha").replace("sha3-", "sha3_")
    return _encoded(hashlib.new(name, data).digest(), form, form[:32])


def _encoded(data: bytes, form: str, shown: str) -> str:
    if form not in FORMATS:
        raise InvalidRequest(f'unsupported encoding format {shown}; must be "hex" or "base64"')
    return data.hex() if form == "hex" else base64.b64encode(data).decode()
