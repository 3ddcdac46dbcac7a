"""identity/oidc: signed tokens that say who an entity is, for others to check without asking here.

Paths, shapes and texts are those of Vault's identity tokens (https://developer.hashicorp.com/vault/api-docs/secret/identity/tokens).
The view keeps config, key/NAME and role/NAME.
"""

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec

from node.auth import fields
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named, told
from node.core.paging import children
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route, payload
from node.draft import Draft, retried
from node.entities import oidc_keys, oidc_roles
from node.entities.oidc_keys import ALGORITHMS, DEFAULT, NamedKey
from node.entities.oidc_roles import Role
from node.errors import InvalidRequest, NotFound
from node.view import View

VIEW = "sys:identity-tokens"
BASE = "/v1/identity/oidc"
KEYS_MAX = 256
NAME_CHARACTERS_MAX = 256
_NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_ISSUER_WARNING = (
    'If "issuer" is set explicitly, all tokens must be validated against that address. Setting issuer to ""'
    " restores the default: the api_addr of the node that signs."
)


_ISSUER = Field("issuer", Kind.STRING, "A URL without a path.")


class _Config(msgspec.Struct, frozen=True):
    issuer: str = ""


def routes() -> list[Route]:
    """The table of this module."""
    return [*_issuing(), *_checking()]


def _issuing() -> list[Route]:
    """Who signs, with what, and for whom."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    key, role = in_path("name", "Of the key."), in_path("name", "Of the role.")
    lists: dict[str, Handler] = {"key": _list_keys, "role": _list_roles}
    return [
        Route(
            "identity/oidc/config",
            {read: _read_config, update: _write_config},
            summary="Shows and sets who tokens say they are from.",
            fields=(_ISSUER,),
            answers={read: (_ISSUER,)},
        ),
        Route(
            "identity/oidc/key/{name}",
            {read: _read_key, update: _write_key, delete: _delete_key},
            summary="Creates, shows, changes and removes a named key.",
            fields=(key, *oidc_keys.FIELDS),
            answers={read: told(oidc_keys.FIELDS)},
        ),
        Route(
            "identity/oidc/key/{name}/rotate",
            {update: _rotate},
            summary="Replaces a named key by a new one now.",
            fields=(key, Field("verification_ttl", Kind.DURATION, "For how long the old one is still good.")),
        ),
        Route(
            "identity/oidc/role/{name}",
            {read: _read_role, update: _write_role, delete: _delete_role},
            summary="Creates, shows, changes and removes a role of identity tokens.",
            fields=(role, *oidc_roles.FIELDS),
            answers={read: told(oidc_roles.FIELDS)},
        ),
        Route(
            "identity/oidc/token/{name}",
            {read: _sign},
            summary="Signs a token for the caller.",
            fields=(role,),
            answers={read: (*named(Kind.STRING, "client_id token"), Field("ttl", Kind.INTEGER, "Seconds."))},
        ),
        *(
            Route(f"identity/oidc/{name}{slash}", {Operation.LIST: handler}, summary="Lists them.")
            for name, handler in lists.items()
            for slash in ("", "/")
        ),
    ]


def _checking() -> list[Route]:
    """What others find out whether a token is good with."""
    return [
        Route(
            "identity/oidc/introspect",
            {Operation.UPDATE: _introspect},
            local=True,
            shape=Shape.RAW,
            summary="Tells whether a token is good.",
            fields=(
                Field("token", Kind.STRING, "The token.", required=True),
                Field("client_id", Kind.STRING, "Who it should be for."),
            ),
            answers={
                Operation.UPDATE: (Field("active", Kind.BOOLEAN), Field("error", Kind.STRING, "Why not."))
            },
        ),
        _open(
            ".well-known/openid-configuration",
            _configuration,
            "Where the keys are (OpenID Connect Discovery).",
            *named(Kind.STRING, "issuer jwks_uri"),
            *named(Kind.STRINGS, "response_types_supported subject_types_supported"),
            *named(Kind.STRINGS, "id_token_signing_alg_values_supported"),
        ),
        _open(
            ".well-known/keys",
            _public_keys,
            "The keys that signatures are checked with (RFC 7517).",
            Field("keys", Kind.OBJECTS, "Each a JWK."),
        ),
    ]


def _open(path: str, handler: Handler, summary: str, *members: Field) -> Route:
    return Route(
        f"identity/oidc/{path}",
        {Operation.READ: handler},
        authenticated=False,
        shape=Shape.RAW,
        summary=summary,
        answers={Operation.READ: members},
    )


# --- issuer ---


async def _read_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(issuer=_config(core).issuer)


async def _write_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    issuer = fields.text(request.data.get("issuer"), "issuer")
    parts = urlsplit(issuer) if issuer.isprintable() and " " not in issuer else urlsplit("")
    if issuer and (parts.scheme not in ("http", "https") or not parts.netloc or parts[2:] != ("", "", "")):
        raise InvalidRequest(
            "invalid issuer, which must include only a scheme, host, and optional port"
            " (e.g. https://example.com:8200)"
        )
    store = core.unsealed
    command = View(store, VIEW).put("config", msgspec.json.encode(_Config(issuer)))
    await store.submit(command, request_id=request.request_id)
    return Response(warnings=[_ISSUER_WARNING]) if issuer else Response(NO_CONTENT)


def _config(core: Core) -> _Config:
    item = View(core.unsealed, VIEW).get("config")
    return msgspec.json.decode(item.raw, type=_Config) if item else _Config()


def _issuer(core: Core) -> str:
    return (_config(core).issuer or core.settings.api_address) + BASE


async def _configuration(core: Core, request: Request, params: dict[str, str]) -> Response:
    issuer = _issuer(core)
    return payload(
        issuer=issuer,
        jwks_uri=f"{issuer}/.well-known/keys",
        response_types_supported=["id_token"],
        subject_types_supported=["public"],
        id_token_signing_alg_values_supported=list(ALGORITHMS),
    )


# --- keys ---


async def _list_keys(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=sorted({DEFAULT, *View(core.unsealed, VIEW).children("key/")}))


async def _read_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    key = _key(Draft(core.unsealed, VIEW), params["name"])
    if key is None:
        raise NotFound
    return Response(data=oidc_keys.data(key))


@retried
async def _write_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Create or change; a changed algorithm draws a new key."""
    name = _checked(params["name"])
    draft = Draft(core.unsealed, VIEW, request)
    known = _key(draft, name)
    if known is None and len(draft.children("key/")) >= KEYS_MAX:
        raise InvalidRequest(f"there are {KEYS_MAX} keys already")
    key = oidc_keys.changed(known or NamedKey(name), request.data)
    if any(role.ttl_ns > key.verification_ttl_ns for role in _signing_with(draft, name)):
        raise InvalidRequest(
            f'unable to update key "{name}" because it is currently referenced by one or more roles with a token ttl'
            f" greater than {key.verification_ttl_ns // fields.SECOND_NS} seconds"
        )
    if known is None or not known.private_pem or known.algorithm != key.algorithm:
        key = oidc_keys.rotated(key, await asyncio.to_thread(oidc_keys.draw, key.algorithm), draft.now_ns)
    draft.put(f"key/{name}", key)
    await draft.commit()
    return Response(NO_CONTENT)


