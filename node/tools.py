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
    if not 1 <= count <= RANDOM_BYTES_MAX:
        raise InvalidRequest(f'"bytes" must lie between 1 and {RANDOM_BYTES_MAX}')
    return encoded(os.urandom(count), form)


def digest(text: str, algorithm: str, form: str) -> str:
    """The digest of what `text` is the base64 of. Raises InvalidRequest."""
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(f"unsupported algorithm {algorithm}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("unable to decode input as base64") from None
    name = algorithm.replace("sha2-", "sha").replace("sha3-", "sha3_")
    return encoded(hashlib.new(name, data).digest(), form)


def encoded(data: bytes, form: str) -> str:
    """Hexadecimal or base64. Raises InvalidRequest for another form."""
    if form not in FORMATS:
        raise InvalidRequest(f'unsupported encoding format "{form}"; must be "hex" or "base64"')
    return data.hex() if form == "hex" else base64.b64encode(data).decode()
