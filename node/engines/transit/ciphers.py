"""Cryptography of the transit engine: what each kind of key can do, and how. Pure, but for randomness.

Formats are those of Vault's transit engine: a ciphertext is nonce (12 bytes), text and tag in one; derived keys are
HKDF-SHA-256 (RFC 5869) of the key with the context as info.
"""

import base64
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from node.errors import InvalidRequest

NONCE_BYTES = 12
TAG_BYTES = 16
HMAC_KEY_BYTES = 32
SALT_AUTO, SALT_HASH = 0, -1

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of key: a symmetric one has a size in bytes, an asymmetric one a curve or a size in bits."""

    name: str
    encrypts: bool = False
    signs: bool = False
    derives: bool = False
    key_bytes: int = 0
    curve: type[ec.EllipticCurve] | None = None
    rsa_bits: int = 0

    @property
    def symmetric(self) -> bool:
        return self.key_bytes > 0


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("aes128-gcm96", encrypts=True, derives=True, key_bytes=16),
        Kind("aes256-gcm96", encrypts=True, derives=True, key_bytes=32),
        Kind("chacha20-poly1305", encrypts=True, derives=True, key_bytes=32),
        Kind("ed25519", signs=True),
        Kind("ecdsa-p256", signs=True, curve=ec.SECP256R1),
        Kind("ecdsa-p384", signs=True, curve=ec.SECP384R1),
        Kind("ecdsa-p521", signs=True, curve=ec.SECP521R1),
        Kind("rsa-2048", encrypts=True, signs=True, rsa_bits=2048),
        Kind("rsa-3072", encrypts=True, signs=True, rsa_bits=3072),
        Kind("rsa-4096", encrypts=True, signs=True, rsa_bits=4096),
        Kind("hmac", key_bytes=32),
    )
}

HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "sha2-224": hashes.SHA224,
    "sha2-256": hashes.SHA256,
    "sha2-384": hashes.SHA384,
    "sha2-512": hashes.SHA512,
    "sha3-224": hashes.SHA3_224,
    "sha3-256": hashes.SHA3_256,
    "sha3-384": hashes.SHA3_384,
    "sha3-512": hashes.SHA3_512,
}


def kind_of(name: str) -> Kind:
    """Raises InvalidRequest."""
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidRequest(f"unknown key type {name}")
    return kind


def hash_of(name: str) -> type[hashes.HashAlgorithm]:
    """Raises InvalidRequest."""
    found = HASHES.get(name)
    if found is None:
        raise InvalidRequest(f'invalid hash algorithm "{name[:32]}"')
    return found


# --- keys ---


def make_material(kind: Kind) -> bytes:
    """A new key: raw bytes, or PKCS#8 in DER. RSA takes up to seconds: not on the event loop."""
    if kind.symmetric:
        return os.urandom(kind.key_bytes)
    key: PrivateKey
    if kind.rsa_bits:
        key = rsa.generate_private_key(public_exponent=65537, key_size=kind.rsa_bits)
    elif kind.curve is not None:
        key = ec.generate_private_key(kind.curve())
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


def private_key(material: bytes) -> PrivateKey:
    """What make_material() made for an asymmetric kind, or check_material() has seen.

    Looking for the primes of an RSA key again, at every use, would hold up the whole process for up to 0.2 s.
    """
    key = serialization.load_der_private_key(material, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, PrivateKey)
    return key


def check_material(kind: Kind, material: bytes) -> None:
    """Whether material from outside is a key of this kind. Takes up to 0.2 s. Raises ValueError, TypeError."""
    if kind.symmetric:
        if len(material) != kind.key_bytes:
            raise ValueError("a key of another size")
        return
    for trusting in (True, False):  # its size first: a very large one would take seconds
        try:
            key = serialization.load_der_private_key(material, None, unsafe_skip_rsa_key_validation=trusting)
        except UnsupportedAlgorithm:
            raise ValueError("a key of another kind") from None
        if not _is_of(kind, key):
            raise ValueError("a key of another kind")


def _is_of(kind: Kind, key: object) -> bool:
    if kind.rsa_bits:
        return isinstance(key, rsa.RSAPrivateKey) and key.key_size == kind.rsa_bits
    if kind.curve is not None:
        return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, kind.curve)
    return isinstance(key, ed25519.Ed25519PrivateKey)


def public_text(kind: Kind, material: bytes) -> str:
    """The public half: PEM, or for ed25519 its 32 bytes in base64, as Vault shows it."""
    public = private_key(material).public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return _base64(public.public_bytes_raw())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


def private_text(kind: Kind, material: bytes) -> str:
    """A key as it is exported: base64 of its bytes, or PEM."""
    if kind.symmetric:
        return _base64(material)
    key = private_key(material)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _base64(key.private_bytes_raw() + key.public_key().public_bytes_raw())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def derive(material: bytes, context: bytes) -> bytes:
    """A key of the same size for one context."""
    return HKDF(hashes.SHA256(), len(material), salt=None, info=context).derive(material)


# --- encryption ---


