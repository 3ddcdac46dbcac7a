"""`strongroom operator rekey` and `rotate-keys`: new unseal keys, given out against the old ones.

Both do the same at different endpoints: rekey asks no token but the keys, rotate-keys a token too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import Command, F, IntegerType, flag, switch
from node.cli.output import LocalError, Output, pairs
from node.cli.prompt import secret_line
from node.cli.public_keys import public_keys
from node.cli.remote import Prints, remote
from node.cli.values import shown

_POSITIVE = IntegerType(minimum=1)
_NO_BACKUP = """\
WARNING! If you lose the keys after they are returned, there is no recovery.
Consider canceling this operation and re-initializing with the -pgp-keys flag
to protect the returned unseal keys along with -backup to allow recovery of
the encrypted keys in case of emergency. You can delete the stored keys later
using the -backup-delete flag.
"""
_STATUS = ("nonce", "started", "t", "n", "progress", "required", "pgp_fingerprints", "backup", "verification_required",
           "verification_nonce")  # fmt: skip
_VERIFY = ("nonce", "started", "t", "n", "progress")
_DONE = ("nonce", "complete", "keys", "keys_base64", "pgp_fingerprints", "backup", "verification_required",
         "verification_nonce")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Process:
    """Where one of the two commands goes, and what it calls itself."""

    paths: Mapping[str, str]  # target -> prefix of its endpoints
    noun: str
    done: str
    start_method: str

    def path(self, target: str, last: str) -> str:
        if target not in self.paths:
            raise LocalError(f"Unknown target: {target} (it must be one of {', '.join(self.paths)})")
        return f"{self.paths[target]}/{last}"


_REKEY = Process({"barrier": "sys/rekey", "recovery": "sys/rekey-recovery-key"}, "rekey", "rekeyed", "PUT")
_ROTATE = Process(
    {"barrier": "sys/rotate/root", "recovery": "sys/rotate/recovery"}, "rotation", "rotated", "POST"
)


def _flags(command: F) -> F:
    for decorate in (
        switch("backup-retrieve", help="Print the stored backup."),
        switch("backup-delete", help="Delete the stored backup."),
        switch("backup", help="Store the new keys too, encrypted with -pgp-keys."),
        flag("pgp-keys", help="Files of public keys to encrypt the new keys with, separated by commas."),
        flag("target", default="barrier", help='"barrier", or "recovery" where the seal opens by itself.'),
        switch("verify", help="Demand (with -init) or give proof that the new keys have arrived."),
        flag("nonce", default="", help="The nonce that -init printed."),
        flag(
            "key-threshold",
            _POSITIVE,
            aliases=["t"],
            default=3,
            help="How many open the store.  [default: 3]",
        ),
        flag("key-shares", _POSITIVE, aliases=["n"], default=5, help="How many keys to make.  [default: 5]"),
        switch("status", help="Show how far it is."),
        switch("cancel", help="Stop it; the old keys stay."),
        switch("init", help="Start it."),
    ):
        command = decorate(command)
    return click.argument("key", required=False)(command)


@click.command(cls=Command)
@_flags
@remote(Prints.FORMATS)
def rekey(client: Client, out: Output, key: str | None, **said: Any) -> int:
    """Make new unseal keys: -init, then one call for each old KEY (asked for, hidden, if it is not given)."""
    return _run(_REKEY, client, out, key, said)


@click.command("rotate-keys", cls=Command)
@_flags
@remote(Prints.FORMATS)
def rotate_keys(client: Client, out: Output, key: str | None, **said: Any) -> int:
    """Make new unseal keys, with a token that may: -init, then one call for each old KEY."""
    return _run(_ROTATE, client, out, key, said)


def _run(process: Process, client: Client, out: Output, key: str | None, said: dict[str, Any]) -> int:
    actions: dict[str, Callable[[Process, Client, Output, dict[str, Any]], int]] = {
        "backup_delete": _backup_delete,
        "backup_retrieve": _backup_retrieve,
        "cancel": _cancel,
        "init": _init,
        "status": _status,
    }
    chosen = next((action for name, action in actions.items() if said[name]), None)
    return chosen(process, client, out, said) if chosen else _provide(process, client, out, key, said)


def _call(client: Client, method: str, path: str, doing: str, body: Any = None) -> dict[str, Any]:
    answer = client.call(method, path, body, doing=doing)
    found = answer.get("data") or answer if isinstance(answer, dict) else {}
    return dict(found)


def _init(process: Process, client: Client, out: Output, said: dict[str, Any]) -> int:
    keys = public_keys(said["pgp_keys"]) if said["pgp_keys"] else None
    body = {
        "secret_shares": said["key_shares"],
        "secret_threshold": said["key_threshold"],
        "pgp_keys": keys,
        "backup": said["backup"],
        "require_verification": said["verify"],
    }
    path = process.path(said["target"], "init")
    state = _call(client, process.start_method, path, f"Error initializing {process.noun}", body)
    if not state:
        state = _call(client, "GET", path, f"Error reading {process.noun} status")
    if out.table and keys is None:
        click.echo(_NO_BACKUP, err=True)
    _print_status(out, state)
    return 0


def _status(process: Process, client: Client, out: Output, said: dict[str, Any]) -> int:
    last = "verify" if said["verify"] else "init"
    _print_status(
        out, _call(client, "GET", process.path(said["target"], last), f"Error reading {process.noun} status")
    )
    return 0


def _cancel(process: Process, client: Client, out: Output, said: dict[str, Any]) -> int:
    last = "verify" if said["verify"] else "init"
    _call(client, "DELETE", process.path(said["target"], last), f"Error canceling {process.noun}")
    what = "rotation" if process is _ROTATE else "rekeying"
    click.echo(f"Success! Canceled {what} (if it was started)")
    return 0


def _backup_retrieve(process: Process, client: Client, out: Output, said: dict[str, Any]) -> int:
    path = process.path(said["target"], "backup")
    found = _call(client, "GET", path, f"Error retrieving {process.noun} backed up keys")
    out.show(found, pairs([(key, shown(value)) for key, value in sorted(found.items())]))
    return 0


def _backup_delete(process: Process, client: Client, out: Output, said: dict[str, Any]) -> int:
    path = process.path(said["target"], "backup")
    _call(client, "DELETE", path, f"Error deleting {process.noun} backed up keys")
    click.echo("Success! Delete backed up keys (if they existed)")
    return 0


def _provide(process: Process, client: Client, out: Output, key: str | None, said: dict[str, Any]) -> int:
    """Give one old key (or, to verify, one new one); the last one needed ends it."""
    path = process.path(said["target"], "verify" if said["verify"] else "init")
    state = _call(client, "GET", path, f"Error getting {process.noun} status")
    if not state.get("started"):
        raise LocalError(f'No {process.noun} is in progress. Start one with the "-init" flag.')
    nonce = said["nonce"]
    if key == "-" or key is None:
        nonce = nonce or state["nonce"]
        click.echo(f"{process.noun.capitalize()} operation nonce: {nonce}", err=True)
    if not nonce:
        raise LocalError(
            f'Missing nonce value: specify it with the "-nonce" flag ({state["nonce"]} is in progress).'
        )
    given = {"key": secret_line(key, "Unseal Key", interactive=client.interactive), "nonce": nonce}
    update = process.path(said["target"], "verify" if said["verify"] else "update")
    done = _call(client, "PUT", update, "Error posting unseal key", given)
    if not done.get("complete"):
        _print_status(
            out, done if "t" in done else _call(client, "GET", path, f"Error getting {process.noun} status")
        )
        return 0
    if not out.table:
        out.value({name: done[name] for name in _DONE if name in done})
    elif said["verify"]:
        click.echo(f"Success! The new keys are verified: they are in force, the old ones are void ({nonce}).")
    else:
        click.echo(_new_keys(process, done, state))
    return 0


def _new_keys(process: Process, done: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    lines = [""]
    fingerprints = done.get("pgp_fingerprints") or []
    for number, key in enumerate(done.get("keys_base64") or (), 1):
        mark = f" fingerprint: {fingerprints[number - 1]}; value:" if fingerprints else ":"
        lines.append(f"Key {number}{mark} {key}")
    lines += ["", f"Operation nonce: {done.get('nonce', '')}", ""]
    n, t = state.get("n"), state.get("t")
    if done.get("verification_required"):
        lines += [
            f"The new keys are not in force yet: prove that {t} of them have arrived by",
            f'"{process.noun} -verify" with nonce {done.get("verification_nonce", "")}.',
        ]
    else:
        lines += [
            f"The unseal keys are {process.done} to {n} key shares and a key threshold of {t}. Give the keys",
            f"printed above to different people. When a node is sealed, restarted or stopped, at least {t} of",
            "them are needed to unseal it.",
        ]
    return "\n".join(lines)


def _print_status(out: Output, state: Mapping[str, Any]) -> None:
    verifying = "required" not in state and "pgp_fingerprints" not in state
    if not out.table:
        out.value({name: state.get(name, _EMPTY.get(name)) for name in (_VERIFY if verifying else _STATUS)})
        return
    started = state.get("started")
    rows: list[tuple[str, object]] = [("Nonce", state.get("nonce")), ("Started", started)]
    if started:
        rows += [
            ("Progress", f"{state.get('progress', 0)}/{state.get('required', state.get('t'))}"),
            ("New Shares", state.get("n")),
            ("New Threshold", state.get("t")),
        ]
    if started and not verifying:
        rows.append(("Verification Required", bool(state.get("verification_required"))))
        if state.get("verification_nonce"):
            rows.append(("Verification Nonce", state["verification_nonce"]))
        if state.get("pgp_fingerprints"):
            rows += [
                ("PGP Fingerprints", shown(state["pgp_fingerprints"])),
                ("Backup", bool(state.get("backup"))),
            ]
    click.echo(pairs(rows))


_EMPTY = {
    "nonce": "",
    "progress": 0,
    "verification_nonce": "",
    "backup": False,
    "verification_required": False,
}
