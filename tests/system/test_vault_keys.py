"""Rekeying and root tokens with the clients that people have, on a store that people open."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
from support.certs import self_signed
from support.ports import free_ports
from support.processes import Server, configuration
from support.targets import Bao, Target

from .test_vault_configuration import vault_configuration


class Opened:
    """A server in memory, initialised with 3 shares of which 2 open it, and open."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        self.vault = hvac.Client(server.address, verify=str(server.ca))
        made = self.vault.sys.initialize(secret_shares=3, secret_threshold=2)
        self.keys: list[str] = made["keys_base64"]
        self.token: str = made["root_token"]
        self.vault.sys.submit_unseal_keys(self.keys[:2])
        self.vault.token = self.token
        self.bao = Bao(Target(server.address, self.token, home, ca=server.ca))

    def reopen(self, keys: list[str]) -> bool:
        """Seal, and try these shares."""
        if not self.vault.sys.is_sealed():
            self.vault.sys.seal()
        self.vault.sys.submit_unseal_key(reset=True)
        for key in keys:
            try:
                self.vault.sys.submit_unseal_key(key)
            except hvac.exceptions.InvalidRequest:
                break
        return not self.vault.sys.is_sealed()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    self_signed(tmp_path)
    path, address = vault_configuration(tmp_path)
    with Server(tmp_path / "run", f"-config={path}", address=address, ca=tmp_path / "cert.pem") as server:
        server.start()
        server.wait_health(501)
        made = Opened(server, tmp_path)
        yield made
        made.vault.adapter.close()


def test_hvac_rekeys_and_only_the_new_shares_open(opened: Opened) -> None:
    vault = opened.vault
    begun = vault.sys.start_rekey(secret_shares=5, secret_threshold=3)
    assert (begun["n"], begun["t"], begun["required"], begun["started"]) == (5, 3, 2, True)
    done = vault.sys.rekey_multi(opened.keys[:2], nonce=begun["nonce"])
    assert done["complete"]
    assert len(done["keys_base64"]) == 5
    assert not opened.reopen(opened.keys[:2])
    assert opened.reopen(done["keys_base64"][2:])
    assert vault.lookup_token()["data"]["policies"] == ["root"]
    assert vault.sys.read_seal_status()["n"] == 5


def test_hvac_cancels_with_its_token(opened: Opened) -> None:
    opened.vault.sys.start_rekey(secret_shares=1, secret_threshold=1)
    assert opened.vault.sys.read_rekey_progress()["started"]
    opened.vault.sys.cancel_rekey()
    assert not opened.vault.sys.read_rekey_progress()["started"]


def test_a_stranger_can_neither_see_the_nonce_nor_cancel(opened: Opened) -> None:
    begun = opened.vault.sys.start_rekey(secret_shares=1, secret_threshold=1)
    server = opened.server
    assert server.request("GET", "sys/rekey/init").body["nonce"] == ""
    refused = server.request("DELETE", "sys/rekey/init")
    assert refused.status == 403
    assert begun["nonce"] not in str(refused.body)
    assert server.request("DELETE", "sys/rekey/init", token="s.wrong").status == 403
    assert server.request("DELETE", "sys/rekey/init?nonce=wrong").status == 403
    wrong = server.request("PUT", "sys/rekey/update", {"key": opened.keys[0], "nonce": "wrong"})
    assert wrong.status == 400
    assert begun["nonce"] not in str(wrong.body)
    assert opened.vault.sys.read_rekey_progress()["nonce"] == begun["nonce"]
    assert server.request("DELETE", f"sys/rekey/init?nonce={begun['nonce']}").status == 204
    assert not server.request("GET", "sys/rekey/init").body["started"]


def test_new_shares_that_must_be_verified_are_not_in_force_before(opened: Opened) -> None:
    vault = opened.vault
    begun = vault.sys.start_rekey(secret_shares=3, secret_threshold=2, require_verification=True)
    done = vault.sys.rekey_multi(opened.keys[1:], nonce=begun["nonce"])
    assert done["complete"]
    assert done["verification_required"]
    assert opened.reopen(opened.keys[:2]), "sealing forgets the attempt; the old shares hold"
    begun = vault.sys.start_rekey(secret_shares=3, secret_threshold=2, require_verification=True)
    done = vault.sys.rekey_multi(opened.keys[1:], nonce=begun["nonce"])
    nonce = done["verification_nonce"]
    assert vault.sys.rekey_verify(done["keys"][0], nonce=nonce)["progress"] == 1
    assert vault.sys.rekey_verify(done["keys"][2], nonce=nonce)["complete"]
    assert not opened.reopen(opened.keys[:2])
    assert opened.reopen(done["keys"][:2])


@pytest.fixture
def person() -> Any:
    """Somebody with a PGP key."""
    from pysequoia import Tsk

    return Tsk.generate("Somebody <somebody@example.com>")


def test_shares_and_tokens_can_be_encrypted_for_their_holders(opened: Opened, person: Any) -> None:
    import pysequoia

    public = base64.b64encode(bytes(person.extract_certificate())).decode()
    vault = opened.vault
    begun = vault.sys.start_rekey(secret_shares=1, secret_threshold=1, pgp_keys=[public], backup=True)
    done = vault.sys.rekey_multi(opened.keys[:2], nonce=begun["nonce"])
    assert done["pgp_fingerprints"] == [person.extract_certificate().fingerprint.lower()]
    message = base64.b64decode(done["keys_base64"][0])
    share = bytes(pysequoia.decrypt(message, decryptor=person.decryptor()).bytes).decode()
    kept = vault.read("sys/rekey/backup")["data"]
    assert kept["keys_base64"] == {done["pgp_fingerprints"][0]: done["keys_base64"]}
    assert not opened.reopen(done["keys"][:1])
    assert opened.reopen([share])
    begun = vault.sys.start_root_token_generation(pgp_key=public)
    done = vault.sys.generate_root(share, nonce=begun["nonce"])
    message = base64.b64decode(done["encoded_token"])
    vault.token = bytes(pysequoia.decrypt(message, decryptor=person.decryptor()).bytes).decode()
    assert vault.lookup_token()["data"]["policies"] == ["root"]


