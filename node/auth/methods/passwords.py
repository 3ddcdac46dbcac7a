"""Passwords kept as Argon2id hashes (RFC 9106), with the work bounded and off the event loop.

The parameters are those that OWASP's Password Storage Cheat Sheet names first for Argon2id. A password of an unknown
user is hashed all the same, against a hash that none fits, so that the time of an answer tells nobody who exists.
"""

import asyncio
import os

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from node.errors import InvalidRequest, TooBusy

MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1
HASH_BYTES = 32
SALT_BYTES = 16
HASHED_AT_ONCE_MAX = 2
WAITING_MAX = 256
PASSWORD_BYTES_MAX = 4096

# Of no password: the digest is not one that Argon2id gave.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$c3Ryb25ncm9vbSBub29uZQ$" + "A" * 43


class Passwords:
    """Hashes and verifies, a few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(HASHED_AT_ONCE_MAX)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash to keep, in PHC form. Raises InvalidRequest, TooBusy."""
        if len(password.encode()) > PASSWORD_BYTES_MAX:
            raise InvalidRequest(f"a password has at most {PASSWORD_BYTES_MAX} bytes")
        return str(await self._in_turn(derive, password))

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether it is the password behind a hash. None, for a user who is not there, costs the same."""
        if len(password.encode()) > PASSWORD_BYTES_MAX:
            password, kept = "", None
        return bool(await self._in_turn(verify, password, kept or _NOBODY)) and kept is not None

    async def _in_turn(self, work, *arguments: str):  # type: ignore[no-untyped-def]
        if self._waiting >= WAITING_MAX:
            raise TooBusy("too many logins at the same time")
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._waiting -= 1


def derive(password: str) -> str:
    """Blocking: an Argon2id hash with a salt of its own."""
    argon = Argon2id(
        salt=os.urandom(SALT_BYTES),
        length=HASH_BYTES,
        iterations=ITERATIONS,
        lanes=LANES,
        memory_cost=MEMORY_KIB,
    )
    return argon.derive_phc_encoded(password.encode())


def verify(password: str, kept: str) -> bool:
    """Blocking: whether the password gives this hash; compares in constant time."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), kept)
    except InvalidKey:
        return False
    return True
