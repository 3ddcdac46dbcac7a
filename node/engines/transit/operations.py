"""transit: encrypting, decrypting, rewrapping, data keys, HMACs, signatures, hashes and random bytes."""

import asyncio
import base64
import hmac
import os
from collections.abc import Callable
from typing import Any

from node import tools
from node.auth.fields import boolean, integer, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import Operation, Request, Response
from node.core.router import Exists, Handler, Route
from node.engines.shelf import Shelf, shelf
from node.engines.transit import ciphers, keys
from node.engines.transit.ciphers import Scheme
from node.engines.transit.keyring import Key, find, from_base64, from_text, load, to_text
from node.errors import InvalidRequest, NodeError, NotFound, NotPrimary

BATCH_ITEMS_MAX = 5_000
THREAD_ITEMS_MIN = 32  # so many symmetric operations, and any asymmetric one, are done off the event loop
DATAKEY_BITS = (128, 256, 512)
DEFAULT_HASH = "sha2-256"

Item = dict[str, Any]
Work = Callable[[Item], Item]

Fields = tuple[Field, ...]

_NAME = in_path("name", "The key.")
_BATCH = Field("batch_input", Kind.ANY, "Several at once: an array of objects with the same fields.")
_CONTEXT = Field("context", summary="Base64; the context of a derived key.")
_VERSION = Field("key_version", Kind.INTEGER, "Which version to use; 0 for the latest.")
_INPUT = Field("input", summary="Base64.")
_ASSOCIATED = Field("associated_data", summary="Base64; bound to the ciphertext, and not in it.")
_PARTIAL = Field(
    "partial_failure_response_code", Kind.INTEGER, "The status where some of a batch failed; else 400."
)
_FORM = Field("format", summary="hex or base64.")
_ALGORITHMS = (
    Field("hash_algorithm", summary="sha2-256 (the default), sha2-512, sha3-256, ..."),
    Field("algorithm", summary="hash_algorithm of former times."),
)
_SIGNING = (
    _NAME,
    _INPUT,
    _VERSION,
    _BATCH,
    Field("prehashed", Kind.BOOLEAN, "Whether the input is a hash already."),
    Field("signature_algorithm", summary="RSA: pss (the default) or pkcs1v15."),
    Field("marshaling_algorithm", summary="ECDSA: asn1 (the default) or jws."),
    Field("salt_length", summary="RSA with pss: auto, hash, or a number of bytes."),
)


def _plural(name: str) -> Fields:
    """An answer to one input, or to each of a batch."""
    return (Field(name), Field("batch_results", Kind.OBJECTS, "In the order of the batch."))


_ENCRYPTED = (*_plural("ciphertext"), _VERSION)
_VALID = (Field("valid", Kind.BOOLEAN), _plural("")[1])


def routes() -> list[Route]:
    """The paths of a mount that use keys, relative to it."""
    plain = (_NAME, Field("plaintext", summary="Base64."), _CONTEXT, _ASSOCIATED, _VERSION, _BATCH, _PARTIAL)
    upsert = (
        Field("type", summary="Of the key, if it is made by this."),
        Field("convergent_encryption", Kind.BOOLEAN, "Of the key, if it is made by this."),
    )
    opened = (_NAME, Field("ciphertext", summary="vault:v1:..."), _CONTEXT, _ASSOCIATED, _BATCH, _PARTIAL)
    drawn = (Field("random_bytes"),)
    proofs = named(Kind.STRING, "signature hmac")
    amount = (Field("bytes", Kind.INTEGER, "How many."), _FORM)
    return [
        _route("encrypt/{name}", _encrypt, "Encrypts.", (*plain, *upsert), _ENCRYPTED, exists=keys.exists),
        _route("decrypt/{name}", _decrypt, "Decrypts.", opened, _plural("plaintext")),
        _route("rewrap/{name}", _rewrap, "Encrypts anew, without showing.", (*opened, _VERSION), _ENCRYPTED),
        _route(
            "datakey/{form}/{name}",
            _datakey,
            "A new key, encrypted.",
            (_NAME, _CONTEXT, _ASSOCIATED, _VERSION, Field("bits", Kind.INTEGER, "128, 256 or 512.")),
            (*named(Kind.STRING, "ciphertext plaintext"), _VERSION),
        ),
        *_with_algorithm(
            "hmac/{name}", _hmac, "Authenticates.", (_NAME, _INPUT, _VERSION, _BATCH), _plural("hmac")
        ),
        *_with_algorithm("sign/{name}", _sign, "Signs.", _SIGNING, (*_plural("signature"), _VERSION)),
        *_with_algorithm(
            "verify/{name}", _verify, "Verifies a signature or an HMAC.", (*_SIGNING, *proofs), _VALID
        ),
        *_with_algorithm("hash", _hash, "Hashes.", (_INPUT, _FORM), (Field("sum"),)),
        *(
            _route(pattern, _random, "Random bytes.", amount, drawn)
            for pattern in ("random", "random/{bytes}", "random/{source}/{bytes}")
        ),
        Route(
            "cache-config",
            {Operation.READ: _cache},
            summary="The size of the cache: there is none.",
            answers={Operation.READ: (Field("size", Kind.INTEGER),)},
        ),
    ]


