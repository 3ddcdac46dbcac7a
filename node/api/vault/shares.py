"""What clients say of shares: of those to be made, how many, and for whose keys; of one that they bring, which."""

import asyncio
from typing import Any

from node.auth.fields import integer, strings
from node.ceremonies import Shares
from node.core.fields import Field, Kind
from node.errors import InvalidRequest
from node.pgp import Recipient
from storage.seal.shamir import SHARES_MAX

OFFERED = (
    Field("key", Kind.STRING, "One share, in base64 or hexadecimal.", required=True),
    Field("nonce", Kind.STRING, "The nonce of this operation.", required=True),
)

_INVALID = "invalid seal configuration: "


async def wanted(
    data: dict[str, Any], *, shares: str, threshold: str, pgp_keys: str, default: tuple[int, int]
) -> Shares:
    """Shares from the named fields; `default` where neither number is given. Raises InvalidRequest."""
    if data.get(shares) is None and data.get(threshold) is None:
        count, needed = default
    else:
        count, needed = integer(data.get(shares), shares), integer(data.get(threshold), threshold)
    _check(count, needed)
    keys = strings(data.get(pgp_keys), pgp_keys)
    if keys and len(keys) != count:
        raise InvalidRequest(
            f"{_INVALID}count mismatch between number of provided PGP keys and number of shares"
        )
    # A stranger may send these: hundreds of large keys must not hold the loop.
    return Shares(count, needed, await asyncio.to_thread(_recipients, keys))


def _recipients(keys: list[str]) -> tuple[Recipient, ...]:
    return tuple(Recipient.parse(key) for key in keys)


def _check(count: int, needed: int) -> None:
    if count < 1:
        raise InvalidRequest(_INVALID + "shares must be at least one")
    if needed < 1:
        raise InvalidRequest(_INVALID + "threshold must be at least one")
    if count > SHARES_MAX:
        raise InvalidRequest(f"{_INVALID}shares must be less than {SHARES_MAX + 1}")
    if needed > count:
        raise InvalidRequest(_INVALID + "threshold cannot be larger than shares")
    if needed == 1 < count:
        raise InvalidRequest(_INVALID + "threshold must be greater than one for multiple shares")


def recipient(data: dict[str, Any], name: str) -> Recipient | None:
    """The one PGP key in a field, if there is one."""
    value = data.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidRequest(f'error converting input for field "{name}": expected a string')
    return Recipient.parse(value)
