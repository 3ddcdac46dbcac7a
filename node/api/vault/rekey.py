"""sys/rekey/, without a token, and sys/rotate/root/ and recovery/, with one: new shares for the old ones.

Both speak of the same attempt on the leader. The root key itself stays: its shares change, and so does the key that
they make. See node/ceremonies.py, and node/seals.py for how every node learns of the new seal.
"""

import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from node import seals
from node.api.vault import openly
from node.api.vault.leader import elsewhere
from node.api.vault.shares import OFFERED, wanted
from node.auth.fields import SECOND_NS, boolean, text
from node.ceremonies import Attempt, NewSeal, Rekey
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest, OutcomeUnknown
from node.store import CommandRejected
from node.view import View, write
from storage.command import AnyCommand
from storage.outcome import Reason
from storage.seal import Unsealer

KIND = "rekey"
SHARES_DEFAULT = (5, 3)
ANSWER_KEPT_NS = 3600 * SECOND_NS  # how long a lost answer can be asked for again
_TARGETS = {  # by their path without a token and with one
    seals.SEAL: ("sys/rekey", "sys/rotate/root"),
    seals.RECOVERY: ("sys/rekey-recovery-key", "sys/rotate/recovery"),
}
_BACKUPS = {seals.SEAL: "sys/rekey/backup", seals.RECOVERY: "sys/rekey/recovery-key-backup"}

_INIT_FIELDS = (
    Field("secret_shares", Kind.INTEGER, "How many shares to make."),
    Field("secret_threshold", Kind.INTEGER, "How many of them it takes."),
    Field("pgp_keys", Kind.STRINGS, "PGP public keys in base64, one a share, to encrypt the shares for."),
    Field("backup", Kind.BOOLEAN, "Keep the encrypted shares in the store as well."),
    Field(
        "require_verification", Kind.BOOLEAN, "Put the new shares in force only when they were shown once."
    ),
)
_STATUS = (
    Field("nonce", Kind.STRING, "Of the operation; empty for callers without a token."),
    Field("started", Kind.BOOLEAN, "Whether an operation is under way."),
    Field("t", Kind.INTEGER, "Threshold of the new shares."),
    Field("n", Kind.INTEGER, "Number of the new shares."),
    Field("progress", Kind.INTEGER, "How many shares are in."),
    Field("required", Kind.INTEGER, "How many are needed."),
    Field("pgp_fingerprints", Kind.STRINGS, "Of the keys that the shares will be encrypted for."),
    Field("backup", Kind.BOOLEAN, "Whether the encrypted shares will be kept."),
    Field("verification_required", Kind.BOOLEAN, "Whether the new shares must be shown once."),
    Field("verification_nonce", Kind.STRING, "Of the verification that is under way."),
    Field("complete", Kind.BOOLEAN, "Whether this was the last share."),
    Field("keys", Kind.STRINGS, "The new shares, hexadecimal."),
    Field("keys_base64", Kind.STRINGS, "The new shares, base64."),
)


def routes() -> list[Route]:
    """The table of this module."""
    table = []
    for target, (openly_at, with_token_at) in _TARGETS.items():
        for prefix, is_open in ((openly_at, True), (with_token_at, False)):
            table += [
                _route(f"{prefix}/init", target, is_open, _INIT, "Replace the shares.", _INIT_FIELDS),
                _route(f"{prefix}/update", target, is_open, _UPDATE, "Offer a present share.", OFFERED),
                _route(f"{prefix}/verify", target, is_open, _VERIFY, "Show a new share.", OFFERED),
            ]
        for path in (_BACKUPS[target], f"{with_token_at}/backup"):
            table.append(_backup_route(path, target))
    return table


_CANCELLED = Operation.DELETE  # tells nothing, except of a verification, which begins anew
Step = Callable[[Core, Request, str], Awaitable[Response]]


def _route(
    pattern: str,
    target: str,
    is_open: bool,
    steps: dict[Operation, Step],
    summary: str,
    fields: tuple[Field, ...],
) -> Route:
    return Route(
        pattern,
        {operation: _handler(step, target, is_open) for operation, step in steps.items()},
        local=True,
        authenticated=not is_open,
        sudo=not is_open,
        shape=Shape.RAW if is_open else Shape.LOGICAL,
        summary=summary,
        fields=fields,
        answers={operation: _STATUS for operation in steps if steps is _VERIFY or operation != _CANCELLED},
    )


def _handler(step: Step, target: str, is_open: bool) -> Handler:
    async def handle(core: Core, request: Request, params: dict[str, str]) -> Response:
        if is_open:
            openly.check_open(core)
        if (response := elsewhere(core, request)) is not None:
            return response
        async with core.ceremonies.lock:
            return await step(core, request, target)

    return handle


# --- beginning, cancelling ---------------------------------------------------------------------------------


def _name(request: Request) -> str:
    """What the path that was asked calls it: with a token it is a rotation."""
    return KIND if request.token_row is None else "rotation"


