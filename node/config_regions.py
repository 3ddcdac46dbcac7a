"""Where a node is reached by other regions, what it binds for them, and where its own links to them leave from."""

import re

from node.config_listener import host_port, is_wildcard, join, source_address
from node.config_schema import ConfigError, FileSettings


def region_address(file: FileSettings) -> str:
    """What other regions are told; "" for a node that takes no part in them. Raises ConfigError."""
    if not file.region_addr:
        if file.region_bind_addr or file.region_source_addr:
            raise ConfigError("region_bind_addr and region_source_addr mean nothing without region_addr.")
        return ""
    host, port = host_port(file.region_addr, where="region_addr")
    if is_wildcard(host):
        raise ConfigError(
            f"region_addr must be an address that other regions can reach; {file.region_addr} is not."
        )
    return join(host, port)


def region_bind_address(file: FileSettings) -> str:
    """What is bound: the same, unless others come through a proxy or a translated address. Raises ConfigError."""
    if not file.region_bind_addr:
        return region_address(file)
    return join(*host_port(file.region_bind_addr, where="region_bind_addr"))


def region_source_address(file: FileSettings) -> str:
    """The address of this machine that links leave from; "" leaves it to the kernel. Raises ConfigError."""
    return source_address(file.region_source_addr, where="region_source_addr")


BANDWIDTH_BIT_S_MIN = 1_000_000  # less could not carry the largest write before its receiver gives up
_BANDWIDTH = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?([kMG])bit(?:/s)?")
_BITS = {"k": 10**3, "M": 10**6, "G": 10**9}


def region_bandwidth_bytes_per_s(file: FileSettings) -> float:
    """What this node sends to other regions at most; 0.0: as much as it can. Raises ConfigError."""
    return bandwidth_bytes_per_s(file.region_bandwidth, "region_bandwidth") if file.region_bandwidth else 0.0


def bandwidth_bytes_per_s(text: str, where: str) -> float:
    """What "10Mbit" says. Raises ConfigError, which names `where` it was said."""
    found = _BANDWIDTH.fullmatch(text)
    if found is None:
        raise ConfigError(f'{where} is "{text}"; a bandwidth is written "10Mbit" or "1.5Gbit".')
    bits_per_s = float(found[1]) * _BITS[found[2]]
    if bits_per_s < BANDWIDTH_BIT_S_MIN:
        raise ConfigError(f'{where} is "{text}"; it must be at least 1Mbit.')
    return bits_per_s / 8
