"""auth/kubernetes: logins of pods by the token of their service account, which the cluster's own API is asked about.

Paths, shapes and texts are those of Vault's Kubernetes method (https://developer.hashicorp.com/vault/api-docs/auth/kubernetes).
What a mount keeps: config and role/NAME.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.globs import matches
from node.auth.login import Login, first_here, log_in, spare
from node.auth.methods.jwt_keys import from_pem
from node.auth.methods.kubernetes_review import Account, Config, claimed, review
from node.auth.methods.method import Method, keep
from node.auth.methods.roles import Roles
from node.auth.params import TokenParams
from node.auth.token import Renewal
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path, told
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, Table
from node.errors import InvalidRequest, NotFound, PermissionDenied
from node.store import Store
from node.view import View
from storage.rows import Mount, Token

KIND = "kubernetes"
ITEMS_MAX = 256
TEXT_CHARACTERS_MAX = 64 * 1024

_OLD_NAMES = {
    f"token_{each}": each for each in ("policies", "ttl", "max_ttl", "period", "num_uses", "bound_cidrs")
}
_SOURCES = ("serviceaccount_uid", "serviceaccount_name")


class Role(msgspec.Struct, frozen=True):
    name: str
    names: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    audience: str = ""
    alias_name_source: str = "serviceaccount_uid"
    params: TokenParams = TokenParams()


_CONFIG = (
    Field("kubernetes_host", Kind.STRING, "Where the API is."),
    Field("kubernetes_ca_cert", Kind.STRING, "The CA of the API, in PEM."),
    Field(
        "token_reviewer_jwt",
        Kind.STRING,
        "What this server shows to the API; else the caller's own token.",
    ),
    Field("pem_keys", Kind.STRINGS, "Public keys that tokens are checked with besides."),
    Field("issuer", Kind.STRING, "What iss must be, unless disable_iss_validation."),
    Field("disable_iss_validation", Kind.BOOLEAN, "Whether iss may be anything."),
    Field("disable_local_ca_jwt", Kind.BOOLEAN, "Not to use what Kubernetes put into this server's pod."),
)
_ROLE = (
    in_path("role", "Its name."),
    Field("bound_service_account_names", Kind.STRINGS, "Which service accounts; * for all."),
    Field("bound_service_account_namespaces", Kind.STRINGS, "In which namespaces; * for all."),
    Field("audience", Kind.STRING, "For whom the token must be."),
    Field("alias_name_source", Kind.STRING, "serviceaccount_uid or serviceaccount_name."),
    *params.FIELDS,
    *params.formerly(_OLD_NAMES),
)
_LOGIN = (
    Field("role", Kind.STRING, "Under which role.", required=True),
    Field("jwt", Kind.STRING, "The token of the service account.", required=True),
)


def method() -> Method:
    """The auth method."""
    read, update = Operation.READ, Operation.UPDATE
    table = Table(
        [
            Route(
                "config",
                {read: _read_config, update: _write_config},
                summary="The cluster.",
                fields=_CONFIG,
                answers={read: (*told(_CONFIG), Field("token_reviewer_jwt_set", Kind.BOOLEAN))},
            ),
            Route("role", _ROLES.listing, summary="Lists the roles."),
            Route("role/", _ROLES.listing, summary="Lists the roles."),
            Route(
                "role/{role}",
                _ROLES.one,
                folded="role",
                summary="A role.",
                fields=_ROLE,
                answers={read: (*told(_ROLE), Field("bound_service_account_namespace_selector"))},
            ),
            Route(
                "login",
                {update: first_here(_login)},
                local=True,
                authenticated=False,
                summary="Gives a token to a pod.",
                fields=_LOGIN,
                answers={update: (AUTH,)},
            ),
        ]
    )
    return Method(KIND, table, terms)


def terms(core: Core, mount: Mount, row: Token) -> Renewal:
    """A role that is gone has no renewals. Raises InvalidRequest."""
    role = _ROLES.find(core.unsealed, mount, row.role)
    if role is None:
        raise InvalidRequest("could not load role")
    held = role.params
    return Renewal(limits(core.settings, mount), held.period_ns, held.ttl_ns, held.max_ttl_ns)


# --- configuration ---


def configured(data: Mapping[str, Any]) -> Config:
    """The configuration that a request gives. Raises InvalidRequest."""
    texts = ("kubernetes_host", "kubernetes_ca_cert", "token_reviewer_jwt", "issuer")
    given: dict[str, Any] = {name: fields.text(data.get(name), name) for name in texts}
    if max(map(len, given.values())) > TEXT_CHARACTERS_MAX:
        raise InvalidRequest(f"a field has at most {TEXT_CHARACTERS_MAX} characters")
    if not given["kubernetes_host"]:
        raise InvalidRequest("no host provided")
    pems = data.get("pem_keys")
    keys = [pems] if isinstance(pems, str) and "," not in pems else fields.strings(pems, "pem_keys")
    keys = [key for key in keys if key]
    if len(keys) > ITEMS_MAX:
        raise InvalidRequest(f"at most {ITEMS_MAX} keys")
    for key in keys:
        from_pem(key)
    for name, default in (("disable_iss_validation", True), ("disable_local_ca_jwt", False)):
        given[name] = default if data.get(name) is None else fields.boolean(data[name], name)
    if given["disable_local_ca_jwt"] and not given["kubernetes_ca_cert"]:
        raise InvalidRequest("kubernetes_ca_cert must be given when disable_local_ca_jwt is true")
    return Config(pem_keys=tuple(keys), **given)


async def _read_config(core: Core, request: Request, path: dict[str, str]) -> Response:
    config = _config(core.unsealed, request.served_by)
    if config is None:
        raise NotFound
    shown = msgspec.to_builtins(config)
    shown["token_reviewer_jwt_set"] = bool(shown.pop("token_reviewer_jwt"))
    return Response(data=dict(sorted(shown.items())))


async def _write_config(core: Core, request: Request, path: dict[str, str]) -> Response:
    """Set all of it. The API is not asked yet: it may come up later than this server."""
    config = configured(request.data)
    await keep(core, request, "config", config)
    if config.kubernetes_ca_cert and not _holds_certificate(config.kubernetes_ca_cert):
        return Response(
            warnings=["kubernetes_ca_cert holds no certificate that can be read: no login will succeed"]
        )
    return Response(NO_CONTENT)


def _holds_certificate(pem: str) -> bool:
    import ssl

    if not pem.isascii():  # which ssl calls a TypeError
        return False
    with contextlib.suppress(ssl.SSLError, ValueError):
        ssl.create_default_context(cadata=pem)
        return True
    return False


def _config(store: Store, mount: Mount) -> Config | None:
    item = View(store, mount.mount_id).get("config")
    return msgspec.json.decode(item.raw, type=Config) if item else None


# --- roles ---


def changed(role: Role, data: Mapping[str, Any]) -> Role:
    """The role with what a request says; what it does not say stays. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    for attribute in ("names", "namespaces"):
        name = f"bound_service_account_{attribute}"
        if data.get(name) is not None:
            given[attribute] = tuple(fields.strings(data[name], name))
    for name in ("audience", "alias_name_source"):
        if data.get(name) is not None:
            given[name] = fields.text(data[name], name)
    if data.get("bound_service_account_namespace_selector"):
        raise InvalidRequest("bound_service_account_namespace_selector is not offered by this server")
    given["params"] = params.changed(role.params, data, old_names=_OLD_NAMES)
    role = msgspec.structs.replace(role, **given)
    for name, values in (("names", role.names), ("namespaces", role.namespaces)):
        if not values:
            raise InvalidRequest(f'"bound_service_account_{name}" can not be empty')
        if "*" in values and len(values) > 1:
            raise InvalidRequest('can not mix "*" with values')
        if len(values) > ITEMS_MAX:
            raise InvalidRequest(f"at most {ITEMS_MAX} {name}")
    if role.alias_name_source not in _SOURCES:
        raise InvalidRequest(f"invalid alias_name_source, must be one of: {', '.join(_SOURCES)}")
    return role


