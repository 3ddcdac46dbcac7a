"""sys/generate-root/, without a token, and sys/generate-root-token/, with one: a root token for enough shares.

Both speak of the same attempt on the leader; see node/ceremonies.py. The token leaves encrypted: with a one-time pad
that who began the attempt holds, or for a PGP key.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from node import seals
from node.api.vault import openly
from node.api.vault.leader import elsewhere
from node.api.vault.shares import OFFERED, recipient
from node.auth.fields import text
from node.auth.identity import RANDOM_CHARACTERS, random_base62
from node.ceremonies import RootGeneration
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest
from node.store import CommandRejected
from storage.outcome import Reason
from storage.seal import Unsealer
from storage.secret import Secret

KIND = "root generation"
PAD_CHARACTERS = len("s.") + RANDOM_CHARACTERS

_BEGIN_FIELDS = (
    Field(
        "otp", Kind.STRING, f"A one-time pad of {PAD_CHARACTERS} characters; one is made if none is given."
    ),
    Field("pgp_key", Kind.STRING, "A PGP public key in base64, to encrypt the token for instead."),
)
_ANSWER = (
    Field("nonce", Kind.STRING, "Of the operation; empty for callers without a token."),
    Field("started", Kind.BOOLEAN, "Whether an operation is under way."),
    Field("progress", Kind.INTEGER, "How many shares are in."),
    Field("required", Kind.INTEGER, "How many are needed."),
    Field("complete", Kind.BOOLEAN, "Whether this was the last share."),
    Field("encoded_token", Kind.STRING, "The token, encrypted."),
    Field("encoded_root_token", Kind.STRING, "The same under its older name."),
    Field("pgp_fingerprint", Kind.STRING, "Of the key that the token is encrypted for."),
    Field("otp", Kind.STRING, "The one-time pad that was made; shown once."),
    Field("otp_length", Kind.INTEGER, "How many characters a one-time pad has."),
)

Step = Callable[[Core, Request], Awaitable[Response]]


def routes() -> list[Route]:
    """The table of this module."""
    table = []
    for prefix, is_open in (("sys/generate-root", True), ("sys/generate-root-token", False)):
        begin = {Operation.READ: _status, Operation.UPDATE: _begin, Operation.DELETE: _cancel}
        table += [
            _route(f"{prefix}/attempt", is_open, begin, "Make a new root token.", _BEGIN_FIELDS),
            _route(f"{prefix}/update", is_open, {Operation.UPDATE: _update}, "Offer a share.", OFFERED),
        ]
    return table


def _route(
    pattern: str, is_open: bool, steps: Mapping[Operation, Step], summary: str, fields: tuple[Field, ...]
) -> Route:
    return Route(
        pattern,
        {operation: _handler(step, is_open) for operation, step in steps.items()},
        authenticated=not is_open,
        sudo=not is_open,
        shape=Shape.RAW if is_open else Shape.LOGICAL,
        summary=summary,
        fields=fields,
        answers={operation: _ANSWER for operation in steps if operation is not Operation.DELETE},
    )


def _handler(step: Step, is_open: bool) -> Handler:
    async def handle(core: Core, request: Request, params: dict[str, str]) -> Response:
        if is_open:
            openly.check_open(core)
        if (response := elsewhere(core, request)) is not None:
            return response
        async with core.ceremonies.lock:
            return await step(core, request)

    return handle


async def _status(core: Core, request: Request) -> Response:
    return Response(data=_described(core, show_nonce=await openly.vouched(core, request)))


def _described(core: Core, *, show_nonce: bool, encoded: str = "", otp: str = "") -> dict[str, Any]:
    attempt = core.ceremonies.root
    if attempt is None:
        required = seals.authority(core.unsealed, core.lifecycle).threshold
        nonce, progress, fingerprint = "", 0, ""
    else:
        required, progress = attempt.required, attempt.unsealer.progress
        nonce = attempt.nonce if show_nonce else ""
        fingerprint = attempt.recipient.fingerprint if attempt.recipient else ""
    return {
        "nonce": nonce,
        "started": attempt is not None,
        "progress": required if encoded else progress,
        "required": required,
        "complete": bool(encoded),
        "encoded_token": encoded,
        "encoded_root_token": encoded,
        "pgp_fingerprint": fingerprint,
        "otp": otp,
        "otp_length": PAD_CHARACTERS,
    }


async def _begin(core: Core, request: Request) -> Response:
    if core.ceremonies.root is not None:
        raise InvalidRequest("root generation already in progress")
    otp, reader = text(request.data.get("otp"), "otp"), recipient(request.data, "pgp_key")
    if otp and reader is not None:
        raise InvalidRequest("otp and pgp_key exclude each other")
    if otp and len(otp.encode()) != PAD_CHARACTERS:
        raise InvalidRequest(f"OTP string is wrong length: {PAD_CHARACTERS} characters are needed")
    made = "" if otp or reader is not None else random_base62(PAD_CHARACTERS)
    core.ceremonies.root = RootGeneration(
        Unsealer(seals.authority(core.unsealed, core.lifecycle)),
        pad=Secret((otp or made).encode()),
        recipient=reader,
    )
    return Response(data=_described(core, show_nonce=True, otp=made))


async def _cancel(core: Core, request: Request) -> Response:
    attempt = core.ceremonies.root
    if attempt is not None:
        await openly.check_may_cancel(core, request, attempt.nonce)
        core.ceremonies.root = None
    return Response(NO_CONTENT)


async def _update(core: Core, request: Request) -> Response:
    attempt = core.ceremonies.root
    if attempt is None:
        raise InvalidRequest("no root generation in progress")
    share, nonce = text(request.data.get("key"), "key"), text(request.data.get("nonce"), "nonce")
    if not share:
        raise InvalidRequest("'key' must be specified in request body as JSON")
    store = core.unsealed
    if attempt.prove(store, core.lifecycle, share, nonce, kind=KIND) is None:
        return Response(data=_described(core, show_nonce=True))
    # The seed is the attempt's: after an unknown outcome the same shares lead to the same token, made once.
    minted = core.tokens.root_token_commands(store, seed=attempt.seed)
    try:
        await store.submit(minted.command)
    except CommandRejected as error:
        if error.reason != Reason.TOKEN_EXISTS:
            raise
    answer = _described(core, show_nonce=True, encoded=attempt.encoded(minted.token))
    core.ceremonies.root = None
    return Response(data=answer)
