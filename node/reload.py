"""What SIGHUP takes up without a restart: audit files, the listeners' certificates, the log level."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from node.config import ConfigError, Listener, Settings
from node.telemetry import logs

if TYPE_CHECKING:
    from node.audit.log import AuditLog

log = structlog.get_logger("server")

_TLS_VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


class CertificateError(Exception):
    """A listener's files cannot be used; the message names the listener."""


class ListenerFiles:
    """The TLS contexts of listeners whose certificates the operator brings."""

    def __init__(self) -> None:
        self._contexts: list[tuple[Listener, ssl.SSLContext]] = []

    def context(self, listener: Listener) -> ssl.SSLContext:
        """A new context for one listener with files. Raises CertificateError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _TLS_VERSIONS[listener.tls_min_version]
        _load(context, listener)
        ask_for_certificates(context, listener)
        self._contexts.append((listener, context))
        return context

    def reload(self) -> None:
        """Show what the files hold now. A listener whose files are broken keeps what it has: said in the log."""
        for listener, context in self._contexts:
            try:
                _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), listener)  # a broken pair must not get half in
                _load(context, listener)
            except CertificateError as error:
                log.warning("certificate not reloaded", reason=str(error))


def ask_for_certificates(context: ssl.SSLContext, listener: Listener) -> None:
    """Have clients show a certificate, if the listener says whose. Raises CertificateError.

    Each connection proves its own: a resumed session would not tell who stands above the client.
    """
    if listener.tls_client_ca_file is None:
        return
    try:
        context.load_verify_locations(listener.tls_client_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _failure(listener, listener.tls_client_ca_file, error) from error
    context.verify_mode = ssl.CERT_REQUIRED if listener.tls_client_required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority in the file need not be a root
    context.num_tickets = 0


def _load(context: ssl.SSLContext, listener: Listener) -> None:
    assert listener.tls_cert_file is not None
    assert listener.tls_key_file is not None
    try:
        context.load_cert_chain(listener.tls_cert_file, listener.tls_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        raise _failure(listener, listener.tls_cert_file, error) from error


def _failure(listener: Listener, file: Path, error: Exception) -> CertificateError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "cannot be used"
    return CertificateError(f"listener {listener.host}:{listener.port}: {file}: {reason}")


def reload(files: ListenerFiles, audit: "AuditLog", read_settings: Callable[[], Settings] | None) -> None:
    """On SIGHUP. `read_settings` reads the configuration again; of it, only the log level is taken up."""
    audit.reopen()
    files.reload()
    if read_settings is not None:
        try:
            logs.set_level(read_settings().log_level)
        except ConfigError as error:
            log.warning("configuration not reloaded", reason=str(error))
    log.info("reloaded")
