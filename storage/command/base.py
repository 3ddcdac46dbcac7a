"""What all commands have in common."""

import msgspec


class Command(msgspec.Struct, frozen=True, array_like=True):
    """The base of all commands; time_ns is the proposer's clock when the request arrived."""

    time_ns: int


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """A value under its own data key, which is itself wrapped under a numbered keyring term.

    repr() shows only sizes: ciphertext is no secret, but it does not belong in a log either.
    """

    term: int
    wrapped_key: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"Sealed(term={self.term}, {len(self.ciphertext)} bytes)"
