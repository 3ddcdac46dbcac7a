"""Where a node is reached by other regions, what it binds for them, and where its own links to them leave from."""

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
