"""transit/keys: making, rotating, configuring, exporting, backing up and deleting named keys."""

import asyncio
import base64
import binascii
import dataclasses
import json
from typing import Any

from node.auth.fields import DURATION_NS_MAX, SECOND_NS, boolean, duration_ns, integer, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, of_any_name
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route
from node.engines.shelf import Shelf, listed, shelf
from node.engines.transit import ciphers
from node.engines.transit.keyring import (
    KEYS,
    VERSION_MAX,
    VERSIONS_MAX,
    Key,
    find,
    load,
    new_version,
    plain,
    restore,
    save,
    shown,
)
from node.errors import InvalidRequest, NotFound

AUTO_ROTATE_NS_MIN = 3600 * SECOND_NS
NAME_CHARACTERS_MAX = 256
BACKUP_CHARACTERS_MAX = 1024 * 1024
EXPORTS = ("encryption-key", "signing-key", "hmac-key", "public-key")
CONFIG = "config/keys"

_CREATE = (
    in_path("name", "The key."),
    Field(
        "type",
        summary="aes256-gcm96 (the default), chacha20-poly1305, ed25519, ecdsa-p256, rsa-2048, hmac, ...",
    ),
    Field("derived", Kind.BOOLEAN, "Whether each context has a key of its own."),
    Field("convergent_encryption", Kind.BOOLEAN, "Whether equal plaintexts give equal ciphertexts."),
    Field("exportable", Kind.BOOLEAN, "Whether the key may leave; for ever."),
    Field("allow_plaintext_backup", Kind.BOOLEAN, "Whether a backup may be taken; for ever."),
    Field("auto_rotate_period", Kind.DURATION, "After how long a new version is made at the next use."),
)
_CONFIG = (
    in_path("name", "The key."),
    Field("min_decryption_version", Kind.INTEGER, "Older ciphertexts are refused."),
    Field(
        "min_encryption_version", Kind.INTEGER, "The oldest version that may be asked for; 0 for the latest."
    ),
    Field("deletion_allowed", Kind.BOOLEAN, "Whether the key may be deleted."),
    *_CREATE[4:],
)


_SHOWN = (
    *named(Kind.STRING, "name type kdf"),
    *named(Kind.BOOLEAN, "allow_plaintext_backup deletion_allowed derived exportable imported_key"),
    *named(Kind.BOOLEAN, "soft_deleted convergent_encryption"),
    *named(Kind.BOOLEAN, "supports_decryption supports_derivation supports_encryption supports_signing"),
    *named(Kind.INTEGER, "latest_version min_available_version min_decryption_version"),
    *named(Kind.INTEGER, "min_encryption_version convergent_encryption_version auto_rotate_period"),
    Field(
        "keys",
        Kind.OBJECT,
        "By version: when it was made, or its public half.",
        members=(of_any_name(Kind.ANY),),
    ),
)


def routes() -> list[Route]:
    """The paths of a mount about keys, relative to it."""
    read, update, delete, lists = Operation.READ, Operation.UPDATE, Operation.DELETE, Operation.LIST
    one = {read: _read, update: _create, delete: _delete}
    backup = (Field("backup", summary="What a backup gave."), Field("force", Kind.BOOLEAN, "Replace a key."))
    upsert = (Field("disable_upsert", Kind.BOOLEAN, "Refuse to encrypt under a key that is not there."),)
    key, changed = dict.fromkeys((read, update), _SHOWN), {update: _SHOWN}
    exported = {read: (*named(Kind.STRING, "name type"), Field("keys", Kind.STRING_MAP, "By version."))}
    return [
        Route("keys", {lists: _list}, summary="Lists the keys."),
        Route("keys/", {lists: _list}, summary="Lists the keys."),
        Route(
            "keys/{name}",
            one,
            exists=exists,
            summary="Makes, shows and deletes a key.",
            fields=_CREATE,
            answers=key,
        ),
        Route(
            "keys/{name}/rotate",
            {update: _rotate},
            summary="Makes a new version.",
            fields=_CREATE[:1],
            answers=changed,
        ),
        Route(
            "keys/{name}/config",
            {update: _configure},
            summary="Configures a key.",
            fields=_CONFIG,
            answers=changed,
        ),
        Route(
            "keys/{name}/trim",
            {update: _trim},
            summary="Forgets old versions for ever.",
            fields=(Field("min_available_version", Kind.INTEGER, "The oldest that stays."),),
            answers=changed,
        ),
        *(
            Route(pattern, {read: _export}, summary="Shows a key, if it may leave.", answers=exported)
            for pattern in ("export/{kind}/{name}", "export/{kind}/{name}/{version}")
        ),
        Route(
            "backup/{name}",
            {read: _backup},
            summary="Gives a key to keep elsewhere.",
            answers={read: (Field("backup", summary="For restore."),)},
        ),
        Route("restore", {update: _restore}, summary="Takes a backup.", fields=backup),
        Route("restore/{name}", {update: _restore}, summary="Takes a backup under a name.", fields=backup),
        Route(
            "config/keys",
            {read: _read_config, update: _put_config},
            summary="Whether encrypting may make keys.",
            fields=upsert,
            answers=dict.fromkeys((read, update), upsert),
        ),
    ]


