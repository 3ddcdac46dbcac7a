"""Sealing and unsealing, by shares and by a key file."""

import base64
import json
import os
import pickle
import random
import stat

import msgspec
import pytest

from storage.errors import Corrupt, Incompatible, InvalidShare, SealUnavailable, WrongKey
from storage.keyring import RootKey
from storage.seal import SealFile, Unsealer, create_shamir, create_static, shamir
from storage.seal.static import read_key_file
from storage.secret import Secret

ROOT = RootKey(b"0123456789abcdef0123456789abcdef")
KEY = bytes(range(32))


def shared(shares: int = 5, threshold: int = 3) -> tuple[SealFile, list[bytes]]:
    return create_shamir(ROOT, cluster_id="cluster", shares=shares, threshold=threshold)


def key_file(tmp_path, content: bytes = KEY, mode: int = 0o600):
    path = tmp_path / "seal.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_shares_open_the_seal_in_any_order():
    file, parts = shared()
    assert (file.type, file.shares, file.threshold, file.cluster_id) == ("shamir", 5, 3, "cluster")
    for seed in range(10):
        unsealer = Unsealer(file)
        *first, last = random.Random(seed).sample(parts, 3)
        for number, share in enumerate(first, 1):
            assert unsealer.add(share) is None
            assert unsealer.progress == number
        assert unsealer.add(last).reveal() == ROOT.reveal()
        assert (unsealer.progress, unsealer.nonce) == (0, "")


def test_one_share_of_one_is_the_key():
    file, (part,) = shared(1, 1)
    assert len(part) == 32
    assert Unsealer(file).add(part).reveal() == ROOT.reveal()


def test_the_same_share_twice_makes_no_progress():
    file, parts = shared()
    unsealer = Unsealer(file)
    unsealer.add(parts[0])
    assert unsealer.add(parts[0]) is None
    assert unsealer.progress == 1


def test_the_nonce_names_one_attempt():
    file, parts = shared()
    unsealer = Unsealer(file)
    assert unsealer.nonce == ""
    unsealer.add(parts[0])
    first = unsealer.nonce
    unsealer.add(parts[1])
    assert first
    assert unsealer.nonce == first
    unsealer.reset()
    assert (unsealer.progress, unsealer.nonce) == (0, "")
    unsealer.add(parts[0])
    assert unsealer.nonce not in ("", first)


def test_a_wrong_set_starts_over():
    file, parts = shared()
    _, strangers = shared()
    for wrong in ([parts[0], parts[1], strangers[2]], strangers[:3]):
        unsealer = Unsealer(file)
        for share in wrong[:2]:
            unsealer.add(share)
        with pytest.raises(WrongKey):
            unsealer.add(wrong[2])
        assert unsealer.progress == 0
        for share in parts[:2]:
            unsealer.add(share)
        assert unsealer.add(parts[2]).reveal() == ROOT.reveal()


def test_two_different_shares_with_one_coordinate_are_a_wrong_set():
    file, parts = shared(3, 2)
    unsealer = Unsealer(file)
    unsealer.add(parts[0])
    with pytest.raises(WrongKey):
        unsealer.add(bytes(32) + parts[0][-1:])


@pytest.mark.parametrize("share", [b"", b"x", b"x" * 32, b"x" * 34, b"x" * 32 + b"\0"])
def test_a_malformed_share_is_refused_and_progress_stays(share):
    file, parts = shared()
    unsealer = Unsealer(file)
    unsealer.add(parts[0])
    with pytest.raises(InvalidShare):
        unsealer.add(share)
    assert unsealer.progress == 1


def test_shares_are_taken_as_people_carry_them():
    file, parts = shared(3, 3)
    unsealer = Unsealer(file)
    assert unsealer.offer(parts[0].hex()) is None
    assert unsealer.offer(f" {base64.b64encode(parts[1]).decode()}\n") is None
    for text in ("", "no share", "zz" * 33, "é"):
        with pytest.raises(InvalidShare):
            unsealer.offer(text)
    assert unsealer.offer(parts[2].hex().upper()).reveal() == ROOT.reveal()


def test_only_a_shamir_seal_takes_shares(tmp_path):
    file = create_static(ROOT, cluster_id="cluster", key_file=key_file(tmp_path))
    with pytest.raises(ValueError, match="shamir"):
        Unsealer(file)


@pytest.mark.parametrize(
    "content",
    [
        KEY,
        KEY.hex().encode(),
        KEY.hex().upper().encode() + b"\n",
        base64.b64encode(KEY),
        base64.b64encode(KEY) + b"\n",
    ],
)
def test_a_key_file_may_be_raw_hexadecimal_or_base64(tmp_path, content):
    path = key_file(tmp_path, content)
    file = create_static(ROOT, cluster_id="cluster", key_file=path)
    assert file.unwrap(read_key_file(path).reveal()).reveal() == ROOT.reveal()
    assert read_key_file(path) == Secret(KEY)


