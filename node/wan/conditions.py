"""What the way from one region to another is like, and the arithmetic of it: pure, times are monotonic seconds."""

import random
from typing import Annotated, Literal

import msgspec

BURST_BYTES = 64 * 1024  # what a way that was idle lets through at once, however narrow it is
DELAY_S_MAX = 60.0

_Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_S_MAX)]

Cut = Literal["", "reset", "swallow"]


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one direction. cut: "reset" ends connections and refuses new ones; "swallow" leaves them without an answer."""

    delay_s: _Delay = 0.0
    jitter_s: _Delay = (
        0.0  # at most this much more delay, drawn for each piece; order is kept, as TCP keeps it
    )
    bits_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # 0: as much as this machine can
    flip_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = (
        0.0  # that a byte arrives with a bit flipped
    )
    cut: Cut = ""


class Bucket:
    """A token bucket of BURST_BYTES: when bytes that come now have left, if bits_per_s is all that gets through."""

    def __init__(self) -> None:
        self._empty_until = float("-inf")

    def departure(self, now: float, size: int, bits_per_s: float) -> float:
        """The time at which `size` bytes have left; they are taken out of what is to come."""
        if not bits_per_s:
            self._empty_until = now
            return now
        began = max(self._empty_until, now - BURST_BYTES * 8 / bits_per_s)
        self._empty_until = began + size * 8 / bits_per_s
        return max(now, self._empty_until)


def damaged(data: bytes, probability: float, chance: random.Random) -> bytes:
    """`data` with one bit flipped in each byte that `chance` picks."""
    if not probability:
        return data
    flipped = bytearray(data)
    for index in range(len(flipped)):
        if chance.random() < probability:
            flipped[index] ^= 1 << chance.randrange(8)
    return bytes(flipped)
