"""`strongroom login`: exchange credentials for a token, and keep it for the next commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import click

from node.cli.arguments import key_values
from node.cli.client import Client
from node.cli.environment import variable
from node.cli.flags import Command, flag, switch
from node.cli.generic import trimmed
from node.cli.output import LocalError, Output, RemoteError
from node.cli.prompt import ask_hidden, secret_line
from node.cli.remote import Prints, remote
from node.cli.secret_output import envelope, print_field, print_secret
from node.cli.token_helper import store_token

_DONE = """\
Success! You are now authenticated. The token information displayed below is
already stored in the token helper. You do NOT need to run "strongroom login"
again. Future requests will automatically use this token.
"""
_NOT_STORED = """\
The token was not stored in token helper. Set the STRONGROOM_TOKEN environment
variable or pass the token below with each request.
"""
_OVERSHADOWED = """\
WARNING! The {name} environment variable is set! The value of this variable
will take precedence; if this is unwanted please unset {name} or update its
value accordingly.
"""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to log in: what it sends, and its help."""

    log_in: Callable[[Client, str, dict[str, Any]], Any]
    help: str


@click.command(cls=Command)
@click.argument("credentials", nargs=-1, metavar="[TOKEN | K=V]...")
@flag("method", default="token", help="token, userpass, approle or cert.  [default: token]")
@flag("path", help="Where the method is enabled; by default its type.")
@switch("no-store", help="Do not keep the token.")
@switch("no-print", help="Do not print the token.")
@switch("token-only", help="Print the token and nothing else, and do not keep it.")
@remote(Prints.FIELDS)
def login(
    client: Client,
    out: Output,
    credentials: tuple[str, ...],
    method: str,
    path: str | None,
    no_store: bool,
    no_print: bool,
    token_only: bool,
) -> int:
    """Log in, and keep the token for the next commands.

    \b
    strongroom login                                   asks for a token
    strongroom login -method=userpass username=ann     asks for the password
    strongroom login -method=approle role_id=... secret_id=-
    """
    if (chosen := METHODS.get(method)) is None:
        raise LocalError(
            f'Unknown auth method: {method}. Use "strongroom auth list" to see those that are enabled; '
            'all can be used with "strongroom write auth/PATH/login ...".'
        )
    if token_only:
        out, no_store = Output(out.form, "token"), True
    answer = chosen.log_in(client, trimmed(path or method), _told(credentials, method))
    if (answer.get("wrap_info") or {}).get("token"):
        if token_only or no_store:
            return (
                print_field(replace(out, field="wrapping_token"), envelope(answer))
                if token_only
                else print_secret(out, answer)
            )
        unwrapping = replace(client, token=answer["wrap_info"]["token"], wrap_ttl=None)
        answer = unwrapping.call("PUT", "sys/wrapping/unwrap", doing="Error authenticating")
    if not (answer.get("auth") or {}).get("client_token"):
        raise RemoteError("The server answered without a token.")
    if not no_store:
        _keep(answer["auth"]["client_token"])
    return _report(out, answer, stored=not no_store, silent=no_print, bare=token_only)


def _keep(token: str) -> None:
    store_token(token)
    if name := variable("TOKEN"):
        click.echo(_OVERSHADOWED.format(name=name), err=True)


def _report(out: Output, answer: Mapping[str, Any], *, stored: bool, silent: bool, bare: bool) -> int:
    if not stored and not bare:
        click.echo(_NOT_STORED, err=True)
    if silent:
        return 0
    if out.field is not None:
        return print_field(out, envelope(answer))
    if stored:
        out.say(_DONE)
    return print_secret(out, answer)


def _told(credentials: tuple[str, ...], method: str) -> dict[str, Any]:
    """The credentials as a map; a first word alone is a token."""
    words = list(credentials)
    first: dict[str, Any] = {}
    if words and method == "token" and "=" not in words[0] and not words[0].startswith("@"):
        word = words.pop(0)
        first["token"] = secret_line("-", "Token") if word == "-" else word
    return first | key_values(words, doing="Error parsing configuration")


def _by_token(client: Client, _path: str, told: dict[str, Any]) -> Any:
    token = str(told.get("token") or ask_hidden(client, "Token", doing="Error authenticating")).strip()
    if not token:
        raise RemoteError("Error authenticating: a token is needed")
    asking = replace(client, token=token, wrap_ttl=None)
    if str(told.get("lookup", "true")).lower() in ("false", "0"):
        return {"auth": {"client_token": token}}
    found = asking.call("GET", "auth/token/lookup-self", doing="Error authenticating: error looking up token")
    data = (found or {}).get("data") or {}
    return {"auth": _as_auth(token, data)}


def _as_auth(token: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """A login's answer, made from what the server knows about a token."""
    return {
        "client_token": token,
        "accessor": data.get("accessor", ""),
        "policies": sorted({*(data.get("policies") or ()), *(data.get("identity_policies") or ())}),
        "token_policies": data.get("policies"),
        "identity_policies": data.get("identity_policies"),
        "metadata": data.get("meta"),
        "orphan": False,
        "entity_id": "",
        "lease_duration": data.get("ttl") or 0,
        "renewable": bool(data.get("renewable")),
        "mfa_requirement": None,
    }


def _by_userpass(client: Client, path: str, told: dict[str, Any]) -> Any:
    user = str(told.pop("username", "")).strip()
    if not user:
        raise RemoteError("Error authenticating: 'username' must be specified")
    if not told.get("password"):
        told["password"] = ask_hidden(client, "Password", doing="Error authenticating")
    return _log_in(client, f"auth/{path}/login/{quote(user, safe='')}", told)


def _by_approle(client: Client, path: str, told: dict[str, Any]) -> Any:
    if not told.get("role_id"):
        raise RemoteError("Error authenticating: 'role_id' must be specified")
    return _log_in(client, f"auth/{path}/login", told)


def _by_cert(client: Client, path: str, told: dict[str, Any]) -> Any:
    return _log_in(client, f"auth/{path}/login", told)


def _log_in(client: Client, path: str, body: dict[str, Any]) -> Any:
    """The credentials are all that is sent: an older token has no part in it."""
    answer = replace(client, token=None).call("PUT", path, body, doing="Error authenticating")
    if not isinstance(answer, dict):
        raise RemoteError("Error authenticating: the server answered without a token.")
    return answer


METHODS: dict[str, Method] = {
    "token": Method(
        _by_token,
        """\
Usage: strongroom login [TOKEN | -]

  Logs in with a token that somebody made. Without TOKEN it is asked for, hidden.

Configuration:

  token=<string>
      The token.

  lookup=<bool>
      Ask the server about the token.  [default: true]""",
    ),
    "userpass": Method(
        _by_userpass,
        """\
Usage: strongroom login -method=userpass username=NAME [password=PASSWORD | password=-]

  Logs in as a user of the server. Without a password it is asked for, hidden.

Configuration:

  username=<string>
      The user's name.

  password=<string>
      The password.""",
    ),
    "approle": Method(
        _by_approle,
        """\
Usage: strongroom login -method=approle role_id=ID [secret_id=ID | secret_id=-]

  Logs in as a role: what services use.

Configuration:

  role_id=<string>
      The role's id.

  secret_id=<string>
      The secret id, unless the role needs none.""",
    ),
    "cert": Method(
        _by_cert,
        """\
Usage: strongroom login -method=cert -client-cert=FILE -client-key=FILE [name=ROLE]

  Logs in with the certificate that the connection shows.

Configuration:

  name=<string>
      The role; without it, the first that is for the certificate.""",
    ),
}
