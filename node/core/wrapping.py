"""Response wrapping: an answer is put away, and its caller gets a token that fetches it once.

The wrapped answer is an entry that the wrapping token owns: both are made in one command and go in one. Who unwraps
removes the entry in the very revision that he read, so that of two, on whichever nodes, one gets it and the other is
told that there is nothing. A wrapping token holds the policy `response-wrapping` and is good for nothing else.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from node.auth.fields import SECOND_NS, rfc3339
from node.auth.identity import Minted
from node.core.core import Core
from node.core.request import Lease, Request, Response, WrapInfo
from node.errors import BodyTooLarge, InvalidRequest
from node.policy.default import WRAPPING
from node.store import CommandRejected
from node.view import View, write
from storage.command import AnyCommand, TokenRevoke
from storage.outcome import Reason
from storage.rows import Token
from storage.secret import Secret

VIEW = "sys:wrapping"
CONTENT_BYTES_MAX = 1_030_000  # with its token it fits one command, and the largest value of a secret fits it
INVALID = "wrapping token is not valid or does not exist"
JWT = "wrapping tokens in JWT format are not offered by this server"

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


@dataclass(frozen=True, slots=True)
class Wrapped:
    """An answer that waits for its caller."""

    token: Token
    revision: int
    content: dict[str, Any]  # what _content() made

    @property
    def path(self) -> str:
        """Of the request whose answer it is."""
        return self.token.path

    @property
    def created_ns(self) -> int:
        return self.token.created_ns

    @property
    def ttl_ns(self) -> int:
        return self.token.ttl_ns


async def wrap(core: Core, request: Request, response: Response) -> Response:
    """The answer that is sent instead of `response`. Raises NodeError.

    An answer without content, or one that is no JSON envelope, is not wrapped: it has nothing to hide.
    """
    if response.body is not None or (response.data is None and response.auth is None):
        return response
    minted = _mint(core, path=request.path, ttl_ns=request.wrap_ttl_ns)
    content = _content(request.id, response)
    if len(_encode(content)) > CONTENT_BYTES_MAX:
        raise BodyTooLarge(
            f"an answer of more than {CONTENT_BYTES_MAX} bytes cannot be wrapped: ask for less of it"
        )
    entry = _put(core, minted, content)
    await write(core.unsealed, minted.command, entry)
    return _answer(minted, accessor=_accessor(response.auth, response.data))


async def rewrap(core: Core, wrapped: Wrapped) -> Response:
    """The same content under a new token; the old one is gone. Raises InvalidRequest if it was gone before."""
    minted = _mint(core, path=wrapped.path, ttl_ns=wrapped.ttl_ns)
    await _take(core, wrapped, minted.command, _put(core, minted, wrapped.content))
    return _answer(minted, accessor=_accessor(wrapped.content["auth"], wrapped.content["data"]))


async def unwrap(core: Core, wrapped: Wrapped) -> Response:
    """The answer as it was. Raises InvalidRequest if somebody else was faster."""
    await _take(core, wrapped)
    content = wrapped.content
    return Response(
        data=content["data"],
        auth=content["auth"],
        warnings=content["warnings"],
        lease=Lease(content["lease_duration"], content["lease_id"], content["renewable"]),
        request_id=content["request_id"],
    )


def find(core: Core, token: Secret | None) -> Wrapped:
    """What a wrapping token stands for, without taking it. Raises InvalidRequest."""
    if token is not None and token.reveal().startswith(b"ey") and token.reveal().count(b".") == 2:
        raise InvalidRequest(JWT)
    store = core.unsealed
    row = None if token is None else core.tokens.find(store, token)
    item = View(store, VIEW).get(row.digest.hex()) if row is not None and is_wrapping(row) else None
    if row is None or item is None:
        raise InvalidRequest(INVALID)
    return Wrapped(row, item.revision, _decode(item.raw))


def is_wrapping(row: Token) -> bool:
    """Whether a token is one that only unwraps."""
    return row.policies == (WRAPPING,)


def envelope(wrapped: Wrapped) -> str:
    """The answer as JSON text: what the old way of unwrapping hands out."""
    return _encode(wrapped.content | {"wrap_info": None}).decode()


async def _take(core: Core, wrapped: Wrapped, *more: AnyCommand) -> None:
    """Remove content and token, if nobody has, and do `more` in the same command. Raises InvalidRequest."""
    store = core.unsealed
    remove = View(store, VIEW).delete(wrapped.token.digest.hex(), expect=wrapped.revision)
    revoke = TokenRevoke(time_ns=store.now_ns(), digest=wrapped.token.digest)
    try:
        await write(store, remove, revoke, *more)
    except CommandRejected as error:
        if error.reason != Reason.REVISION_MISMATCH:
            raise
        raise InvalidRequest(INVALID) from None


def _mint(core: Core, *, path: str, ttl_ns: int) -> Minted:
    return core.tokens.mint(
        core.unsealed, policies=(WRAPPING,), path=path, ttl_ns=ttl_ns, explicit_max_ttl_ns=ttl_ns
    )


def _put(core: Core, minted: Minted, content: dict[str, Any]) -> AnyCommand:
    command = minted.command
    view = View(core.unsealed, VIEW)
    return view.put(
        command.digest.hex(), _encode(content), expires_ns=command.expires_ns, expect=0, owner=command.digest
    )


def _content(request_id: str, response: Response) -> dict[str, Any]:
    lease = response.lease or Lease(duration_s=0)
    return {
        "request_id": request_id,
        "lease_id": lease.id,
        "renewable": lease.renewable,
        "lease_duration": lease.duration_s,
        "data": response.data,
        "warnings": response.warnings,
        "auth": response.auth,
    }


def _accessor(auth: dict[str, Any] | None, data: dict[str, Any] | None) -> str:
    """What the holder of the wrapping token can revoke, should the content fall into wrong hands."""
    if auth is not None:
        return str(auth["accessor"])
    accessor = (data or {}).get("secret_id_accessor")
    return accessor if isinstance(accessor, str) else ""


def _answer(minted: Minted, *, accessor: str) -> Response:
    command = minted.command
    return Response(
        wrap_info=WrapInfo(
            token=minted.token,
            accessor=command.accessor,
            ttl_s=command.ttl_ns // SECOND_NS,
            creation_time=rfc3339(command.time_ns),
            creation_path=command.path,
            wrapped_accessor=accessor,
        )
    )
