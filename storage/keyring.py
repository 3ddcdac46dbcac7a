"""Keys and envelopes: what stands between the root key and a stored value.

    seal -> root key -> HKDF by purpose -> database, journal, digests ...
                                        -> keyring-wrap -> key terms -> a data key per value -> the value

Everything is AES-256-GCM with a random 96-bit nonce. The associated data of both layers of an envelope names
the store, the place, the version, the key term and the layer, each with its length before it, so that no
ciphertext opens anywhere but where it was written (NIST SP 800-38D; HKDF: RFC 5869).
"""

import functools
import os
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from storage.command import Sealed
from storage.errors import Corrupt
from storage.rows import KeyTerm

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
FORMAT = b"\x01"  # the first byte of every blob
WRAPS_PER_TERM_MAX = 1 << 31  # random nonces under one key: well before 2^32 a new term takes over
PLACES_CACHED_MAX = 1024
FIRST_TERM = 1  # made with the store: whatever became of its history, every region has it
_FIELD_LENGTH_BYTES = 4


# What keys derived from the root key are for. The names are for ever: they go into the derivation.
DATABASE = "database"
JOURNAL = "journal"
AUDIT_HMAC = "audit-hmac"
TOKEN_DIGEST = "token-digest"  # noqa: S105 - a name
SECRET_ID_DIGEST = "secret-id-digest"  # noqa: S105
JOIN_TOKEN_DIGEST = "join-token-digest"  # noqa: S105
REGION_TICKET_DIGEST = "region-ticket-digest"
BATCH_TOKEN = "batch-token"  # noqa: S105
KEYRING_WRAP = "keyring-wrap"
PEER_IDENTITY = "peer-identity"
SNAPSHOT = "snapshot"
DRILL_REPORT = "drill-report"

# What an envelope holds (Context.kind).
KIND_KV = "kv"
KIND_SYSTEM = "system"
KIND_ENTRY = "entry"
KIND_LEASE = "lease"
_KIND_KEY_TERM = "key-term"


class RootKey:
    """The key above all others of one store: 32 bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a root key has {KEY_BYTES} bytes")
        self._key = bytes(key)

    @classmethod
    def generate(cls) -> "RootKey":
        return cls(os.urandom(KEY_BYTES))

    def derive(self, purpose: str) -> bytes:
        """An independent key of 32 bytes for one purpose, which is one of the constants above."""
        info = b"strongroom v1 " + purpose.encode()
        return HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=info).derive(self._key)

    def reveal(self) -> bytes:
        """The bytes themselves: for the seal only."""
        return self._key

    def __repr__(self) -> str:
        return "RootKey(***)"

    __hash__ = None  # type: ignore[assignment]


class Context(msgspec.Struct, frozen=True):
    """The place that an envelope belongs to."""

    kind: str
    mount_id: str
    path: str
    version: int


class Keyring:
    """The key terms of one store. The newest one seals, any one opens."""

    def __init__(self, root: RootKey, cluster_id: str) -> None:
        self._store = _fields(FORMAT, cluster_id.encode())
        self._wrap = AESGCM(root.derive(KEYRING_WRAP))
        self._terms: dict[int, AESGCM] = {}
        self._wrapped: dict[int, bytes] = {}  # what each was unwrapped from

    def load(self, terms: Iterable[KeyTerm]) -> None:
        """Know exactly these terms. Raises Corrupt if one does not unwrap."""
        loaded: dict[int, AESGCM] = {}
        wrapped = {term.term: bytes(term.wrapped_key) for term in terms}
        for term, blob in wrapped.items():
            # a history that replaced ours may have another key of the same number
            known = self._terms.get(term) if self._wrapped.get(term) == blob else None
            loaded[term] = known or AESGCM(
                _open(self._wrap, blob, self._term_aad(term), bytes_expected=KEY_BYTES)
            )
        self._terms, self._wrapped = loaded, wrapped

    def new_term(self, term: int) -> bytes:
        """A fresh term's key, wrapped for KeyTermAdd. It is not known here until load() brings it back."""
        return _seal(self._wrap, os.urandom(KEY_BYTES), self._term_aad(term))

    @property
    def newest(self) -> int:
        """The number of the term that seals; 0 if there is none yet."""
        return max(self._terms, default=0)

    def seal(self, context: Context, plaintext: bytes, *, term: int = 0) -> Sealed:
        """Encrypt a value for one place, under a data key of its own. `term` 0: the newest one."""
        term = term or self.newest
        if not term:
            raise RuntimeError("the keyring has no term yet")
        random, place = os.urandom(KEY_BYTES + 2 * NONCE_BYTES), self._place(context, term)
        data_key, nonces = random[:KEY_BYTES], random[KEY_BYTES:]
        wrapped = _seal(self._terms[term], data_key, place + _LAYER_DATA_KEY, nonces[:NONCE_BYTES])
        ciphertext = _seal(AESGCM(data_key), plaintext, place + _LAYER_VALUE, nonces[NONCE_BYTES:])
        return Sealed(term, wrapped, ciphertext)

    def open(self, context: Context, sealed: Sealed) -> bytes:
        """The value. Raises Corrupt if anything differs from what seal() was given or made."""
        term = self._terms.get(sealed.term)
        if term is None:
            raise Corrupt(f"sealed under the unknown key term {sealed.term}")
        place = self._place(context, sealed.term)
        data_key = _open(term, sealed.wrapped_key, place + _LAYER_DATA_KEY, bytes_expected=KEY_BYTES)
        return _open(AESGCM(data_key), sealed.ciphertext, place + _LAYER_VALUE)

    def __repr__(self) -> str:
        return f"Keyring(newest={self.newest})"

    def _place(self, context: Context, term: int) -> bytes:
        """The associated data of an envelope, up to the layer."""
        return (
            self._store
            + _kind_and_mount(context.kind, context.mount_id)
            + _fields(context.path.encode(), b"%d" % context.version, b"%d" % term)
        )

    def _term_aad(self, term: int) -> bytes:
        return self._place(Context(_KIND_KEY_TERM, "", "", 0), term) + _LAYER_TERM_KEY


