"""auth/approle: roles and logins of machines. Paths, shapes and texts are those of Vault's approle method.

Secret ids are in approle_secret_ids.py, their paths in approle_secret_id_paths.py. What a mount keeps: role/NAME, and
role-id/DIGEST that points to the name.
"""

import dataclasses
import hashlib
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.cidr import inside
from node.auth.login import Login, UsedUp, first_here, log_in
from node.auth.methods import approle_role, approle_secret_id_paths
from node.auth.methods.approle_role import Role
from node.auth.methods.approle_secret_ids import Proof, SecretIds
from node.auth.methods.method import Method, refused
from node.auth.token import Renewal
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path, told
from node.core.paging import children
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, Table, payload
from node.draft import Draft, retried
from node.errors import InvalidRequest, NotFound
from node.store import CommandRejected, Store
from node.view import View
from storage.rows import Mount, Token

KIND = "approle"
_INVALID = "invalid role or secret ID"
_TRUNCATED = (
    "token_max_ttl is greater than the backend mount's maximum TTL value; "
    "issued tokens' max TTL value will be truncated"
)


def method() -> Method:
    """The auth method."""
    read, update, delete = Operation.READ, Operation.UPDATE, Operation.DELETE
    name = in_path("role", "Of the approle.")
    listing = Route("role", {Operation.LIST: _list}, summary="Lists the roles.")
    routes = [
        listing,
        Route("role/", listing.handlers, summary=listing.summary),
        Route(
            "role/{role}",
            {read: _read, update: _write, delete: _delete},
            folded="role",
            exists=_exists,
            summary="Creates, shows, changes and removes a role.",
            fields=(name, *approle_role.FIELDS, *approle_role.FORMER_FIELDS),
            answers={read: (*told(approle_role.FIELDS), *params.OLD_NAMES)},
        ),
        Route(
            "role/{role}/role-id",
            {read: _read_role_id, update: _write_role_id},
            folded="role",
            summary="Shows and sets what a role logs in with.",
            fields=(name, Field("role_id", Kind.STRING, "The new one.")),
            answers={read: (Field("role_id", Kind.STRING, "What logs in."),)},
        ),
        Route(
            "login",
            {update: first_here(_login)},
            local=True,
            authenticated=False,
            summary="Gives a token for a role id and a secret id.",
            fields=(
                Field("role_id", Kind.STRING, "Of the role.", required=True),
                Field("secret_id", Kind.STRING, "Of this role."),
            ),
            answers={update: (AUTH,)},
        ),
        *(_single_field(path, name) for path in approle_role.SINGLE_FIELDS),
        *approle_secret_id_paths.routes(name, find),
    ]
    return Method(KIND, Table(routes), terms)


def _single_field(path: str, name: Field) -> Route:
    """The route that shows, changes and resets one field of a role."""
    field, default = approle_role.SINGLE_FIELDS[path]

    async def show(core: Core, request: Request, params: dict[str, str]) -> Response:
        role = find(core.unsealed, request.served_by, params["role"])
        if role is None:
            raise NotFound
        return Response(data=approle_role.shown_at(path, role))

    async def change(core: Core, request: Request, params: dict[str, str]) -> Response:
        said = approle_role.single_field(path, request.data)
        await _change(core, request, params["role"], said, creating=False)
        return Response(NO_CONTENT)

    async def reset(core: Core, request: Request, params: dict[str, str]) -> Response:
        await _change(core, request, params["role"], {field: default}, creating=False)
        return Response(NO_CONTENT)

    handlers = {Operation.READ: show, Operation.UPDATE: change, Operation.DELETE: reset}
    if field == "local_secret_ids":
        handlers = {Operation.READ: show}
    shown = next(each for each in approle_role.FIELDS if each.name == field)
    former = dataclasses.replace(shown, name=approle_role.OLD_FIELDS.get(path, field))
    answered = {dataclasses.replace(shown, name=approle_role.OLD_PATHS.get(path, field)), former}
    return Route(
        f"role/{{role}}/{path}",
        handlers,
        folded="role",
        twin=f"role/{{role}}/{approle_role.TWIN_PATHS[path]}" if path in approle_role.TWIN_PATHS else "",
        summary=f"Shows, changes and resets {field} of a role.",
        fields=(name, shown) if former == shown else (name, shown, former),
        answers={Operation.READ: told(sorted(answered, key=lambda each: each.name))},
    )


def terms(core: Core, mount: Mount, row: Token) -> Renewal:
    """A role that is gone has no renewals. Raises InvalidRequest."""
    role = find(core.unsealed, mount, row.role)
    if role is None:
        raise InvalidRequest(f'failed to renew entry: role "{row.role}" does not exist during renewal')
    held = role.params
    return Renewal(limits(core.settings, mount), held.period_ns, held.ttl_ns, held.max_ttl_ns)


# --- roles ---


def find(store: Store, mount: Mount, name: str) -> Role | None:
    """A role by its name, however that is spelled. Raises InvalidRequest if it is no name."""
    item = View(store, mount.mount_id).get(_path(approle_role.canonical(name)))
    return msgspec.json.decode(item.raw, type=Role) if item else None


async def _list(core: Core, request: Request, params: dict[str, str]) -> Response:
    view = View(core.unsealed, request.served_by.mount_id)
    return payload(keys=children(core, request, view, "role/"))


