"""auth/userpass: names and passwords. Paths, shapes and texts are those of Vault's userpass method."""

import re
from typing import Any

import msgspec

from node.auth import fields, params
from node.auth.login import Login, first_here, log_in, spare
from node.auth.methods.lockout import Lockout
from node.auth.methods.method import Method, refused
from node.auth.methods.passwords import Passwords
from node.auth.params import TokenParams
from node.auth.token import Renewal
from node.auth.ttl import limits
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, in_path, told
from node.core.paging import children
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Route, Table, payload
from node.errors import InvalidRequest, NotFound, PermissionDenied
from node.store import CommandRejected, Store
from node.view import View
from storage.rows import Mount, Token

KIND = "userpass"
NAME_CHARACTERS_MAX = 256
_NAME = re.compile(r"\w(?:[\w.@+-]*\w)?", re.ASCII)  # ASCII: lower() leaves one spelling of a name
_OLD_NAMES = {
    "token_policies": "policies",
    "token_ttl": "ttl",
    "token_max_ttl": "max_ttl",
    "token_bound_cidrs": "bound_cidrs",
}
_WRONG = "invalid username or password"


class User(msgspec.Struct, frozen=True):
    password: str  # Argon2id, in PHC form
    params: TokenParams = TokenParams()

    def __repr__(self) -> str:
        return "User(***)"


def method(lockout: Lockout) -> Method:
    """The auth method; `lockout` counts the failures of this node's users."""
    userpass = _Userpass(lockout)
    name = in_path("username", "Of the user; case does not count.")
    password = Field("password", Kind.STRING, "Of the user.")
    former = params.formerly(_OLD_NAMES)
    one = {
        Operation.READ: userpass.read,
        Operation.UPDATE: userpass.write,
        Operation.DELETE: userpass.delete,
    }
    table = Table(
        [
            Route("users", {Operation.LIST: userpass.list}, summary="Lists the users."),
            Route("users/", {Operation.LIST: userpass.list}, summary="Lists the users."),
            Route(
                "users/{username}",
                one,
                folded="username",
                exists=userpass.exists,
                summary="Creates, shows, changes and removes a user.",
                fields=(name, password, *params.FIELDS, *former),
                answers={Operation.READ: (*told(params.FIELDS), *params.OLD_NAMES)},
            ),
            Route(
                "users/{username}/password",
                {Operation.UPDATE: userpass.set_password},
                folded="username",
                summary="Changes a user's password.",
                fields=(name, password),
            ),
            Route(
                "users/{username}/policies",
                {Operation.UPDATE: userpass.set_policies},
                folded="username",
                summary="Changes a user's policies.",
                fields=(name, params.FIELDS[0], former[0]),
            ),
            Route(
                "login/{username}",
                {Operation.UPDATE: first_here(userpass.login)},
                local=True,
                authenticated=False,
                summary="Gives a token for a name and its password.",
                fields=(name, password),
                answers={Operation.UPDATE: (AUTH,)},
            ),
        ]
    )
    return Method(KIND, table, terms)


def terms(core: Core, mount: Mount, row: Token) -> Renewal:
    """A user who is gone, or has other policies by now, has no renewals. Raises InvalidRequest."""
    user = _find(core.unsealed, mount, row.role)
    if user is None:
        raise InvalidRequest("the user no longer exists, not renewing")
    if user.params.granted != row.policies:
        raise InvalidRequest("policies have changed, not renewing")
    held = user.params
    return Renewal(limits(core.settings, mount), held.period_ns, held.ttl_ns, held.max_ttl_ns)


