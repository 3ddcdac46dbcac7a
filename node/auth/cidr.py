"""Networks that a token or a secret id is bound to: read, shown and compared with where a request comes from."""

import functools
import ipaddress
from collections.abc import Sequence
from typing import Any

from node.auth.fields import bounds
from node.errors import InvalidRequest

CIDRS_MAX = 256
CACHED_MAX = 1024

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(value: Any, field: str) -> tuple[str, ...]:
    """Addresses and networks as they are kept: a single address without its mask. Raises InvalidRequest."""
    return tuple(_shown(_parsed(item, field)) for item in _items(value, field))


def as_written(value: Any, field: str) -> tuple[str, ...]:
    """The same check, but each is kept as it was sent."""
    items = _items(value, field)
    for item in items:
        _parsed(item, field)
    return tuple(items)


def subset(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether each of `inner` lies in one of `outer`."""
    return all(any(_lies_in(_network(each), _network(other)) for other in outer) for each in inner)


def inside(remote: str, bound: Sequence[str]) -> bool:
    """Whether an address lies in one of the networks. What is no address lies in none."""
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in _network(each) for each in bound)


def _items(value: Any, field: str) -> list[str]:
    items = bounds(value, field)
    if len(items) > CIDRS_MAX:
        raise InvalidRequest(f'field "{field}" has more than {CIDRS_MAX} networks')
    return items


def _parsed(item: str, field: str) -> _Network:
    try:
        return _network(item)
    except ValueError:
        raise InvalidRequest(f'field "{field}" holds something else than IP addresses and networks') from None


@functools.lru_cache(maxsize=CACHED_MAX)
def _network(text: str) -> _Network:
    return ipaddress.ip_network(text, strict=False)


def _shown(network: _Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _lies_in(inner: _Network, outer: _Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False
