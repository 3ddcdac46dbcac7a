"""The transit engine: what it makes can be checked with other tools, and its rules hold."""

import asyncio
import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from node.errors import NoQuorum

SIGNING = ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048"]
EXPORTABLE = {"exportable": True, "allow_plaintext_backup": True}


@pytest.fixture
async def wire(site):
    wire = await site.connect()
    assert (await wire.ask("POST", "/v1/sys/mounts/transit", {"type": "transit"})).status == 204
    return wire


async def ok(wire, path, body=None, method="POST"):
    answer = await wire.ask(method, f"/v1/transit/{path}", body)
    assert answer.status == 200, answer.body
    return answer.json["data"]


async def refused(wire, path, body=None, method="POST"):
    answer = await wire.ask(method, f"/v1/transit/{path}", body)
    assert answer.status == 400, answer.body
    return answer.json["errors"][0]


def b64(text):
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def opened(ciphertext):
    return base64.b64decode(ciphertext.rpartition(":")[2])


async def nowhere(*args, **kwargs):
    raise NoQuorum("no leader")


# --- encryption ---


@pytest.mark.parametrize("kind", ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "rsa-2048"])
async def test_what_is_encrypted_comes_back(wire, kind):
    await ok(wire, "keys/k", {"type": kind})
    made = await ok(wire, "encrypt/k", {"plaintext": b64("attack at dawn")})
    assert made["ciphertext"].startswith("vault:v1:")
    assert (await ok(wire, "decrypt/k", {"ciphertext": made["ciphertext"]}))["plaintext"] == b64(
        "attack at dawn"
    )
    again = await ok(wire, "encrypt/k", {"plaintext": b64("attack at dawn")})
    assert again["ciphertext"] != made["ciphertext"]


@pytest.mark.parametrize(
    ("kind", "cipher"), [("aes256-gcm96", AESGCM), ("chacha20-poly1305", ChaCha20Poly1305)]
)
async def test_the_format_is_the_one_that_others_can_read(wire, kind, cipher):
    await ok(wire, "keys/k", {"type": kind} | EXPORTABLE)
    body = {"plaintext": b64("x"), "associated_data": b64("for whom")}
    ciphertext = opened((await ok(wire, "encrypt/k", body))["ciphertext"])
    exported = (await ok(wire, "export/encryption-key/k", method="GET"))["keys"]["1"]
    key = base64.b64decode(exported)
    assert cipher(key).decrypt(ciphertext[:12], ciphertext[12:], b"for whom") == b"x"


async def test_a_derived_key_is_one_for_each_context(wire):
    await ok(wire, "keys/k", {"derived": True} | EXPORTABLE)
    body = {"plaintext": b64("x"), "context": b64("alice")}
    ciphertext = (await ok(wire, "encrypt/k", body))["ciphertext"]
    root = base64.b64decode((await ok(wire, "export/encryption-key/k", method="GET"))["keys"]["1"])
    key = HKDF(hashes.SHA256(), 32, salt=None, info=b"alice").derive(root)
    assert AESGCM(key).decrypt(opened(ciphertext)[:12], opened(ciphertext)[12:], None) == b"x"
    wrong = await refused(wire, "decrypt/k", {"ciphertext": ciphertext, "context": b64("bob")})
    assert wrong == "cipher: message authentication failed"
    assert (await refused(wire, "encrypt/k", {"plaintext": b64("x")})).startswith("missing 'context'")


async def test_convergent_ciphertexts_tell_equal_plaintexts_and_nothing_else(wire):
    await ok(wire, "keys/k", {"derived": True, "convergent_encryption": True})

    async def encrypted(text, context):
        return (await ok(wire, "encrypt/k", {"plaintext": b64(text), "context": b64(context)}))["ciphertext"]

    one = await encrypted("x", "alice")
    assert await encrypted("x", "alice") == one
    others = [await encrypted("x", "bob"), await encrypted("y", "alice")]
    nonces = {opened(each)[:12] for each in [one, *others]}
    assert len(nonces) == 3, "no nonce is used for two messages"


