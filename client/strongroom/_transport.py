"""How httpx is set up, and what the environment says."""

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from strongroom._auth import Token
from strongroom._errors import ConfigurationError

CONNECT_TIMEOUT_S = 3.0
CONNECTIONS_MAX = 100
KEPT_ALIVE_MAX = 20
PREFIXES = ("STRONGROOM_", "VAULT_", "BAO_")


CaFiles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def context_of(ca_file: CaFiles | None) -> ssl.SSLContext:
    """The system's authorities, or those of PEM files. Raises ConfigurationError."""
    files = [ca_file] if isinstance(ca_file, str | os.PathLike) else list(ca_file or ())
    try:
        context = ssl.create_default_context(cafile=os.fspath(files[0]) if files else None)
        for each in files[1:]:
            context.load_verify_locations(os.fspath(each))
        return context
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the CA file {ca_file} cannot be used: {error.strerror or error}"
        ) from error


def http_options(verify: ssl.SSLContext) -> dict[str, Any]:
    """The same for both kinds of client. Nothing of the environment (proxies, .netrc) is used unasked."""
    return {
        "verify": verify,
        "trust_env": False,
        "follow_redirects": False,
        "limits": httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=KEPT_ALIVE_MAX),
        "timeout": httpx.Timeout(CONNECT_TIMEOUT_S),
    }


def environment(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Arguments for a client from STRONGROOM_*, VAULT_* or BAO_* (ADDR, several with commas; TOKEN, CACERT, NAMESPACE).

    Without a TOKEN the file ~/.vault-token (TOKEN_PATH) is looked for. Raises ConfigurationError.
    """
    told = os.environ if environ is None else environ

    def value(name: str) -> str | None:
        return next((told[prefix + name] for prefix in PREFIXES if told.get(prefix + name)), None)

    addresses = value("ADDR")
    if addresses is None:
        raise ConfigurationError("STRONGROOM_ADDR (or VAULT_ADDR) names no endpoint")
    found: dict[str, Any] = {"endpoints": [each.strip() for each in addresses.split(",") if each.strip()]}
    token = value("TOKEN") or _stored_token(value("TOKEN_PATH"))
    if token:
        found["auth"] = Token(token.strip())
    return found | {
        name: value(key) for name, key in (("ca_file", "CACERT"), ("namespace", "NAMESPACE")) if value(key)
    }


def _stored_token(path: str | None) -> str | None:
    try:
        return (Path(path) if path else Path.home() / ".vault-token").read_text(
            encoding="utf-8"
        ).strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("the token file cannot be read") from error
