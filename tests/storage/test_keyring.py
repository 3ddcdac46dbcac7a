"""Envelopes open where they were written, as they were written, and nowhere else."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage import keyring as keyring_module
from storage.command import Sealed
from storage.errors import Corrupt
from storage.keyring import Context, JournalCipher, Keyring, RootKey
from storage.rows import KeyTerm

ROOT = RootKey(bytes(range(32)))
PLACE = Context(kind="kv", mount_id="mount-1", path="app/db", version=3)


def ring(*terms: int, root: RootKey = ROOT, cluster: str = "cluster") -> Keyring:
    made = Keyring(root, cluster)
    made.load([KeyTerm(term, made.new_term(term), 0) for term in terms])
    return made


def test_a_value_comes_back_under_any_loaded_term():
    keys = Keyring(ROOT, "cluster")
    rows = [KeyTerm(1, keys.new_term(1), 0)]
    keys.load(rows)
    old = keys.seal(PLACE, b"old")
    rows.append(KeyTerm(2, keys.new_term(2), 0))
    keys.load(rows)
    new = keys.seal(PLACE, b"new")
    assert (old.term, new.term, keys.newest) == (1, 2, 2)
    again = Keyring(RootKey(ROOT.reveal()), "cluster")
    again.load(rows)
    assert (again.open(PLACE, old), again.open(PLACE, new)) == (b"old", b"new")
    keys.load(rows[1:])
    with pytest.raises(Corrupt, match="unknown key term 1"):
        keys.open(PLACE, old)


def test_a_history_that_replaces_ours_may_have_another_key_of_the_same_number():
    keys = Keyring(ROOT, "cluster")
    ours, theirs = ([KeyTerm(1, keys.new_term(1), 0)] for _ in range(2))
    keys.load(ours)
    sealed = keys.seal(PLACE, b"ours")
    keys.load(theirs)
    others = Keyring(ROOT, "cluster")
    others.load(theirs)
    assert others.open(PLACE, keys.seal(PLACE, b"theirs")) == b"theirs"
    with pytest.raises(Corrupt):
        keys.open(PLACE, sealed)
    keys.load(ours)
    assert keys.open(PLACE, sealed) == b"ours"


@pytest.mark.parametrize("plaintext", [b"", b"x", b"x" * 1_000_000])
def test_any_size(plaintext):
    keys = ring(1)
    sealed = keys.seal(PLACE, plaintext)
    assert keys.open(PLACE, sealed) == plaintext
    assert len(plaintext) < 2 or plaintext[:40] not in sealed.ciphertext


def test_nothing_is_sealed_without_a_term():
    with pytest.raises(RuntimeError, match="no term"):
        Keyring(ROOT, "cluster").seal(PLACE, b"x")


def test_every_value_has_a_data_key_and_a_nonce_of_its_own():
    keys = ring(1)
    sealed = [keys.seal(PLACE, b"same") for _ in range(200)]
    assert len({each.wrapped_key for each in sealed}) == len({each.ciphertext for each in sealed}) == 200
    assert len({each.ciphertext[1:13] for each in sealed}) == 200


def test_every_flipped_bit_is_found():
    """In the data key's envelope and in the value's, head and tag included: 100 %."""
    keys = ring(1)
    sealed = keys.seal(PLACE, b"a secret of some length")
    for name in ("wrapped_key", "ciphertext"):
        blob = getattr(sealed, name)
        for bit in range(len(blob) * 8):
            altered = bytearray(blob)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupt):
                keys.open(PLACE, _with(sealed, name, bytes(altered)))


def test_every_truncation_and_extension_is_found():
    keys = ring(1)
    sealed = keys.seal(PLACE, b"a secret of some length")
    for name in ("wrapped_key", "ciphertext"):
        blob = getattr(sealed, name)
        for cut in [blob[:size] for size in range(len(blob))] + [blob + b"\0", b"\0" + blob, blob[1:]]:
            with pytest.raises(Corrupt):
                keys.open(PLACE, _with(sealed, name, cut))


@pytest.mark.parametrize(
    "change",
    [{"kind": "system"}, {"mount_id": "mount-2"}, {"path": "app/d"}, {"path": "app/db2"}, {"version": 4}],
)
def test_no_other_place_opens_a_value(change):
    keys = ring(1)
    with pytest.raises(Corrupt):
        keys.open(msgspec.structs.replace(PLACE, **change), keys.seal(PLACE, b"x"))


def test_no_other_store_opens_a_value_even_with_the_same_root_key():
    rows = [KeyTerm(1, Keyring(ROOT, "cluster").new_term(1), 0)]
    with pytest.raises(Corrupt):
        Keyring(ROOT, "other").load(rows)
    here, there = Keyring(ROOT, "cluster"), Keyring(ROOT, "other")
    here.load(rows)
    there._terms = here._terms
    with pytest.raises(Corrupt):
        there.open(PLACE, here.seal(PLACE, b"x"))


def test_no_other_term_opens_a_value_even_with_the_same_key():
    keys = ring(1)
    sealed = keys.seal(PLACE, b"x")
    keys._terms[2] = keys._terms[1]
    with pytest.raises(Corrupt):
        keys.open(PLACE, Sealed(2, sealed.wrapped_key, sealed.ciphertext))


def test_swapped_parts_of_two_values_do_not_open():
    """Of two places, and of two writes at one place."""
    keys = ring(1)
    for other in (msgspec.structs.replace(PLACE, path="app/other"), PLACE):
        one, two = keys.seal(PLACE, b"one"), keys.seal(other, b"two")
        for mixed in (
            Sealed(1, one.wrapped_key, two.ciphertext),
            Sealed(1, two.wrapped_key, one.ciphertext),
            Sealed(1, one.ciphertext, one.wrapped_key),
        ):
            with pytest.raises(Corrupt):
                keys.open(PLACE, mixed)


@example([("a", "bc"), ("ab", "c")])
@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=2, max_size=2, unique=True))
def test_fields_do_not_run_into_each_other(places):
    """("a", "bc") and ("ab", "c") are two places: every field is preceded by its length."""
    keys = ring(1)
    (mount, path), (other_mount, other_path) = places
    sealed = keys.seal(Context("kv", mount, path, 1), b"x")
    with pytest.raises(Corrupt):
        keys.open(Context("kv", other_mount, other_path, 1), sealed)


def test_a_term_does_not_unwrap_as_another_or_under_another_root_key():
    blob = ring().new_term(1)
    for keys, row in [
        (ring(), KeyTerm(2, blob, 0)),
        (ring(root=RootKey(b"o" * 32)), KeyTerm(1, blob, 0)),
        (ring(), KeyTerm(1, blob[:-1] + bytes([blob[-1] ^ 1]), 0)),
    ]:
        with pytest.raises(Corrupt):
            keys.load([row])


def test_derived_keys_are_fixed_for_ever_and_independent():
    """A change here would make every existing store unreadable."""
    purposes = [
        value
        for name, value in vars(keyring_module).items()
        if name.isupper() and isinstance(value, str) and "KIND" not in name
    ]
    keys = {purpose: ROOT.derive(purpose) for purpose in purposes}
    assert len(keys) == len(set(keys.values())) >= 9
    assert {len(key) for key in keys.values()} == {32}
    assert keys["database"].hex() == "0f22d215f256e4c41253746b5d5d6cf60582084cc0403d64e8ecf493a4d35a94"
    assert keys["journal"].hex() == "aad96df1a8592ae1f01366afbe9ff8e3abc5969faa949ed3232b798b84b6b6d2"


def test_root_keys_are_random_and_of_one_length():
    assert RootKey.generate().reveal() != RootKey.generate().reveal()
    with pytest.raises(ValueError, match="32 bytes"):
        RootKey(b"short")


def test_journal_records_open_in_their_file_and_place_only():
    journal = JournalCipher(ROOT.derive("journal"))
    one, two = journal.segment(b"1" * 16), journal.segment(b"2" * 16)
    record = one.encrypt(b"entry", b"index 7")
    assert journal.segment(b"1" * 16).decrypt(record, b"index 7") == b"entry"
    assert one.encrypt(b"entry", b"index 7") != record
    for cipher, blob, aad in [
        (two, record, b"index 7"),
        (one, record, b"index 8"),
        (one, record[:-1], b"index 7"),
        (one, b"", b"index 7"),
        (JournalCipher(b"o" * 32).segment(b"1" * 16), record, b"index 7"),
    ]:
        with pytest.raises(ValueError, match="envelope"):
            cipher.decrypt(blob, aad)
    for bit in range(len(record) * 8):
        altered = bytearray(record)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="envelope"):
            one.decrypt(bytes(altered), b"index 7")


def test_keys_show_in_no_text():
    keys = ring(1)
    sealed = keys.seal(PLACE, b"canary")
    journal = JournalCipher(ROOT.reveal())
    for thing in (ROOT, keys, sealed, journal, journal.segment(b"s" * 16)):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert len(text) < 100
            assert not any(
                part in text for part in ("canary", ROOT.reveal().hex()[:8], "\\x00\\x01", "wrapped")
            )


def _with(sealed: Sealed, name: str, blob: bytes) -> Sealed:
    parts = {"term": sealed.term, "wrapped_key": sealed.wrapped_key, "ciphertext": sealed.ciphertext}
    return Sealed(**{**parts, name: blob})
