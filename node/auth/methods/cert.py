"""The auth method cert: who shows a TLS client certificate that a role is for gets a token.

The listener asks for it and has it verified (tls_client_ca_file); the roles say whose certificates mean what. Paths,
fields and texts are those of Vault's TLS certificate method.
"""

from collections.abc import AsyncIterator

import msgspec
from cryptography import x509

from node.auth import fields, params
from node.auth.login import Login, first_here, log_in, spare
from node.auth.methods import cert_role
from node.auth.methods.cert_role import Role
from node.auth.methods.method import Method, keep
from node.auth.methods.roles import Roles
from node.auth.token import Renewal
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path, told
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, Table, payload
from node.errors import InvalidRequest
from node.foreign_x509 import UNREADABLE, read_whole
from node.store import Store
from node.view import View, in_turns
from storage.rows import Mount, Token

KIND = "cert"
_NONE = "invalid certificate or no client certificate supplied"
_BINDING = Field(
    "disable_binding", Kind.BOOLEAN, "Renewals need not show the certificate that the log-in showed."
)


_ROLES = Roles(
    Role,
    parameter="name",
    changed=cert_role.changed,
    shown=cert_role.data,
    folded=True,
)


class Config(msgspec.Struct, frozen=True):
    disable_binding: bool = False


def method() -> Method:
    """The auth method."""
    read, update = Operation.READ, Operation.UPDATE
    role = in_path("name", "Of the role.")
    former = params.formerly(cert_role.OLD_NAMES)
    routes = [
        Route(
            "config",
            {read: _read_config, update: _write_config},
            summary="Shows and sets what holds for all roles.",
            fields=(_BINDING,),
            answers={read: (_BINDING,)},
        ),
        *(Route(f"certs{slash}", _ROLES.listing, summary="Lists the roles.") for slash in ("", "/")),
        Route(
            "certs/{name}",
            _ROLES.one,
            summary="Creates, shows, changes and removes a role.",
            fields=(role, *cert_role.FIELDS, *former),
            answers={read: (*told(cert_role.FIELDS), *told(former))},
        ),
        Route(
            "login",
            {update: first_here(_login)},
            local=True,
            authenticated=False,
            summary="Gives a token for the client certificate of the connection.",
            fields=(Field("name", Kind.STRING, "Under which role; else the first that is for it."),),
            answers={update: (AUTH,)},
        ),
    ]
    return Method(KIND, Table(routes), terms, check_renewal)


def terms(core: Core, mount: Mount, row: Token) -> Renewal:
    """A role that is gone has no renewals. Raises InvalidRequest."""
    role = _ROLES.find(core.unsealed, mount, row.role)
    if role is None:
        raise InvalidRequest("failed to find role during renewal")
    held = role.params
    return Renewal(limits(core.settings, mount), held.period_ns, held.ttl_ns, held.max_ttl_ns)


def check_renewal(core: Core, request: Request, mount: Mount, row: Token) -> None:
    """Who renews shows the certificate that the log-in showed, unless the mount does without. Raises InvalidRequest."""
    if _config(core.unsealed, mount).disable_binding:
        return
    known, chain = row.metadata or {}, _chain(request)
    if any(known.get(name) != value for name, value in cert_role.key_ids(chain[0]).items()):
        raise InvalidRequest("client identity during renewal not matching client identity used during login")


# --- configuration ---


def _config(store: Store, mount: Mount) -> Config:
    item = View(store, mount.mount_id).get("config")
    return msgspec.json.decode(item.raw, type=Config) if item else Config()


async def _read_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(**msgspec.to_builtins(_config(core.unsealed, request.served_by)))


async def _write_config(core: Core, request: Request, params: dict[str, str]) -> Response:
    binding = fields.boolean(request.data.get("disable_binding") or False, "disable_binding")
    await keep(core, request, "config", Config(binding))
    return Response(NO_CONTENT)


# --- login ---


async def _login(core: Core, request: Request, params: dict[str, str]) -> Response:
    chain, wanted = _chain(request), fields.text(request.data.get("name"), "name")
    own = chain[0]
    alias = next(iter(cert_role.common_names(own)), "")
    if not alias:
        raise InvalidRequest("the client certificate has no common name, which an entity is known by")
    spare(core, request, (await _admitting(core, request, chain, wanted)).params)

    async def prove() -> Login:
        role = await _admitting(core, request, chain, wanted)
        return Login(
            alias=alias,
            params=role.params,
            role=role.name,
            metadata=cert_role.metadata(role, own),
            display_name=role.display_name,
        )

    return await log_in(core, request, prove)


def _chain(request: Request) -> list[x509.Certificate]:
    """What the client has shown and TLS has verified, its own first. Raises InvalidRequest."""
    try:
        chain = [read_whole(x509.load_der_x509_certificate(each)) for each in request.client_chain()]
    except UNREADABLE:
        raise InvalidRequest("the client certificate, or one above it, cannot be read") from None
    if not chain:
        raise InvalidRequest(f"{_NONE} (a listener asks for one where it has tls_client_ca_file)")
    return chain


async def _admitting(core: Core, request: Request, chain: list[x509.Certificate], wanted: str) -> Role:
    """The role that lets a chain in: the one that is wanted, or the first by name. Raises InvalidRequest."""
    async for role in _candidates(core, request.served_by, wanted):
        if cert_role.admits(role, chain):
            return role
    raise InvalidRequest(
        "no chain matching all constraints could be found for this login certificate"
        if not wanted
        else f'the role "{wanted}" is not there, or not for this certificate'
    )


async def _candidates(core: Core, mount: Mount, wanted: str) -> AsyncIterator[Role]:
    async for name in in_turns([wanted] if wanted else _ROLES.names(core, mount)):
        role = _ROLES.find(core.unsealed, mount, name)
        if role is not None:
            yield role