async def test_old_versions_open_until_the_rules_say_otherwise(wire):
    await ok(wire, "keys/k")
    old = (await ok(wire, "encrypt/k", {"plaintext": b64("x")}))["ciphertext"]
    assert (await ok(wire, "keys/k/rotate"))["latest_version"] == 2
    new = await ok(wire, "encrypt/k", {"plaintext": b64("x")})
    assert new["key_version"] == 2
    assert (await ok(wire, "decrypt/k", {"ciphertext": old}))["plaintext"] == b64("x")
    rewrapped = await ok(wire, "rewrap/k", {"ciphertext": old})
    assert rewrapped["ciphertext"].startswith("vault:v2:")
    shown = await ok(wire, "keys/k/config", {"min_decryption_version": 2})
    assert list(shown["keys"]) == ["2"]
    assert "too old" in await refused(wire, "decrypt/k", {"ciphertext": old})
    assert (await ok(wire, "decrypt/k", rewrapped))["plaintext"] == b64("x")
    assert "less than the minimum" in await refused(
        wire, "encrypt/k", {"plaintext": b64("x"), "key_version": 1}
    )


async def test_trimmed_versions_are_gone_for_ever(wire):
    await ok(wire, "keys/k", EXPORTABLE)
    await ok(wire, "keys/k/rotate")
    assert "not set" in await refused(wire, "keys/k/trim", {"min_available_version": 2})
    await ok(wire, "keys/k/config", {"min_decryption_version": 2, "min_encryption_version": 2})
    assert (await ok(wire, "keys/k/trim", {"min_available_version": 2}))["min_available_version"] == 2
    error = await refused(wire, "keys/k/config", {"min_decryption_version": 1})
    assert error == "minimum decryption version is less than the minimum available version"
    backup = base64.b64decode((await ok(wire, "backup/k", method="GET"))["backup"])
    assert b'"1"' not in backup
    assert b'"2"' in backup


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("encrypt/k", {}, "missing plaintext to encrypt"),
        ("encrypt/k", {"plaintext": "***"}, "illegal base64 data at input byte 0"),
        (
            "encrypt/k",
            {"plaintext": b64("x"), "key_version": 9},
            "requested version for encryption is higher",
        ),
        ("encrypt/k", {"batch_input": []}, "missing batch input to process"),
        ("encrypt/k", {"batch_input": "x"}, "batch_input must be an array of objects"),
        ("decrypt/k", {"ciphertext": ""}, "missing ciphertext to decrypt"),
        ("decrypt/k", {"ciphertext": "x"}, "invalid ciphertext: no prefix"),
        ("decrypt/k", {"ciphertext": "vault:v1:xx"}, "invalid ciphertext: could not decode base64"),
        (
            "decrypt/k",
            {"ciphertext": "vault:vx:AAAA"},
            "invalid ciphertext: version number could not be decoded",
        ),
        ("decrypt/k", {"ciphertext": "vault:v9:AAAA"}, "invalid ciphertext: version is too new"),
        ("decrypt/k", {"ciphertext": "vault:v0:AAAA"}, "ciphertext or signature version is disallowed"),
        ("decrypt/k", {"ciphertext": "vault:v1:AAAA"}, "invalid ciphertext length"),
        ("decrypt/k", {"ciphertext": f"vault:v1:{b64(bytes(40))}"}, "cipher: message authentication failed"),
        ("decrypt/nope", {"ciphertext": "vault:v1:AAAA"}, "encryption key not found"),
        ("sign/k", {"input": b64("x")}, "key type aes256-gcm96 does not support signing"),
        ("datakey/other/k", {}, "Invalid path, must be 'plaintext' or 'wrapped'"),
        ("datakey/wrapped/k", {"bits": 100}, "invalid bit length"),
        ("keys/n", {"type": "rot13"}, "unknown key type rot13"),
        ("keys/n", {"convergent_encryption": True}, "convergent encryption requires derivation"),
        (
            "keys/n",
            {"auto_rotate_period": "1s"},
            "auto rotate period must be 0 to disable or at least an hour",
        ),
        (
            "keys/k/config",
            {"min_decryption_version": 5},
            "cannot set min decryption version of 5, latest key version is 1",
        ),
        ("keys/nope/rotate", {}, "key not found"),
        (
            "hash",
            {"input": b64("x"), "format": "x"},
            'unsupported encoding format x; must be "hex" or "base64"',
        ),
        ("hash/md5", {"input": b64("x")}, "unsupported algorithm md5"),
        ("random/0", {}, "'bytes' cannot be less than 1"),
        ("random", {"bytes": 200000}, "'bytes' should be less than 131072"),
        ("hmac/k/md5", {"input": b64("x")}, 'invalid hash algorithm "md5"'),
        ("restore", {"backup": "x"}, "this is no backup of a key"),
        (
            "restore",
            {"backup": b64('{"key": {"kind": "hmac", "versions": {}}}')},
            "this is no backup of a key",
        ),
    ],
)
async def test_what_cannot_be_is_refused(wire, path, body, error):
    await ok(wire, "keys/k")
    assert (await refused(wire, path, body)).startswith(error)


