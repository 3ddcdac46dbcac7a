"""What was set aside (divergence.py), written again where writes are ordered: here by now, or in another region."""

import hashlib
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec

from node.core import pipeline
from node.core.core import Core
from node.core.request import Operation, Request
from node.errors import (
    BodyTooLarge,
    InvalidRequest,
    NoQuorum,
    NotFound,
    NotPrimary,
    OutcomeUnknown,
    PermissionDenied,
)
from node.regions import control, divergence
from node.regions.divergence import Rewriting
from node.regions.links import Interrupted, Unreachable

TIMEOUT_S = 15.0
REQUEST_ID = "X-Strongroom-Request-Id"


async def replay(core: Core, entry: str, request: Request) -> dict[str, Any]:
    """Write a secret that was set aside again, as the caller, where writes are ordered; and forget the entry.

    The path and the version are None where there is nothing in it that anybody has written. Raises InvalidRequest,
    NoQuorum (nothing was written), OutcomeUnknown.
    """
    store = core.unsealed
    rewriting = divergence.rewriting(store, entry)
    if rewriting is None:
        await divergence.discard(store, entry)
        return {"path": None, "version": None}
    made = await (_write_here if store.orders else _write_there)(core, rewriting, entry, request)
    await divergence.discard(store, entry)
    return {"path": rewriting.path, "version": made.get("version", rewriting.version)}


def _replay_id(entry: str) -> str:
    return hashlib.sha256(b"replay " + entry.encode()).hexdigest()[:32]


async def _write_here(core: Core, rewriting: Rewriting, entry: str, request: Request) -> dict[str, Any]:
    """This region orders writes itself by now."""
    again = Request(
        id=request.id,
        operation=Operation.UPDATE,
        path=rewriting.path,
        data=msgspec.json.decode(rewriting.body),
        token=request.token,
        remote=request.remote,
        client_chain=request.client_chain,
        request_id=bytes.fromhex(_replay_id(entry)),
        has_body=True,
    )
    try:
        response, _ = await pipeline.handle(core, again)
    except (PermissionDenied, NotFound, BodyTooLarge) as refusal:
        raise InvalidRequest(f"it was refused: {refusal.message or type(refusal).__name__}") from None
    except NotPrimary:  # not carried on: what was set aside is here
        raise NoQuorum("nothing was written: another region has begun to order writes; ask again") from None
    return response.data or {}


async def _write_there(core: Core, rewriting: Rewriting, entry: str, request: Request) -> dict[str, Any]:
    regions = control.worker(core)
    source = regions.primary()
    if source is None:
        raise NoQuorum("nothing was written: it is not known which region orders writes")
    assert request.token is not None
    headers = {"X-Vault-Token": request.token.reveal().decode(), REQUEST_ID: _replay_id(entry)}
    path = f"/v1/{quote(rewriting.path)}"
    try:
        answer = await regions.ask(source, path, body=rewriting.body, headers=headers, timeout_s=TIMEOUT_S)
    except Unreachable as error:
        raise NoQuorum(f"nothing was written: {error}") from None
    except Interrupted as error:
        raise OutcomeUnknown(f"the outcome is not known; ask again ({error})") from None
    told: dict[str, Any] = msgspec.json.decode(answer.body or b"{}")
    if answer.status < HTTPStatus.BAD_REQUEST:
        return told.get("data") or {}
    problem = f"{source.name} refused it: "
    problem += "; ".join(map(str, told.get("errors") or ())) or f"HTTP {answer.status}"
    if answer.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        raise NoQuorum(f"nothing was written: {problem}")
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise OutcomeUnknown(f"the outcome is not known; ask again ({problem})")
    raise InvalidRequest(problem)
