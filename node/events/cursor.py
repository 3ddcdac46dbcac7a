"""Where a subscriber stands: a token in the form of X-Vault-Index, good on every node of every region.

base64 of {"cluster", "value"} as in that header, so that it can be sent there too: `value` is the position in the
store's history. Beside it stand `t`, the time in milliseconds up to which expiries were told, which have no place in
the history, and `e`, the epoch in which the position was read: another epoch may have ordered another history from
some position on.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from node.errors import InvalidRequest
from storage.rows import Epoch

CHARACTERS_MAX = 512
_DIGITS_MAX = 19
MS_NS = 10**6


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to `position` was told, and every expiry up to `until_ns` (None: nobody says)."""

    cluster: str
    position: int
    until_ns: int | None = None
    epoch: int = 0

    def __str__(self) -> str:
        fields = {"cluster": self.cluster, "value": str(self.position)}
        if self.until_ns is not None:
            fields["t"] = str(self.until_ns // MS_NS)
        if self.epoch:
            fields["e"] = str(self.epoch)
        return base64.b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()


def parse(text: str) -> Cursor:
    """A cursor, or an X-Vault-Index. Raises InvalidRequest."""
    garbage = InvalidRequest("the cursor is none: give the id of an event, or an X-Vault-Index")
    if len(text) > CHARACTERS_MAX:
        raise garbage
    try:
        fields = json.loads(base64.b64decode(text, validate=True))
        cluster, numbers = fields["cluster"], [fields["value"], fields.get("t", "0"), fields.get("e", "0")]
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise garbage from None
    if not isinstance(cluster, str) or not all(map(_is_number, numbers)):
        raise garbage
    position, until_ms, epoch = map(int, numbers)
    return Cursor(cluster, position, until_ms * MS_NS if "t" in fields else None, epoch)


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


def is_ours(cursor: Cursor, epochs: Sequence[Epoch]) -> bool:
    """Whether what the cursor's holder was told is the beginning of this history.

    A cursor without an epoch is an X-Vault-Index, or older than the first epoch: the history from the second one on may
    not be the one that it is from.
    """
    first_unknown = cursor.epoch or 1
    later = next((each for each in epochs if each.epoch > first_unknown), None)
    return later is None or cursor.position < later.position