async def _status(core: Core, request: Request, target: str) -> Response:
    return Response(data=_described(core, target, show_nonce=await openly.vouched(core, request)))


def _described(core: Core, target: str, *, show_nonce: bool) -> dict[str, Any]:
    rekey = core.ceremonies.rekeys.get(target)
    if rekey is None:
        return _nothing(core)
    waiting = rekey.made.verification_nonce if rekey.made is not None else ""
    return {
        "nonce": rekey.nonce if show_nonce else "",
        "started": True,
        "t": rekey.wanted.threshold,
        "n": rekey.wanted.shares,
        "progress": rekey.unsealer.progress,
        "required": rekey.required,
        "pgp_fingerprints": rekey.wanted.fingerprints,
        "backup": rekey.backup,
        "verification_required": rekey.verify,
        "verification_nonce": waiting if show_nonce else "",
    }


def _nothing(core: Core) -> dict[str, Any]:
    try:
        required = seals.authority(core.unsealed, core.lifecycle).threshold
    except InvalidRequest:
        required = 0
    return {
        "nonce": "",
        "started": False,
        "t": 0,
        "n": 0,
        "progress": 0,
        "required": required,
        "pgp_fingerprints": None,
        "backup": False,
        "verification_required": False,
        "verification_nonce": "",
    }


async def _begin(core: Core, request: Request, target: str) -> Response:
    if target in core.ceremonies.rekeys:
        raise InvalidRequest(f"{_name(request)} already in progress")
    data = request.data
    shares = await wanted(
        data,
        shares="secret_shares",
        threshold="secret_threshold",
        pgp_keys="pgp_keys",
        default=SHARES_DEFAULT,
    )
    backup = boolean(data.get("backup"), "backup")
    if backup and not shares.recipients:
        raise InvalidRequest(
            "cannot request a backup of the new keys without providing PGP keys for encryption"
        )
    core.ceremonies.rekeys[target] = Rekey.begin(
        core.unsealed,
        core.lifecycle,
        target=target,
        wanted=shares,
        backup=backup,
        verify=boolean(data.get("require_verification"), "require_verification"),
    )
    return Response(data=_described(core, target, show_nonce=True))


async def _cancel(core: Core, request: Request, target: str) -> Response:
    rekey = core.ceremonies.rekeys.get(target)
    if rekey is not None:
        await openly.check_may_cancel(core, request, rekey.nonce)
        del core.ceremonies.rekeys[target]
    return Response(NO_CONTENT)


# --- offering shares ---------------------------------------------------------------------------------------


async def _update(core: Core, request: Request, target: str) -> Response:
    share, nonce = _offered(request)
    rekey = core.ceremonies.rekeys.get(target) or _resumed(core, target, request, nonce)
    if rekey.made is not None and rekey.made.verifier is not None:
        raise InvalidRequest("the new keys are made and wait for their verification")
    store = core.unsealed
    root = rekey.prove(store, core.lifecycle, share, nonce, kind=KIND)
    if root is None:
        return Response(data=_described(core, target, show_nonce=True))
    made = await rekey.make(store, core.lifecycle, root)
    answer = {
        "nonce": rekey.nonce,
        "complete": True,
        **made.shown,
        "pgp_fingerprints": made.fingerprints,
        "backup": rekey.backup,
        "verification_required": rekey.verify,
    }
    if rekey.verify:
        answer["verification_nonce"] = made.verification_nonce
    else:
        await _put_in_force(core, rekey, made)
    return Response(data=answer)


async def _put_in_force(core: Core, rekey: Rekey, made: NewSeal) -> None:
    """Commit the new seal; this node keeps it at once, the others within a second of applying it."""
    if seals.recorded(core.unsealed, rekey.target) != made.file:  # it may be, and the answer was lost
        await _commit(core, rekey, made)
    core.ceremonies.rekeys.pop(rekey.target, None)
    if rekey.target == seals.SEAL:
        await core.lifecycle.adopt_seal(made.file)


async def _commit(core: Core, rekey: Rekey, made: NewSeal) -> None:
    store, view = core.unsealed, View(core.unsealed, seals.VIEW)
    commands: list[AnyCommand] = [view.put(rekey.target, made.file.as_dict(), expect=made.expect)]
    if made.verifier is None:
        forgotten_ns = store.now_ns() + ANSWER_KEPT_NS
        kept = view.put(f"{seals.ANSWER}-{rekey.target}", rekey.kept(made), expires_ns=forgotten_ns)
        commands.append(kept)
    if rekey.backup:
        commands.append(view.put(f"{seals.BACKUP}-{rekey.target}", _backup(rekey, made)))
    try:
        await write(store, *commands, request_id=made.request_id)
    except CommandRejected as error:
        if error.reason != Reason.REVISION_MISMATCH:
            raise
        if seals.recorded(store, rekey.target) == made.file:
            return  # an earlier attempt at it, whose outcome was not known
        core.ceremonies.rekeys.pop(rekey.target, None)
        raise InvalidRequest("another rekey was completed meanwhile; these new keys open nothing") from None
    except OutcomeUnknown:
        raise OutcomeUnknown(
            "whether the new keys are in force is not known yet: keep the old ones, seal nothing, and offer the same "
            "shares again under the same nonce"
        ) from None


