"""sys/init, sys/unseal, sys/seal and sys/seal-status: from nothing to an open store, and back to a sealed one."""

import base64
from typing import Any

from node import API_VERSION
from node.api.vault.shares import recipient, wanted
from node.auth.fields import boolean
from node.ceremonies import Shares
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import NO_CONTENT, Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest
from node.pgp import Recipient
from storage.secret import Secret

COMMIT_DATE = ""  # not known of an installed package
_INIT = (
    Field("secret_shares", Kind.INTEGER, "How many unseal keys to make, where people open the store."),
    Field("secret_threshold", Kind.INTEGER, "How many of them it takes."),
    Field("pgp_keys", Kind.STRINGS, "PGP public keys in base64, one a share, to encrypt the keys for."),
    Field(
        "recovery_shares", Kind.INTEGER, "How many recovery keys to make, where a key file opens the store."
    ),
    Field("recovery_threshold", Kind.INTEGER, "How many of them it takes."),
    Field("recovery_pgp_keys", Kind.STRINGS, "PGP public keys in base64, one a recovery key."),
    Field("root_token_pgp_key", Kind.STRING, "A PGP public key in base64, to encrypt the root token for."),
)
_INITIALISED = (
    Field("initialized", Kind.BOOLEAN, "Whether this node has a store."),
    Field("keys", Kind.STRINGS, "The unseal keys, hexadecimal: shown once."),
    Field("keys_base64", Kind.STRINGS, "The same in base64."),
    Field("recovery_keys", Kind.STRINGS, "The recovery keys, hexadecimal: shown once."),
    Field("recovery_keys_base64", Kind.STRINGS, "The same in base64."),
    Field("root_token", Kind.STRING, "The first token, which may do everything: shown once."),
)
_UNSEAL = (
    Field("key", Kind.STRING, "One share, in base64 or hexadecimal."),
    Field("reset", Kind.BOOLEAN, "Forget the shares that are in."),
    Field("migrate", Kind.BOOLEAN, "Not offered."),
)
_STATUS = (
    Field("type", Kind.STRING, "What opens the store: shamir or static."),
    Field("initialized", Kind.BOOLEAN, "Whether this node has a store."),
    Field("sealed", Kind.BOOLEAN, "Whether it is closed."),
    Field("t", Kind.INTEGER, "How many shares it takes."),
    Field("n", Kind.INTEGER, "How many there are."),
    Field("progress", Kind.INTEGER, "How many are in."),
    Field("nonce", Kind.STRING, "Of this attempt to open the store."),
    Field("version", Kind.STRING, "Of the server."),
    Field("commit_date", Kind.STRING, "Always empty: it is not known."),
    Field("migration", Kind.BOOLEAN, "Always false."),
    Field("cluster_name", Kind.STRING, "Once the store is open."),
    Field("cluster_id", Kind.STRING, "Once the store is open."),
    Field("recovery_seal", Kind.BOOLEAN, "Whether a key file opens the store."),
    Field("recovery_seal_type", Kind.STRING, "Then: of the keys that people hold."),
    Field("storage_type", Kind.STRING, "raft, or inmem."),
)


def routes() -> list[Route]:
    """The table of this module."""
    read, update = Operation.READ, Operation.UPDATE
    return [
        open_route(
            "sys/init",
            {read: _init_status, update: _init},
            audited=True,
            summary="Whether there is a store; make one.",
            fields=_INIT,
            answers={read: _INITIALISED[:1], update: _INITIALISED[1:]},
        ),
        open_route(
            "sys/unseal",
            {update: _unseal},
            audited=True,
            summary="Offer one share of the key that opens this node.",
            fields=_UNSEAL,
            answers={update: _STATUS},
        ),
        open_route(
            "sys/seal-status",
            {read: _seal_status},
            summary="How far this node is from being open.",
            answers={read: _STATUS},
        ),
        Route(
            "sys/seal",
            {update: _seal},
            sudo=True,
            fresh=False,
            local=True,
            summary="Close this node, leader or not.",
        ),
    ]