def _route(
    pattern: str,
    handler: Handler,
    summary: str,
    fields: Fields,
    made: Fields,
    *,
    exists: Exists | None = None,
) -> Route:
    """Using a key writes nothing, but where it is made by that, or its next version is due."""
    return Route(
        pattern,
        {Operation.UPDATE: handler},
        local=True,
        exists=exists,
        summary=summary,
        fields=fields,
        answers={Operation.UPDATE: made},
    )


def _with_algorithm(
    pattern: str, handler: Handler, summary: str, fields: Fields, made: Fields
) -> list[Route]:
    """Which may be in the body, or in the path."""
    fields = (*fields, *_ALGORITHMS)
    return [_route(each, handler, summary, fields, made) for each in (pattern, pattern + "/{algorithm}")]


# --- one, or many at once ---


async def _run(request: Request, work: Work, *, off_loop: bool, strict: bool) -> Response:
    """Do `work` for the request, or for each item of its batch; `strict`: a failed item makes the whole a 400."""
    batch = request.data.get("batch_input")
    if batch is None:
        return Response(data=await asyncio.to_thread(work, request.data) if off_loop else work(request.data))
    if not isinstance(batch, list) or not all(isinstance(item, dict) for item in batch):
        raise InvalidRequest("batch_input must be an array of objects")
    if not batch:
        raise InvalidRequest("missing batch input to process")
    if len(batch) > BATCH_ITEMS_MAX:
        raise InvalidRequest(f"a batch has at most {BATCH_ITEMS_MAX} items")

    def all_items() -> list[Item]:
        return [_item(work, item) for item in batch]

    many = off_loop or len(batch) >= THREAD_ITEMS_MIN
    results = await asyncio.to_thread(all_items) if many else all_items()
    status = 200
    if strict and any("error" in result for result in results):
        partial = integer(request.data.get("partial_failure_response_code"), "partial_failure_response_code")
        all_failed = all("error" in result for result in results)
        status = partial if partial and not all_failed else 400
        if not 200 <= status < 500:
            raise InvalidRequest("partial_failure_response_code is no status that a client can choose")
    return Response(status=status, data={"batch_results": results})


def _item(work: Work, item: Item) -> Item:
    reference = (
        {"reference": text(item.get("reference"), "reference")} if _is_text(item.get("reference")) else {}
    )
    try:
        return work(item) | {"reference": ""} | reference
    except NodeError as error:
        return {"error": error.message, "reference": ""} | reference


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# --- encryption ---


