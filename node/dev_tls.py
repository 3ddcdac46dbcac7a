"""`server -dev-tls`: an authority, a certificate and its key, made for one run and left where clients find them."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from node.config import DEV_CA_FILE
from node.pki import credentials, listener_context, listener_names, new_ca
from storage.files import write_atomic

CERTIFICATE_FILE = "strongroom-cert.pem"
KEY_FILE = "strongroom-key.pem"


def dev_context(directory: Path, hosts: Sequence[str]) -> ssl.SSLContext:
    """TLS for a listener that is reached as one of `hosts` or loopback; the three files go into `directory`.

    The key file is this user's alone (0600). Raises OSError.
    """
    ca = new_ca("dev")
    own = credentials(ca, listener_names(hosts))
    write_atomic(directory / DEV_CA_FILE, ca.certificate)
    write_atomic(directory / CERTIFICATE_FILE, own.certificate)
    write_atomic(directory / KEY_FILE, own.key.reveal())
    return listener_context(own)