def exists(core: Core, request: Request, params: dict[str, str]) -> bool:
    """Whether a write to this key would be an update."""
    return shelf(core, request).get(KEYS + params["name"]) is not None


async def make(view: Shelf, name: str, kind: ciphers.Kind, **flags: Any) -> Key:
    """A new key with one version, in the store; the one that is there if somebody else was faster."""
    if len(name) > NAME_CHARACTERS_MAX:
        raise InvalidRequest(f"a key's name has at most {NAME_CHARACTERS_MAX} characters")
    material = await asyncio.to_thread(ciphers.make_material, kind)
    first = new_version(material, view.store.now_ns(), kind)
    key = Key(name=name, kind=kind, versions={1: first}, **flags)
    try:
        await view.write(save(view, key))
    except InvalidRequest:
        if load(view, name) is None:
            raise
    return find(view, name)


async def rotated(view: Shelf, key: Key, *, request_id: bytes = b"") -> Key:
    """The key with one more version, in the store. Raises InvalidRequest if somebody else changed it."""
    material = await asyncio.to_thread(ciphers.make_material, key.kind)
    changed = key.with_new_version(material, view.store.now_ns())
    await view.write(save(view, changed), request_id=request_id)
    return find(view, key.name)


async def _create(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, data = shelf(core, request), request.data
    kind = ciphers.kind_of(text(data.get("type"), "type") or "aes256-gcm96")
    derived = boolean(data.get("derived"), "derived")
    convergent = boolean(data.get("convergent_encryption"), "convergent_encryption")
    if convergent and not derived:
        raise InvalidRequest("convergent encryption requires derivation to be enabled")
    if derived and not kind.derives:
        raise InvalidRequest(
            f"key derivation and convergent encryption not supported for keys of type {kind.name}"
        )
    key = load(view, params["name"])
    if key is None:
        key = await make(
            view,
            params["name"],
            kind,
            derived=derived,
            convergent=convergent,
            exportable=boolean(data.get("exportable"), "exportable"),
            backup_allowed=boolean(data.get("allow_plaintext_backup"), "allow_plaintext_backup"),
            auto_rotate_ns=_auto_rotate_ns(data),
        )
    return Response(data=shown(key))


def _auto_rotate_ns(data: dict[str, Any]) -> int:
    period = duration_ns(data.get("auto_rotate_period"), "auto_rotate_period")
    if 0 < period < AUTO_ROTATE_NS_MIN:
        raise InvalidRequest("auto rotate period must be 0 to disable or at least an hour")
    return period


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = load(shelf(core, request), params["name"])
    if key is None:
        raise NotFound
    return Response(data=shown(key))


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"keys": listed(core, request, KEYS)})


