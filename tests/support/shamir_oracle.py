"""Secret sharing over GF(2^8) the textbook way: tables of logarithms, Lagrange with fractions of them.

Written apart from the product's, to find what both could not get wrong in the same way. Not constant time.
"""

import itertools

# 3 generates the multiplicative group of GF(2^8) with AES' polynomial x^8 + x^4 + x^3 + x + 1.
EXP = [1]
while len(EXP) < 255:
    doubled = EXP[-1] << 1
    EXP.append((doubled ^ EXP[-1]) if doubled < 256 else (doubled ^ EXP[-1] ^ 0x11B))
LOG = {value: power for power, value in enumerate(EXP)}


def multiply(a: int, b: int) -> int:
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def divide(a: int, b: int) -> int:
    return EXP[(LOG[a] - LOG[b]) % 255] if a else 0


def combine(shares: list[bytes]) -> bytes:
    """Interpolate every byte at 0; the last byte of a share is its x."""
    points = [(share[-1], share[:-1]) for share in shares]
    secret = []
    for position in range(len(points[0][1])):
        total = 0
        for x, ys in points:
            term = ys[position]
            for other, _ in points:
                if other != x:
                    term = multiply(term, divide(other, other ^ x))
            total ^= term
        secret.append(total)
    return bytes(secret)


def split(secret: bytes, xs: list[int], coefficients: list[bytes]) -> list[bytes]:
    """Shares at `xs`, given for each byte of the secret the coefficients of x, x^2, ..."""
    shares = []
    for x in xs:
        ys = []
        for byte, higher in zip(secret, coefficients, strict=True):
            y, power = byte, 1
            for coefficient in higher:
                power = multiply(power, x)
                y ^= multiply(coefficient, power)
            ys.append(y)
        shares.append(bytes([*ys, x]))
    return shares


def subsets(items: list[bytes], size: int) -> list[list[bytes]]:
    return [list(each) for each in itertools.combinations(items, size)]
