"""A small client of the HTTP API from the standard library: what the commands speak to servers with.

Starting a command must cost little, so no third-party HTTP library is loaded here.
"""

import functools
import http.client
import json
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from node.cli.output import LocalError, RemoteError

ANSWER_BYTES_MAX = 32 * 1024 * 1024
TIMEOUT_S = 60.0

P = ParamSpec("P")
R = TypeVar("R")


class Unreachable(Exception):
    """No usable answer: refused, cut off, too slow, not trusted. A write may have happened all the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. body: parsed JSON, or None when there was none."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def errors(self) -> str:
        """What the server says went wrong, on one line."""
        told = self.body.get("errors") if isinstance(self.body, dict) else None
        lines = [" ".join(str(error).split()) for error in told or ()]
        return "; ".join(lines) or http.client.responses.get(self.status, "no reason given")


def exchange(
    address: str,
    method: str,
    path: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_S,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request to `address` (http[s]://host:port) and return its answer, whatever its status.

    `path` begins with /v1/. `body`: sent as JSON. `timeout`: seconds, per socket operation.
    Raises Unreachable.
    """
    url = urlsplit(address)
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = context or ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            url.hostname or "", url.port, timeout=timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout)
    content = None if body is None else json.dumps(body).encode()
    sent = {"X-Vault-Request": "true", "Content-Type": "application/json"} | dict(headers or {})
    try:
        connection.request(method, path, body=content, headers=sent)
        response = connection.getresponse()
        raw = response.read(ANSWER_BYTES_MAX)
        answer_headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, json.loads(raw) if raw else None, answer_headers)
    except ssl.SSLCertVerificationError as e:
        raise Unreachable(f"the certificate of {address} is not trusted: {e.verify_message}") from e
    except TimeoutError as e:
        raise Unreachable(f"{address} did not answer within {timeout:g} s") from e
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise Unreachable(f"{address} cannot be reached: {reason}") from e
    except ValueError as e:
        raise Unreachable(f"{address} answered something that is not JSON") from e
    finally:
        connection.close()


def payload(body: Any) -> dict[str, Any]:
    """What an answer is about, with the envelope around it or without."""
    found = body.get("data", body) if isinstance(body, dict) else None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Client:
    """One server, as the flags and the environment name it."""

    address: str
    context: ssl.SSLContext | None = None
    token: str | None = field(default=None, repr=False)

    def send(
        self, method: str, path: str, body: Any = None, *, timeout: float = TIMEOUT_S, with_token: bool = True
    ) -> Answer:
        """One request; follows one redirect (of a standby). Raises RemoteError when there is no answer."""
        headers = {"X-Vault-Token": self.token} if with_token and self.token else {}
        try:
            answer = exchange(
                self.address, method, path, body=body, headers=headers, timeout=timeout, context=self.context
            )
            target = urlsplit(answer.headers.get("location", ""))
            if answer.status != 307 or target.scheme != urlsplit(self.address).scheme:
                return answer
            return exchange(
                f"{target.scheme}://{target.netloc}",
                method,
                f"{target.path}?{target.query}" if target.query else target.path,
                body=body,
                headers=headers,
                timeout=timeout,
                context=self.context,
            )
        except Unreachable as e:
            raise RemoteError(f"{e}.") from e

    def call(self, method: str, path: str, body: Any = None, *, with_token: bool = True) -> Any:
        """The JSON of a successful answer (None if empty). Raises RemoteError, in the server's own words."""
        answer = self.send(method, path, body, with_token=with_token)
        if answer.status >= 300:
            raise RemoteError(
                f"{self.address} answered {method} {path} with {answer.status}: {answer.errors}",
                status=answer.status,
            )
        return answer.body


def tls_context(*, ca_cert: Path | None = None, skip_verify: bool = False) -> ssl.SSLContext:
    """What a server's certificate is checked against: a CA file, the system's CAs, or (skip_verify) nothing.

    Raises LocalError when the file is no use.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_cert) if ca_cert else None)
    except (OSError, ssl.SSLError) as e:
        raise LocalError(f"The CA certificate {ca_cert} cannot be used: {e.strerror or e}.") from e
    if skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def environment(name: str) -> str | None:
    """STRONGROOM_<name>, else VAULT_<name>; empty counts as absent."""
    return os.environ.get(f"STRONGROOM_{name}") or os.environ.get(f"VAULT_{name}") or None


def token_path() -> Path:
    """Where the token of the last login is kept, shared with the other tools of the field."""
    told = environment("TOKEN_PATH")
    return Path(told) if told else Path.home() / ".vault-token"


def _token() -> str | None:
    if told := environment("TOKEN"):
        return told.strip()
    try:
        return token_path().read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise LocalError(f"The token file {token_path()} cannot be read.") from e


def make_client(*, address: str | None, ca_cert: str | None, skip_verify: bool) -> Client:
    """Flags first, then STRONGROOM_*, then VAULT_*. Raises LocalError."""
    target = (address or environment("ADDR") or "https://127.0.0.1:8200").rstrip("/")
    url = urlsplit(target)
    try:
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or url.path:
        raise LocalError(f'The address "{target}" must look like https://host:port.')
    if url.scheme == "http":
        return Client(target, token=_token())
    ca_file = ca_cert or environment("CACERT")
    skip = skip_verify or (environment("SKIP_VERIFY") or "").lower() in ("1", "t", "true")
    context = tls_context(ca_cert=Path(ca_file) if ca_file else None, skip_verify=skip)
    return Client(target, context=context, token=_token())


def remote(command: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """Decorates a command that speaks to a server: adds flags that say which, passes a Client first."""

    @click.option(
        "-address", "--address", help="The server, https://host:port. [STRONGROOM_ADDR, VAULT_ADDR]"
    )
    @click.option(
        "-ca-cert", "--ca-cert", help="PEM file of the CA to trust. [STRONGROOM_CACERT, VAULT_CACERT]"
    )
    @click.option(
        "-tls-skip-verify", "--tls-skip-verify", is_flag=True, help="Trust any certificate: for tests only."
    )
    @functools.wraps(command)
    def with_client(*args: Any, **kwargs: Any) -> R:
        client = make_client(
            address=kwargs.pop("address"),
            ca_cert=kwargs.pop("ca_cert"),
            skip_verify=kwargs.pop("tls_skip_verify"),
        )
        return command(client, *args, **kwargs)

    return with_client