async def _rotate(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = load(view, params["name"])
    if key is None:
        raise InvalidRequest("key not found")
    return Response(data=shown(await rotated(view, key, request_id=request.request_id)))


async def _configure(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, data = shelf(core, request), request.data
    key = load(view, params["name"])
    if key is None:
        raise InvalidRequest(f"no existing key named {params['name']} could be found")
    changes: dict[str, Any] = {}
    for name in ("min_decryption_version", "min_encryption_version"):
        if data.get(name) is not None:
            changes[name] = _version(key, name, integer(data[name], name))
    if data.get("deletion_allowed") is not None:
        changes["deletion_allowed"] = boolean(data["deletion_allowed"], "deletion_allowed")
    if data.get("auto_rotate_period") is not None:
        changes["auto_rotate_ns"] = _auto_rotate_ns(data)
    changes["exportable"] = key.exportable or boolean(data.get("exportable"), "exportable")
    allowed = boolean(data.get("allow_plaintext_backup"), "allow_plaintext_backup")
    changes["backup_allowed"] = key.backup_allowed or allowed
    changed = dataclasses.replace(key, **changes)
    if changed.min_encryption_version and changed.min_encryption_version < changed.min_decryption_version:
        raise InvalidRequest(
            "cannot set min encryption/decryption values; min encryption version of"
            f" {changed.min_encryption_version} must be greater than or equal to min decryption version of"
            f" {changed.min_decryption_version}"
        )
    if changed != key:
        await view.write(save(view, changed), request_id=request.request_id)
    return Response(data=shown(changed))


def _version(key: Key, name: str, number: int) -> int:
    spoken = name.removesuffix("_version").replace("_", " ")
    if number < 0:
        raise InvalidRequest(f"{spoken} version cannot be negative")
    if number > key.latest:
        raise InvalidRequest(f"cannot set {spoken} version of {number}, latest key version is {key.latest}")
    if name == "min_decryption_version":
        number = max(number, 1)
        if number < key.min_available_version:
            raise InvalidRequest("minimum decryption version is less than the minimum available version")
    return number


async def _trim(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    key = load(view, params["name"])
    if key is None:
        raise InvalidRequest("invalid key name")
    number = integer(request.data.get("min_available_version"), "min_available_version")
    if not key.min_encryption_version:
        raise InvalidRequest(
            "minimum available version cannot be set when minimum encryption version is not set"
        )
    if number < max(key.min_available_version, 1):
        raise InvalidRequest("minimum available version cannot be decremented")
    if number > min(key.min_encryption_version, key.min_decryption_version):
        raise InvalidRequest(
            "minimum available version cannot be higher than minimum encryption or decryption version"
        )
    kept = {each: version for each, version in key.versions.items() if each >= number}
    changed = dataclasses.replace(key, versions=kept, min_available_version=number)
    await view.write(save(view, changed), request_id=request.request_id)
    return Response(data=shown(changed))


async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    view, name = shelf(core, request), params["name"]
    key = load(view, name)
    if key is None:
        raise InvalidRequest(f"error deleting policy {name}: could not delete key; not found")
    if not key.deletion_allowed:
        raise InvalidRequest(f"error deleting policy {name}: deletion is not allowed for this key")
    await view.write(view.delete(KEYS + name, expect=key.revision), request_id=request.request_id)
    return Response(status=NO_CONTENT)


# --- out and in ---


async def _export(core: Core, request: Request, params: dict[str, str]) -> Response:
    wanted = params["kind"]
    if wanted not in EXPORTS:
        raise InvalidRequest(f"invalid export type: {wanted}")
    key = load(shelf(core, request), params["name"])
    if key is None:
        raise NotFound
    if wanted == "encryption-key" and not key.kind.encrypts:
        raise InvalidRequest("encryption not supported for the key")
    if wanted == "signing-key" and not key.kind.signs:
        raise InvalidRequest("signing not supported for the key")
    if wanted == "public-key" and key.kind.symmetric:
        raise InvalidRequest(f"unknown key type {key.kind.name} for export type public-key")
    if wanted != "public-key" and not key.exportable:
        raise InvalidRequest("private key material is not exportable")
    numbers = _exported(key, params.get("version"))
    keys = {str(number): _exported_text(wanted, key, number) for number in numbers}
    return Response(data={"keys": keys, "name": key.name, "type": key.kind.name})


def _exported(key: Key, version: str | None) -> list[int]:
    if version is None:
        return [number for number in sorted(key.versions) if number >= key.min_decryption_version]
    number = key.latest if version == "latest" else integer(version, "version")
    if number < key.min_decryption_version:
        raise InvalidRequest("version for export is below minimum decryption version")
    if number not in key.versions:
        raise InvalidRequest("version does not exist or cannot be found")
    return [number]


def _exported_text(wanted: str, key: Key, number: int) -> str:
    version = key.versions[number]
    if wanted == "hmac-key":
        return base64.b64encode(version.hmac_key).decode()
    form = ciphers.public_text if wanted == "public-key" else ciphers.private_text
    return form(key.kind, version.material)


async def _backup(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = load(shelf(core, request), params["name"])
    if key is None:
        raise InvalidRequest(f'key "{params["name"]}" not found')
    if not key.exportable:
        raise InvalidRequest("exporting is disallowed on the policy")
    if not key.backup_allowed:
        raise InvalidRequest("plaintext backup is disallowed on the policy")
    return Response(data={"backup": base64.b64encode(json.dumps({"key": plain(key)}).encode()).decode()})


async def _restore(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    backup = text(request.data.get("backup"), "backup")
    if not backup:
        raise InvalidRequest("'backup' must be supplied")
    if len(backup) > BACKUP_CHARACTERS_MAX:
        raise InvalidRequest(f"a backup has at most {BACKUP_CHARACTERS_MAX} characters")
    try:
        value = json.loads(base64.b64decode(backup, validate=True))["key"]
        key = restore(value, params.get("name") or text(value["name"], "name"))
        await asyncio.to_thread(_check, key)
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidRequest("this is no backup of a key") from None
    present = load(view, key.name)
    if present is not None and not boolean(request.data.get("force"), "force"):
        raise InvalidRequest(f'key "{key.name}" already exists')
    revision = present.revision if present is not None else 0
    await view.write(save(view, dataclasses.replace(key, revision=revision)))
    return Response(status=NO_CONTENT)


def _check(key: Key) -> None:
    """Whether a key that came from outside can be used. Raises ValueError or TypeError."""
    if not key.versions or not 0 < len(key.name) <= NAME_CHARACTERS_MAX:
        raise ValueError
    if "/" in key.name or not key.name.isprintable():
        raise ValueError
    for field in dataclasses.fields(key):
        if field.type in ("bool", bool) and not isinstance(getattr(key, field.name), bool):
            raise TypeError
        if field.type in ("int", int) and type(getattr(key, field.name)) is not int:
            raise TypeError
    if not _is_consistent(key):
        raise ValueError
    for version in key.versions.values():
        ciphers.check_material(key.kind, version.material)


def _is_consistent(key: Key) -> bool:
    """Whether the numbers and rules of a key are some that it could have come to here."""
    numbers = sorted(key.versions)
    return (
        len(numbers) <= VERSIONS_MAX
        and 0 < numbers[0] <= numbers[-1] <= VERSION_MAX
        and numbers == list(range(numbers[0], numbers[-1] + 1))
        and 0 <= key.min_available_version <= numbers[0] <= key.min_decryption_version <= key.latest
        and (key.min_encryption_version == 0 or key.min_decryption_version <= key.min_encryption_version)
        and key.min_encryption_version <= key.latest
        and (key.auto_rotate_ns == 0 or AUTO_ROTATE_NS_MIN <= key.auto_rotate_ns <= DURATION_NS_MAX)
        and all(0 <= version.created_ns <= DURATION_NS_MAX for version in key.versions.values())
        and (key.kind.derives or not key.derived)
        and (key.derived or not key.convergent)
    )


async def _read_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"disable_upsert": upsert_disabled(shelf(core, request))})


async def _put_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = shelf(core, request)
    disabled = boolean(request.data.get("disable_upsert"), "disable_upsert")
    await view.write(view.put(CONFIG, {"disable_upsert": disabled}))
    return Response(data={"disable_upsert": disabled})


def upsert_disabled(view: Shelf) -> bool:
    """Whether encrypting under a key that is not there is an error."""
    item = view.get(CONFIG)
    return item is not None and bool(item.value["disable_upsert"])
