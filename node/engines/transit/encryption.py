"""Encrypting, decrypting, rewrapping, and data keys."""

import base64
import os

from node.auth.fields import boolean, integer, text
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import Request, Response
from node.core.router import Route
from node.engines.shelf import Shelf, shelf
from node.engines.transit import ciphers, keys
from node.engines.transit.keyring import Key, find, from_base64, from_text, load, to_text
from node.engines.transit.operations import BATCH, NAME, VERSION, Item, fresh, plural, route, run
from node.errors import InvalidRequest

DATAKEY_BITS = (128, 256, 512)

_CONTEXT = Field("context", summary="Base64; the context of a derived key.")
_ASSOCIATED = Field("associated_data", summary="Base64; bound to the ciphertext, and not in it.")
_PARTIAL = Field(
    "partial_failure_response_code", Kind.INTEGER, "The status where some of a batch failed; else 400."
)
_ENCRYPTED = (*plural("ciphertext"), VERSION)


def routes() -> list[Route]:
    """The paths of a mount that encrypt, relative to it."""
    plain = (NAME, Field("plaintext", summary="Base64."), _CONTEXT, _ASSOCIATED, VERSION, BATCH, _PARTIAL)
    upsert = (
        Field("type", summary="Of the key, if it is made by this."),
        Field("convergent_encryption", Kind.BOOLEAN, "Of the key, if it is made by this."),
    )
    opened = (NAME, Field("ciphertext", summary="vault:v1:..."), _CONTEXT, _ASSOCIATED, BATCH, _PARTIAL)
    return [
        route("encrypt/{name}", _encrypt, "Encrypts.", (*plain, *upsert), _ENCRYPTED, exists=keys.exists),
        route("decrypt/{name}", _decrypt, "Decrypts.", opened, plural("plaintext")),
        route("rewrap/{name}", _rewrap, "Encrypts anew, without showing.", (*opened, VERSION), _ENCRYPTED),
        route(
            "datakey/{form}/{name}",
            _datakey,
            "A new key, encrypted.",
            (NAME, _CONTEXT, _ASSOCIATED, VERSION, Field("bits", Kind.INTEGER, "128, 256 or 512.")),
            (*named(Kind.STRING, "ciphertext plaintext"), VERSION),
        ),
    ]


async def _encrypt(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = load(view, params["name"])
    if key is None:
        key = await _upsert(view, request, params["name"])
    key = await fresh(view, request, key)
    _check_encrypts(key)

    def work(item: Item) -> Item:
        if item.get("plaintext") is None:
            raise InvalidRequest("missing plaintext to encrypt")
        number, ciphertext = _encrypted(key, from_base64(item["plaintext"], "plaintext"), item)
        return {"ciphertext": ciphertext, "key_version": number}

    return await run(request, work, off_loop=not key.kind.symmetric, strict=True)


async def _upsert(view: Shelf, request: Request, name: str) -> Key:
    """Encrypting makes the key, for those who may create. What was sent is looked at first."""
    if keys.upsert_disabled(view):
        raise InvalidRequest("encryption key not found")
    if request.data.get("batch_input") is None and request.data.get("plaintext") is None:
        raise InvalidRequest("missing plaintext to encrypt")
    data = request.data
    kind = ciphers.kind_of(text(data.get("type"), "type") or "aes256-gcm96")
    convergent = boolean(data.get("convergent_encryption"), "convergent_encryption")
    derived = bool(data.get("context"))
    if convergent and not derived:
        raise InvalidRequest(
            "convergent encryption requires derivation to be enabled, so context is required"
        )
    if derived and not kind.derives:
        raise InvalidRequest(
            f"key derivation and convergent encryption not supported for keys of type {kind.name}"
        )
    return await keys.make(view, name, kind, derived=derived, convergent=convergent)


def _check_encrypts(key: Key) -> None:
    if not key.kind.encrypts:
        raise InvalidRequest(f"message encryption not supported for key type {key.kind.name}")


def _encrypted(key: Key, plaintext: bytes, item: Item) -> tuple[int, str]:
    number, version = key.to_use(integer(item.get("key_version"), "key_version"))
    context, aad = _context(key, item), _aad(key, item)
    material = ciphers.derive(version.material, context) if key.derived else version.material
    nonce = ciphers.convergent_nonce(version.hmac_key, context, plaintext) if key.convergent else None
    return number, to_text(number, ciphers.encrypt(key.kind, material, plaintext, aad=aad, nonce=nonce))


def _context(key: Key, item: Item) -> bytes:
    context = from_base64(item.get("context") or "", "context")
    if key.derived and not context:
        raise InvalidRequest(
            "missing 'context' for key derivation; the key was created using a derived key, which means additional,"
            " per-request information must be included in order to perform operations with the key"
        )
    return context


def _aad(key: Key, item: Item) -> bytes:
    aad = from_base64(item.get("associated_data") or "", "associated_data")
    if aad and not key.kind.symmetric:
        raise InvalidRequest(f"associated_data is not supported for keys of type {key.kind.name}")
    return aad


def _decrypted(key: Key, item: Item) -> bytes:
    given = text(item.get("ciphertext"), "ciphertext")
    if not given:
        raise InvalidRequest("missing ciphertext to decrypt")
    number, ciphertext = from_text(given, "ciphertext")
    version = key.to_open(number, "ciphertext")
    context, aad = _context(key, item), _aad(key, item)
    material = ciphers.derive(version.material, context) if key.derived else version.material
    return ciphers.decrypt(key.kind, material, ciphertext, aad=aad)


async def _decrypt(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = find(shelf(core, request), params["name"])
    _check_encrypts(key)

    def work(item: Item) -> Item:
        return {"plaintext": base64.b64encode(_decrypted(key, item)).decode()}

    return await run(request, work, off_loop=not key.kind.symmetric, strict=True)


async def _rewrap(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await fresh(view, request, find(view, params["name"]))
    _check_encrypts(key)

    def work(item: Item) -> Item:
        number, ciphertext = _encrypted(key, _decrypted(key, item), item)
        return {"ciphertext": ciphertext, "key_version": number}

    return await run(request, work, off_loop=not key.kind.symmetric, strict=True)


async def _datakey(core: Core, request: Request, params: dict[str, str]) -> Response:
    if params["form"] not in ("plaintext", "wrapped"):
        raise InvalidRequest("Invalid path, must be 'plaintext' or 'wrapped'")
    view = shelf(core, request)
    key = await fresh(view, request, find(view, params["name"]))
    _check_encrypts(key)
    bits = integer(request.data.get("bits"), "bits") or 256
    if bits not in DATAKEY_BITS:
        raise InvalidRequest("invalid bit length")
    made = os.urandom(bits // 8)
    number, ciphertext = _encrypted(key, made, request.data)
    shown = {"plaintext": base64.b64encode(made).decode()} if params["form"] == "plaintext" else {}
    return Response(data={"ciphertext": ciphertext, "key_version": number} | shown)
