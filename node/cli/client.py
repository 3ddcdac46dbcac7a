"""A small client of the HTTP API from the standard library: what the commands speak to servers with.

Starting a command must cost little, so no third-party HTTP library is loaded here.
"""

import http.client
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from node.cli.dry_run import DryRun, policy
from node.cli.http_connection import Connections, Proxies, open_connection
from node.cli.http_exchange import (
    ANSWER_BYTES_MAX,
    TIMEOUT_S,
    WRITES,
    Answer,
    Unreachable,
    connect,
    loaded,
    reason,
    request,
)
from node.cli.output import LocalError, RemoteError
from node.cli.values import Duration, dumps

LINE_BYTES_MAX = 1024 * 1024
RETRY_WAIT_MIN_S = 1.0
RETRY_WAIT_MAX_S = 1.5
REDIRECTS = frozenset({301, 302, 307, 308})
MAY_BE_DONE = frozenset({500, 502, 504})
_NOT_KNOWN = " Whether the write was made is not known."
_BY_POLICY = "1 error occurred:\n\t* permission denied"  # a token that is not valid is refused in other words
PATH_SAFE = "/:@!$&'()*+,;=~-._"


def payload(body: Any) -> dict[str, Any]:
    """What an answer is about, with the envelope around it or without."""
    found = body.get("data", body) if isinstance(body, dict) else None
    return found if isinstance(found, dict) else {}


def needed(body: Any, *keys: str) -> Any:
    """What an answer must hold at a place, or it is not the answer of such a server. Raises RemoteError."""
    for key in keys:
        if not isinstance(body, dict) or key not in body:
            raise RemoteError(f'The answer has no "{key}": this is not the server that was expected.')
        body = body[key]
    return body


