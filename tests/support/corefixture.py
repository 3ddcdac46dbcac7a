"""A real core over an in-memory machine, with an audit file, and a way to ask it things without HTTP."""

import contextlib
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from node.config import dev_settings
from node.core.core import Core
from node.core.fields import ANY_NAME, AUTH, Field, Kind, Place
from node.core.openapi import answered
from node.core.pipeline import OK, handle
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.dev import DevLifecycle
from node.memory import MemoryLifecycle
from node.server import compose
from storage.command import RegionDemote, RegionFound
from storage.secret import Secret

ROOT_TOKEN = "root-token-of-the-test"


async def open_core(tmp_path: Path, **changes: Any) -> Core:
    """Unsealed, KV version 2 at secret/, root token ROOT_TOKEN, auditing to tmp_path/audit.log."""
    settings = dataclasses.replace(
        dev_settings(data_dir=tmp_path), **({"audit_files": (tmp_path / "audit.log",)} | changes)
    )
    lifecycle = DevLifecycle(settings)
    core = lifecycle.core = compose(settings, lifecycle)
    await lifecycle.open(ROOT_TOKEN)
    return core


@dataclass
class People:
    """A store in memory that people open with shares, open now."""

    core: Core
    keys: list[str]
    token: str


@contextlib.asynccontextmanager
async def opened_by_people(
    tmp_path: Path, shares: int, threshold: int, **changes: Any
) -> AsyncIterator[People]:
    """A store that was initialised and unsealed through its API."""
    settings = dataclasses.replace(dev_settings(data_dir=tmp_path), dev=False, **changes)
    lifecycle = MemoryLifecycle(settings)
    core = lifecycle.core = compose(settings, lifecycle)
    asked = {"secret_shares": shares, "secret_threshold": threshold}
    made = (await call(core, Operation.UPDATE, "sys/init", asked, token=None)).data
    assert made is not None
    for key in made["keys"][:threshold]:
        await call(core, Operation.UPDATE, "sys/unseal", {"key": key}, token=None)
    try:
        yield People(core, made["keys"], made["root_token"])
    finally:
        await lifecycle.stop()
        core.audit.close()


async def close_core(core: Core) -> None:
    assert isinstance(core.lifecycle, DevLifecycle)
    await core.lifecycle.stop()
    core.audit.close()


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, **changes: Any) -> AsyncIterator[Core]:
    """open_core() until the end of the block."""
    core = await open_core(tmp_path, **changes)
    try:
        yield core
    finally:
        await close_core(core)


async def call(
    core: Core,
    operation: Operation,
    path: str,
    data: dict[str, Any] | None = None,
    *,
    token: str | None = ROOT_TOKEN,
    query: Mapping[str, str] | None = None,
    request_id: bytes = b"",
    content_type: str = "",
    client_chain: Sequence[bytes] = (),
) -> Response:
    """One request through the whole pipeline. Raises NodeError as the handlers do."""
    request = Request(
        id=str(uuid.uuid4()),
        operation=operation,
        path=path,
        data=data or {},
        query=query or {},
        token=None if token is None else Secret(token.encode()),
        remote="127.0.0.1",
        request_id=request_id,
        content_type=content_type,
        has_body=data is not None,
        client_chain=lambda: client_chain,
    )
    response, match = await handle(core, request)
    if match is not None and response.status == OK:
        assert_declared(match.route, operation, response)
    return response


def assert_declared(route: Route, operation: Operation, response: Response) -> None:
    """An answer has what its route declares, of the kinds that it declares, and nothing else."""
    if not route.listed or operation is Operation.HELP:
        return
    if response.wrap_info is not None or response.body or response.stream:
        return
    at = f"{operation} {route.pattern}"
    fields = answered(route, operation)
    assert response.auth is None or AUTH in fields, at
    assert_members([each for each in fields if each.place is not Place.ENVELOPE], response.data or {}, at)


def assert_members(declared: list[Field], found: Mapping[str, Any], at: str) -> None:
    """The same for one object."""
    known = {each.name: each for each in declared}
    for name, value in found.items():
        field = known.get(name, known.get(ANY_NAME))
        assert field is not None, f"{at}: {name} is not declared"
        assert value is None or isinstance(value, _TYPES[field.kind]), f"{at}: {name} is {value!r}"
        if field.kind is Kind.STRINGS:
            assert all(isinstance(item, str) for item in value or ()), f"{at}: {name} is {value!r}"
        if field.members and value is not None:
            for item in value if field.kind is Kind.OBJECTS else [value]:
                assert_members(list(field.members), item, f"{at} {name}")


_TYPES: dict[Kind, Any] = {
    Kind.STRING: str,
    Kind.INTEGER: int,
    Kind.NUMBER: (int, float),
    Kind.BOOLEAN: bool,
    Kind.DURATION: (int, str),
    **dict.fromkeys((Kind.STRINGS, Kind.OBJECTS), (list, tuple)),
    **dict.fromkeys((Kind.OBJECT, Kind.STRING_MAP), (dict, msgspec.Raw)),  # Raw: laid out already
    Kind.ANY: object,
}


async def new_token(core: Core, *, policy: str | None = None, by: str = ROOT_TOKEN, **fields: Any) -> str:
    """A token of `auth/token/create`; with `policy`, a text, one that holds just this."""
    if policy is not None:
        name = f"p-{uuid.uuid4().hex[:8]}"
        await call(core, Operation.UPDATE, f"sys/policies/acl/{name}", {"policy": policy}, token=by)
        fields |= {"policies": [name], "no_default_policy": True}
    response = await call(core, Operation.UPDATE, "auth/token/create", fields, token=by)
    assert response.auth is not None
    token = response.auth["client_token"]
    assert isinstance(token, str)
    return token


async def order(core: Core) -> None:
    """Make the store that of a region which orders writes."""
    store = core.unsealed
    await store.submit(RegionFound(time_ns=store.now_ns(), name="eu", endpoints=(), links=()))


async def follow(core: Core) -> None:
    """Make the store that of a region which follows another one, and cannot reach it."""
    await order(core)
    await core.unsealed.submit(RegionDemote(time_ns=core.unsealed.now_ns()))


def audit_records(core: Core) -> list[dict[str, Any]]:
    """What the audit file holds."""
    return [json.loads(line) for line in core.settings.audit_files[0].read_text().splitlines()]
