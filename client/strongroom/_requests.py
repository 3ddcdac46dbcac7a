"""From one request of the user to its answer: which node, how often, and what is known when it does not work out."""

import math
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from strongroom._consistency import Consistency
from strongroom._effects import CLOSED, Answer, Failure, Pause, Program, Send, SendAll
from strongroom._endpoints import DOUBLINGS_MAX, Endpoint, Endpoints
from strongroom._errors import ConfigurationError, InvalidRequest, OutcomeUnknown, Unavailable, Unreachable

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
UNSURE = frozenset({500, 502, 504})  # of a write: it may have happened
ELSEWHERE = frozenset({500, 502, 503, 504})  # another node may serve
BEHIND = 412  # the node has not come as far as was asked for; another one may have
LATER = frozenset({BEHIND, 429})  # the node works; a little later, perhaps
HEALTH = "/v1/sys/health?standbyok=true&perfstandbyok=true"
PROBE_TIMEOUT_S = 1.0
READ_ATTEMPTS_MAX = 8
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0
RETRY_AFTER_MAX_S = 10.0
SHOWN_CHARACTERS_MAX = 200
REASONS_SHOWN_MAX = 9
HURRIED_S = 3.0
TARGET_CHARACTERS_MAX = 16_384  # no server takes more
PATH_SAFE = "/:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long somebody waits for an answer, and for what else it takes: a log-in, another call's turn.

    hurried: he has something else to go on with, so all endpoints are asked once, and within HURRIED_S. until: when
    all of it is over, by the client's clock.
    """

    hurried: bool = False
    until: float = math.inf

    def left_s(self, now: float) -> float | None:
        """Seconds; None: any number."""
        return None if self.until == math.inf else max(0.0, self.until - now)


PATIENT = Patience()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to /v1/`path`. request_id: the identity under which a write is applied at most once.

    repeatable: a repetition is answered as the first time. Of other writes the second may be refused because of the
    first (what it would make is there already). index: how far the node must have come by then.
    """

    method: str
    path: str
    body: Any = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    consistency: Consistency | None = None
    with_token: bool = True
    repeatable: bool = False
    index: Callable[[], str] | None = None
    patience: Patience = PATIENT
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def writes(self) -> bool:
        return self.method in WRITES

    @property
    def target(self) -> str:
        """Raises InvalidRequest: what is not sent, as HTTP libraries would make the path of something else of it."""
        problem = ""
        if not {".", ".."}.isdisjoint(self.path.split("/")):
            problem = 'a path has no segments "." and ".."'
        elif any("\ud800" <= each <= "\udfff" for each in self.path):
            problem = "a path has no halves of characters"
        target = "" if problem else self._quoted()
        if len(target) > TARGET_CHARACTERS_MAX:
            problem = f"the path is longer than {TARGET_CHARACTERS_MAX} characters"
        if problem:
            raise InvalidRequest(400, [problem], self.method, self.path[:SHOWN_CHARACTERS_MAX])
        return target

    def _quoted(self) -> str:
        path = f"/v1/{quote(self.path.strip('/'), safe=PATH_SAFE)}"
        return f"{path}?{urlencode(sorted(self.query.items()))}" if self.query else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how often. timeout_s: for a request with all its attempts; attempt_timeout_s: for one of them.

    attempts_max: how often each endpoint is asked; None: READ_ATTEMPTS_MAX for a read, and a write goes on until
    timeout_s.
    """

    timeout_s: float
    attempt_timeout_s: float
    attempts_max: int | None

    def rounds(self, ask: Ask) -> float:
        """How often all endpoints are asked."""
        if ask.patience.hurried:
            return 1
        if self.attempts_max is None:
            return float("inf") if ask.writes else READ_ATTEMPTS_MAX
        return self.attempts_max

    def deadline(self, ask: Ask, now: float) -> float:
        """For all attempts."""
        longest = min(self.timeout_s, HURRIED_S) if ask.patience.hurried else self.timeout_s
        return min(now + longest, ask.patience.until)


@dataclass(slots=True)
class _Tries:
    """What has become of one request so far."""

    tried: list[Endpoint] = field(default_factory=list)
    unsure: str = ""  # why a write may have happened
    refused: dict[str, str] = field(
        default_factory=dict
    )  # what nodes said last that cannot serve, by address
    unreached: dict[str, str] = field(default_factory=dict)  # why nodes could not be asked
    untrusted: int = 0  # how often that was its certificate


class Requests:
    """Sends requests to whichever endpoint serves. clock: monotonic seconds."""

    def __init__(self, endpoints: Endpoints, limits: Limits, clock: Callable[[], float]) -> None:
        self.endpoints = endpoints
        self._limits = limits
        self._clock = clock
        self.measured_elsewhere = False  # a task in the background looks after the round trips

    def send(self, ask: Ask, headers: Mapping[str, str]) -> Program[Answer]:
        """The answer, whatever its status, of a node that serves.

        Raises Unreachable, Unavailable, OutcomeUnknown; ConfigurationError if no endpoint has a certificate that is
        trusted; InvalidRequest.
        """
        tries, target = _Tries(), ask.target
        result: Answer | Failure = Failure("timeout_s was over before it was sent", sent=False)
        deadline = self._limits.deadline(ask, self._clock())
        rounds = 0
        while True:
            yield from self.measure_if_needed(deadline)
            now = self._clock()
            if now >= deadline:
                break
            endpoint = self.endpoints.choose(now, tries.tried)
            timeout = min(self._limits.attempt_timeout_s, deadline - now)
            sending = Send(endpoint.url + target, ask.method, self._headers(ask, headers), ask.body, timeout)
            result = yield sending
            if result is CLOSED:
                tries.unreached, tries.refused = {}, {}
                break
            if isinstance(result, Answer) and result.status not in ELSEWHERE | LATER:
                self.endpoints.worked(endpoint)
                self._settle(ask, tries, result)
                return result
            self._note(ask, tries, endpoint, result)
            if self._is_round(ask, tries, result):
                rounds += 1
                if isinstance(result, Failure) and tries.untrusted == len(tries.tried):
                    raise distrusted(endpoint, result)
            pause = self._pause(ask, tries, rounds, result)
            if rounds >= self._limits.rounds(ask) or self._clock() + pause >= deadline:
                break
            if pause and not (yield Pause(pause)):
                break
        if isinstance(result, Answer) and result.status in LATER | {500} and not tries.unsure:
            return result  # an answer about this request, not about the node
        raise self._failure(ask, tries, result.reason if isinstance(result, Failure) else "")

    @staticmethod
    def _headers(ask: Ask, headers: Mapping[str, str]) -> dict[str, str]:
        sent = {"X-Vault-Request": "true", **headers}
        if ask.writes:
            sent["X-Strongroom-Request-Id"] = ask.request_id
        if ask.method == "PATCH":
            sent["Content-Type"] = "application/merge-patch+json"
        if ask.index is not None and (index := ask.index()):
            sent["X-Vault-Index"] = index
        if ask.consistency is not None:
            sent["X-Strongroom-Consistency"] = ask.consistency.value
        return sent

    def _note(self, ask: Ask, tries: _Tries, endpoint: Endpoint, result: Answer | Failure) -> None:
        """Remember what an attempt that did not serve means, for the endpoint and for the write."""
        if isinstance(result, Failure):
            tries.unreached[endpoint.url] = result.reason
            tries.untrusted += result.untrusted
            if result.sent and ask.writes:
                tries.unsure = f"{endpoint.url}: {result.reason}"
        elif result.status in LATER:
            if _is_behind(ask, result):
                tries.tried.append(endpoint)
            return
        else:
            words = "; ".join(str(word) for word in _words(result.body)) or f"status {result.status}"
            tries.refused[endpoint.url] = words
            if result.status in UNSURE and ask.writes:
                tries.unsure = f"{endpoint.url}: {words}"
        tries.tried.append(endpoint)
        self.endpoints.failed(endpoint, self._clock())

    def _is_round(self, ask: Ask, tries: _Tries, result: Answer | Failure) -> bool:
        """Whether all endpoints have been asked equally often, or one has asked to wait."""
        later = isinstance(result, Answer) and result.status in LATER and not _is_behind(ask, result)
        return later or len(tries.tried) % len(self.endpoints.all) == 0

    def _pause(self, ask: Ask, tries: _Tries, rounds: int, result: Answer | Failure) -> float:
        """Seconds: none while there are nodes that were not asked; then ever more, and not all clients at once."""
        if not self._is_round(ask, tries, result):
            return 0.0
        if isinstance(result, Answer) and result.status in LATER:
            return min(_retry_after(result), RETRY_AFTER_MAX_S) * random.uniform(1.0, 1.2)  # noqa: S311
        longest: float = min(BACKOFF_MIN_S * 2 ** min(rounds, DOUBLINGS_MAX), BACKOFF_MAX_S)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311

    @staticmethod
    def _settle(ask: Ask, tries: _Tries, result: Answer) -> None:
        """A refusal settles what became of an earlier attempt only where nodes know it by its request id."""
        unsettled = result.status in (401, 403) or (result.status >= 300 and not ask.repeatable)
        if tries.unsure and unsettled:
            raise OutcomeUnknown(f"{ask.method} {ask.path}: {tries.unsure}", ask.request_id)

    @staticmethod
    def _failure(ask: Ask, tries: _Tries, reason: str) -> Exception:
        """`reason`: where no node was asked."""
        what = f"{ask.method} {ask.path}"
        if tries.unsure:
            return OutcomeUnknown(f"{what}: {tries.unsure}", ask.request_id)
        if tries.refused:
            return Unavailable(f"{what}: {_told(tries.unreached | tries.refused)}")
        return Unreachable(f"{what}: {_told(tries.unreached) or reason}")

    # --- round trips ---

    def measure_if_needed(self, deadline: float = math.inf) -> Program[None]:
        """Before the first request all endpoints are measured; later those that are due, unless another does it."""
        if self.measured_elsewhere and any(each.measured_at is not None for each in self.endpoints.all):
            return
        yield from self.measure(deadline)

    def measure(self, deadline: float = math.inf) -> Program[None]:
        """Ask the endpoints that are due how they are, all at once, and note how long that takes."""
        now = self._clock()
        due = self.endpoints.due(now)
        if not due or now >= deadline:
            return
        timeout_s = min(PROBE_TIMEOUT_S, deadline - now)
        for each in due:
            each.measured_at = now  # nobody else measures it meanwhile
        probes = tuple(Send(each.url + HEALTH, "GET", {}, None, timeout_s) for each in due)
        try:
            results: list[tuple[Answer | Failure, float]] = yield SendAll(probes)
        except GeneratorExit:  # whoever waited was cancelled
            for each in due:
                each.measured_at = None
            raise
        for each, (result, seconds) in zip(due, results, strict=True):
            well = isinstance(result, Answer) and result.status == 200
            self.endpoints.measured(each, seconds if well else None, self._clock())


def _told(reasons: Mapping[str, str]) -> str:
    """What is known of each endpoint, as far as an error has room for it."""
    shown = [f"{url}: {reason}" for url, reason in reasons.items()][:REASONS_SHOWN_MAX]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more endpoints" if more else "")


def distrusted(endpoint: Endpoint, failure: Failure) -> ConfigurationError:
    """What to raise where no endpoint has a certificate that is trusted."""
    return ConfigurationError(f"{endpoint.url}: {failure.reason}; ca_file= names the authority to trust")


def _is_behind(ask: Ask, answer: Answer) -> bool:
    """Whether another node may have come further. Of an index that is not there yet servers say 429."""
    return answer.status == BEHIND or (answer.status == 429 and ask.index is not None and bool(ask.index()))


def _words(body: Any) -> list[Any]:
    found = body.get("errors") if isinstance(body, dict) else None
    return found if isinstance(found, list) else []


def _retry_after(answer: Answer) -> float:
    told = answer.headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() else 1.0