@dataclass(frozen=True, slots=True)
class Client:
    """One server, and how to speak to it, as the flags and the environment say."""

    address: str
    context: ssl.SSLContext | None = None
    token: str | None = field(default=None, repr=False)
    namespace: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    wrap_ttl: Duration | None = None
    timeout: float = TIMEOUT_S
    retries: int = 0
    rate_interval_s: float = 0.0
    redirects: bool = True
    server_name: str | None = None
    proxies: Proxies | None = None
    connections: Connections | None = field(default=None, repr=False)
    dry_run: DryRun | None = None
    interactive: bool = True

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        with_token: bool = True,
        timeout: float | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """One request to /v1/`path`, with what it takes to get its answer: one redirect, retries if wanted.

        Raises RemoteError when there is no answer, and DryRun's exception instead of sending when it is on.
        """
        headers = self._headers(method, with_token=with_token)
        if content is None and (body is not None or method in {"POST", "PUT", "PATCH"}):
            content = b"" if body is None else dumps(body, indent=None).encode()
        target = f"/v1/{quote(path.lstrip('/'), safe=PATH_SAFE)}{_asked(query)}"
        if self.dry_run is not None:
            self.dry_run.show(method, self.address, target, headers, content)
        if method in WRITES:
            # a retry is the same write, not another; bytes of the system's, for `secrets` is slow to load
            headers["X-Strongroom-Request-Id"] = os.urandom(16).hex()
        return self._with_retries(method, target, content, headers, timeout or self.timeout)

    def lines(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], *, silence_s: float
    ) -> Iterator[str]:
        """The lines of an answer that goes on, as they come; without one for `silence_s` it counts as broken.

        Raises RemoteError if the server refuses, Unreachable if there is no answer, or it breaks off.
        """
        sent = {**self._headers("GET", with_token=True), **headers}
        target = f"/v1/{quote(path, safe=PATH_SAFE)}{_asked(query)}"
        if self.dry_run is not None:
            self.dry_run.show("GET", self.address, target, sent, None)
        connection, target = open_connection(
            self.address,
            target,
            timeout=silence_s,
            context=self.context,
            server_name=self.server_name,
            proxies=self.proxies,
        )
        try:
            connect(connection, self.address, silence_s)
            connection.request("GET", target, headers=sent)
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                raw = response.read(ANSWER_BYTES_MAX)
                self.checked(Answer(response.status, loaded(raw), {}, raw), "GET", path)
            while line := response.readline(LINE_BYTES_MAX):
                yield line.decode("utf-8", "replace").rstrip("\r\n")
        except (OSError, http.client.HTTPException) as e:
            raise Unreachable(f"{self.address} does not answer any more: {reason(e)}") from e
        finally:
            connection.close()

    def _headers(self, method: str, *, with_token: bool) -> dict[str, str]:
        headers = {"X-Vault-Request": "true", **self.headers}
        if with_token and self.token:
            headers["X-Vault-Token"] = self.token
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        if self.wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = str(self.wrap_ttl)
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        for name, value in headers.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise LocalError(
                    f"The value for the header {name} cannot be sent: it is not printable ASCII."
                )
        return headers

    def _with_retries(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str], timeout: float
    ) -> Answer:
        unsure = (
            False  # whether an attempt of a write was sent and not answered, or answered that it may be done
        )
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(RETRY_WAIT_MIN_S * 2 ** (attempt - 1), RETRY_WAIT_MAX_S))
            elif self.rate_interval_s:
                time.sleep(self.rate_interval_s)
            last = attempt == self.retries
            try:
                answer = self._follow(method, target, content, headers, timeout)
            except Unreachable as e:
                unsure = unsure or (e.sent and method in WRITES)
                if last:
                    raise RemoteError(f"{e}.{_NOT_KNOWN if unsure else ''}") from e
                continue
            if last or not _worth_a_retry(answer.status):
                if unsure and answer.status >= 300:  # it may be refused because it was made
                    raise RemoteError(
                        f"{self.address} answered {answer.status}: {answer.errors}.{_NOT_KNOWN}"
                    )
                return answer
            unsure = unsure or (answer.status in MAY_BE_DONE and method in WRITES)
        raise AssertionError("the last attempt returns or raises")

    def _follow(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str], timeout: float
    ) -> Answer:
        answer = self._once(self.address, method, target, content, headers, timeout)
        moved = urlsplit(answer.headers.get("location", ""))
        safe = moved.scheme == "https" or moved.scheme == urlsplit(self.address).scheme
        if not self.redirects or answer.status not in REDIRECTS or not moved.netloc or not safe:
            return answer
        path = f"{moved.path}?{moved.query}" if moved.query else moved.path
        return self._once(f"{moved.scheme}://{moved.netloc}", method, path, content, headers, timeout)

    def _once(
        self,
        address: str,
        method: str,
        target: str,
        content: bytes | None,
        headers: dict[str, str],
        timeout: float,
    ) -> Answer:
        answer = request(
            address,
            method,
            target,
            content=content,
            headers=headers,
            timeout=timeout,
            context=self.context,
            server_name=self.server_name,
            proxies=self.proxies,
            connections=self.connections,
        )
        return replace(answer, body=loaded(answer.content))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        doing: str = "",
        query: Mapping[str, Any] | None = None,
        with_token: bool = True,
    ) -> Any:
        """The JSON of a successful answer (None if empty). Raises RemoteError in the server's own words.

        `doing` goes before them: "Error reading secret/a".
        """
        try:
            answer = self.send(method, path, body, query=query, with_token=with_token)
        except RemoteError as e:
            raise (RemoteError(f"{doing}: {e}") if doing else e) from e
        return self.checked(answer, method, path, doing=doing, query=query)

    def checked(
        self,
        answer: Answer,
        method: str,
        path: str,
        *,
        doing: str = "",
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """The JSON of an answer that is a success. Raises RemoteError."""
        prefix = f"{doing}: " if doing else ""
        if answer.status >= 300:
            url = f"{self.address}/v1/{path.lstrip('/')}{_asked(query)}"
            raise RemoteError(prefix + self._refusal(answer, f"{method} {url}"), status=answer.status)
        if answer.body is None and answer.content.strip():
            raise RemoteError(
                f"{prefix}{self.address} answered something that is not JSON.", status=answer.status
            )
        if not _is_answer(answer.body):
            raise RemoteError(f"{prefix}{self.address} answered something that such servers do not.")
        return answer.body

    def _refusal(self, answer: Answer, what: str) -> str:
        """A refusal in the shape in which Vault's own tools print it."""
        namespace = f"Namespace: {self.namespace}\n" if self.namespace else ""
        head = f"Error making API request.\n\n{namespace}URL: {what}\nCode: {answer.status}."
        if isinstance(answer.body, dict) and "errors" in answer.body:
            told = "".join(f"* {error}\n" for error in answer.told)
            return f"{head} Errors:\n\n{told}{self._hint(answer, what)}".removesuffix("\n")
        return f"{head} Raw Message:\n\n{answer.content.decode('utf-8', 'replace')}"

    def _hint(self, answer: Answer, what: str) -> str:
        """What the policies would have to allow, where it is they that refuse."""
        if answer.status != 403 or not any(_BY_POLICY in str(error) for error in answer.told):
            return ""
        method, _, url = what.partition(" ")
        needed_policy = policy(method, url.removeprefix(self.address))
        return f"\nA policy of the token would have to say:\n\n{needed_policy}\n"

    def read(
        self, path: str, *, query: Mapping[str, Any] | None = None, doing: str = ""
    ) -> dict[str, Any] | None:
        """The whole answer to a GET; None where nothing is. A deleted version is an answer. Raises RemoteError."""
        try:
            answer = self.send("GET", path, query=query)
        except RemoteError as e:
            raise (RemoteError(f"{doing}: {e}") if doing else e) from e
        if answer.status == 404:
            found = answer.body if isinstance(answer.body, dict) else {}
            return found if found.get("data") or found.get("warnings") else None
        body = self.checked(answer, "GET", path, doing=doing, query=query)
        return body if isinstance(body, dict) else None

    def live(self) -> "Client":
        """The same, sending also when commands are to be shown only."""
        return replace(self, dry_run=None, wrap_ttl=None)


def _asked(query: Mapping[str, Any] | None) -> str:
    """The query of a URL; a list is its name several times."""
    return f"?{urlencode(sorted(query.items()), doseq=True)}" if query else ""


def _is_answer(body: Any) -> bool:
    """Whether the parts of an envelope, as far as they are there, are what they are for all servers."""
    if not isinstance(body, dict):
        return body is None
    return all(isinstance(body.get(part), dict | None) for part in ("data", "auth", "wrap_info"))


def _worth_a_retry(status: int) -> bool:
    return status == 412 or (status >= 500 and status != 501)