def _exists(core: Core, request: Request, params: dict[str, str]) -> bool:
    try:
        return find(core.unsealed, request.served_by, params["role"]) is not None
    except InvalidRequest:
        return False


async def _read(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = find(core.unsealed, request.served_by, params["role"])
    if role is None:
        raise NotFound
    return Response(data=approle_role.data(role))


async def _write(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Create or change; what is not said stays."""
    role = await _change(core, request, params["role"], request.data, creating=True)
    warnings = []
    said = request.data.get("token_type")
    if said in tuple(approle_role.VAGUE_TYPES):
        warnings.append(f"{said} has no useful meaning; adjusting to {role.params.type}")
    if role.params.max_ttl_ns > limits(core.settings, request.served_by).max_ns:
        warnings.append(_TRUNCATED)
    return Response(warnings=warnings) if warnings else Response(NO_CONTENT)


async def _read_role_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    role = find(core.unsealed, request.served_by, params["role"])
    if role is None:
        raise NotFound
    return payload(role_id=role.role_id)


async def _write_role_id(core: Core, request: Request, params: dict[str, str]) -> Response:
    if not fields.text(request.data.get("role_id"), "role_id"):
        raise InvalidRequest("missing role_id")
    await _change(core, request, params["role"], {"role_id": request.data["role_id"]}, creating=False)
    return Response(NO_CONTENT)


@retried
async def _change(core: Core, request: Request, name: str, said: dict[str, Any], *, creating: bool) -> Role:
    """Change a role; one that is not there yet only if `creating`. No two roles share a role id."""
    mount, name = request.served_by, approle_role.canonical(name)
    draft = Draft(core.unsealed, mount.mount_id, request)
    known = draft.get(_path(name), Role)
    if known is None and not creating:
        raise NotFound
    role = approle_role.changed(known or approle_role.new(name), said, creating=known is None)
    taken = draft.get(_id_path(role.role_id), _Pointer)
    if taken is not None and taken.role != name:
        raise InvalidRequest("role_id already in use")
    if known is not None and known.role_id != role.role_id:
        draft.delete(_id_path(known.role_id))
    draft.put(_path(name), role)
    if taken is None:
        draft.put(_id_path(role.role_id), _Pointer(name))
    try:
        await draft.commit()
    except CommandRejected as error:
        raise refused(error) from None
    return role


@retried
async def _delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    """With its secret ids. An absent role is a success."""
    mount, name = request.served_by, approle_role.canonical(params["role"])
    draft = Draft(core.unsealed, mount.mount_id, request)
    known = draft.get(_path(name), Role)
    if known is None:
        return Response(NO_CONTENT)
    draft.delete(_path(name))
    draft.delete(_id_path(known.role_id))
    ids = SecretIds(core.unsealed, mount)
    await draft.commit(extra=ids.removal_of_all(name))
    return Response(NO_CONTENT)


# --- login ---


async def _login(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A token. Whatever is wrong with role id or secret id, the words are the same."""
    role_id = fields.text(request.data.get("role_id"), "role_id")
    if not role_id:
        raise InvalidRequest("missing role_id")
    secret_id = fields.text(request.data.get("secret_id"), "secret_id")
    store, mount = core.unsealed, request.served_by

    async def prove() -> Login:
        role = _by_id(store, mount, role_id)
        if role is None:
            raise InvalidRequest(_INVALID)
        if role.secret_id_bound_cidrs and not inside(request.remote, role.secret_id_bound_cidrs):
            raise InvalidRequest(
                f'source address "{request.remote}" unauthorized by CIDR restrictions on the role'
            )
        if not role.bind_secret_id:
            return _login_of(role, Proof())
        if not secret_id:
            raise InvalidRequest("missing secret_id")
        ids = SecretIds(store, mount)
        shown = ids.digest(role.name, secret_id).encode()
        found = ids.spend(role, secret_id, request.remote)
        if found is None:
            raise UsedUp(_login_of(role, Proof(), shown), InvalidRequest(_INVALID))
        return _login_of(role, found, shown)

    return await log_in(core, request, prove)


def _login_of(role: Role, proof: Proof, shown: bytes = b"") -> Login:
    """What a proof of this role gives; `shown`: the digest of its secret id."""
    held = role.params
    if proof.token_bound_cidrs:
        held = msgspec.structs.replace(held, bound_cidrs=proof.token_bound_cidrs)
    return Login(
        alias=role.role_id,
        params=held,
        role=role.name,
        metadata={**proof.metadata, "role_name": role.name},
        commands=proof.commands,
        proof=shown,
    )


def _by_id(store: Store, mount: Mount, role_id: str) -> Role | None:
    view = View(store, mount.mount_id)
    item = view.get(_id_path(role_id))
    if item is None:
        return None
    name = msgspec.json.decode(item.raw, type=_Pointer).role
    found = view.get(_path(name))
    return msgspec.json.decode(found.raw, type=Role) if found else None


class _Pointer(msgspec.Struct, frozen=True):
    """From a role id to the role."""

    role: str


def _path(name: str) -> str:
    return f"role/{name}"


def _id_path(role_id: str) -> str:
    """Of one length, whatever a role id is."""
    return f"role-id/{hashlib.sha256(role_id.encode()).hexdigest()}"
