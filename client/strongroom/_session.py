"""The client's token: had by logging in, renewed before it ends, had anew when it cannot be renewed."""

from collections.abc import Callable, Mapping
from typing import Any

from strongroom._auth import Credentials, Token
from strongroom._effects import BUSY, Answer, Exclusive, Program
from strongroom._errors import ConfigurationError, OutcomeUnknown, Unavailable, Unreachable, api_error
from strongroom._requests import LATER, PATIENT, Ask, Patience, Requests

RENEW_AT = 2 / 3  # of its lifetime
LOGIN_BEFORE_END_S = 5.0  # a token that cannot be renewed is replaced so long before its end
TRY_AGAIN_S = 5.0
FORBIDDEN = "1 error occurred:\n\t* permission denied\n\n"
_LOGIN = "login"
AWAY = (Unavailable, Unreachable)


class Session:
    """One identity. Its programs run one at a time (Exclusive), so that a burst of calls logs in once."""

    def __init__(
        self,
        requests: Requests,
        credentials: Credentials | None,
        namespace: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._credentials = credentials
        self._namespace = _sendable("namespace", namespace) if namespace else None
        self._clock = clock
        self._token = _sendable("token", credentials.token) if isinstance(credentials, Token) else ""
        self._known = credentials is None  # whether its lifetime is known
        self._lifetime_s = 0.0  # 0: it does not end
        self._ends_at = 0.0
        self._renewable = False
        self._next_try_at = 0.0

    def __repr__(self) -> str:
        return f"<Session of {type(self._credentials).__name__}>"

    @property
    def can_log_in(self) -> bool:
        return self._credentials is not None and self._credentials.login() is not None

    def headers(self, *, with_token: bool = True) -> dict[str, str]:
        """What every request carries."""
        headers = {"X-Vault-Namespace": self._namespace} if self._namespace else {}
        if with_token and self._token:
            headers["X-Vault-Token"] = self._token
        return headers

    def due_in_s(self) -> float | None:
        """When the token should be looked after; None: never."""
        if self._credentials is None or (self._known and not self._lifetime_s):
            return None
        return max(0.0, max(self._next_due_at(), self._next_try_at) - self._clock())

    def _next_due_at(self) -> float:
        if not self._known:
            return 0.0
        if self._renewable:
            return self._ends_at - self._lifetime_s * (1 - RENEW_AT)
        return self._ends_at - LOGIN_BEFORE_END_S if self.can_log_in else float("inf")

    # --- programs ---

    def ready(self, patience: Patience = PATIENT) -> Program[None]:
        """A token that is good for some time, if there can be one. Raises ApiError if the login is refused."""
        if self.due_in_s() == 0.0:
            yield from self._alone(lambda: self._look_after(patience), patience)

    def replace(self, rejected: Mapping[str, str], patience: Patience = PATIENT) -> Program[None]:
        """Another token than the one in these headers."""

        def program() -> Program[None]:
            if self.headers() == rejected:
                yield from self._log_in(patience)

        yield from self._alone(program, patience)

    def is_rejected(self, headers: Mapping[str, str], patience: Patience = PATIENT) -> Program[bool]:
        """Whether the server does not know the token in these headers (any more)."""
        ask = Ask("GET", "auth/token/lookup-self", patience=patience)
        answer = yield from self._requests.send(ask, headers)
        return answer.status in (401, 403) and not _is_forbidden(answer)

    def log_out(self, patience: Patience = PATIENT) -> Program[None]:
        """Revoke the token. What was logged in for ends; a token that was given is revoked too."""
        # a login that is under way would leave a token behind
        yield from self._alone(lambda: self._log_out(patience), patience)

    def _alone(self, program: Callable[[], Program[None]], patience: Patience) -> Program[None]:
        """Raises Unreachable where its turn does not come in time."""
        outcome = yield Exclusive(_LOGIN, program, patience.left_s(self._clock()))
        if outcome is BUSY:
            raise Unreachable(f"waiting for a token: {BUSY.reason}")

    def _log_out(self, patience: Patience) -> Program[None]:
        if not self._token:
            return
        ask = Ask("POST", "auth/token/revoke-self", patience=patience)
        answer = yield from self._requests.send(ask, self.headers())
        if answer.status not in (200, 204, 403):
            raise api_error(answer.status, answer.body, ask.method, ask.path)
        self._token, self._known = "", True
        self._lifetime_s, self._credentials = 0.0, None

    def _look_after(self, patience: Patience) -> Program[None]:
        if self.due_in_s() != 0.0:
            return  # another call has done it meanwhile
        if not self._token:
            yield from self._log_in(patience)
        elif not self._known:
            yield from self._look_up(patience)
        else:
            yield from self._renew(patience)

    def _log_in(self, patience: Patience) -> Program[None]:
        login = self._credentials.login() if self._credentials is not None else None
        if login is None:
            return
        ask = Ask("PUT", login[0], body=login[1], with_token=False, patience=patience)
        answer = yield from self._first(ask, self.headers(with_token=False))
        auth = _auth(answer)
        if auth is None:
            raise api_error(answer.status, answer.body, ask.method, ask.path)
        self._token = _sendable("token", str(auth["client_token"]))
        self._take(auth.get("lease_duration"), auth.get("renewable"))

    def _first(self, ask: Ask, headers: Mapping[str, str]) -> Program[Answer]:
        """What has to be answered before a call is sent: of that one nothing is unknown, whatever became of this."""
        try:
            return (yield from self._requests.send(ask, headers))
        except OutcomeUnknown as error:
            raise Unreachable(f"no token could be had: {error}") from None

    def _look_up(self, patience: Patience) -> Program[None]:
        """How long a token that was given lives. A policy may keep that from it; then it is not renewed."""
        ask = Ask("GET", "auth/token/lookup-self", patience=patience)
        answer = yield from self._requests.send(ask, self.headers())
        if _says_nothing(answer):
            self._next_try_at = self._clock() + TRY_AGAIN_S
            return
        data = answer.body.get("data") if answer.status == 200 and isinstance(answer.body, dict) else None
        found = data if isinstance(data, dict) else {}
        self._take(found.get("ttl"), found.get("renewable"))

    def _renew(self, patience: Patience) -> Program[None]:
        try:
            if self._renewable:
                spare = Patience(hurried=self._clock() < self._ends_at, until=patience.until)
                ask = Ask("PUT", "auth/token/renew-self", body={}, patience=spare)
                answer = yield from self._first(ask, self.headers())
                if _says_nothing(answer) and self._clock() < self._ends_at:
                    self._next_try_at = self._clock() + TRY_AGAIN_S
                    return
                if (auth := _auth(answer)) is not None:
                    before = self._lifetime_s
                    self._take(auth.get("lease_duration"), auth.get("renewable"))
                    if self._lifetime_s >= before / 2 or not self.can_log_in:
                        self._lifetime_s = max(self._lifetime_s, 1.0)
                        return  # else it nears the end that no renewal can move: have another one
            yield from self._replace_or_forget(patience)
        except AWAY:
            self._next_try_at = self._clock() + TRY_AGAIN_S
            if self._clock() >= self._ends_at:
                raise

    def _replace_or_forget(self, patience: Patience) -> Program[None]:
        if self.can_log_in:
            yield from self._log_in(patience)
        else:
            self._renewable = False  # it lives to its end, and nothing can be done about that

    def _take(self, lifetime_s: Any, renewable: Any) -> None:
        self._known = True
        self._lifetime_s = float(lifetime_s) if isinstance(lifetime_s, int | float) else 0.0
        self._ends_at = self._clock() + self._lifetime_s
        self._renewable = bool(renewable)
        self._next_try_at = 0.0


def _sendable(what: str, value: str) -> str:
    """A value for a header; what cannot be one is refused here, before a library shows it in an error."""
    if not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"the {what} cannot be sent: it is not printable ASCII")
    return value


def _is_forbidden(answer: Answer) -> bool:
    """Whether policies refuse: of a token that servers do not know they do not say it like this."""
    told = answer.body.get("errors") if isinstance(answer.body, dict) else None
    return isinstance(told, list) and told == [FORBIDDEN]


def _says_nothing(answer: Answer) -> bool:
    """About the token: the server has too much to do, or an error of its own."""
    return answer.status in LATER or answer.status >= 500


def _auth(answer: Answer) -> Mapping[str, Any] | None:
    body = answer.body if answer.status == 200 and isinstance(answer.body, dict) else {}
    auth = body.get("auth")
    return auth if isinstance(auth, dict) and "client_token" in auth else None