def test_hvac_makes_a_root_token(opened: Opened) -> None:
    vault, otp = opened.vault, "abcdefghijklmnopqrstuvwxyz"
    begun = vault.sys.start_root_token_generation(otp=otp)
    assert begun["otp_length"] == len(otp)
    assert vault.sys.generate_root(opened.keys[0], nonce=begun["nonce"])["progress"] == 1
    done = vault.sys.generate_root(opened.keys[2], nonce=begun["nonce"])
    assert done["complete"]
    padded = base64.b64decode(done["encoded_root_token"] + "==")
    vault.token = bytes(a ^ b for a, b in zip(padded, otp.encode(), strict=True)).decode()
    assert vault.lookup_token()["data"]["policies"] == ["root"]
    vault.sys.start_root_token_generation()
    vault.sys.cancel_root_generation()
    assert not vault.sys.read_root_generation_progress()["started"]


def test_bao_rekeys_rotates_and_makes_a_root_token(opened: Opened) -> None:
    bao = opened.bao
    begun = bao.json("operator", "rotate-keys", "-init", "-key-shares=1", "-key-threshold=1")
    nonce = begun["nonce"]
    bao.ok("operator", "rotate-keys", f"-nonce={nonce}", opened.keys[0])
    done = bao.json("operator", "rotate-keys", f"-nonce={nonce}", opened.keys[1])
    assert done["complete"]
    share = done["keys_base64"][0]
    assert opened.reopen([share])
    term = bao.json("operator", "key-status")["term"]
    bao.ok("operator", "rotate")
    assert bao.json("operator", "key-status")["term"] == term + 1
    begun = bao.json("operator", "generate-root", "-init")
    done = bao.json("operator", "generate-root", f"-nonce={begun['nonce']}", share)
    token = bao.ok(
        "operator", "generate-root", f"-decode={done['encoded_token']}", f"-otp={begun['otp']}"
    ).strip()
    assert bao.json("token", "lookup", token=token)["data"]["policies"] == ["root"]
    begun = bao.json("operator", "rekey", "-init", "-key-shares=1", "-key-threshold=1")
    bao.ok("operator", "rekey", "-cancel")
    assert not bao.json("operator", "rekey", "-status")["started"]


@pytest.fixture
def unattended(tmp_path: Path) -> Iterator[Server]:
    """One node on disk that a key file opens, not initialised."""
    key = tmp_path / "seal.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    api, raft = free_ports(2)
    config = configuration(tmp_path, node_id="solo", api_port=api, cluster_port=raft, seal_key=key)
    ca = tmp_path / "data" / "tls" / "ca.pem"
    with Server(tmp_path, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(501)
        yield server


def test_recovery_keys_stand_in_for_shares_where_a_key_file_opens_the_store(unattended: Server) -> None:
    server = unattended
    asked = {"recovery_shares": 3, "recovery_threshold": 2}
    made = server.request("PUT", "sys/init", asked).body
    assert (made["keys"], len(made["recovery_keys"])) == ([], 3)
    server.wait_health(200)
    status = server.request("GET", "sys/seal-status").body
    assert (status["recovery_seal"], status["t"], status["n"]) == (True, 2, 3)
    token, keys = made["root_token"], made["recovery_keys"]
    refused = server.request(
        "PUT", "sys/rekey/init", {"secret_shares": 1, "secret_threshold": 1}, token=token
    )
    assert "only its recovery keys can be rekeyed" in str(refused.body)

    begun = server.request(
        "PUT", "sys/rekey-recovery-key/init", {"secret_shares": 1, "secret_threshold": 1}
    ).body
    for key in keys[:2]:
        body = {"key": key, "nonce": begun["nonce"]}
        done = server.request("PUT", "sys/rekey-recovery-key/update", body).body
    assert done["complete"]

    assert server.stop() == 0
    server.start()
    server.wait_health(200)
    begun = server.request("PUT", "sys/generate-root/attempt", {}).body
    old = server.request("PUT", "sys/generate-root/update", {"key": keys[2], "nonce": begun["nonce"]})
    assert old.status == 400
    body = {"key": done["keys"][0], "nonce": begun["nonce"]}
    given = server.request("PUT", "sys/generate-root/update", body).body
    padded = base64.b64decode(given["encoded_root_token"] + "==")
    token = bytes(a ^ b for a, b in zip(padded, begun["otp"].encode(), strict=True)).decode()
    assert server.request("GET", "auth/token/lookup-self", token=token).body["data"]["policies"] == ["root"]


def test_without_recovery_keys_there_is_nobody_to_ask(unattended: Server) -> None:
    unattended.request("PUT", "sys/init", {})
    unattended.wait_health(200)
    refused = unattended.request("PUT", "sys/generate-root/attempt", {})
    assert refused.status == 400
    assert "without recovery keys" in str(refused.body)
    assert unattended.request("GET", "sys/rekey-recovery-key/init").body["required"] == 0


def test_encryptions_are_counted(opened: Opened) -> None:
    vault = opened.vault
    vault.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    vault.sys.rotate_encryption_key()
    before = vault.key_status
    for number in range(3):
        vault.secrets.kv.v2.create_or_update_secret("a", {"n": number}, mount_point="kv")
    after = vault.key_status
    assert (after["term"], after["encryptions"] - before["encryptions"]) == (before["term"], 3)
