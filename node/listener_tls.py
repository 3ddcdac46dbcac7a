"""The certificate of the API listener: the operator's own files, or one of the cluster's CA.

A node without files makes a provisional authority at its first start, so that the first client that talks
to it (`operator init`, `operator join`) does so over TLS that it can verify with tls/ca.pem. `init` turns
that authority into the cluster's; joining replaces it by the cluster's.
"""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from node import pki
from node.config import Listener, Settings
from node.identity import Layout, read_credentials, write_credentials
from node.reload import ask_for_certificates
from storage.files import write_atomic
from storage.seal.static import read_key_file

KEY_BYTES = 32


class ListenerTLS:
    """The SSL contexts of listeners without files of their own, and what they are made from."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings = settings
        self._layout = layout
        self._key = b""
        self.own: pki.Credentials  # what the automatic listeners show; set by open()
        self._contexts: list[ssl.SSLContext] = []

    @property
    def automatic(self) -> bool:
        """Whether any listener wants a certificate of the cluster's own CA."""
        return any(
            not listener.tls_disable and listener.tls_cert_file is None
            for listener in self._settings.listeners
        )

    @property
    def hosts(self) -> list[str]:
        """The names and addresses at which clients reach this node."""
        hosts = [urlsplit(self._settings.api_address).hostname or ""]
        hosts += [listener.host for listener in self._settings.listeners]
        return [host for host in dict.fromkeys(hosts) if host not in {"", "0.0.0.0", "::"}]  # noqa: S104

    @property
    def pin(self) -> bytes:
        """What a joining node can know the first listener by, if its certificate is the operator's."""
        file = self._settings.listeners[0].tls_cert_file
        return bytes.fromhex(pki.fingerprint(file.read_bytes())) if file is not None else b""

    def open(self) -> None:
        """Load what the last start left, or make a provisional authority and a certificate of it."""
        if not self.automatic:
            return
        self._key = self._local_key()
        if self._layout.listener.exists():
            self.own = read_credentials(self._layout.listener, self._key)
        else:
            self.own = self._make_provisional()

    def context(self, listener: Listener) -> ssl.SSLContext:
        """A new one, which shows what is the newest certificate. Raises CertificateError."""
        context = pki.listener_context(self.own)
        ask_for_certificates(context, listener)
        self._contexts.append(context)
        return context

    def _make_provisional(self) -> pki.Credentials:
        ca = pki.new_ca(self._settings.cluster_name)
        own = pki.credentials(ca, pki.listener_names(self.hosts))
        write_credentials(self._layout.ca, self._key, ca)
        write_atomic(self._layout.ca_certificate, ca.certificate)
        write_credentials(self._layout.listener, self._key, own)
        return own

    def take_authority(self) -> pki.Credentials:
        """The provisional authority, for `init` to put into the store; a new one if there is none."""
        if self.automatic and self._layout.ca.exists():
            return read_credentials(self._layout.ca, self._key)
        ca = pki.new_ca(self._settings.cluster_name)
        write_atomic(self._layout.ca_certificate, ca.certificate)
        return ca

    def forget_authority(self) -> None:
        """The store holds the authority now: no copy stays outside of it."""
        self._layout.ca.unlink(missing_ok=True)

    def replace(self, ca_certificate: bytes, own: pki.Credentials) -> None:
        """From now on show this certificate (on joining, on renewal)."""
        write_atomic(self._layout.ca_certificate, ca_certificate)
        if self.automatic:
            write_credentials(self._layout.listener, self._key, own)
            for context in self._contexts:
                pki.load_credentials(context, own)
            self.own = own

    def _local_key(self) -> bytes:
        assert self._settings.seal.key_file is not None  # config refuses automatic TLS with other seals
        return local_key(self._settings.seal.key_file)


def local_key(key_file: Path) -> bytes:
    """What the files under tls/ are encrypted with. Raises SealUnavailable."""
    seal_key = read_key_file(key_file)
    return HKDF(hashes.SHA256(), KEY_BYTES, None, b"strongroom/1/listener-tls").derive(seal_key.reveal())
