"""sys/policies/explain: what a token, or a set of policies, may do on a path, and why. An extension of Vault's API."""

from typing import Any

from node.auth import fields
from node.auth.batch import row as made_up
from node.auth.identity import live
from node.auth.token import canonical_policies
from node.core import pipeline
from node.core.core import Core
from node.core.fields import Field, Kind, named
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest
from node.policy.explain import explain
from storage.rows import Token
from storage.secret import Secret

_ASKED = tuple(each for each in Operation if each is not Operation.HELP)

_EXPLAINED = (
    Field("allowed", Kind.BOOLEAN, "Whether it may."),
    Field("reason", Kind.STRING, "In words."),
    *named(Kind.STRING, "path operation"),
    Field("needs_sudo", Kind.BOOLEAN, "Whether the path does."),
    Field("deciding_path", Kind.STRING, "The pattern that counts."),
    Field("deciding_rules", Kind.OBJECTS, "All rules on that pattern."),
    Field("other_matching_rules", Kind.OBJECTS, "Rules that a better pattern overrides."),
    *named(Kind.STRINGS, "token_policies identity_policies"),
    Field("unknown_policies", Kind.STRINGS, "Those that nobody has written."),
)


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/policies/explain",
            {Operation.UPDATE: _explain},
            local=True,
            summary="Tells whether something is allowed, and which rule of which policy says so.",
            fields=(
                Field("path", Kind.STRING, "What is asked for, without /v1/.", required=True),
                Field("operation", Kind.STRING, ", ".join(each.value for each in _ASKED), required=True),
                Field("data", Kind.OBJECT, "Parameters of the request, for rules about them."),
                Field("token", Kind.STRING, "Who asks; none of the three: the caller."),
                Field("accessor", Kind.STRING, "Who asks, by the token's accessor."),
                Field("policies", Kind.STRINGS, "Who asks, by what he would have."),
            ),
            answers={Operation.UPDATE: _EXPLAINED},
        )
    ]


async def _explain(core: Core, request: Request, params: dict[str, str]) -> Response:
    asked, store = _asked(request), core.unsealed
    row = _who(core, request)
    match = pipeline.route(core, asked)
    route = None if match is None else match.route
    identity = core.directory.find(store, row.entity_id) if row.entity_id else None
    acl = core.acl(row)
    found = explain(
        core.policies.rules(store, row, identity),
        acl,
        asked.operation,
        asked.path,
        asked.parameters,
        sudo=route is not None and route.sudo,
    )
    allowed, reason = pipeline.permits(acl, asked, route), found.reason
    if allowed and match is not None and not pipeline.permits_otherwise(acl, asked, match):
        allowed, reason = False, "another spelling, or another path, of the same thing is not allowed"
    extra = identity.policies if identity else ()
    unknown = [
        name for name in (*row.policies, *extra) if name != "root" and store.reads.policy(name) is None
    ]
    return Response(
        data={
            "allowed": allowed,
            "reason": reason,
            "path": asked.path,
            "operation": asked.operation.value,
            "needs_sudo": route is not None and route.sudo,
            "deciding_path": found.pattern,
            "deciding_rules": found.deciding,
            "other_matching_rules": found.others,
            "token_policies": list(row.policies),
            "identity_policies": list(extra),
            "unknown_policies": unknown,
        }
    )


def _asked(request: Request) -> Request:
    """The request that is asked about. Raises InvalidRequest."""
    name = fields.text(request.data.get("operation"), "operation")
    operation = next((each for each in _ASKED if each.value == name), None)
    if operation is None:
        raise InvalidRequest(f"operation must be one of {', '.join(each.value for each in _ASKED)}")
    path = fields.text(request.data.get("path"), "path").removeprefix("/").removeprefix("v1/")
    if not path:
        raise InvalidRequest("missing path")
    if any(segment in ("", ".", "..") for segment in path.removesuffix("/").split("/")):
        raise InvalidRequest("a path has no empty or relative segments")
    data: dict[str, Any] = request.data.get("data") or {}
    query = data if operation is Operation.READ else {}
    return Request(id=request.id, operation=operation, path=path, data=data, query=query)


def _who(core: Core, request: Request) -> Token:
    store, data = core.unsealed, request.data
    token, accessor = (fields.text(data.get(name), name) for name in ("token", "accessor"))
    policies = fields.strings(data.get("policies"), "policies")
    if sum(map(bool, (token, accessor, policies))) > 1:
        raise InvalidRequest("only one of token, accessor and policies, please")
    if policies:
        return _holder_of(canonical_policies(policies))
    row = request.token_row
    if token:
        row = core.tokens.find(store, Secret(token.encode()))
    elif accessor:
        row = live(store.reads.token_by_accessor(accessor), store.now_ns())
    if row is None:
        raise InvalidRequest("no such token")
    return row


def _holder_of(policies: tuple[str, ...]) -> Token:
    """Somebody without an identity who has these policies."""
    return made_up(
        b"",
        policies=policies,
        path="",
        display_name="",
        metadata=None,
        ttl_ns=0,
        created_ns=0,
        expires_ns=0,
        parent=None,
        entity_id="",
        role="",
        bound_cidrs=(),
        issuer="",
    )