def _backup(rekey: Rekey, made: NewSeal) -> dict[str, Any]:
    kept: dict[str, Any] = {"nonce": rekey.nonce}
    for form, shares in made.shown.items():
        by_holder: dict[str, list[str]] = {}
        for fingerprint, share in zip(made.fingerprints or (), shares, strict=True):
            by_holder.setdefault(fingerprint, []).append(share)
        kept[form] = by_holder
    return kept


def _resumed(core: Core, target: str, request: Request, nonce: str) -> Rekey:
    """The rekey that was completed under this nonce a while ago. Raises InvalidRequest if there is none."""
    item = View(core.unsealed, seals.VIEW).get(f"{seals.ANSWER}-{target}")
    if item is not None and secrets.compare_digest(nonce.encode(), item.value["nonce"].encode()):
        rekey = Rekey.resume(core.unsealed, target, item.value)
        if rekey is not None:
            core.ceremonies.rekeys[target] = rekey
            return rekey
    raise InvalidRequest(f"no {_name(request)} in progress")


def _offered(request: Request) -> tuple[str, str]:
    share, nonce = text(request.data.get("key"), "key"), text(request.data.get("nonce"), "nonce")
    if not share:
        raise InvalidRequest("'key' must be specified in request body as JSON")
    return share, nonce


# --- verifying ---------------------------------------------------------------------------------------------


def _verification(core: Core, target: str) -> tuple[Rekey, NewSeal, Unsealer]:
    rekey = core.ceremonies.rekeys.get(target)
    if rekey is None or rekey.made is None or rekey.made.verifier is None:
        raise InvalidRequest("no rekey verification in progress")
    return rekey, rekey.made, rekey.made.verifier


def _verifying(made: NewSeal, verifier: Unsealer, *, show_nonce: bool) -> dict[str, Any]:
    return {
        "nonce": made.verification_nonce if show_nonce else "",
        "started": True,
        "t": made.file.threshold,
        "n": made.file.shares,
        "progress": verifier.progress,
    }


async def _verify_status(core: Core, request: Request, target: str) -> Response:
    _, made, verifier = _verification(core, target)
    return Response(data=_verifying(made, verifier, show_nonce=await openly.vouched(core, request)))


async def _verify(core: Core, request: Request, target: str) -> Response:
    rekey, made, verifier = _verification(core, target)
    share, nonce = _offered(request)
    if Attempt(verifier, made.verification_nonce).offer(share, nonce, kind="rekey verification") is None:
        return Response(data=_verifying(made, verifier, show_nonce=True))
    await _put_in_force(core, rekey, made)
    return Response(data={"nonce": made.verification_nonce, "complete": True})


async def _verify_restart(core: Core, request: Request, target: str) -> Response:
    """Forget the new shares that were shown, not the new seal: they can be shown again, under another nonce."""
    _, made, verifier = _verification(core, target)
    await openly.check_may_cancel(core, request, made.verification_nonce)
    verifier.reset()
    made.verification_nonce = str(uuid.uuid4())
    return Response(data=_verifying(made, verifier, show_nonce=True))


_INIT: dict[Operation, Step] = {
    Operation.READ: _status,
    Operation.UPDATE: _begin,
    Operation.DELETE: _cancel,
}
_UPDATE: dict[Operation, Step] = {Operation.UPDATE: _update}
_VERIFY: dict[Operation, Step] = {
    Operation.READ: _verify_status,
    Operation.UPDATE: _verify,
    Operation.DELETE: _verify_restart,
}


# --- the encrypted shares, kept -----------------------------------------------------------------------------


def _backup_route(pattern: str, target: str) -> Route:
    path = f"{seals.BACKUP}-{target}"

    async def read(core: Core, request: Request, params: dict[str, str]) -> Response:
        item = View(core.unsealed, seals.VIEW).get(path)
        if item is None:
            raise InvalidRequest("no backed-up keys found")
        return Response(data=item.value)

    async def delete(core: Core, request: Request, params: dict[str, str]) -> Response:
        await write(
            core.unsealed, View(core.unsealed, seals.VIEW).delete(path), request_id=request.request_id
        )
        return Response(NO_CONTENT)

    return Route(
        pattern,
        {Operation.READ: read, Operation.DELETE: delete},
        sudo=True,
        local=True,
        summary="The shares of the last rekey, encrypted for their holders, if a backup was asked for.",
        answers={
            Operation.READ: (
                Field("nonce", Kind.STRING, "Of the rekey that made them."),
                Field("keys", Kind.OBJECT, "Shares by fingerprint, hexadecimal."),
                Field("keys_base64", Kind.OBJECT, "Shares by fingerprint, base64."),
            )
        },
    )
