"""What all commands have in common.

They are made of numbers, bytes, text, and tuples and maps of those. None can hold itself, so the garbage collector need
not look at them (gc=False): thousands of them live from one commit to the next.
"""

import msgspec


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all commands; time_ns is the proposer's clock when the request arrived."""

    time_ns: int


class Sealed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value under its own data key, which is itself wrapped under a numbered keyring term.

    repr() shows only sizes: ciphertext is no secret, but it does not belong in a log either.
    """

    term: int
    wrapped_key: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"Sealed(term={self.term}, {len(self.ciphertext)} bytes)"
