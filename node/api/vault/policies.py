"""sys/policies/acl and its older name sys/policy: the texts that ACLs are made of."""

import asyncio
from typing import Any

from node.auth import fields
from node.core.core import Core
from node.core.fields import Field, Kind, in_path, named
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Route, payload
from node.errors import InvalidRequest, NotFound
from node.policy import template
from node.policy.default import NAME as DEFAULT
from node.policy.default import WRAPPING, WRAPPING_POLICY
from node.policy.parse import PolicyError, parse, policy_name
from storage.command import PolicyDelete, PolicyPut

ROOT = "root"
ACL = "sys/policies/acl/{name...}"
OLD = "sys/policy/{name...}"


_NAME = in_path("name", "Of the policy; upper and lower case are the same.")
_TEXT = (
    Field("policy", Kind.STRING, "Its text, in HCL or JSON, or that in base64."),
    Field("rules", Kind.STRING, "The older name of policy."),
)
_POLICY = (Field("name", Kind.STRING, "Of the policy."), Field("policy", Kind.STRING, "Its text."))


def routes() -> list[Route]:
    """The table of this module."""
    listing = {Operation.LIST: list_acl}
    old_listing = {Operation.READ: list_old, Operation.LIST: list_old}
    names = dict.fromkeys(old_listing, named(Kind.STRINGS, "keys policies"))
    one = {Operation.READ: read_acl, Operation.UPDATE: write, Operation.DELETE: delete}
    said: dict[str, Any] = {"summary": "Lists policies."}
    told: dict[str, Any] = {"summary": "One policy.", "fields": (_NAME, *_TEXT), "folded": "name"}
    return [
        Route("sys/policies/acl", listing, **said),
        Route("sys/policies/acl/", listing, **said),
        Route(ACL, one, twin=OLD, answers={Operation.READ: _POLICY}, **told),
        Route("sys/policy", old_listing, shape=Shape.DOUBLE, answers=names, **said),
        Route("sys/policy/", old_listing, shape=Shape.DOUBLE, answers=names, **said),
        Route(
            OLD,
            one | {Operation.READ: read_old},
            twin=ACL,
            shape=Shape.DOUBLE,
            answers={Operation.READ: named(Kind.STRING, "name rules")},
            **told,
        ),
    ]


async def list_acl(core: Core, request: Request, params: dict[str, str]) -> Response:
    return payload(keys=_names(core))


async def list_old(core: Core, request: Request, params: dict[str, str]) -> Response:
    names = _names(core)
    return payload(keys=names, policies=names)


def _names(core: Core) -> list[str]:
    return sorted({*core.unsealed.reads.policies(), ROOT})


async def read_acl(core: Core, request: Request, params: dict[str, str]) -> Response:
    name = _name(params)
    return payload(name=name, policy=_text(core, name))


async def read_old(core: Core, request: Request, params: dict[str, str]) -> Response:
    name = _name(params)
    return payload(name=name, rules=_text(core, name))


def _text(core: Core, name: str) -> str:
    if name == ROOT:
        return ""  # root is no text: it is everything
    text = WRAPPING_POLICY if name == WRAPPING else core.unsealed.reads.policy(name)
    if text is None:
        raise NotFound
    return text


async def write(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Create or replace a policy whose text parses. `rules` is the old name of `policy`."""
    name = _name(params)
    if name == ROOT:
        raise InvalidRequest('cannot update "root" policy')
    if name == WRAPPING:
        raise InvalidRequest(f'cannot update "{WRAPPING}" policy')
    text = fields.base64_or_text(request.data.get("policy") or request.data.get("rules"), "policy")
    if not text:
        raise InvalidRequest("'policy' parameter not supplied or empty")
    try:
        # a long text takes tens of milliseconds: not on the event loop
        policy = await asyncio.to_thread(parse, name, text)
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None
    for rule in policy.rules:  # here alone: a policy that was written before this was asked must stay legible
        if not template.is_balanced(rule.written):
            raise InvalidRequest(
                f'failed to parse policy: path "{rule.written}": failed to validate policy templating:'
                " unbalanced templating characters"
            )
    store = core.unsealed
    await store.submit(PolicyPut(time_ns=store.now_ns(), name=name, text=text), request_id=request.request_id)
    return Response(NO_CONTENT)


async def delete(core: Core, request: Request, params: dict[str, str]) -> Response:
    """A policy that is not there is deleted already, and so is one that cannot be."""
    try:
        name = _name(params)
    except InvalidRequest:
        return Response(NO_CONTENT)
    if name == ROOT:
        raise InvalidRequest('cannot delete "root" policy')
    if name == DEFAULT:
        raise InvalidRequest("cannot delete default policy")
    if name == WRAPPING:
        raise InvalidRequest(f'cannot delete "{WRAPPING}" policy')
    store = core.unsealed
    await store.submit(PolicyDelete(time_ns=store.now_ns(), name=name), request_id=request.request_id)
    return Response(NO_CONTENT)


def _name(params: dict[str, str]) -> str:
    """The canonical name. Raises InvalidRequest."""
    try:
        return policy_name(params["name"])
    except PolicyError as error:
        raise InvalidRequest(str(error)) from None