def encrypt(
    kind: Kind, material: bytes, plaintext: bytes, *, aad: bytes, nonce: bytes | None = None
) -> bytes:
    """Nonce, ciphertext and tag; for RSA, OAEP with SHA-256. Raises InvalidRequest."""
    if kind.rsa_bits:
        key = private_key(material)
        assert isinstance(key, rsa.RSAPrivateKey)
        try:
            return key.public_key().encrypt(plaintext, _oaep())
        except ValueError:
            raise InvalidRequest("the plaintext is too long for this key") from None
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return nonce + _aead(kind, material).encrypt(nonce, plaintext, aad or None)


def decrypt(kind: Kind, material: bytes, ciphertext: bytes, *, aad: bytes) -> bytes:
    """What encrypt() took. Raises InvalidRequest, for whatever reason with one text for each kind."""
    if kind.rsa_bits:
        key = private_key(material)
        assert isinstance(key, rsa.RSAPrivateKey)
        try:
            return key.decrypt(ciphertext, _oaep())
        except ValueError:
            raise InvalidRequest("crypto/rsa: decryption error") from None
    if len(ciphertext) < NONCE_BYTES + TAG_BYTES:
        raise InvalidRequest("invalid ciphertext length")
    nonce, text = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
    try:
        return _aead(kind, material).decrypt(nonce, text, aad or None)
    except InvalidTag:
        raise InvalidRequest("cipher: message authentication failed") from None


def convergent_nonce(hmac_key: bytes, context: bytes, plaintext: bytes) -> bytes:
    """The nonce that equal plaintexts under equal contexts share, and different ones do not."""
    digest = hmac.digest(derive(hmac_key, context), plaintext, "sha256")
    return digest[:NONCE_BYTES]


def _aead(kind: Kind, material: bytes) -> AESGCM | ChaCha20Poly1305:
    return ChaCha20Poly1305(material) if kind.name.startswith("chacha20") else AESGCM(material)


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


# --- signatures ---


@dataclass(frozen=True, slots=True)
class Scheme:
    """How something is signed: by default as Vault does, RSA with PSS and the longest salt."""

    hash_name: str = "sha2-256"
    prehashed: bool = False
    pkcs1: bool = False
    salt: int = SALT_AUTO
    raw: bool = False  # ECDSA: r and s one after the other, as in JWS, instead of ASN.1


def sign(material: bytes, message: bytes, scheme: Scheme) -> bytes:
    """Raises InvalidRequest."""
    key = private_key(material)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    algorithm = hash_of(scheme.hash_name)()
    chosen = _prehashed(algorithm, message) if scheme.prehashed else algorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(message, ec.ECDSA(chosen))
        return _to_raw(key, signature) if scheme.raw else signature
    try:
        return key.sign(message, _padding(scheme, algorithm, signing=True), chosen)
    except ValueError:
        raise InvalidRequest("the salt does not fit this key and hash") from None


def verify(material: bytes, message: bytes, signature: bytes, scheme: Scheme) -> bool:
    """Whether it is a signature of the message under the key. Raises InvalidRequest for a bad scheme."""
    key = private_key(material)
    try:
        if isinstance(key, ed25519.Ed25519PrivateKey):
            key.public_key().verify(signature, message)
            return True
        algorithm = hash_of(scheme.hash_name)()
        chosen = _prehashed(algorithm, message) if scheme.prehashed else algorithm
        if isinstance(key, ec.EllipticCurvePrivateKey):
            given = _from_raw(key, signature) if scheme.raw else signature
            key.public_key().verify(given, message, ec.ECDSA(chosen))
        else:
            key.public_key().verify(signature, message, _padding(scheme, algorithm, signing=False), chosen)
    except (InvalidSignature, ValueError):
        return False
    return True


def _prehashed(algorithm: hashes.HashAlgorithm, message: bytes) -> utils.Prehashed:
    if len(message) != algorithm.digest_size:
        raise InvalidRequest(
            f"the prehashed input has {len(message)} bytes, the hash {algorithm.digest_size}"
        )
    return utils.Prehashed(algorithm)


def _padding(
    scheme: Scheme, algorithm: hashes.HashAlgorithm, *, signing: bool
) -> padding.PKCS1v15 | padding.PSS:
    if scheme.pkcs1:
        return padding.PKCS1v15()
    if scheme.salt == SALT_AUTO:
        salt = padding.PSS.MAX_LENGTH if signing else padding.PSS.AUTO
        return padding.PSS(padding.MGF1(algorithm), salt)
    length = algorithm.digest_size if scheme.salt == SALT_HASH else scheme.salt
    return padding.PSS(padding.MGF1(algorithm), length)


def _to_raw(key: ec.EllipticCurvePrivateKey, signature: bytes) -> bytes:
    size = (key.key_size + 7) // 8
    return b"".join(part.to_bytes(size, "big") for part in utils.decode_dss_signature(signature))


def _from_raw(key: ec.EllipticCurvePrivateKey, signature: bytes) -> bytes:
    size = (key.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise InvalidSignature
    return utils.encode_dss_signature(
        int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    )


def mac(hmac_key: bytes, message: bytes, hash_name: str) -> bytes:
    """HMAC (RFC 2104). Raises InvalidRequest."""
    hash_of(hash_name)
    return hmac.digest(hmac_key, message, hash_name.replace("sha2-", "sha").replace("-", "_"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