async def test_every_bit_of_a_ciphertext_counts(wire):
    await ok(wire, "keys/k")
    good = opened((await ok(wire, "encrypt/k", {"plaintext": b64("attack")}))["ciphertext"])
    for position in range(len(good)):
        bad = bytes(byte ^ (position == at) for at, byte in enumerate(good))
        error = await refused(wire, "decrypt/k", {"ciphertext": f"vault:v1:{b64(bad)}"})
        assert error == "cipher: message authentication failed"


async def test_a_batch_answers_item_by_item(wire):
    await ok(wire, "keys/k")
    items = [{"plaintext": b64("a")}, {"plaintext": "**"}, {"plaintext": b64("c"), "reference": "r"}]
    answer = await wire.ask("POST", "/v1/transit/encrypt/k", {"batch_input": items})
    results = answer.json["data"]["batch_results"]
    assert answer.status == 400
    assert results[1]["error"] == "illegal base64 data at input byte 0"
    assert [each["reference"] for each in results] == ["", "", "r"]
    partly = {"batch_input": items, "partial_failure_response_code": 207}
    assert (await wire.ask("POST", "/v1/transit/encrypt/k", partly)).status == 207
    many = [{"plaintext": b64(str(number))} for number in range(100)]
    made = (await ok(wire, "encrypt/k", {"batch_input": many}))["batch_results"]
    back = (await ok(wire, "decrypt/k", {"batch_input": made}))["batch_results"]
    assert [each["plaintext"] for each in back] == [each["plaintext"] for each in many]


async def test_a_data_key_opens_to_what_was_shown(wire):
    await ok(wire, "keys/k")
    made = await ok(wire, "datakey/plaintext/k", {"bits": 512})
    assert len(base64.b64decode(made["plaintext"])) == 64
    assert (await ok(wire, "decrypt/k", made))["plaintext"] == made["plaintext"]
    assert "plaintext" not in await ok(wire, "datakey/wrapped/k", {})


async def test_encrypting_makes_the_key_for_those_who_may_create(site, wire):
    policy = 'path "transit/encrypt/*" { capabilities = ["update"] }'
    await wire.ask("POST", "/v1/sys/policies/acl/user", {"policy": policy})
    token = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["user"]})).json["auth"][
        "client_token"
    ]
    user = await site.connect(token=token)
    body = {"plaintext": b64("x")}
    assert (await user.ask("POST", "/v1/transit/encrypt/new", body)).status == 403
    await ok(wire, "encrypt/new", body)
    assert (await user.ask("POST", "/v1/transit/encrypt/new", body)).status == 200
    await ok(wire, "config/keys", {"disable_upsert": True})
    assert await refused(wire, "encrypt/newer", body) == "encryption key not found"


async def test_two_who_make_a_key_at_once_make_one(site, wire):
    wires = [await site.connect() for _ in range(6)]
    body = {"plaintext": b64("x")}
    made = await asyncio.gather(*(ok(each, "encrypt/new", body) for each in wires))
    for each in made:
        assert (await ok(wire, "decrypt/new", each))["plaintext"] == b64("x")