def open_route(
    pattern: str, handlers: dict[Operation, Handler], *, audited: bool = False, **said: Any
) -> Route:
    """A route that answers everybody, also while sealed."""
    return Route(
        pattern,
        handlers,
        authenticated=False,
        sealed=True,
        fresh=False,
        local=True,
        audited=audited,
        shape=Shape.RAW,
        **said,
    )


async def _seal_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data=_status(core))


def _status(core: Core) -> dict[str, Any]:
    body = core.lifecycle.seal_status() | {
        "initialized": core.lifecycle.initialized,
        "sealed": core.store is None,
        "version": API_VERSION,
        "commit_date": COMMIT_DATE,
        "migration": False,
        "storage_type": core.settings.storage,
    }
    if body["recovery_seal"]:
        body["recovery_seal_type"] = "shamir"
    return body | cluster_names(core) if core.store is not None else body


def cluster_names(core: Core) -> dict[str, Any]:
    """What an open store is called."""
    cluster = core.unsealed.reads.cluster()
    return {"cluster_name": cluster[1], "cluster_id": cluster[0]} if cluster else {}


async def _init_status(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"initialized": core.lifecycle.initialized})


async def _init(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Make a new store; the answer is the only time that its keys and root token are shown."""
    if core.lifecycle.initialized:
        raise InvalidRequest("Vault is already initialized")
    data, by_people = request.data, core.settings.seal.kind == "shamir"
    secret = await wanted(
        data,
        shares="secret_shares",
        threshold="secret_threshold",
        pgp_keys="pgp_keys",
        default=(5, 3) if by_people else (1, 1),
    )
    recovery = await _recovery(data)
    reader = recipient(data, "root_token_pgp_key")
    if recovery is not None and by_people:
        raise InvalidRequest(
            "parameters recovery_shares,recovery_threshold not applicable to seal type shamir"
        )
    made = await core.lifecycle.initialize(seal=secret, recovery=recovery)
    answer: dict[str, Any] = dict(secret.shown(made.keys)) if by_people else {"keys": [], "keys_base64": []}
    if recovery is not None:
        answer |= {f"recovery_{form}": shares for form, shares in recovery.shown(made.recovery_keys).items()}
    return Response(data=answer | {"root_token": _shown(made.root_token, reader)})


async def _recovery(data: dict[str, Any]) -> Shares | None:
    """Recovery keys are made where they are asked for; clients say 0 for none."""
    if not data.get("recovery_shares") and not data.get("recovery_threshold"):
        return None
    return await wanted(
        data,
        shares="recovery_shares",
        threshold="recovery_threshold",
        pgp_keys="recovery_pgp_keys",
        default=(5, 3),
    )


def _shown(token: Secret, reader: Recipient | None) -> str:
    if reader is None:
        return token.reveal().decode()
    return base64.b64encode(reader.encrypt(token.reveal())).decode()


async def _unseal(core: Core, request: Request, params: dict[str, str]) -> Response:
    """One share of the unseal key, base64 or hex."""
    if not core.lifecycle.initialized:
        raise InvalidRequest("Vault is not initialized")
    share, reset = request.data.get("key") or "", boolean(request.data.get("reset") or False, "reset")
    if not isinstance(share, str) or (not share and not reset):
        raise InvalidRequest("'key' must be specified in request body as JSON, or 'reset' set to true")
    if boolean(request.data.get("migrate") or False, "migrate"):
        raise InvalidRequest("seal migration is not offered")
    if reset and core.store is not None:
        raise InvalidRequest("vault is unsealed")
    await core.lifecycle.unseal(share=share, reset=reset)
    return Response(data=_status(core))


async def _seal(core: Core, request: Request, params: dict[str, str]) -> Response:
    await core.lifecycle.seal()
    return Response(status=NO_CONTENT)
