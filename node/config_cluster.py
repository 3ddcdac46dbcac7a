"""Where other nodes reach this one's Raft listener, where that is bound, and where its calls to them leave from."""

from node.config_listener import Listener, host_port, is_wildcard, join, next_port, source_address
from node.config_schema import ConfigError, FileSettings


def cluster_address(file: FileSettings, listeners: tuple[Listener, ...]) -> str:
    """What other nodes are told. Raises ConfigError."""
    host, port = _place(file.cluster_addr or _bound(file), listeners[0])
    if is_wildcard(host):
        raise ConfigError(
            f"cluster_addr must be an address that other nodes can reach; {host} is only one to bind."
        )
    return join(host, port)


def cluster_listen(file: FileSettings, listeners: tuple[Listener, ...]) -> str:
    """What is bound: the same, unless a listener's cluster_address says otherwise, as in Vault. Raises ConfigError."""
    host, port = _place(_bound(file) or file.cluster_addr, listeners[0])
    if any(port == other.port and (host == other.host or is_wildcard(other.host)) for other in listeners):
        raise ConfigError(f"cluster_addr is {join(host, port)}, which a listener for clients uses already.")
    return join(host, port)


def cluster_source_address(file: FileSettings) -> str:
    """The address of this machine that calls leave from; "" leaves it to the kernel. Raises ConfigError."""
    return source_address(file.cluster_source_addr, where="cluster_source_addr")


def _bound(file: FileSettings) -> str:
    blocks = [block.tcp for block in file.listener]
    return next((tcp.cluster_address for tcp in blocks if tcp.cluster_address), "")


def _place(told: str, first: Listener) -> tuple[str, int]:
    told = told.removeprefix("https://").rstrip("/")  # Vault writes a URL
    return host_port(told, where="cluster_addr") if told else (first.host, next_port(first))