async def test_a_key_in_use_for_too_long_is_rotated_at_its_next_use(site, wire, monkeypatch):
    await ok(wire, "keys/k", {"auto_rotate_period": "1h"})
    store = site.core.unsealed
    later = store.now_ns() + 3601 * 10**9
    assert (await ok(wire, "encrypt/k", {"plaintext": b64("x")}))["key_version"] == 1
    monkeypatch.setattr(store, "now_ns", lambda: later)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(store, "submit", nowhere)
        assert (await ok(wire, "encrypt/k", {"plaintext": b64("x")}))["key_version"] == 1, (
            "better than not at all"
        )
    assert (await ok(wire, "encrypt/k", {"plaintext": b64("x")}))["key_version"] == 2


async def test_a_rotation_that_is_asked_for_twice_under_one_id_happens_once(wire):
    await ok(wire, "keys/k")
    once = {"X-Strongroom-Request-Id": "ab" * 16}
    for _ in range(2):
        answer = await wire.ask("POST", "/v1/transit/keys/k/rotate", {}, headers=once)
        assert answer.json["data"]["latest_version"] == 2


# --- signatures ---


@pytest.mark.parametrize("kind", SIGNING)
async def test_signatures_are_verified_here(wire, kind):
    await ok(wire, "keys/k", {"type": kind})
    signature = (await ok(wire, "sign/k", {"input": b64("x")}))["signature"]
    assert await ok(wire, "verify/k", {"input": b64("x"), "signature": signature}) == {"valid": True}
    assert await ok(wire, "verify/k", {"input": b64("y"), "signature": signature}) == {"valid": False}
    broken = {"input": b64("x"), "signature": f"vault:v1:{b64(b'short')}"}
    assert await ok(wire, "verify/k", broken) == {"valid": False}


async def test_signatures_are_verified_elsewhere(wire):
    for kind in SIGNING:
        await ok(wire, f"keys/{kind}", {"type": kind})

    async def public(kind):
        return (await ok(wire, f"keys/{kind}", method="GET"))["keys"]["1"]["public_key"]

    async def signed(kind, **how):
        return opened((await ok(wire, f"sign/{kind}", {"input": b64("x")} | how))["signature"])

    edwards = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(await public("ed25519")))
    edwards.verify(await signed("ed25519"), b"x")
    curve = serialization.load_pem_public_key((await public("ecdsa-p384")).encode())
    curve.verify(await signed("ecdsa-p384", hash_algorithm="sha2-512"), b"x", ec.ECDSA(hashes.SHA512()))
    rsa = serialization.load_pem_public_key((await public("rsa-2048")).encode())
    sha = hashes.SHA256()
    rsa.verify(await signed("rsa-2048", signature_algorithm="pkcs1v15"), b"x", padding.PKCS1v15(), sha)
    for salt, length in (("auto", padding.PSS.MAX_LENGTH), ("hash", 32), ("20", 20), ("-1", 32)):
        signature = await signed("rsa-2048", salt_length=salt)
        rsa.verify(signature, b"x", padding.PSS(padding.MGF1(sha), length), sha)


async def test_signatures_for_jws_and_of_hashes(wire):
    await ok(wire, "keys/k", {"type": "ecdsa-p256"})
    jws = (await ok(wire, "sign/k", {"input": b64("x"), "marshaling_algorithm": "jws"}))["signature"]
    assert len(base64.urlsafe_b64decode(jws.rpartition(":")[2] + "==")) == 64
    body = {"input": b64("x"), "signature": jws, "marshaling_algorithm": "jws"}
    assert (await ok(wire, "verify/k", body))["valid"]
    digest = b64(hashlib.sha256(b"x").digest())
    of_hash = (await ok(wire, "sign/k", {"input": digest, "prehashed": True}))["signature"]
    assert (await ok(wire, "verify/k", {"input": b64("x"), "signature": of_hash}))["valid"]
    assert "prehashed" in await refused(wire, "sign/k", {"input": b64("x"), "prehashed": True})


async def test_hmacs(wire):
    await ok(wire, "keys/k", EXPORTABLE)
    key = base64.b64decode((await ok(wire, "export/hmac-key/k", method="GET"))["keys"]["1"])
    for name, algorithm in (("sha2-256", "sha256"), ("sha2-512", "sha512"), ("sha3-256", "sha3_256")):
        made = (await ok(wire, f"hmac/k/{name}", {"input": b64("x")}))["hmac"]
        assert opened(made) == hmac.digest(key, b"x", algorithm)
        assert (await ok(wire, f"verify/k/{name}", {"input": b64("x"), "hmac": made}))["valid"] is True
        assert (await ok(wire, f"verify/k/{name}", {"input": b64("y"), "hmac": made}))["valid"] is False


