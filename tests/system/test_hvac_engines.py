"""hvac's calls of PKI and transit, against one server from a configuration file, or a real OpenBao."""

import base64
from collections.abc import Iterator

import hvac
import pytest
from cryptography import x509
from hvac.exceptions import InvalidPath, InvalidRequest
from support.targets import unique

EC = {"key_type": "ec", "key_bits": 256, "ttl": "700h"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def pki(vault: hvac.Client) -> Iterator[str]:
    path = unique("pki")
    vault.sys.enable_secrets_engine("pki", path=path)
    vault.secrets.pki.generate_root("exported", "root", EC, mount_point=path)
    role = {
        "allowed_domains": "example.com",
        "allow_subdomains": True,
        "key_type": "ec",
        "ttl": "1h",
        "max_ttl": "2h",
    }
    vault.secrets.pki.create_or_update_role("web", role, mount_point=path)
    yield path
    vault.sys.disable_secrets_engine(path)


def test_certificates_are_issued_listed_and_revoked(vault: hvac.Client, pki: str) -> None:
    api = vault.secrets.pki
    made = api.generate_certificate("web", "a.example.com", mount_point=pki)["data"]
    issued = x509.load_pem_x509_certificate(made["certificate"].encode())
    issued.verify_directly_issued_by(x509.load_pem_x509_certificate(made["issuing_ca"].encode()))
    assert made["serial_number"] in api.list_certificates(mount_point=pki)["data"]["keys"]
    assert api.read_certificate(made["serial_number"], mount_point=pki)["data"]["revocation_time"] == 0
    assert api.revoke_certificate(made["serial_number"], mount_point=pki)["data"]["revocation_time"] > 0
    listed = x509.load_pem_x509_crl(vault.adapter.get(f"/v1/{pki}/crl/pem").text.encode())
    assert [each.serial_number for each in listed] == [issued.serial_number]
    with pytest.raises(InvalidRequest, match=r"common name evil\.com not allowed by this role"):
        api.generate_certificate("web", "evil.com", mount_point=pki)


def test_an_intermediate_is_signed(vault: hvac.Client, pki: str) -> None:
    api, between = vault.secrets.pki, unique("inter")
    vault.sys.enable_secrets_engine("pki", path=between)
    csr = api.generate_intermediate("internal", "between", {"key_type": "ec"}, mount_point=between)["data"][
        "csr"
    ]
    signed = api.sign_intermediate(csr, "between", {"ttl": "600h"}, mount_point=pki)["data"]["certificate"]
    api.set_signed_intermediate(signed, mount_point=between)
    role = {"allow_any_name": True, "key_type": "ec", "ttl": "1h"}
    api.create_or_update_role("web", role, mount_point=between)
    chain = api.generate_certificate("web", "b.example.com", mount_point=between)["data"]["ca_chain"]
    assert x509.load_pem_x509_certificate(chain[0].encode()).subject.rfc4514_string() == "CN=between"
    vault.sys.disable_secrets_engine(between)


def test_what_is_configured(vault: hvac.Client, pki: str) -> None:
    api = vault.secrets.pki
    api.set_urls(
        {"issuing_certificates": ["http://a/ca"], "crl_distribution_points": ["http://a/crl"]},
        mount_point=pki,
    )
    assert api.read_urls(mount_point=pki)["data"]["issuing_certificates"] == ["http://a/ca"]
    api.set_crl_configuration(expiry="24h", mount_point=pki)
    assert api.read_crl_configuration(mount_point=pki)["data"]["expiry"] == "24h"
    assert api.rotate_crl(mount_point=pki)["data"]["success"] is True
    assert "-----BEGIN CERTIFICATE" in api.read_ca_certificate(mount_point=pki)
    assert api.list_roles(mount_point=pki)["data"]["keys"] == ["web"]
    assert api.read_role("web", mount_point=pki)["data"]["max_ttl"] == 7200
    issuer = api.list_issuers(mount_point=pki)["data"]["keys"][0]
    assert api.read_issuer(issuer, mount_point=pki)["data"]["issuer_id"] == issuer
    api.update_issuer(issuer, {"issuer_name": "first"}, mount_point=pki)
    assert api.read_issuer("first", mount_point=pki)["data"]["issuer_id"] == issuer
    api.tidy({"tidy_cert_store": True}, mount_point=pki)
    api.delete_role("web", mount_point=pki)
    with pytest.raises(InvalidPath):
        api.read_role("web", mount_point=pki)


@pytest.fixture
def transit(vault: hvac.Client) -> Iterator[str]:
    path = unique("transit")
    vault.sys.enable_secrets_engine("transit", path=path)
    yield path
    vault.sys.disable_secrets_engine(path)


@pytest.mark.parametrize("kind", ["aes256-gcm96", "chacha20-poly1305", "rsa-2048"])
def test_what_is_encrypted_comes_back(vault: hvac.Client, transit: str, kind: str) -> None:
    api = vault.secrets.transit
    api.create_key("k", key_type=kind, mount_point=transit)
    made = api.encrypt_data("k", b64("x"), mount_point=transit)["data"]["ciphertext"]
    assert api.decrypt_data("k", made, mount_point=transit)["data"]["plaintext"] == b64("x")
    api.rotate_key("k", mount_point=transit)
    again = api.rewrap_data("k", made, mount_point=transit)["data"]["ciphertext"]
    assert again.startswith("vault:v2:")
    api.update_key_configuration("k", min_decryption_version=2, mount_point=transit)
    with pytest.raises(InvalidRequest, match="too old"):
        api.decrypt_data("k", made, mount_point=transit)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa-2048"])
def test_signatures_and_hmacs(vault: hvac.Client, transit: str, kind: str) -> None:
    api = vault.secrets.transit
    api.create_key("k", key_type=kind, mount_point=transit)
    signature = api.sign_data("k", b64("x"), mount_point=transit)["data"]["signature"]
    mac = api.generate_hmac("k", b64("x"), mount_point=transit)["data"]["hmac"]
    for text, valid in (("x", True), ("y", False)):
        found = api.verify_signed_data("k", b64(text), signature=signature, mount_point=transit)
        assert found["data"]["valid"] is valid
        found = api.verify_signed_data("k", b64(text), hmac=mac, mount_point=transit)
        assert found["data"]["valid"] is valid


def test_keys_are_listed_exported_and_deleted(vault: hvac.Client, transit: str) -> None:
    api = vault.secrets.transit
    api.create_key("kept", mount_point=transit)
    api.create_key("free", exportable=True, allow_plaintext_backup=True, mount_point=transit)
    assert api.list_keys(mount_point=transit)["data"]["keys"] == ["free", "kept"]
    exported = api.export_key("free", "encryption-key", mount_point=transit)["data"]["keys"]
    assert len(base64.b64decode(exported["1"])) == 32
    with pytest.raises(InvalidRequest, match="private key material is not exportable"):
        api.export_key("kept", "encryption-key", mount_point=transit)
    backup = api.backup_key("free", mount_point=transit)["data"]["backup"]
    api.update_key_configuration("free", deletion_allowed=True, mount_point=transit)
    api.delete_key("free", mount_point=transit)
    with pytest.raises(InvalidPath):
        api.read_key("free", mount_point=transit)
    api.restore_key(backup, name="back", mount_point=transit)
    assert api.read_key("back", mount_point=transit)["data"]["latest_version"] == 1


def test_data_keys_hashes_and_random_bytes(vault: hvac.Client, transit: str) -> None:
    api = vault.secrets.transit
    api.create_key("k", mount_point=transit)
    made = api.generate_data_key("k", "plaintext", mount_point=transit)["data"]
    assert (
        api.decrypt_data("k", made["ciphertext"], mount_point=transit)["data"]["plaintext"]
        == made["plaintext"]
    )
    digest = api.hash_data(b64("x"), algorithm="sha2-256", output_format="hex", mount_point=transit)["data"][
        "sum"
    ]
    assert digest == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert (
        len(base64.b64decode(api.generate_random_bytes(16, mount_point=transit)["data"]["random_bytes"]))
        == 16
    )
