"""`strongroom operator generate-root`: a new root token, made with the unseal keys when all others are lost.

The token travels encrypted with a one-time password: only who started the process can read it.
"""

import base64
import secrets
import string
import sys
from collections.abc import Mapping
from typing import Any

import click

from node.cli.client import Client
from node.cli.flags import Command, flag, switch
from node.cli.output import LocalError, Output, columns
from node.cli.prompt import LINE_CHARS_MAX, secret_line
from node.cli.public_keys import public_keys
from node.cli.remote import Prints, remote

OTP_CHARS = 26
_ALPHABET = string.ascii_letters + string.digits
_CURRENT, _OLDER = "sys/generate-root-token", "sys/generate-root"
_STATUS = ("nonce", "started", "progress", "required", "complete", "encoded_token", "encoded_root_token",
           "pgp_fingerprint", "otp", "otp_length")  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "progress": 0,
    "required": 0,
    "otp_length": 0,
    "started": False,
    "complete": False,
}
_OTP_MADE = """\
A One-Time-Password has been generated for you and is shown in the OTP field.
You will need this value to decode the resulting root token, so keep it safe.
"""


@click.command("generate-root", cls=Command)
@click.argument("key", required=False)
@switch("init", help="Start it.")
@switch("status", help="Show how far it is.")
@switch("cancel", help="Stop it.")
@switch("generate-otp", help="Print a one-time password for -init.")
@flag("decode", help='Decode the encoded token; "-" reads it from stdin. Needs -otp.')
@flag("otp", default="", help="The one-time password, for -init and -decode.")
@flag("pgp-key", help="File of a public key to encrypt the token with, instead of a password.")
@flag("nonce", default="", help="The nonce that -init printed.")
@switch("recovery-token", hidden=True)
@remote(Prints.FORMATS)
def generate_root(client: Client, out: Output, key: str | None, **said: Any) -> int:
    """Make a root token: -init, then one call for each unseal KEY, then -decode."""
    if said["decode"] is not None:
        click.echo(decode(said["decode"], said["otp"]), nl=sys.stdout.isatty())
        return 0
    if said["generate_otp"]:
        length = _attempt(client)[1].get("otp_length") or OTP_CHARS
        click.echo("".join(secrets.choice(_ALPHABET) for _ in range(length)), nl=sys.stdout.isatty())
        return 0
    if said["cancel"]:
        _cancel(client)
        return 0
    base, state = _attempt(client)
    if said["status"]:
        _print(out, state)
    elif said["init"]:
        _start(client, out, base, said)
    else:
        _provide(client, out, base, state, key, said["nonce"])
    return 0


def _attempt(client: Client) -> tuple[str, dict[str, Any]]:
    """Where the server keeps the process, and how far it is. Raises RemoteError."""
    doing = "Error getting root generation status"
    answer = client.live().send("GET", f"{_CURRENT}/attempt")
    base = _OLDER if answer.status in (404, 405) else _CURRENT
    if base == _CURRENT:
        return base, _data(client.checked(answer, "GET", f"{base}/attempt", doing=doing))
    return base, _data(client.live().call("GET", f"{base}/attempt", doing=doing))


def _data(body: Any) -> dict[str, Any]:
    found = body.get("data") or body if isinstance(body, dict) else {}
    return dict(found)


def _cancel(client: Client) -> None:
    doing = "Error canceling root token generation"
    answer = client.send("DELETE", f"{_CURRENT}/attempt")
    if answer.status in (404, 405):
        client.call("DELETE", f"{_OLDER}/attempt", doing=doing)
    else:
        client.checked(answer, "DELETE", f"{_CURRENT}/attempt", doing=doing)
    click.echo("Success! Root token generation canceled (if it was started)")


def _start(client: Client, out: Output, base: str, said: Mapping[str, Any]) -> None:
    key = public_keys(said["pgp_key"])[0] if said["pgp_key"] else ""
    body = {"otp": said["otp"], "pgp_key": key}
    state = _data(client.call("PUT", f"{base}/attempt", body, doing="Error initializing root generation"))
    if state.get("otp") and out.table:
        click.echo(_OTP_MADE, err=True)
    _print(out, state)


def _provide(
    client: Client, out: Output, base: str, state: Mapping[str, Any], key: str | None, nonce: str
) -> None:
    if not state.get("started"):
        raise LocalError('No root generation is in progress. Start one with the "-init" flag.')
    if key is None or key == "-":
        nonce = nonce or str(state["nonce"])
        click.echo(f"Operation nonce: {nonce}", err=True)
    if not nonce:
        raise LocalError(
            f'Missing nonce value: specify it with the "-nonce" flag ({state["nonce"]} is in progress).'
        )
    body = {"key": secret_line(key, "Unseal Key", interactive=client.interactive), "nonce": nonce}
    _print(out, _data(client.call("PUT", f"{base}/update", body, doing="Error posting unseal key")))


def _print(out: Output, state: Mapping[str, Any]) -> None:
    whole = {name: state.get(name, _DEFAULTS.get(name, "")) for name in _STATUS}
    rows = [
        ["Nonce", str(whole["nonce"]) or "n/a"],
        ["Started", str(bool(whole["started"])).lower()],
        ["Progress", f"{whole['progress']}/{whole['required']}"],
        ["Complete", str(bool(whole["complete"])).lower()],
    ]
    rows += [["PGP Fingerprint", whole["pgp_fingerprint"]]] if whole["pgp_fingerprint"] else []
    encoded = whole["encoded_token"] or whole["encoded_root_token"]
    rows += [["Encoded Token", encoded]] if encoded else []
    rows += [["OTP", whole["otp"]]] if whole["otp"] else []
    rows += [["OTP Length", str(whole["otp_length"])]] if whole["otp_length"] else []
    out.show(whole, columns(rows))


def decode(encoded: str, otp: str) -> str:
    """The token: the encoded one, XORed with the password. Raises LocalError."""
    if encoded == "-":
        encoded = sys.stdin.readline(LINE_CHARS_MAX).strip()
    if not otp:
        raise LocalError("-decode needs the one-time password: -otp.")
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise LocalError("The encoded token is not base64.") from None
    if len(raw) != len(otp.encode()):
        raise LocalError("The one-time password does not belong to this token: their lengths differ.")
    try:
        return bytes(a ^ b for a, b in zip(raw, otp.encode(), strict=True)).decode("ascii")
    except UnicodeDecodeError:
        raise LocalError("The one-time password does not belong to this token.") from None
