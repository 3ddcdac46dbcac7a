"""One client's parts, put together: requests, session, cache. All of it is programs (see _effects)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom._auth import Credentials
from strongroom._cache import Cache, Store
from strongroom._consistency import STALE_OK, Consistency
from strongroom._effects import Answer, Pause, Program
from strongroom._endpoints import Endpoints
from strongroom._errors import ConfigurationError, StrongroomError, api_error
from strongroom._events import Push
from strongroom._requests import Ask, Limits, Patience, Requests
from strongroom._session import Session

TIMEOUT_S_MAX = 200.0  # below the four minutes for which a cluster remembers a write's request id
DISCOVER_EVERY_S = 60.0
REGIONS = "sys/regions"
UPKEEP_EVERY_S = 2.0  # who failed and is to be measured again is looked for so often
UPKEEP_AFTER_TROUBLE_S = 5.0
UPKEEP_MIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a client is told. Suffixes are units."""

    endpoints: Sequence[str]
    auth: Credentials | None = field(default=None, repr=False)
    namespace: str | None = None
    consistency: Consistency | None = None
    cache: Cache | None = None
    discover: bool = False
    timeout_s: float = 30.0
    attempt_timeout_s: float = 10.0
    attempts_max: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= TIMEOUT_S_MAX or self.attempt_timeout_s <= 0 or self.attempts_max == 0:
            raise ConfigurationError(
                f"timeout_s is more than 0 and at most {TIMEOUT_S_MAX:g}, attempt_timeout_s more than 0, "
                "attempts_max at least 1"
            )


class Core:
    """What `Client` and `AsyncClient` have in common: everything but waiting."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        limits = Limits(
            timeout_s=settings.timeout_s,
            attempt_timeout_s=settings.attempt_timeout_s,
            attempts_max=settings.attempts_max,
        )
        self.endpoints = Endpoints(settings.endpoints)
        self.requests = Requests(self.endpoints, limits, clock)
        self.session = Session(self.requests, settings.auth, settings.namespace, clock)
        self.cache = Store(settings.cache, clock)
        self.push = Push(self)
        self.cache.is_up = lambda: self.push.is_up
        self._pushes = settings.cache is not None and settings.cache.push
        self._consistency = settings.consistency
        self._timeout_s = settings.timeout_s
        self._clock = clock
        self._discover_at = clock() if settings.discover else float("inf")

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def patience(self) -> Patience:
        """Of a call that begins now."""
        return Patience(until=self._clock() + self._timeout_s)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        consistency: Consistency | None = None,
        repeatable: bool = False,
        index: Callable[[], str] | None = None,
        patience: Patience | None = None,
    ) -> Program[Any]:
        """The JSON of a successful answer (None if it was empty). Raises StrongroomError.

        patience: of the call that this is a part of; None: it is the whole call.
        """
        patience = patience or self.patience()
        wanted = (consistency or self._consistency) if method == "GET" else None
        ask = Ask(
            method, path, body, query or {}, wanted, repeatable=repeatable, index=index, patience=patience
        )
        yield from self.session.ready(patience)
        yield from self._discover_if_due(patience.until)
        headers = self.session.headers()
        answer = yield from self.requests.send(ask, headers)
        if answer.status in (401, 403) and self.session.can_log_in:
            answer = yield from self._again_if_token_ended(ask, headers, answer)
        if answer.status >= 300:
            raise api_error(answer.status, answer.body, method, path)
        return answer.body

    def _again_if_token_ended(self, ask: Ask, refused: Mapping[str, str], refusal: Answer) -> Program[Answer]:
        """A refusal because of the policies stays one; one because the token that was sent is gone is mended."""
        if self.session.headers() == refused:  # else another call has mended it meanwhile
            if not (yield from self.session.is_rejected(refused, ask.patience)):
                return refusal
            yield from self.session.replace(refused, ask.patience)
        return (yield from self.requests.send(ask, self.session.headers()))

    def log_out(self) -> Program[None]:
        """Revoke the token. Raises StrongroomError."""
        yield from self.session.log_out(self.patience())

    def _discover_if_due(self, until: float) -> Program[None]:
        """Learn where the other regions are. Who may not read that, or finds nobody, goes on with what is known."""
        if self._clock() < self._discover_at:
            return
        self._discover_at = self._clock() + DISCOVER_EVERY_S  # nobody else asks meanwhile
        try:
            answer = yield from self.requests.send(
                Ask("GET", REGIONS, consistency=STALE_OK, patience=Patience(hurried=True, until=until)),
                self.session.headers(),
            )
        except StrongroomError:
            return
        data = answer.body.get("data") if answer.status == 200 and isinstance(answer.body, dict) else None
        regions = data.get("regions") if isinstance(data, dict) else None
        if not isinstance(regions, list):
            return
        told = [each.get("endpoints") for each in regions if isinstance(each, dict)]
        urls = [str(url) for each in told if isinstance(each, list) for url in each]
        if urls:  # else it is none of several regions, or one that has left them
            self.endpoints.told(urls)

    def forked(self) -> None:
        """In a child of this process: what runs in the parent's threads does not run here."""
        self.requests.measured_elsewhere = False
        self.push.forked()

    def in_the_background(self) -> Iterator[tuple[str, Program[None]]]:
        """What runs until the client is closed, and what its thread or task is called."""
        yield "strongroom-upkeep", self.upkeep()
        if self._pushes:
            yield "strongroom-push", self.push.run()

    def upkeep(self) -> Program[None]:
        """Until the client is closed: measure endpoints and renew the token, so that no call waits for that."""
        self.requests.measured_elsewhere = True
        while True:
            pause = UPKEEP_EVERY_S
            try:
                yield from self.requests.measure()
                yield from self.session.ready(Patience(hurried=True))
                yield from self._discover_if_due(math.inf)
                due = self.session.due_in_s()
                pause = pause if due is None else min(pause, max(due, UPKEEP_MIN_S))
            except StrongroomError:
                pause = UPKEEP_AFTER_TROUBLE_S  # the next call of the user meets it too, and tells it
            if not (yield Pause(pause)):
                return
