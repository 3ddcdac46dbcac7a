"""auth/jwt: logins of those who show a token of somebody else's.

Paths, shapes and texts are those of Vault's JWT method (https://developer.hashicorp.com/vault/api-docs/auth/jwt).
What a mount keeps: config and role/NAME.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.login import Login, first_here, log_in, spare
from node.auth.methods import jwt_claims, jwt_role
from node.auth.methods.fetching import FetchError
from node.auth.methods.jwt_keys import ALGORITHMS, Fetcher, Key, Source, fetch, from_pem
from node.auth.methods.jwt_role import Role
from node.auth.methods.method import Method, keep
from node.auth.methods.roles import Roles
from node.auth.token import Renewal
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path, told
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, Table
from node.errors import InvalidRequest, NotFound
from node.store import Store
from node.view import View
from storage.rows import Mount, Token

KIND = "jwt"
PUBLIC_KEYS_MAX = 64
URL_CHARACTERS_MAX = 2048
PEM_CHARACTERS_MAX = 64 * 1024
_ONE_SOURCE = "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set"


_ROLES = Roles(
    Role,
    parameter="role",
    changed=jwt_role.changed,
    shown=jwt_role.data,
    folded=False,
)


class Config(msgspec.Struct, frozen=True):
    """Of a mount: where its keys are, and whose tokens they check."""

    jwt_validation_pubkeys: tuple[str, ...] = ()
    jwks_url: str = ""
    jwks_ca_pem: str = ""
    oidc_discovery_url: str = ""
    oidc_discovery_ca_pem: str = ""
    bound_issuer: str = ""
    default_role: str = ""
    jwt_supported_algs: tuple[str, ...] = ()

    @property
    def source(self) -> Source | None:
        """None if the keys are given."""
        if self.jwks_url:
            return Source(self.jwks_url, False, self.jwks_ca_pem)
        if self.oidc_discovery_url:
            return Source(self.oidc_discovery_url, True, self.oidc_discovery_ca_pem)
        return None

    @property
    def issuer(self) -> str:
        """Whose tokens: what is bound, or who was discovered."""
        return self.bound_issuer or self.oidc_discovery_url


def method() -> Method:
    """The auth method."""
    handlers = _Jwt()
    read, update = Operation.READ, Operation.UPDATE
    config = (
        Field("jwt_validation_pubkeys", Kind.STRINGS, "Public keys, in PEM."),
        Field("jwks_url", Kind.STRING, "Where a key set is published."),
        Field("jwks_ca_pem", Kind.STRING, "The CA of that address."),
        Field("oidc_discovery_url", Kind.STRING, "The issuer, who publishes where his key set is."),
        Field("oidc_discovery_ca_pem", Kind.STRING, "The CA of that address."),
        Field("bound_issuer", Kind.STRING, "What iss must be."),
        Field("default_role", Kind.STRING, "The role of logins that name none."),
        Field("jwt_supported_algs", Kind.STRINGS, "Which algorithms are accepted; none given: all."),
    )
    table = Table(
        [
            Route(
                "config",
                {read: handlers.read_config, update: handlers.write_config},
                summary="Shows and sets whose tokens are accepted.",
                fields=config,
                answers={read: (*told(config), Field("status", Kind.STRING, "Always valid."))},
            ),
            Route("role", _ROLES.listing, summary="Lists the roles."),
            Route("role/", _ROLES.listing, summary="Lists the roles."),
            Route(
                "role/{role}",
                _ROLES.one,
                summary="Creates, shows, changes and removes a role.",
                fields=(in_path("role", "Its name."), *jwt_role.FIELDS, *params.formerly(jwt_role.OLD_NAMES)),
                answers={read: (*told(jwt_role.FIELDS), *params.OLD_NAMES)},
            ),
            Route(
                "login",
                {update: first_here(handlers.login)},
                local=True,
                authenticated=False,
                summary="Gives a token for a token of somebody else's.",
                fields=(
                    Field("jwt", Kind.STRING, "The token.", required=True),
                    Field("role", Kind.STRING, "Under which role; else the default one."),
                ),
                answers={update: (AUTH,)},
            ),
        ]
    )
    return Method(KIND, table, terms)


def terms(core: Core, mount: Mount, row: Token) -> Renewal:
    """A role that is gone has no renewals. Raises InvalidRequest."""
    role = _ROLES.find(core.unsealed, mount, row.role)
    if role is None:
        raise InvalidRequest(f'failed to renew entry: role "{row.role}" could not be found')
    held = role.params
    return Renewal(limits(core.settings, mount), held.period_ns, held.ttl_ns, held.max_ttl_ns)


def configured(data: dict[str, Any]) -> Config:
    """The configuration that a request gives. Raises InvalidRequest."""
    texts = (
        "jwks_url",
        "jwks_ca_pem",
        "oidc_discovery_url",
        "oidc_discovery_ca_pem",
        "bound_issuer",
        "default_role",
    )
    given = {name: fields.text(data.get(name), name) for name in texts}
    for name, value in given.items():
        if len(value) > (PEM_CHARACTERS_MAX if name.endswith("_pem") else URL_CHARACTERS_MAX):
            raise InvalidRequest(f'field "{name}" is too long')
    pems = data.get("jwt_validation_pubkeys")
    keys = (
        [pems]
        if isinstance(pems, str) and "," not in pems
        else fields.strings(pems, "jwt_validation_pubkeys")
    )
    keys = [key for key in keys if key]
    if len(keys) > PUBLIC_KEYS_MAX:
        raise InvalidRequest(f"at most {PUBLIC_KEYS_MAX} public keys")
    if sum(map(bool, (keys, given["jwks_url"], given["oidc_discovery_url"]))) != 1:
        raise InvalidRequest(_ONE_SOURCE)
    for key in keys:
        from_pem(key)
    algorithms = tuple(fields.strings(data.get("jwt_supported_algs"), "jwt_supported_algs"))
    for each in algorithms:
        if each not in ALGORITHMS:
            raise InvalidRequest(f'unsupported signing algorithm "{each}"')
    return Config(jwt_validation_pubkeys=tuple(keys), jwt_supported_algs=algorithms, **given)


class _Jwt:
    """The handlers; keys that were fetched are kept here."""

    def __init__(self) -> None:
        self._fetcher = Fetcher()

    async def read_config(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        config = _config(core.unsealed, request.served_by)
        if config is None:
            raise NotFound
        shown = msgspec.to_builtins(config) | {"status": "valid"}
        return Response(data=dict(sorted(shown.items())))

    async def write_config(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """Set all of it; keys that are to be fetched are fetched once, to see that they can be."""
        config = configured(request.data)
        if config.source is not None:
            try:
                await fetch(config.source)
            except FetchError as error:
                what = "oidc discovery URL" if config.source.discovery else "jwks URL"
                raise InvalidRequest(f"error checking {what}: {error}") from None
        await keep(core, request, "config", config)
        return Response(NO_CONTENT)

    async def login(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        store, mount = core.unsealed, request.served_by
        token = fields.text(request.data.get("jwt"), "jwt")
        config = _config(store, mount)
        if config is None:
            raise InvalidRequest("could not load configuration")
        name = fields.text(request.data.get("role"), "role") or config.default_role
        if not name:
            raise InvalidRequest("missing role")
        if not token:
            raise InvalidRequest("missing token")
        known = _ROLES.find(store, mount, name)
        if known is None:
            raise InvalidRequest(f'role "{name}" could not be found')
        spare(core, request, known.params)
        keys = await self._keys(config, jwt_claims.key_id(token))
        claims = jwt_claims.verified(token, keys, config.jwt_supported_algs or ALGORITHMS)

        async def prove() -> Login:
            role = _ROLES.find(store, mount, name)
            if role is None:
                raise InvalidRequest(f'role "{name}" could not be found')
            jwt_claims.check(role, claims, issuer=config.issuer, now_s=time.time())
            who, said = jwt_claims.user(role, claims), jwt_claims.metadata(role, claims)
            return Login(
                alias=who,
                params=role.params,
                role=name,
                metadata={**said, "role": name},
                display_name=who,
                alias_metadata=said or None,
                groups=jwt_claims.groups(role, claims) if role.groups_claim else None,
            )

        return await log_in(core, request, prove)

    async def _keys(self, config: Config, kid: str) -> Sequence[Key]:
        if config.source is None:
            return [from_pem(text) for text in config.jwt_validation_pubkeys]
        try:
            return await self._fetcher.keys(config.source, kid)
        except FetchError:
            raise InvalidRequest(
                "error validating token: the keys that tokens are checked with cannot be fetched"
            ) from None


def _config(store: Store, mount: Mount) -> Config | None:
    item = View(store, mount.mount_id).get("config")
    return msgspec.json.decode(item.raw, type=Config) if item else None
