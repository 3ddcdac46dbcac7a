"""Shamir's secret sharing over GF(2^8), as HashiCorp Vault lays it out.

A share of an n-byte secret has n + 1 bytes: y for every byte, then x. Byte i of the secret is the value at 0
of a random polynomial of degree t - 1 (A. Shamir, How to share a secret, 1979); the field is that of AES
(FIPS 197, section 4.2). One share of one (n = t = 1) is the secret itself, without an x, as in Vault.

Nothing looks a secret up in a table or branches on it: multiplication is shifts and masks over all eight
bits. Python's own integers promise no constant time, but those below 257 are preallocated objects and the
same operations run whatever the values are.
"""

import secrets
from collections.abc import Sequence

from storage.errors import InvalidShare

SHARES_MAX = 255
_POLYNOMIAL = 0x1B


def split(secret: bytes, shares: int, threshold: int) -> list[bytes]:
    """Share `secret` so that any `threshold` of the `shares` give it back, and fewer give nothing.

    Raises ValueError unless 2 <= threshold <= shares <= 255, or both are 1.
    """
    if not secret:
        raise ValueError("nothing to split")
    if shares == threshold == 1:
        return [secret]
    if not 2 <= threshold <= shares <= SHARES_MAX:
        raise ValueError(f"need 2 <= threshold <= shares <= {SHARES_MAX}, or 1 and 1")
    xs = secrets.SystemRandom().sample(range(1, 256), shares)
    polynomials = [bytes([byte]) + secrets.token_bytes(threshold - 1) for byte in secret]
    return [bytes([*(_evaluate(polynomial, x) for polynomial in polynomials), x]) for x in xs]


def combine(shares: Sequence[bytes]) -> bytes:
    """The secret that two or more shares give. Whether they are enough, and belong together, cannot be told
    from them: the caller checks the result. Raises InvalidShare.
    """
    if len(shares) < 2:
        raise InvalidShare("two shares at least")
    length = len(shares[0])
    if length < 2 or any(len(share) != length for share in shares):
        raise InvalidShare("shares have one length, of two bytes at least")
    xs = [share[-1] for share in shares]
    if 0 in xs:
        raise InvalidShare("a share has no x coordinate")
    if len(set(xs)) != len(xs):
        raise InvalidShare("two shares have the same x coordinate")
    weights = [_weight(xs, i) for i in range(len(xs))]
    secret = bytearray(length - 1)
    for share, weight in zip(shares, weights, strict=True):
        for position in range(length - 1):
            secret[position] ^= multiply(share[position], weight)
    return bytes(secret)


def multiply(a: int, b: int) -> int:
    """a * b in the field, in the same steps for all values."""
    product = 0
    for bit in range(8):
        product ^= -((b >> bit) & 1) & a
        a = ((a << 1) ^ (-(a >> 7) & _POLYNOMIAL)) & 0xFF
    return product


def inverse(a: int) -> int:
    """1 / a, as a^254 (and 0 for 0): the group of the field has 255 elements."""
    square = multiply(a, a)
    result = square
    for _ in range(6):
        square = multiply(square, square)
        result = multiply(result, square)
    return result


def _evaluate(polynomial: bytes, x: int) -> int:
    """Horner's rule; the constant term comes first."""
    value = 0
    for coefficient in reversed(polynomial):
        value = multiply(value, x) ^ coefficient
    return value


def _weight(xs: Sequence[int], i: int) -> int:
    """Lagrange's basis polynomial of point i, at 0; minus is exclusive or."""
    numerator = denominator = 1
    for j, x in enumerate(xs):
        if j != i:
            numerator = multiply(numerator, x)
            denominator = multiply(denominator, x ^ xs[i])
    return multiply(numerator, inverse(denominator))