@retried
async def _rotate(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft = Draft(core.unsealed, VIEW, request)
    key = _key(draft, params["name"])
    if key is None:
        raise InvalidRequest(f'no named key found at "{params["name"]}"')
    said = request.data.get("verification_ttl")
    ttl_ns = None if said is None else fields.duration_ns(said, "verification_ttl")
    drawn = await asyncio.to_thread(oidc_keys.draw, key.algorithm)
    draft.put(f"key/{key.name}", oidc_keys.rotated(key, drawn, draft.now_ns, verification_ttl_ns=ttl_ns))
    await draft.commit()
    return Response(NO_CONTENT)


@retried
async def _delete_key(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A key that no role signs with. An absent one is a success."""
    draft, name = Draft(core.unsealed, VIEW, request), params["name"]
    if name == DEFAULT:
        raise InvalidRequest('deletion of the default key "default" is not allowed')
    using = sorted(role.name for role in _signing_with(draft, name))
    if using:
        raise InvalidRequest(
            f'unable to delete key "{name}" because it is currently referenced by these roles: {", ".join(using)}'
        )
    if draft.get(f"key/{name}", NamedKey) is not None:
        draft.delete(f"key/{name}")
        await draft.commit()
    return Response(NO_CONTENT)


def _signing_with(draft: Draft, key: str) -> list[Role]:
    roles = (draft.get(f"role/{role}", Role) for role in draft.children("role/"))
    return [role for role in roles if role is not None and role.key == key]


def _key(draft: Draft, name: str) -> NamedKey | None:
    """A named key; the default one is there even if nobody made it."""
    known = draft.get(f"key/{name}", NamedKey) if _NAME.fullmatch(name) else None
    if known is None and name == DEFAULT:
        return NamedKey(DEFAULT, allowed_client_ids=(oidc_keys.ANY_CLIENT,))
    return known


async def _public_keys(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=[jwk for _, jwk in _checkable(core)])


def _checkable(core: Core) -> list[tuple[str, dict[str, Any]]]:
    """Algorithm and public half of every key whose signatures are good still."""
    draft = Draft(core.unsealed, VIEW)
    keys = (draft.get(f"key/{name}", NamedKey) for name in draft.children("key/"))
    return [
        (each.algorithm, each.jwk)
        for key in keys
        if key is not None
        for each in key.public
        if not each.expires_ns or each.expires_ns > draft.now_ns
    ]


# --- roles ---


async def _list_roles(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=children(core, request, View(core.unsealed, VIEW), "role/"))


async def _read_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = Draft(core.unsealed, VIEW).get(f"role/{params['name']}", Role)
    if role is None:
        raise NotFound
    return Response(data=oidc_roles.data(role))


@retried
async def _write_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    name, draft = _checked(params["name"]), Draft(core.unsealed, VIEW, request)
    role = oidc_roles.changed(draft.get(f"role/{name}", Role) or oidc_roles.new(name), request.data)
    key = _key(draft, role.key)
    if key is None:
        raise InvalidRequest(f'cannot find key "{role.key}"')
    if role.ttl_ns > key.verification_ttl_ns:
        raise InvalidRequest(
            "a role's token ttl cannot be longer than the verification_ttl of the key it references"
        )
    draft.put(f"role/{name}", role)
    await draft.commit()
    return Response(NO_CONTENT)


@retried
async def _delete_role(core: Core, request: Request, params: dict[str, str]) -> Response:
    draft, name = Draft(core.unsealed, VIEW, request), params["name"]
    if draft.get(f"role/{name}", Role) is not None:
        draft.delete(f"role/{name}")
        await draft.commit()
    return Response(NO_CONTENT)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise InvalidRequest("invalid name: letters, digits and . - _, the first and the last no punctuation")
    return name


# --- tokens ---


@retried
async def _sign(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A token that names the caller's entity; the key is replaced first if it is due, and can be."""
    draft, name, caller = Draft(core.unsealed, VIEW, request), params["name"], request.token_row
    assert caller is not None, "an authenticated route"
    role = draft.get(f"role/{name}", Role)
    if role is None:
        raise InvalidRequest(f'role "{name}" not found')
    key = _key(draft, role.key)
    if key is None:
        raise InvalidRequest(f'key "{role.key}" not found')
    if not key.allows(role.client_id):
        raise InvalidRequest(
            f'the key "{key.name}" does not list the client ID of the role "{name}" as an allowed client ID'
        )
    identity = core.directory.find(core.unsealed, caller.entity_id) if caller.entity_id else None
    if identity is None:
        raise InvalidRequest("no entity associated with the request's token")
    due = key.rotate_ns <= draft.now_ns and not request.alone
    if not key.private_pem or due:
        key = oidc_keys.rotated(key, await asyncio.to_thread(oidc_keys.draw, key.algorithm), draft.now_ns)
        draft.put(f"key/{key.name}", key)
        await draft.commit()
    now_s = draft.now_ns // fields.SECOND_NS
    ttl_s = role.ttl_ns // fields.SECOND_NS
    claims = oidc_roles.claims(role, caller, identity, draft.now_ns) | {
        "iss": _issuer(core),
        "sub": identity.entity.id,
        "aud": role.client_id,
        "iat": now_s,
        "exp": now_s + ttl_s,
        "namespace": "root",
    }
    private = oidc_keys.private_key(key)
    token = jwt.encode(claims, private, key.algorithm, headers={"kid": key.kid, "typ": None})
    return payload(client_id=role.client_id, token=token, ttl=ttl_s)


async def _introspect(core: Core, request: Request, params: dict[str, str]) -> Response:
    """{"active": ...}; why it is not, in words that tell nothing about the token."""
    token = fields.text(request.data.get("token"), "token")
    client_id = fields.text(request.data.get("client_id"), "client_id")
    if not token:
        raise InvalidRequest("token is required")
    try:
        claims = _verified(core, token, client_id)
    except jwt.PyJWTError as error:
        return payload(active=False, error=f"unable to validate the token: {type(error).__name__}")
    identity = core.directory.find(core.unsealed, str(claims["sub"]))
    if identity is None or identity.entity.disabled:
        return payload(active=False, error="entity was not found or is disabled")
    return payload(active=True)


def _verified(core: Core, token: str, client_id: str) -> dict[str, Any]:
    """The claims of a token that a key here has signed. Raises jwt.PyJWTError."""
    kid = jwt.get_unverified_header(token).get("kid")
    for algorithm, jwk in _checkable(core):
        if jwk["kid"] == kid:
            return jwt.decode(
                token,
                jwt.PyJWK(jwk, algorithm),
                algorithms=[algorithm],
                issuer=_issuer(core),
                audience=client_id or None,
                options={"require": ["exp", "iat", "sub", "aud"], "verify_aud": bool(client_id)},
            )
    raise jwt.InvalidKeyError
