"""Secret sharing against an oracle written another way, and against published values."""

import inspect
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import shamir_oracle as oracle

from storage.errors import InvalidShare
from storage.seal import shamir

SECRET = bytes(range(100, 132))


def test_multiplication_and_inversion_over_the_whole_field():
    for a in range(256):
        assert all(shamir.multiply(a, b) == oracle.multiply(a, b) for b in range(256))
        assert shamir.inverse(a) == (oracle.divide(1, a) if a else 0)


def test_published_products():
    """FIPS 197, sections 4.2 and 4.2.1."""
    assert shamir.multiply(0x57, 0x83) == 0xC1
    assert shamir.multiply(0x57, 0x13) == 0xFE
    assert [shamir.multiply(0x57, x) for x in (0x02, 0x04, 0x08, 0x10)] == [0xAE, 0x47, 0x8E, 0x07]


def test_a_line_drawn_by_hand():
    """y = 0x42 + 0x03 x: at 1 it is 0x41, at 2 it is 0x44."""
    assert shamir.combine([b"\x41\x01", b"\x44\x02"]) == b"\x42"


@pytest.mark.parametrize(("shares", "threshold"), [(2, 2), (3, 2), (5, 3), (6, 4), (5, 5)])
def test_any_threshold_of_the_shares_gives_the_secret_and_fewer_do_not(shares, threshold):
    parts = shamir.split(SECRET, shares, threshold)
    assert all(len(part) == len(SECRET) + 1 for part in parts)
    assert len({part[-1] for part in parts} - {0}) == shares
    for size in range(2, shares + 1):
        for subset in oracle.subsets(parts, size):
            assert (shamir.combine(subset) == SECRET) == (size >= threshold)
            assert shamir.combine(subset) == oracle.combine(subset)


def test_one_share_too_few_fits_every_secret_equally():
    """With 2 of 3 needed, one share of a byte is consistent with each of the 256 secrets."""
    (part, *_) = shamir.split(b"\x2a", 3, 2)
    fitting = set()
    for y in range(256):
        other_x = 1 + part[-1] % 255
        fitting.add(shamir.combine([part, bytes([y, other_x])]))
    assert len(fitting) == 256


def test_one_of_one_is_the_secret_itself():
    assert shamir.split(SECRET, 1, 1) == [SECRET]


def test_the_largest_number_of_shares():
    parts = shamir.split(b"\x07\x00", 255, 255)
    assert sorted(part[-1] for part in parts) == list(range(1, 256))
    assert shamir.combine(parts) == b"\x07\x00"
    assert shamir.combine(parts[:-1]) != b"\x07\x00" or shamir.combine(parts[1:]) != b"\x07\x00"


@given(secret=st.binary(min_size=1, max_size=40), data=st.data())
def test_shares_of_either_side_open_with_the_other(secret, data):
    threshold = data.draw(st.integers(2, 6))
    xs = data.draw(st.lists(st.integers(1, 255), min_size=threshold, max_size=8, unique=True))
    seed = data.draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    theirs = oracle.split(secret, xs, [rng.randbytes(threshold - 1) for _ in secret])
    assert shamir.combine(rng.sample(theirs, threshold)) == secret
    ours = shamir.split(secret, len(xs), threshold)
    assert oracle.combine(rng.sample(ours, threshold)) == secret


def test_shares_differ_from_one_split_to_the_next():
    assert not set(shamir.split(SECRET, 5, 3)) & set(shamir.split(SECRET, 5, 3))


@pytest.mark.parametrize(("shares", "threshold"), [(1, 2), (2, 1), (256, 2), (3, 4), (0, 0), (5, 1), (3, -1)])
def test_numbers_that_do_not_go_together(shares, threshold):
    with pytest.raises(ValueError, match="threshold"):
        shamir.split(SECRET, shares, threshold)


def test_an_empty_secret_is_not_split():
    with pytest.raises(ValueError, match="nothing"):
        shamir.split(b"", 3, 2)


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [b"\x01\x01"],
        [b"\x01\x01", b"\x02\x02\x03"],
        [b"\x01", b"\x02"],
        [b"\x01\x05", b"\x02\x05"],
        [b"\x01\x00", b"\x02\x05"],
    ],
)
def test_malformed_shares_are_refused(shares):
    with pytest.raises(InvalidShare):
        shamir.combine(shares)


def test_nothing_indexes_or_branches_by_a_secret():
    """The arithmetic has no subscript, no condition: what runs does not depend on the values."""
    for function in (shamir.multiply, shamir.inverse):
        source = inspect.getsource(function).split('"""')[2]
        assert not {"[", " if ", "while", " and ", " or "} & {
            sign for sign in ("[", " if ", "while", " and ", " or ") if sign in source
        }