class JournalCipher:
    """Encrypts a log's records at rest, each file under a key derived from the salt in its header."""

    def __init__(self, key: bytes) -> None:
        """`key`: RootKey.derive(JOURNAL)."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a journal key has {KEY_BYTES} bytes")
        self._key = key

    def segment(self, salt: bytes) -> "JournalSegmentCipher":
        info = b"strongroom v1 journal segment"
        derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(self._key)
        return JournalSegmentCipher(derived)

    def __repr__(self) -> str:
        return "JournalCipher(***)"


class JournalSegmentCipher:
    """AEAD for one file; Corrupt is not raised here but ValueError, which the journal understands."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        return _seal(self._aead, plaintext, aad)

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        """Raises ValueError if anything was altered."""
        try:
            return _open(self._aead, ciphertext, aad)
        except Corrupt as error:
            raise ValueError(str(error)) from None


@functools.lru_cache(maxsize=PLACES_CACHED_MAX)
def _kind_and_mount(kind: str, mount_id: str) -> bytes:
    """The part of a place that many envelopes share."""
    return _fields(kind.encode(), mount_id.encode())


def _fields(*fields: bytes) -> bytes:
    return b"".join([len(field).to_bytes(_FIELD_LENGTH_BYTES, "big") + field for field in fields])


_LAYER_TERM_KEY, _LAYER_DATA_KEY, _LAYER_VALUE = _fields(b"term-key"), _fields(b"data-key"), _fields(b"value")


def _seal(key: AESGCM, plaintext: bytes, aad: bytes, nonce: bytes | None = None) -> bytes:
    """`nonce`: NONCE_BYTES that the system's generator has drawn for this and nothing else."""
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return FORMAT + nonce + key.encrypt(nonce, plaintext, aad)


def _open(key: AESGCM, blob: bytes, aad: bytes, *, bytes_expected: int | None = None) -> bytes:
    head = len(FORMAT) + NONCE_BYTES
    if blob[: len(FORMAT)] != FORMAT or len(blob) < head + TAG_BYTES:
        raise Corrupt("not an envelope of this format")
    try:
        plaintext = key.decrypt(blob[len(FORMAT) : head], blob[head:], aad)
    except InvalidTag:
        raise Corrupt("an envelope does not authenticate") from None
    if bytes_expected is not None and len(plaintext) != bytes_expected:
        raise Corrupt("an envelope holds something else than a key")
    return plaintext
