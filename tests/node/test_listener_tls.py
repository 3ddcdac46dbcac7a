"""Listeners that show a certificate of the cluster's own authority ask clients for theirs, as those with files do."""

import dataclasses
import secrets
import ssl
from pathlib import Path

import pytest
from support.certs import Authority

from node.config import Listener, SealSettings, dev_settings
from node.identity import Layout
from node.listener_tls import ListenerTLS
from node.reload import CertificateError


@pytest.fixture
def tls(tmp_path: Path) -> ListenerTLS:
    key_file = tmp_path / "seal.key"
    key_file.write_text(secrets.token_hex(32))
    key_file.chmod(0o600)
    settings = dataclasses.replace(
        dev_settings(data_dir=tmp_path / "data"),
        seal=SealSettings(kind="static", key_file=key_file),
        listeners=(Listener(host="127.0.0.1", port=8200),),
    )
    layout = Layout(tmp_path / "data")
    layout.prepare()
    made = ListenerTLS(settings, layout)
    made.open()
    return made


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The server's side of a connection. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    ]
    for _ in range(4):
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0]


def client_of(tls: ListenerTLS, certificate: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls._layout.ca_certificate.read_text())
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("required", [False, True])
def test_clients_are_asked_for_a_certificate_where_it_is_said(
    tls: ListenerTLS, tmp_path: Path, required: bool
) -> None:
    authority, stranger = Authority(tmp_path / "clients"), Authority(tmp_path / "stranger")
    listener = Listener(
        host="127.0.0.1", port=8200, tls_client_ca_file=authority.ca, tls_client_required=required
    )
    server = tls.context(listener)
    known = shaken(server, client_of(tls, authority.issue("ann", ["ann"])))
    assert known.getpeercert(binary_form=True)
    with pytest.raises(ssl.SSLError):
        shaken(server, client_of(tls, stranger.issue("eve", ["ann"])))
    if required:
        with pytest.raises(ssl.SSLError):
            shaken(server, client_of(tls, None))
    else:
        assert shaken(server, client_of(tls, None)).getpeercert(binary_form=True) is None


def test_nobody_is_asked_where_nothing_is_said(tls: ListenerTLS, tmp_path: Path) -> None:
    server = tls.context(Listener(host="127.0.0.1", port=8200))
    end = shaken(server, client_of(tls, Authority(tmp_path / "clients").issue("ann", ["ann"])))
    assert end.getpeercert(binary_form=True) is None


def test_an_authority_that_cannot_be_read_stops_the_start(tls: ListenerTLS, tmp_path: Path) -> None:
    listener = Listener(host="127.0.0.1", port=8200, tls_client_ca_file=tmp_path / "none.pem")
    with pytest.raises(CertificateError, match=r"none\.pem"):
        tls.context(listener)