async def _encrypt(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = load(view, params["name"])
    if key is None:
        key = await _upsert(view, request, params["name"])
    key = await _fresh(view, request, key)
    _check_encrypts(key)

    def work(item: Item) -> Item:
        if item.get("plaintext") is None:
            raise InvalidRequest("missing plaintext to encrypt")
        number, ciphertext = _encrypted(key, from_base64(item["plaintext"], "plaintext"), item)
        return {"ciphertext": ciphertext, "key_version": number}

    return await _run(request, work, off_loop=not key.kind.symmetric, strict=True)


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


async def _fresh(view: Shelf, request: Request, key: Key) -> Key:
    """The key, with a new version if its time has come. Who cannot make one, or is too late, uses what is there.

    Raises NotPrimary where another region can be asked to make it.
    """
    if not key.is_due(view.store.now_ns()):
        return key
    try:
        return await keys.rotated(view, key)
    except NodeError as error:
        if isinstance(error, NotPrimary) and not request.alone:
            raise
        return find(view, key.name)


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

    return await _run(request, work, off_loop=not key.kind.symmetric, strict=True)


async def _rewrap(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await _fresh(view, request, find(view, params["name"]))
    _check_encrypts(key)

    def work(item: Item) -> Item:
        number, ciphertext = _encrypted(key, _decrypted(key, item), item)
        return {"ciphertext": ciphertext, "key_version": number}

    return await _run(request, work, off_loop=not key.kind.symmetric, strict=True)


async def _datakey(core: Core, request: Request, params: dict[str, str]) -> Response:
    if params["form"] not in ("plaintext", "wrapped"):
        raise InvalidRequest("Invalid path, must be 'plaintext' or 'wrapped'")
    view = shelf(core, request)
    key = await _fresh(view, request, find(view, params["name"]))
    _check_encrypts(key)
    bits = integer(request.data.get("bits"), "bits") or 256
    if bits not in DATAKEY_BITS:
        raise InvalidRequest("invalid bit length")
    made = os.urandom(bits // 8)
    number, ciphertext = _encrypted(key, made, request.data)
    shown = {"plaintext": base64.b64encode(made).decode()} if params["form"] == "plaintext" else {}
    return Response(data={"ciphertext": ciphertext, "key_version": number} | shown)


# --- HMACs and signatures ---


async def _hmac(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await _fresh(view, request, find(view, params["name"]))
    algorithm = _algorithm(request, params)
    ciphers.hash_of(algorithm)

    def work(item: Item) -> Item:
        if item.get("input") is None:
            raise InvalidRequest("missing input for HMAC")
        number, version = key.to_use(integer(item.get("key_version"), "key_version"))
        return {"hmac": to_text(number, ciphers.mac(version.hmac_key, _input(item), algorithm))}

    return await _run(request, work, off_loop=False, strict=False)


async def _sign(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await _fresh(view, request, find(view, params["name"]))
    if not key.kind.signs:
        raise InvalidRequest(f"key type {key.kind.name} does not support signing")
    scheme = _scheme(request, params)

    def work(item: Item) -> Item:
        number, version = key.to_use(integer(item.get("key_version"), "key_version"))
        signature = ciphers.sign(version.material, _input(item), scheme)
        return {"key_version": number, "signature": _signature_text(number, signature, scheme)}

    return await _run(request, work, off_loop=True, strict=False)


def _signature_text(number: int, signature: bytes, scheme: Scheme) -> str:
    shown = to_text(number, signature)
    return shown.rstrip("=").replace("+", "-").replace("/", "_") if scheme.raw else shown


async def _verify(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = find(shelf(core, request), params["name"])
    scheme = _scheme(request, params)

    def work(item: Item) -> Item:
        signature, mac = (text(item.get(name), name) for name in ("signature", "hmac"))
        if signature and mac:
            raise InvalidRequest("provide one of 'signature' or 'hmac'")
        if signature:
            return {"valid": _signature_is_valid(key, item, signature, scheme)}
        if mac:
            return {"valid": _mac_is_valid(key, item, mac, scheme.hash_name)}
        raise InvalidRequest("neither a 'signature' nor an 'hmac' were given to verify")

    return await _run(request, work, off_loop=True, strict=False)


def _signature_is_valid(key: Key, item: Item, given: str, scheme: Scheme) -> bool:
    if not key.kind.signs:
        raise InvalidRequest(f"key type {key.kind.name} does not support verification")
    number, signature = from_text(given, "signature", url=scheme.raw)
    return ciphers.verify(key.to_open(number, "signature").material, _input(item), signature, scheme)


def _mac_is_valid(key: Key, item: Item, given: str, algorithm: str) -> bool:
    number, mac = from_text(given, "HMAC")
    version = key.to_open(number, "HMAC")
    return hmac.compare_digest(mac, ciphers.mac(version.hmac_key, _input(item), algorithm))


def _input(item: Item) -> bytes:
    try:
        return from_base64(item.get("input") or "", "input")
    except InvalidRequest as error:
        raise InvalidRequest(f"unable to decode input as base64: {error.message}") from None


def _algorithm(request: Request, params: dict[str, str]) -> str:
    asked = params.get("algorithm") or text(request.data.get("hash_algorithm"), "hash_algorithm")
    return asked or text(request.data.get("algorithm"), "algorithm") or DEFAULT_HASH


def _scheme(request: Request, params: dict[str, str]) -> Scheme:
    data = request.data
    hash_name = _algorithm(request, params)
    ciphers.hash_of(hash_name)
    algorithm = text(data.get("signature_algorithm"), "signature_algorithm")
    if algorithm not in ("", "pss", "pkcs1v15"):
        raise InvalidRequest(f"unsupported rsa signature algorithm {algorithm[:32]}")
    marshaling = text(data.get("marshaling_algorithm"), "marshaling_algorithm")
    if marshaling not in ("", "asn1", "jws"):
        raise InvalidRequest(f'invalid marshaling type "{marshaling[:32]}"')
    prehashed = boolean(data.get("prehashed"), "prehashed")
    return Scheme(hash_name, prehashed, algorithm == "pkcs1v15", _salt(data), marshaling == "jws")


def _salt(data: dict[str, Any]) -> int:
    given = text(data.get("salt_length"), "salt_length")
    named = {"": ciphers.SALT_AUTO, "auto": ciphers.SALT_AUTO, "hash": ciphers.SALT_HASH}
    if given in named:
        return named[given]
    try:
        length = integer(given, "salt_length")
    except InvalidRequest:
        raise InvalidRequest(f"salt length neither 'auto', 'hash', nor an int: {given[:32]}") from None
    if length < ciphers.SALT_HASH:
        raise InvalidRequest(f"salt length is invalid: {length}")
    return length


# --- without keys ---


async def _hash(core: Core, request: Request, params: dict[str, str]) -> Response:
    if request.data.get("input") is None:
        raise InvalidRequest("input missing")
    form = text(request.data.get("format"), "format") or "hex"
    digest = tools.digest(text(request.data["input"], "input"), _algorithm(request, params), form)
    return Response(data={"sum": digest})


async def _random(core: Core, request: Request, params: dict[str, str]) -> Response:
    if params.get("source", "platform") not in ("platform", "seal", "all"):
        raise NotFound
    count = integer(params.get("bytes") or request.data.get("bytes", tools.RANDOM_BYTES_DEFAULT), "bytes")
    form = text(request.data.get("format"), "format") or "base64"
    return Response(data={"random_bytes": tools.random_bytes(count, form)})


async def _cache(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"size": 0})