class _Userpass:
    """The handlers."""

    def __init__(self, lockout: Lockout) -> None:
        self._passwords, self._lockout = Passwords(), lockout

    async def list(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        view = View(core.unsealed, request.served_by.mount_id)
        return payload(keys=children(core, request, view, "user/"))

    def exists(self, core: Core, request: Request, path: dict[str, str]) -> bool:
        return _find(core.unsealed, request.served_by, path["username"].lower()) is not None

    async def read(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        user = _find(core.unsealed, request.served_by, _name(path))
        if user is None:
            raise NotFound
        return Response(data=dict(sorted(params.data(user.params).items())))

    async def write(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        """Create or change; a new user needs a password."""
        name, data = _name(path), request.data
        password = fields.text(data.get("password"), "password")
        hashed = await self._passwords.hash(password) if password else ""
        known, revision = _load(core, request, name)
        if known is None and not hashed:
            raise InvalidRequest(_no_password(data))
        user = known or User(hashed)
        held = params.changed(user.params, data, old_names=_OLD_NAMES)
        await _save(core, request, name, User(hashed or user.password, held), revision)
        return Response(NO_CONTENT)

    async def set_password(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        name, password = _name(path), fields.text(request.data.get("password"), "password")
        if not password:
            raise InvalidRequest(_no_password(request.data))
        hashed = await self._passwords.hash(password)
        user, revision = _known(core, request, name)
        await _save(core, request, name, User(hashed, user.params), revision)
        return Response(NO_CONTENT)

    async def set_policies(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        name = _name(path)
        user, revision = _known(core, request, name)
        given = {key: request.data.get(key) for key in ("token_policies", "policies")}
        held = params.changed(user.params, given, old_names=_OLD_NAMES)
        await _save(core, request, name, User(user.password, held), revision)
        return Response(NO_CONTENT)

    async def delete(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        view = View(core.unsealed, request.served_by.mount_id)
        await core.unsealed.submit(view.delete(_path(_name(path))), request_id=request.request_id)
        return Response(NO_CONTENT)

    async def login(self, core: Core, request: Request, path: dict[str, str]) -> Response:
        """A token, or "no" in the same words and at the same cost whatever was wrong."""
        store, mount = core.unsealed, request.served_by
        password = fields.text(request.data.get("password"), "password")
        if not password:
            raise InvalidRequest("missing password")
        name = path["username"].lower()
        if not _is_name(name):
            raise InvalidRequest(_WRONG)
        async with self._lockout.turn(store, mount, name, alone=request.alone):
            user = _find(store, mount, name)
            spare(core, request, user.params if user else None)
            if not await self._passwords.fits(password, user.password if user else None):
                await self._lockout.failed(store, mount, name, alone=request.alone)
                raise InvalidRequest(_WRONG)

            async def prove() -> Login:
                """The password fitted `user`: as long as it is his, so is the proof."""
                current = _find(store, mount, name)
                if current is None or user is None or current.password != user.password:
                    raise PermissionDenied("permission denied")
                return Login(
                    alias=name,
                    params=current.params,
                    role=name,
                    metadata={"username": name},
                    display_name=name,
                    courtesies=self._lockout.forgiven(store, mount, name),
                )

            return await log_in(core, request, prove)


def _load(core: Core, request: Request, name: str) -> tuple[User | None, int]:
    """A user with the revision to write over; 0 if there is none."""
    item = View(core.unsealed, request.served_by.mount_id).get(_path(name))
    return (msgspec.json.decode(item.raw, type=User), item.revision) if item else (None, 0)


def _known(core: Core, request: Request, name: str) -> tuple[User, int]:
    user, revision = _load(core, request, name)
    if user is None:
        raise InvalidRequest("username does not exist")
    return user, revision


async def _save(core: Core, request: Request, name: str, user: User, revision: int) -> None:
    """Write over `revision` and nothing newer. Raises InvalidRequest."""
    store = core.unsealed
    command = View(store, request.served_by.mount_id).put(
        _path(name), msgspec.json.encode(user), expect=revision
    )
    try:
        await store.submit(command, request_id=request.request_id)
    except CommandRejected as error:
        raise refused(error) from None


def _find(store: Store, mount: Mount, name: str) -> User | None:
    item = View(store, mount.mount_id).get(_path(name)) if _is_name(name) else None
    return msgspec.json.decode(item.raw, type=User) if item else None


def _name(path: dict[str, str]) -> str:
    name = path["username"].lower()
    if not _is_name(name):
        raise InvalidRequest(
            "invalid username: letters, digits and . @ + - _, the first and the last no punctuation"
        )
    return name


def _is_name(name: str) -> bool:
    return len(name) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(name) is not None


def _path(name: str) -> str:
    return f"user/{name}"


def _no_password(data: dict[str, Any]) -> str:
    if data.get("password_hash"):
        return "password_hash is not offered by this server: send the password"
    return "must provide either password or password_hash"
