"""What opens the store, and the certificates that are shown."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from node.config import Listener, Settings
from node.diagnose.finding import Finding, Findings, fail, ok, skipped, warn
from node.identity import Identity, Layout, read_credentials, read_identity
from node.listener_tls import local_key
from node.reload import CertificateError, ListenerFiles
from storage.errors import StorageError
from storage.keyring import PEER_IDENTITY, RootKey
from storage.seal import SealFile
from storage.seal.static import read_key_file

EXPIRY_WARNING = timedelta(days=14)


def check(settings: Settings) -> Findings:
    layout = Layout(settings.data_dir)
    yield from seal(settings, layout)
    for listener in settings.listeners:
        yield _listener(settings, layout, listener)
    if layout.ca_certificate.exists():
        yield _expiry(
            "authority", layout.ca_certificate.read_bytes(), "a new authority means new nodes: plan it"
        )
    identity = peer_identity(settings, layout)
    if identity is not None:
        yield _identity(settings, identity)


def seal(settings: Settings, layout: Layout) -> Findings:
    key_file = settings.seal.key_file
    if key_file is None:
        yield skipped("seal", "people open this store with key shares: nothing to try")
        return
    try:
        key = read_key_file(key_file)
    except StorageError as error:
        yield fail(
            "seal", str(error), "the key file holds 32 bytes, is owned by the node's user and has mode 0600"
        )
        return
    if not layout.seal.exists():
        yield ok("seal", f"{key_file} holds a key; there is no store to try it on")
        return
    try:
        sealed = SealFile.read(layout.seal)
    except StorageError as error:
        yield fail(
            "seal",
            f"{layout.seal} cannot be read: {error}",
            "copy it from another node of this cluster: it is the same on all of them",
        )
        return
    try:
        sealed.unwrap(key.reveal())
    except StorageError as error:
        yield fail(
            "seal",
            f"{key_file} does not open {layout.seal}: {error}",
            "use the key file that this store was made with",
        )
        return
    yield ok("seal", f"{key_file} opens {layout.seal}")


def root_key(settings: Settings, layout: Layout) -> RootKey | None:
    """The root key, where a key file gives it."""
    if settings.seal.key_file is None or not layout.seal.exists():
        return None
    try:
        return SealFile.read(layout.seal).unwrap(read_key_file(settings.seal.key_file).reveal())
    except StorageError:
        return None


def peer_identity(settings: Settings, layout: Layout) -> Identity | None:
    """Who this node is in its cluster, where that can be read."""
    root = root_key(settings, layout)
    if root is None or not layout.identity.exists():
        return None
    try:
        return read_identity(layout.identity, root.derive(PEER_IDENTITY))
    except StorageError:
        return None


def _identity(settings: Settings, identity: Identity) -> Finding:
    if identity.node_id != settings.node_id:
        return fail(
            "identity",
            f"the data directory is that of node {identity.node_id}, the configuration says {settings.node_id}",
            f'set node_id = "{identity.node_id}", or use another data directory',
        )
    return _expiry(
        "identity", identity.peer.certificate, "start the node: it renews its certificate by itself"
    )


def _listener(settings: Settings, layout: Layout, listener: Listener) -> Finding:
    name = f"listener {listener.host}:{listener.port}"
    if listener.tls_disable:
        return warn(name, "plain HTTP on a loopback address", "use TLS for anything but tests")
    if listener.tls_cert_file is None:
        return _automatic(settings, layout, name)
    try:
        ListenerFiles().context(listener)
    except CertificateError as error:
        return fail(
            name, str(error), "the certificate and its key must be PEM, belong together and be readable"
        )
    return _certificate(name, settings, listener.tls_cert_file)


def _automatic(settings: Settings, layout: Layout, name: str) -> Finding:
    if not layout.listener.exists() or settings.seal.key_file is None:
        return ok(name, "a certificate of the cluster's own authority; made at the first start")
    try:
        own = read_credentials(layout.listener, local_key(settings.seal.key_file))
    except StorageError as error:
        return fail(
            name, f"its certificate cannot be read: {error}", "the seal key is not the one of the last start"
        )
    return _expiry(name, own.certificate, "start the node: it renews its certificate by itself")


def _certificate(name: str, settings: Settings, file: Path) -> Finding:
    from urllib.parse import urlsplit

    data = file.read_bytes()
    host = urlsplit(settings.api_address).hostname or ""
    if host not in names_of(data):
        return warn(
            name,
            f"{file} is not good for {host}, which api_addr names",
            "clients that use api_addr will refuse it",
        )
    return _expiry(name, data, "replace the files, then send SIGHUP")


def names_of(pem: bytes) -> set[str]:
    """The names and addresses that a certificate is good for."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def _expiry(name: str, pem: bytes, advice: str) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return fail(name, "its file holds no certificate", "copy it again from where it came from")
    now, ends, begins = datetime.now(UTC), certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now < begins:
        return fail(
            name,
            f"its certificate is valid only from {begins:%Y-%m-%d %H:%M} UTC on",
            "set this machine's clock",
        )
    message = f"its certificate is valid until {ends:%Y-%m-%d}"
    if ends <= now:
        return fail(name, f"its certificate ended on {ends:%Y-%m-%d}", advice)
    return warn(name, message, advice) if ends - now < EXPIRY_WARNING else ok(name, message)
