"""Where clients are served: the listener blocks of a configuration, checked, and the addresses in it."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from node.config_schema import ConfigError, Flag, Tcp

_TLS_VERSIONS = ("tls12", "tls13")
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false", ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where clients are served. No files and no tls_disable: a certificate of the cluster's own CA."""

    host: str
    port: int
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_disable: bool = False
    tls_min_version: str = "tls13"
    tls_client_ca_file: Path | None = None  # whose certificates a client may show
    tls_client_required: bool = False  # and must


def listener(tcp: Tcp, *, where: str) -> Listener:
    host, port = host_port(tcp.address, where=f"{where} address")
    plain = flag(tcp.tls_disable, f"{where} tls_disable")
    if bool(tcp.tls_cert_file) != bool(tcp.tls_key_file):
        raise ConfigError(f"{where} has one of tls_cert_file and tls_key_file; it needs both or neither.")
    if plain and tcp.tls_cert_file:
        raise ConfigError(f"{where} has tls_disable and certificate files; remove one of them.")
    if plain and tcp.tls_client_ca_file:
        raise ConfigError(f"{where} has tls_disable and tls_client_ca_file: nobody shows it a certificate.")
    if plain and not is_loopback(host):
        raise ConfigError(
            f"{where} has tls_disable on {tcp.address}; plain HTTP is served on a loopback address only, "
            "because tokens and secrets travel in it."
        )
    client_ca_file, required = _client_certificates(tcp, where)
    return Listener(
        host=host,
        port=port,
        tls_cert_file=_file(tcp.tls_cert_file),
        tls_key_file=_file(tcp.tls_key_file),
        tls_disable=plain,
        tls_min_version=_tls_version(tcp, where),
        tls_client_ca_file=client_ca_file,
        tls_client_required=required,
    )


def _file(told: str) -> Path | None:
    return Path(told).absolute() if told else None


def _tls_version(tcp: Tcp, where: str) -> str:
    for key in ("tls_min_version", "tls_max_version"):
        if getattr(tcp, key) not in _TLS_VERSIONS:
            raise ConfigError(f'{where} {key} is "{getattr(tcp, key)}"; it must be one of tls12, tls13.')
    if tcp.tls_max_version != "tls13":
        raise ConfigError(f"{where} tls_max_version must be tls13: nobody is kept from the better protocol.")
    return tcp.tls_min_version


def _client_certificates(tcp: Tcp, where: str) -> tuple[Path | None, bool]:
    """The authority of client certificates, and whether every client must show one."""
    required = flag(tcp.tls_require_and_verify_client_cert, f"{where} tls_require_and_verify_client_cert")
    disabled = flag(tcp.tls_disable_client_certs, f"{where} tls_disable_client_certs")
    if required and disabled:
        raise ConfigError(f"{where} both requires and disables client certificates.")
    if required and not tcp.tls_client_ca_file:
        raise ConfigError(f"{where} requires client certificates; tls_client_ca_file says whose.")
    return (None if disabled else _file(tcp.tls_client_ca_file)), required


# --- addresses and flags --------------------------------------------------------------------------------------


def host_port(text: str, *, where: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets: which part is the port?
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f'{where} is "{text}"; it must be host:port (an IPv6 host in [brackets]).')
    return host, int(port)


def next_port(listener: Listener) -> int:
    return listener.port + 1 if listener.port < 65535 else listener.port - 1


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def source_address(told: str, *, where: str) -> str:
    """`told`, which must be "" or an IP address. Raises ConfigError, naming the key `where`."""
    if told:
        try:
            ipaddress.ip_address(told)
        except ValueError:
            raise ConfigError(f'{where} is "{told}"; it must be an IP address of this machine.') from None
    return told


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "*")  # noqa: S104 - recognised in order to be refused


def flag(value: Flag, where: str) -> bool:
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError(f'{where} is "{value}"; it must be true or false.')
    return text in _TRUE
