"""HMACs and signatures, made and verified."""

import hmac
from typing import Any

from node.auth.fields import boolean, integer, text
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import Request, Response
from node.core.router import Handler, Route
from node.engines.shelf import shelf
from node.engines.transit import ciphers
from node.engines.transit.ciphers import Scheme
from node.engines.transit.keyring import Key, find, from_base64, from_text, to_text
from node.engines.transit.operations import (
    BATCH,
    NAME,
    VERSION,
    Fields,
    Item,
    fresh,
    plural,
    route,
    run,
)
from node.errors import InvalidRequest

DEFAULT_HASH = "sha2-256"

INPUT = Field("input", summary="Base64.")
_ALGORITHMS = (
    Field("hash_algorithm", summary="sha2-256 (the default), sha2-512, sha3-256, ..."),
    Field("algorithm", summary="hash_algorithm of former times."),
)
_SIGNING = (
    NAME,
    INPUT,
    VERSION,
    BATCH,
    Field("prehashed", Kind.BOOLEAN, "Whether the input is a hash already."),
    Field("signature_algorithm", summary="RSA: pss (the default) or pkcs1v15."),
    Field("marshaling_algorithm", summary="ECDSA: asn1 (the default) or jws."),
    Field("salt_length", summary="RSA with pss: auto, hash, or a number of bytes."),
)
_VALID = (Field("valid", Kind.BOOLEAN), plural("")[1])


def routes() -> list[Route]:
    """The paths of a mount that prove where something comes from, relative to it."""
    proofs = named(Kind.STRING, "signature hmac")
    return [
        *with_algorithm(
            "hmac/{name}", _hmac, "Authenticates.", (NAME, INPUT, VERSION, BATCH), plural("hmac")
        ),
        *with_algorithm("sign/{name}", _sign, "Signs.", _SIGNING, (*plural("signature"), VERSION)),
        *with_algorithm(
            "verify/{name}", _verify, "Verifies a signature or an HMAC.", (*_SIGNING, *proofs), _VALID
        ),
    ]


def with_algorithm(pattern: str, handler: Handler, summary: str, fields: Fields, made: Fields) -> list[Route]:
    """The paths of what names a hash algorithm, in the body or in the path."""
    fields = (*fields, *_ALGORITHMS)
    return [route(each, handler, summary, fields, made) for each in (pattern, pattern + "/{algorithm}")]


async def _hmac(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await fresh(view, request, find(view, params["name"]))
    algorithm = algorithm_of(request, params)
    ciphers.hash_of(algorithm)

    def work(item: Item) -> Item:
        if item.get("input") is None:
            raise InvalidRequest("missing input for HMAC")
        number, version = key.to_use(integer(item.get("key_version"), "key_version"))
        return {"hmac": to_text(number, ciphers.mac(version.hmac_key, _input(item), algorithm))}

    return await run(request, work, off_loop=False, strict=False)


async def _sign(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = await fresh(view, request, find(view, params["name"]))
    if not key.kind.signs:
        raise InvalidRequest(f"key type {key.kind.name} does not support signing")
    scheme = _scheme(request, params)

    def work(item: Item) -> Item:
        number, version = key.to_use(integer(item.get("key_version"), "key_version"))
        signature = ciphers.sign(version.material, _input(item), scheme)
        return {"key_version": number, "signature": _signature_text(number, signature, scheme)}

    return await run(request, work, off_loop=True, strict=False)


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

    return await run(request, work, off_loop=True, strict=False)


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


def algorithm_of(request: Request, params: dict[str, str]) -> str:
    """The name of the hash algorithm that is asked for, which may be none."""
    asked = params.get("algorithm") or text(request.data.get("hash_algorithm"), "hash_algorithm")
    return asked or text(request.data.get("algorithm"), "algorithm") or DEFAULT_HASH


def _scheme(request: Request, params: dict[str, str]) -> Scheme:
    data = request.data
    hash_name = algorithm_of(request, params)
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