async def test_hashes_and_random_bytes(wire):
    digest = await ok(wire, "hash/sha2-512", {"input": b64("x")})
    assert digest["sum"] == hashlib.sha512(b"x").hexdigest()
    one, two = [(await ok(wire, "random/16", {"format": "hex"}))["random_bytes"] for _ in range(2)]
    assert len(one) == 32
    assert one != two


# --- keys that leave, and keys that do not ---


async def test_keys_leave_only_where_that_was_allowed(site, wire):
    await ok(wire, "keys/kept")
    assert (
        await refused(wire, "export/encryption-key/kept", method="GET")
        == "private key material is not exportable"
    )
    assert (await wire.ask("GET", "/v1/transit/backup/kept")).status == 400
    assert (await ok(wire, "keys/kept/config", {"exportable": True}))["exportable"] is True
    assert (await ok(wire, "keys/kept/config", {"exportable": False}))["exportable"] is True, (
        "there is no way back"
    )


async def test_a_backup_is_restored_once_or_by_force(wire):
    await ok(wire, "keys/k", {"type": "rsa-2048"} | EXPORTABLE)
    ciphertext = await ok(wire, "encrypt/k", {"plaintext": b64("x")})
    backup = await ok(wire, "backup/k", method="GET")
    assert (await wire.ask("POST", "/v1/transit/restore/copy", backup)).status == 204
    assert (await ok(wire, "decrypt/copy", ciphertext))["plaintext"] == b64("x")
    assert await refused(wire, "restore/copy", backup) == 'key "copy" already exists'
    assert (await wire.ask("POST", "/v1/transit/restore/copy", backup | {"force": True})).status == 204


@pytest.mark.parametrize(
    "changes",
    [
        {"min_decryption_version": 2},
        {"min_encryption_version": 9},
        {"auto_rotate_ns": 1},
        {"convergent": True},
        {"versions": {"0": {}}},
        {"versions": {"1": {"created_ns": 10**30}}},
        {"versions": {"1": {"material": b64("x" * 32)}}},
        {"kind": "rsa-3072"},
        {"kind": "ed25519"},
    ],
)
async def test_a_backup_with_what_no_key_has_is_refused(wire, changes):
    """What was restored could not be shown, or not be used."""
    await ok(wire, "keys/k", {"type": "rsa-2048"} | EXPORTABLE)
    backup = json.loads(base64.b64decode((await ok(wire, "backup/k", method="GET"))["backup"]))
    key = backup["key"]
    version = key["versions"]["1"]
    versions = {number: version | said for number, said in changes.get("versions", {"1": {}}).items()}
    key |= changes | {"versions": versions}
    forged = base64.b64encode(json.dumps(backup).encode()).decode()
    assert await refused(wire, "restore/copy", {"backup": forged}) == "this is no backup of a key"
    assert (await wire.ask("GET", "/v1/transit/keys/copy")).status == 404


async def test_a_key_is_deleted_only_when_that_is_allowed(wire):
    await ok(wire, "keys/k")
    assert "deletion is not allowed" in await refused(wire, "keys/k", method="DELETE")
    await ok(wire, "keys/k/config", {"deletion_allowed": True})
    assert (await wire.ask("DELETE", "/v1/transit/keys/k")).status == 204
    assert (await wire.ask("GET", "/v1/transit/keys/k")).status == 404
    assert "not found" in await refused(wire, "keys/k", method="DELETE")


async def test_nothing_private_is_shown_or_audited(site, wire):
    await ok(wire, "keys/k", {"type": "rsa-2048"} | EXPORTABLE)
    backup = (await ok(wire, "backup/k", method="GET"))["backup"]
    material = base64.b64decode(backup).decode().partition('"material": "')[2][:64]
    assert material not in str(await ok(wire, "keys/k", method="GET"))
    records = site.core.settings.audit_files[0].read_text()
    assert backup not in records
    assert material not in records
