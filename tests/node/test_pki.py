"""The cluster's authority: names are pinned, foreign and expired certificates are nobody, leaves renew."""

import base64
import ssl
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.corefixture import opened

from node import enrol, pki
from node.enrol import Ticket, authority
from node.errors import InvalidRequest
from node.identity import (
    Identity,
    Layout,
    read_credentials,
    read_identity,
    write_credentials,
)
from node.renewal import renew
from storage.errors import Corrupt
from storage.keyring import PEER_IDENTITY

KEY = b"k" * 32


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """A TLS handshake in memory; returns the certificate (DER) that the server saw. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    seen = ends[1].getpeercert(binary_form=True)
    assert seen is not None
    return seen


def test_members_of_one_cluster_know_each_other_and_nobody_else() -> None:
    ca, other = pki.new_ca("one"), pki.new_ca("two")
    n1 = pki.credentials(ca, pki.peer_names("n1", "c1"))
    n2 = pki.credentials(ca, pki.peer_names("n2", "c1"))
    stranger = pki.credentials(other, pki.peer_names("n2", "c1"))
    server, _ = pki.peer_contexts(ca.certificate, n1)
    _, client = pki.peer_contexts(ca.certificate, n2)
    assert shake_hands(server, client, "n1.c1.peer.strongroom")
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "n3.c1.peer.strongroom")
    _, foreign = pki.peer_contexts(ca.certificate, stranger)
    with pytest.raises(ssl.SSLError):
        shake_hands(server, foreign, "n1.c1.peer.strongroom")


def test_the_issuer_decides_the_names_not_the_request() -> None:
    ca = pki.new_ca("one")
    certificate = pki.issue(ca, pki.signing_request(pki.new_key()), pki.peer_names("n7", "c1"))
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["n7.c1.peer.strongroom"]


@pytest.mark.parametrize("request_", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 10_000])
def test_a_bad_signing_request_is_refused(request_: bytes) -> None:
    with pytest.raises(pki.InvalidCertificateRequest):
        pki.issue(pki.new_ca("one"), request_, pki.peer_names("n1", "c1"))


def test_a_signing_request_of_a_version_that_there_is_not_is_refused() -> None:
    """Which the library calls by a name of its own."""
    asked = x509.load_pem_x509_csr(pki.signing_request(pki.new_key()))
    der = asked.public_bytes(serialization.Encoding.DER)
    spoilt = der.replace(b"\x02\x01\x00", b"\x02\x01\x34", 1)
    assert spoilt != der
    body = base64.encodebytes(spoilt).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(pki.InvalidCertificateRequest):
        pki.issue(pki.new_ca("one"), pem.encode(), pki.peer_names("n1", "c1"))


@pytest.mark.parametrize("text", ["", "x", "e30", "gqEx", "a" * 10_000])
def test_what_is_no_join_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Ticket.parse(text)


@pytest.mark.parametrize(
    ("shown", "wanted", "advice"),
    [(enrol.NODE, enrol.REGION, "`region ticket`"), (enrol.REGION, enrol.NODE, "`operator join-token`")],
)
def test_a_ticket_admits_what_it_was_made_for(
    shown: enrol.Entrant, wanted: enrol.Entrant, advice: str
) -> None:
    text = Ticket(b"the secret", "ab" * 32, ["https://a:1"], admits=shown.kind).text()
    assert Ticket.parse(text, shown).admits == shown.kind
    with pytest.raises(InvalidRequest, match=f"admits a {shown.kind}, and no {wanted.kind}: {advice}"):
        Ticket.parse(text, wanted)


def test_a_join_token_comes_back_and_does_not_print_its_secret() -> None:
    ticket = Ticket(b"the secret", "ab" * 32, ["https://a:1"], b"pin")
    assert Ticket.parse(ticket.text()) == ticket
    assert "secret" not in repr(ticket)


def test_keys_on_disk_are_encrypted_and_bound_to_their_file(tmp_path: Path) -> None:
    own = pki.credentials(pki.new_ca("one"), pki.listener_names(["example.org"]))
    path = tmp_path / "listener.sealed"
    write_credentials(path, KEY, own)
    assert b"PRIVATE KEY" not in path.read_bytes()
    assert read_credentials(path, KEY).key == own.key
    with pytest.raises(Corrupt):
        read_credentials(path, b"x" * 32)
    path.rename(tmp_path / "ca.sealed")
    with pytest.raises(Corrupt):
        read_credentials(tmp_path / "ca.sealed", KEY)


async def test_certificates_renew_themselves_before_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens while they are young; when due, contexts, file and identity hold new ones of the same CA."""
    async with opened(tmp_path) as core:
        store = core.unsealed
        ca = authority(store, core.lifecycle.ca_certificate)
        layout = Layout(tmp_path / "data")
        layout.prepare()
        identity = Identity("n1", "i", "c1", ca.certificate, pki.credentials(ca, pki.peer_names("n1", "c1")))
        shown: list[pki.Credentials] = []
        tls: Any = SimpleNamespace(
            automatic=True,
            own=pki.credentials(ca, pki.listener_names(["example.org"])),
            hosts=["example.org"],
            replace=lambda _ca, own: shown.append(own),
        )
        contexts = pki.peer_contexts(ca.certificate, identity.peer)
        parts: dict[str, Any] = {"store": store, "peer_contexts": contexts, "tls": tls, "layout": layout}
        assert renew(identity=identity, **parts) is identity
        assert shown == []
        monkeypatch.setattr(pki, "LEAF_RENEW_BEFORE", pki.LEAF_LIFETIME + timedelta(days=1))  # due now
        renewed = renew(identity=identity, **parts)
        assert renewed.peer.certificate != identity.peer.certificate
        assert len(shown) == 1
        assert read_identity(layout.identity, store.root.derive(PEER_IDENTITY)) == renewed
        seen = shake_hands(contexts[0], contexts[1], "n1.c1.peer.strongroom")
        assert seen == ssl.PEM_cert_to_DER_cert(renewed.peer.certificate.decode())
