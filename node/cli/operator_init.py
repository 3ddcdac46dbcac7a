"""`strongroom operator init`: make a new store, once, at its first node."""

from typing import Any

import click

from node.cli.client import Client, needed
from node.cli.flags import INTEGER, Command, IntegerType, flag, switch
from node.cli.output import Output
from node.cli.public_keys import public_keys
from node.cli.remote import Prints, remote

NOT_INITIALIZED = 2
_POSITIVE = IntegerType(minimum=1)


@click.command(cls=Command)
@flag("key-shares", _POSITIVE, aliases=["n"], default=5, help="How many unseal keys to make.  [default: 5]")
@flag(
    "key-threshold",
    _POSITIVE,
    aliases=["t"],
    default=3,
    help="How many of them open the store.  [default: 3]",
)
@flag("pgp-keys", help="Files of public keys to encrypt the unseal keys with, separated by commas.")
@flag("root-token-pgp-key", help="File of a public key to encrypt the root token with.")
@flag("recovery-shares", INTEGER, help="How many recovery keys to make, where the seal opens by itself.")
@flag("recovery-threshold", INTEGER, help="How many of them are needed.")
@flag("recovery-pgp-keys", help="Files of public keys to encrypt them with.")
@switch("status", variable="only_ask", help="Only ask. Exit code 0: initialised, 2: not.")
@remote(Prints.FORMATS)
def init(client: Client, out: Output, only_ask: bool, **said: Any) -> int:
    """Initialise a new store, once, at its first node.

    The keys and the root token are printed here and nowhere else.
    """
    if only_ask:
        body = client.call("GET", "sys/init", doing="Error checking init status", with_token=False)
        done = bool(needed(body, "initialized"))
        out.show({"Initialized": done}, f"Vault is {'' if done else 'not '}initialized")
        return 0 if done else NOT_INITIALIZED
    answer: dict[str, Any] = client.call(
        "PUT", "sys/init", _body(said), doing="Error initializing", with_token=False
    )
    needed(answer, "root_token")
    if out.table:
        click.echo(_for_people(answer, said["key_threshold"]))
    else:
        out.value(_for_programs(answer, said))
    return 0


def _body(said: dict[str, Any]) -> dict[str, Any]:
    """Only what was asked for: not every server knows the rest."""
    body: dict[str, Any] = {"secret_shares": said["key_shares"], "secret_threshold": said["key_threshold"]}
    for name in ("recovery_shares", "recovery_threshold"):
        if said[name] is not None:
            body[name] = said[name]
    for name in ("pgp_keys", "recovery_pgp_keys"):
        if said[name]:
            body[name] = public_keys(said[name])
    if said["root_token_pgp_key"]:
        body["root_token_pgp_key"] = public_keys(said["root_token_pgp_key"])[0]
    return body


def _for_people(answer: dict[str, Any], threshold: int) -> str:
    keys, recovery = answer.get("keys_base64") or [], answer.get("recovery_keys_base64") or []
    lines = [f"Unseal Key {number}: {key}" for number, key in enumerate(keys, 1)]
    lines += [f"Recovery Key {number}: {key}" for number, key in enumerate(recovery, 1)]
    lines += [*([""] if lines else []), f"Initial Root Token: {answer['root_token']}", ""]
    if keys:
        lines += [
            "Success! The store is initialized",
            "",
            f"Give the keys to {len(keys)} different people. Any {threshold} of them open the",
            "store after a start; with fewer, nobody can, and nothing can be recovered.",
        ]
    else:
        lines += [
            "The store opens by itself with the seal's key file: keep that file's copy in a safe place."
        ]
    return "\n".join(lines)


def _for_programs(answer: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The names that scripts for `vault operator init -format=json` look for."""
    keys = answer.get("keys") or []
    return {
        "unseal_keys_b64": answer.get("keys_base64") or [],
        "unseal_keys_hex": keys,
        "unseal_shares": len(keys),
        "unseal_threshold": said["key_threshold"] if keys else 0,
        "recovery_keys_b64": answer.get("recovery_keys_base64"),
        "recovery_keys_hex": answer.get("recovery_keys"),
        "recovery_keys_shares": len(answer.get("recovery_keys") or []),
        "recovery_keys_threshold": said["recovery_threshold"] or 0,
        "root_token": answer["root_token"],
    }