def _shown(role: Role) -> dict[str, Any]:
    shown = {
        "alias_name_source": role.alias_name_source,
        "bound_service_account_names": list(role.names),
        "bound_service_account_namespace_selector": "",
        "bound_service_account_namespaces": list(role.namespaces),
        **({"audience": role.audience} if role.audience else {}),
        **params.data(role.params),
    }
    return dict(sorted(shown.items()))


_ROLES = Roles(Role, parameter="role", changed=changed, shown=_shown, folded=True)


# --- login ---


async def _login(core: Core, request: Request, path: dict[str, str]) -> Response:
    store, mount = core.unsealed, request.served_by
    name, token = (fields.text(request.data.get(each), each) for each in ("role", "jwt"))
    if not name or not token:
        raise InvalidRequest("missing role" if not name else "missing jwt")
    role, config = _ROLES.find(store, mount, name), _config(store, mount)
    if role is None:
        raise InvalidRequest(f'invalid role name "{name}"')
    if config is None:
        raise InvalidRequest("could not load backend configuration")
    spare(core, request, role.params)
    said = claimed(config, token)
    _check_bounds(role, said)  # spares the API those who would be refused anyway
    account = await review(config, role.audience, token)
    if account != said:
        raise PermissionDenied("permission denied")

    async def prove() -> Login:
        """The API knows the account: whether the role lets it in, the role says as it is now."""
        current = _ROLES.find(store, mount, name)
        if current is None:
            raise InvalidRequest(f'invalid role name "{name}"')
        _check_bounds(current, account)
        if current.audience != role.audience:
            raise PermissionDenied("permission denied")
        metadata = {
            "role": current.name,
            "service_account_name": account.name,
            "service_account_namespace": account.namespace,
            "service_account_secret_name": "",
            "service_account_uid": account.uid,
        }
        by_uid = current.alias_name_source == "serviceaccount_uid"
        return Login(
            alias=account.uid if by_uid else f"{account.namespace}/{account.name}",
            params=current.params,
            role=current.name,
            metadata=metadata,
            display_name=f"{account.namespace}-{account.name}",
            alias_metadata={each: value for each, value in metadata.items() if each != "role"},
        )

    return await log_in(core, request, prove)


def _check_bounds(role: Role, account: Account) -> None:
    if not any(matches(each, account.namespace) for each in role.namespaces):
        raise PermissionDenied("namespace not authorized")
    if not any(matches(each, account.name) for each in role.names):
        raise PermissionDenied("service account name not authorized")