@pytest.mark.parametrize(
    "content", [b"", b"short", KEY + b"x", b"z" * 64, base64.b64encode(KEY[:31]), b"x" * 5000]
)
def test_what_is_no_key_is_refused_without_showing_it(tmp_path, content):
    with pytest.raises(SealUnavailable, match="not a key") as caught:
        read_key_file(key_file(tmp_path, content))
    assert not content.strip(b"x") or content.decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path, mode):
    with pytest.raises(SealUnavailable, match="chmod 600"):
        read_key_file(key_file(tmp_path, mode=mode))


def test_a_key_file_is_a_regular_file_that_is_there(tmp_path):
    path = key_file(tmp_path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(SealUnavailable, match="symbolic link"):
        read_key_file(tmp_path / "link")
    with pytest.raises(SealUnavailable, match="No such file"):
        read_key_file(tmp_path / "missing")
    with pytest.raises(SealUnavailable, match="regular"):
        read_key_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SealUnavailable, match="regular"):
        read_key_file(tmp_path / "pipe")


def test_another_key_does_not_open_it(tmp_path):
    file = create_static(ROOT, cluster_id="cluster", key_file=key_file(tmp_path))
    for wrong in (b"w" * 32, b"", b"short"):
        with pytest.raises(WrongKey):
            file.unwrap(wrong)


def test_the_file_comes_back_as_written_and_is_private(tmp_path):
    file, parts = shared()
    path = tmp_path / "seal.json"
    before = os.umask(0)
    try:
        file.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SealFile.read(path) == file == SealFile.parse(json.loads(json.dumps(file.as_dict())))
    other, _ = shared()
    other.write(path)
    assert SealFile.read(path) == other
    assert [entry.name for entry in tmp_path.iterdir()] == ["seal.json"]
    data = path.read_bytes()
    for secret in (ROOT.reveal(), shamir.combine(parts), *parts):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in data


def test_every_field_of_the_file_is_bound(tmp_path):
    """Nobody turns a file into another store's, or 3 of 5 into 1 of 5, without being noticed."""
    path = key_file(tmp_path)
    file = create_static(ROOT, cluster_id="cluster", key_file=path)
    changes = {"cluster_id": "other", "type": "shamir", "threshold": 2, "shares": 2, "generation": 1}
    assert set(changes) | {"format", "nonce", "wrapped_root_key"} == set(file.as_dict())
    for name, value in changes.items():
        with pytest.raises(WrongKey):
            SealFile.parse({**file.as_dict(), name: value}).unwrap(KEY)
    with pytest.raises(Incompatible):
        SealFile.parse({**file.as_dict(), "format": 2})
    for name in ("nonce", "wrapped_root_key"):
        blob = base64.b64decode(getattr(file, name))
        for position in range(len(blob)):
            altered = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
            with pytest.raises(WrongKey):
                msgspec.structs.replace(file, **{name: base64.b64encode(altered).decode()}).unwrap(KEY)
        for text in ("", "%%%", base64.b64encode(blob[:-1]).decode()):
            with pytest.raises((WrongKey, Corrupt)):
                msgspec.structs.replace(file, **{name: text}).unwrap(KEY)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "x": 2}', b"null"]
)
def test_what_is_no_seal_file_is_said_so(tmp_path, content):
    (tmp_path / "seal.json").write_bytes(content)
    with pytest.raises(Corrupt):
        SealFile.read(tmp_path / "seal.json")


def test_an_unknown_or_oversized_field_is_no_seal_file():
    file, _ = shared()
    for change in ({"extra": 1}, {"type": "other"}, {"threshold": "3"}):
        with pytest.raises(Corrupt):
            SealFile.parse({**file.as_dict(), **change})


def test_a_missing_seal_file_is_not_available(tmp_path):
    with pytest.raises(SealUnavailable):
        SealFile.read(tmp_path / "seal.json")


def test_two_seals_of_one_root_key_share_nothing():
    (one, _), (two, _) = shared(), shared()
    assert one.wrapped_root_key != two.wrapped_root_key
    assert one.nonce != two.nonce


def test_nothing_shows_in_text():
    file, parts = shared()
    unsealer = Unsealer(file)
    unsealer.add(parts[0])
    assert repr(unsealer) == "Unsealer(1/3)"


def test_a_secret_does_not_show_hash_or_travel():
    secret = Secret(b"canary")
    assert "canary" not in f"{secret!r} {secret} {secret:>20} {[secret]} {{'k': secret}}"
    assert secret.reveal() == b"canary"
    assert secret == Secret(b"canary")
    assert secret != Secret(b"canarx")
    assert secret != b"canary"
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
