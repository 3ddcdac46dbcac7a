"""The paths about secret ids of approles: what is asked for, checked against the role, and what is shown."""

from collections.abc import Callable, Mapping
from typing import Any

from node.auth import fields
from node.auth.cidr import as_written, networks, subset
from node.auth.fields import SECOND_NS, ends_ns, rfc3339
from node.auth.methods.approle_role import Role, uses
from node.auth.methods.approle_secret_ids import SECRET_ID_CHARACTERS_MAX, SecretId, SecretIds
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import NO_CONTENT, Operation, Request, Response
from node.core.router import Handler, Route, payload
from node.draft import drawn_id
from node.errors import InvalidRequest, NotFound
from node.store import Store
from node.view import expire_entries
from storage.rows import Mount

ACCEPTED = 202
METADATA_CHARACTERS_MAX = 16 * 1024
NEVER = "0001-01-01T00:00:00Z"  # what Go prints for no time

_LIMITS = (
    Field("secret_id_accessor"),
    Field("secret_id_num_uses", Kind.INTEGER, "How often it can be used yet; 0 without limit."),
    Field("secret_id_ttl", Kind.INTEGER, "Seconds; 0 for ever."),
)
_MADE = (Field("secret_id", Kind.STRING, "Shown once."), *_LIMITS)
_KNOWN = (
    *_LIMITS,
    *named(Kind.STRING, "creation_time expiration_time last_updated_time"),
    *named(Kind.STRINGS, "cidr_list token_bound_cidrs"),
    Field("metadata", Kind.STRING_MAP, "Of its tokens."),
)
_NEW = (
    Field("metadata", Kind.ANY, "A JSON object of strings: metadata of the tokens."),
    Field("cidr_list", Kind.STRINGS, "From where one may log in with it."),
    Field("token_bound_cidrs", Kind.STRINGS, "From where its tokens may be used."),
    Field("num_uses", Kind.INTEGER, "For how many logins it is good."),
    Field("ttl", Kind.DURATION, "For how long it is good."),
)
_SECRET_ID = Field("secret_id", Kind.STRING, "The secret id.")
_ACCESSOR = Field("secret_id_accessor", Kind.STRING, "Its accessor.")

FindRole = Callable[[Store, Mount, str], Role | None]


# --- what is asked for ---


def wanted(role: Role, data: Mapping[str, Any], now_ns: int, *, accessor: str) -> SecretId:
    """A new secret id of a role. Raises InvalidRequest where the role allows less."""
    ttl_ns = role.secret_id_ttl_ns
    if data.get("ttl") is not None:
        ttl_ns = fields.duration_ns(data["ttl"], "ttl")
        if role.secret_id_ttl_ns and (ttl_ns == 0 or ttl_ns > role.secret_id_ttl_ns):
            raise InvalidRequest("ttl cannot be longer than the role's secret_id_ttl")
    uses_left = role.secret_id_num_uses
    if data.get("num_uses") is not None:
        uses_left = uses(data["num_uses"], "num_uses")
        if role.secret_id_num_uses and (uses_left == 0 or uses_left > role.secret_id_num_uses):
            raise InvalidRequest("num_uses cannot be higher than the role's secret_id_num_uses")
    cidrs = as_written(data.get("cidr_list"), "cidr_list")
    if role.secret_id_bound_cidrs and not subset(cidrs, role.secret_id_bound_cidrs):
        raise InvalidRequest("the CIDR blocks of the secret ID are not a subset of those of its role")
    token_cidrs = networks(data.get("token_bound_cidrs"), "token_bound_cidrs")
    if role.params.bound_cidrs and not subset(token_cidrs, role.params.bound_cidrs):
        raise InvalidRequest("the token CIDR blocks of the secret ID are not a subset of those of its role")
    return SecretId(
        accessor=accessor,
        created_ns=now_ns,
        updated_ns=now_ns,
        expires_ns=ends_ns(now_ns, ttl_ns) if ttl_ns else 0,
        ttl_ns=ttl_ns,
        uses_left=uses_left,
        metadata=_metadata(data.get("metadata")),
        cidrs=cidrs,
        token_bound_cidrs=token_cidrs,
    )


def _metadata(value: Any) -> dict[str, str]:
    """A map of strings: as such, as a JSON text, or as "key=value,key=value"."""
    error = InvalidRequest("failed to parse metadata: expected a JSON object of strings, or key=value pairs")
    if isinstance(value, str) and len(value) > METADATA_CHARACTERS_MAX:
        raise error
    try:
        pairs = fields.string_map(value, "metadata")
    except InvalidRequest:
        raise error from None
    if sum(len(key) + len(item) for key, item in pairs.items()) > METADATA_CHARACTERS_MAX:
        raise error
    return pairs


def _shown(secret_id: SecretId) -> dict[str, Any]:
    return {
        "cidr_list": list(secret_id.cidrs),
        "creation_time": rfc3339(secret_id.created_ns),
        "expiration_time": rfc3339(secret_id.expires_ns) if secret_id.expires_ns else NEVER,
        "last_updated_time": rfc3339(secret_id.updated_ns),
        "metadata": secret_id.metadata,
        "secret_id_accessor": secret_id.accessor,
        "secret_id_num_uses": secret_id.uses_left,
        "secret_id_ttl": secret_id.ttl_ns // SECOND_NS,
        "token_bound_cidrs": list(secret_id.token_bound_cidrs),
    }


# --- paths ---


