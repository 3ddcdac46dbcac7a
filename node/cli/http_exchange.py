"""One HTTP request and its answer, whatever its status. Tokens, retries and refusals are the matter of client.py."""

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from node.cli.http_connection import Connections, Proxies, open_connection
from node.cli.values import loads

ANSWER_BYTES_MAX = 32 * 1024 * 1024
TIMEOUT_S = 60.0
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Unreachable(Exception):
    """No usable answer: refused, cut off, too slow, not trusted. sent: the request had left, and may have been done."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. body: parsed JSON, or None when there was none; content: the bytes, parsed or not."""

    status: int
    body: Any
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def errors(self) -> str:
        """What the server says went wrong, on one line."""
        lines = [" ".join(str(error).split()) for error in self.told]
        return "; ".join(lines) or http.client.responses.get(self.status, "no reason given")

    @property
    def told(self) -> list[Any]:
        """The server's own list of what went wrong."""
        found = self.body.get("errors") if isinstance(self.body, dict) else None
        return found if isinstance(found, list) else []


def request(
    address: str,
    method: str,
    path: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_S,
    context: ssl.SSLContext | None = None,
    server_name: str | None = None,
    proxies: Proxies | None = None,
    connections: Connections | None = None,
) -> Answer:
    """Send one request to `address` (http[s]://host:port) and return its answer as bytes, whatever its status.

    `path` begins with a slash and is sent as it is. `timeout`: seconds, per socket operation. Raises Unreachable.
    """
    sent = {"X-Vault-Request": "true"} | dict(headers or {})
    connection, target = open_connection(
        address, path, timeout=timeout, context=context, server_name=server_name, proxies=proxies
    )
    used = connections.take(address) if connections is not None else None
    if used is not None:
        try:
            return _converse(used, method, target, content, sent, _keeper(connections, address))
        except (OSError, http.client.HTTPException) as e:
            if method in WRITES:  # the server may have it: only a read is simply asked again
                raise Unreachable(f"{address} did not answer: {reason(e)}") from e
    connect(connection, address, timeout)
    try:
        return _converse(connection, method, target, content, sent, _keeper(connections, address))
    except (OSError, http.client.HTTPException) as e:
        raise _unreachable(e, address, timeout, sent=True) from e


def connect(connection: http.client.HTTPConnection, address: str, timeout: float) -> None:
    """Open a connection to `address`. Raises Unreachable; nothing was sent."""
    try:
        connection.connect()
    except (OSError, http.client.HTTPException) as e:
        connection.close()
        raise _unreachable(e, address, timeout, sent=False) from e


def _unreachable(error: Exception, address: str, timeout: float, *, sent: bool) -> Unreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"{error.verify_message} (-ca-cert names the file of its authority)"
        return Unreachable(f"the certificate of {address} is not trusted: {why}", sent=sent)
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        return Unreachable(f"{address} does not speak TLS: its address begins with http://", sent=sent)
    if isinstance(error, ConnectionResetError) and address.startswith("http:"):
        return Unreachable(
            f"{address} closed the connection; a server with TLS has an address with https://", sent=sent
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"{address} did not answer within {timeout:g} s", sent=sent)
    what = "did not answer" if sent else "cannot be reached"
    return Unreachable(f"{address} {what}: {reason(error)}", sent=sent)


def _converse(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    content: bytes | None,
    headers: Mapping[str, str],
    keep: Callable[[http.client.HTTPConnection], None],
) -> Answer:
    """One exchange over an open connection, which is closed or kept afterwards."""
    kept = False
    try:
        connection.request(method, target, body=content, headers=dict(headers))
        response = connection.getresponse()
        raw = response.read(ANSWER_BYTES_MAX)
        answer_headers = {name.lower(): value for name, value in response.getheaders()}
        kept = response.isclosed() and not response.will_close
        return Answer(response.status, None, answer_headers, raw)
    finally:
        if kept:
            keep(connection)
        else:
            connection.close()


def loaded(content: bytes) -> Any:
    """JSON as it was written, digit by digit; None for anything else."""
    try:
        return loads(content) if content.strip() else None
    except (ValueError, RecursionError):
        return None


def _keeper(connections: Connections | None, address: str) -> Callable[[http.client.HTTPConnection], None]:
    return http.client.HTTPConnection.close if connections is None else partial(connections.keep, address)


def reason(error: Exception) -> str:
    """Why a connection failed, in the system's words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
    """The same with JSON both ways. Raises Unreachable, also when the answer is something else."""
    content = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | dict(headers or {})
    answer = request(address, method, path, content=content, headers=sent, timeout=timeout, context=context)
    try:
        return replace(answer, body=json.loads(answer.content) if answer.content else None)
    except ValueError as e:
        raise Unreachable(f"{address} answered something that is not JSON") from e