def routes(name: Field, find: FindRole) -> list[Route]:
    """The paths of a mount that are about secret ids; `find` gives a role by its name."""
    handlers = _Handlers(find)
    making = {Operation.UPDATE: handlers.make, Operation.LIST: handlers.list}
    return [
        _at("secret-id", making, "Makes a secret id; lists the accessors of all.", name, *_NEW, made=_MADE),
        _at("secret-id/", {Operation.LIST: handlers.list}, "Lists the accessors of all secret ids.", name),
        _at(
            "custom-secret-id",
            {Operation.UPDATE: handlers.make_custom},
            "Keeps a secret id that is given.",
            *(name, _SECRET_ID, *_NEW),
            made=_MADE,
        ),
        *_about_one("secret-id", "a secret id", handlers.look_up, handlers.destroy, name, _SECRET_ID),
        *_about_one(
            "secret-id-accessor",
            "the secret id with an accessor",
            handlers.look_up_by_accessor,
            handlers.destroy_by_accessor,
            *(name, _ACCESSOR),
        ),
        Route("tidy/secret-id", {Operation.UPDATE: handlers.tidy}, summary="Removes what has expired, now."),
    ]


def _about_one(path: str, what: str, look_up: Handler, destroy: Handler, *fields: Field) -> list[Route]:
    looking = {Operation.UPDATE: look_up}
    destroying = {Operation.UPDATE: destroy, Operation.DELETE: destroy}
    shows = f"Shows what is known of {what}."
    return [
        _at(f"{path}/lookup", looking, shows, *fields, local=True, made=_KNOWN),
        _at(f"{path}/destroy", destroying, f"Destroys {what}.", *fields),
    ]


def _at(
    path: str,
    operations: Mapping[Operation, Handler],
    summary: str,
    *fields: Field,
    local: bool = False,
    made: tuple[Field, ...] = (),
) -> Route:
    return Route(
        f"role/{{role}}/{path}",
        operations,
        folded="role",
        local=local,
        summary=summary,
        fields=fields,
        answers={Operation.UPDATE: made} if made else {},
    )


class _Handlers:
    def __init__(self, find: FindRole) -> None:
        self._find = find

    async def list(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        try:
            role, ids = self._role(core, request, params), SecretIds(core.unsealed, request.served_by)
        except NotFound as error:
            raise InvalidRequest(error.message) from None  # a 404 says that a role has none
        accessors = await ids.accessors(core, request, role.name)
        if not accessors:
            raise NotFound
        return payload(keys=accessors)

    async def make(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        role, ids = self._role(core, request, params), SecretIds(core.unsealed, request.served_by)
        return await self._make(core, request, params, ids.drawn(role.name, request))

    async def make_custom(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        secret_id = _text(request, "secret_id")
        if len(secret_id) > SECRET_ID_CHARACTERS_MAX:
            raise InvalidRequest(f"a secret_id has at most {SECRET_ID_CHARACTERS_MAX} characters")
        return await self._make(core, request, params, secret_id)

    async def _make(self, core: Core, request: Request, params: dict[str, str], secret_id: str) -> Response:
        role = self._role(core, request, params)
        if not role.bind_secret_id:
            raise InvalidRequest("bind_secret_id is not set on the role")
        about = wanted(role, request.data, core.unsealed.now_ns(), accessor=drawn_id(request, "accessor"))
        await SecretIds(core.unsealed, request.served_by).add(request, role.name, secret_id, about)
        return payload(
            secret_id=secret_id,
            secret_id_accessor=about.accessor,
            secret_id_num_uses=about.uses_left,
            secret_id_ttl=about.ttl_ns // SECOND_NS,
        )

    async def look_up(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """What is not there is no error: an empty answer."""
        secret_id = _text(request, "secret_id")
        role, ids = self._role(core, request, params), SecretIds(core.unsealed, request.served_by)
        found = ids.find(role.name, ids.digest(role.name, secret_id))
        return Response(NO_CONTENT) if found is None else Response(data=_shown(found))

    async def destroy(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """What is not there is destroyed already."""
        secret_id = _text(request, "secret_id")
        role, ids = self._role(core, request, params), SecretIds(core.unsealed, request.served_by)
        await ids.destroy(request, role.name, ids.digest(role.name, secret_id))
        return Response(NO_CONTENT)

    async def look_up_by_accessor(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        role, ids, digest = self._behind(core, request, params)
        found = ids.find(role.name, digest) if digest else None
        if found is None:
            raise NotFound(_no_accessor(request))
        return Response(data=_shown(found))

    async def destroy_by_accessor(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        role, ids, digest = self._behind(core, request, params)
        if digest is None or not await ids.destroy(request, role.name, digest):
            raise NotFound(_no_accessor(request))
        return Response(NO_CONTENT)

    async def tidy(self, core: Core, request: Request, params: dict[str, str]) -> Response:
        """It happens by itself anyway."""
        await expire_entries(core.unsealed)
        return Response(
            ACCEPTED, warnings=["Tidy operation successfully finished: expired secret ids are gone."]
        )

    def _behind(
        self, core: Core, request: Request, params: dict[str, str]
    ) -> tuple[Role, SecretIds, str | None]:
        accessor = _text(request, "secret_id_accessor")
        role, ids = self._role(core, request, params), SecretIds(core.unsealed, request.served_by)
        return role, ids, ids.behind(role.name, accessor)

    def _role(self, core: Core, request: Request, params: dict[str, str]) -> Role:
        role = self._find(core.unsealed, request.served_by, params["role"])
        if role is None:
            raise NotFound(f'role "{params["role"]}" does not exist')
        return role


def _text(request: Request, name: str) -> str:
    value = fields.text(request.data.get(name), name)
    if not value:
        raise InvalidRequest(f"missing {name}")
    return value


def _no_accessor(request: Request) -> str:
    accessor = fields.text(request.data.get("secret_id_accessor"), "secret_id_accessor")
    return f'failed to find accessor entry for secret_id_accessor: "{accessor}"'
