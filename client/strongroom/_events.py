"""What happens to secrets, as the servers tell it: one subscription, whichever node holds it, with nothing missed.

A subscription is held by one node at a time. When that node goes, or another one is nearer again, it goes on at
another with the cursor of what was heard last; a server that does not remember so far back says so with an event
whose `reread` is true.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from strongroom._effects import Answer, CloseStream, Failure, OpenStream, Pause, Program, ReadStream, Stream
from strongroom._endpoints import DOUBLINGS_MAX, Endpoint
from strongroom._errors import StrongroomError, api_error
from strongroom._requests import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    ELSEWHERE,
    LATER,
    Ask,
    distrusted,
)
from strongroom._session import AWAY

if TYPE_CHECKING:
    from strongroom._core import Core

PATH = "sys/events/subscribe"
SILENCE_MAX_S = 25.0  # the servers show themselves every ten seconds
OPEN_TIMEOUT_S = 10.0
DATA_BYTES_MAX = 1 << 20
REREAD = "sys/events/reread"
OF_THE_NODE = "this node"  # how reasons begin that send a client elsewhere


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a secret. cursor: where to go on behind it.

    reread: nothing in particular happened, but something may have that nobody can tell of any more: read again what
    you depend on.
    """

    id: str
    type: str
    operation: str
    path: str
    data_path: str
    mount: str
    time: str
    cursor: str
    reread: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        """The secret's name in its mount."""
        name = self.data_path.removeprefix(f"{self.mount}/")
        if self.type.startswith("kv-v2/"):
            name = name.partition("/")[2]
        return name


def event_of(document: Mapping[str, Any], cursor: str) -> Event:
    """From a CloudEvent."""
    data = document.get("data", {})
    metadata = data.get("event", {}).get("metadata", {})
    return Event(
        id=str(document.get("id", "")),
        type=str(document.get("type", "")),
        operation=str(metadata.get("operation", "")),
        path=str(metadata.get("path", "")),
        data_path=str(metadata.get("data_path", "")),
        mount=str(data.get("plugin_info", {}).get("mount_path", "")).strip("/"),
        time=str(document.get("time", "")),
        cursor=cursor,
        reread=document.get("type") == REREAD,
        metadata=metadata,
    )


def event_in(data: str, cursor: str) -> Event | None:
    """From the data of a server-sent event; None if it is no CloudEvent."""
    try:
        return event_of(json.loads(data), cursor)
    except (ValueError, AttributeError):
        return None


class Lines:
    """Server-sent events out of lines (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    cursor: of the last one that is complete, with data or without: what was cut in the middle was not heard.
    """

    def __init__(self) -> None:
        self.cursor = ""
        self.between = True  # two events
        self.beats = (
            0  # how often the server has said where it is, without an event: all before that was told
        )
        self._id = self._name = self._data = ""
        self._has_id = False

    def take(self, line: str) -> tuple[str, str] | None:
        """(name, data) of an event that this line completes."""
        self.between = not line
        if not line:
            name, data = self._name, self._data
            self.beats += self._has_id and not data
            self.cursor, self._name, self._data, self._has_id = self._id, "", "", False
            return (name, data) if data else None
        part, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if part == "id":
            self._id, self._has_id = value, True
        elif part == "event":
            self._name = value
        elif part == "data" and len(self._data) + len(value) <= DATA_BYTES_MAX:
            self._data += value
        return None


class Subscription:
    """One subscription, as programs."""

    def __init__(
        self,
        core: "Core",
        pattern: str,
        expression: str,
        after: str,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._core, self._pattern, self._expression = core, pattern, expression
        self._heard = heard  # called whenever the server shows itself
        self._stream: Stream | None = None
        self._endpoint: Endpoint | None = None
        self._lines = Lines()
        self._waiting: deque[Event] = deque()
        self._failures = 0
        self.cursor = after
        self.connected = False
        self._resumed = False  # with a cursor, which the server repeats before it tells what came after it

    @property
    def level(self) -> bool:
        """Whether nothing is on its way any more that happened before the server was come to."""
        return self.connected and self._lines.beats > self._resumed

    def next(self) -> Program[Event | None]:
        """The next event; None once the client is closed. Raises ApiError: the servers refuse it for good."""
        while not self._waiting:
            if self._stream is None and not (yield from self._connect()):
                return None
            yield from self._read()
        event = self._waiting.popleft()
        self.cursor = event.cursor
        return event

    def connect(self) -> Program[bool]:
        """Whether a server holds the subscription now; it is false only when the client is closed."""
        return self._stream is not None or (yield from self._connect())

    def begun(self) -> Program[bool]:
        """connect(), until `cursor` tells where the subscription begins: servers say so before anything else."""
        while not (self.cursor or self._waiting):
            if self._stream is None and not (yield from self._connect()):
                return False
            yield from self._read()
        return True

    def end(self) -> Program[None]:
        """Leave the server."""
        yield from self._leave()

    def _connect(self) -> Program[bool]:
        core, tried, untrusted = self._core, list[Endpoint](), 0
        while True:
            if not (yield Pause(0)):
                return False
            try:
                yield from core.session.ready()
                yield from core.requests.measure_if_needed()
                endpoint = core.endpoints.choose(core.now(), tried)
                headers = core.session.headers()
                answer = yield self._opening(endpoint, headers)
                if isinstance(answer, Stream):
                    core.endpoints.worked(endpoint)
                    self._stream, self._endpoint, self._lines = answer, endpoint, Lines()
                    self.connected, self._resumed = True, bool(self.cursor)
                    self._heard()
                    return True
                again = yield from self._refused(endpoint, answer, headers)
                if not again:
                    tried.append(endpoint)
                if isinstance(answer, Failure) and answer.untrusted:
                    untrusted += 1
                    if untrusted == len(tried) >= len(core.endpoints.all):
                        raise distrusted(endpoint, answer)
            except AWAY:
                again = True  # nobody can say now whether the token is good
            if again or len({id(each) for each in tried}) == len(core.endpoints.all):
                self._failures += 1
                longest = min(BACKOFF_MIN_S * 2 ** min(self._failures, DOUBLINGS_MAX), BACKOFF_MAX_S)
                yield Pause(longest * random.uniform(0.5, 1.0))  # noqa: S311

    def _opening(self, endpoint: Endpoint, headers: Mapping[str, str]) -> OpenStream:
        query = {"filter": self._expression} if self._expression else {}
        ask = Ask("GET", f"{PATH}/{self._pattern}", query=query)
        sent = {"X-Vault-Request": "true", "Accept": "text/event-stream", **headers}
        if self.cursor:
            sent["Last-Event-ID"] = self.cursor
        return OpenStream(endpoint.url + ask.target, sent, OPEN_TIMEOUT_S, SILENCE_MAX_S)

    def _refused(
        self, endpoint: Endpoint, answer: Answer | Failure, headers: Mapping[str, str]
    ) -> Program[bool]:
        """Whether to ask the same node again. Raises what no node would answer otherwise."""
        core = self._core
        if isinstance(answer, Failure) or answer.status in ELSEWHERE:
            core.endpoints.failed(endpoint, core.now())
            return False
        if answer.status in LATER:
            return not self.cursor  # a node that has not come as far says so, and another one may have
        if answer.status in (401, 403) and core.session.can_log_in:
            if core.session.headers() != headers:
                return True  # another call has mended it meanwhile
            if (yield from core.session.is_rejected(headers)):
                yield from core.session.replace(headers)
                return True
        raise api_error(answer.status, answer.body, "GET", PATH)

    def _read(self) -> Program[None]:
        assert self._stream is not None
        lines = yield ReadStream(self._stream)
        if isinstance(lines, Failure):
            yield from self._lost(blame=True)
            return
        self._heard()
        for line in lines:
            done = self._lines.take(line)
            if done is not None and done[0] == "end":
                yield from self._lost(blame=_reason(done[1]).startswith(OF_THE_NODE))
                return
            if done is not None:
                event = event_in(done[1], self._lines.cursor)
                if event is None:
                    yield from self._lost(blame=True)
                    return
                self._waiting.append(event)
        if not self._waiting and self._lines.between and self._lines.cursor:
            self.cursor = self._lines.cursor
            self._failures = 0
            yield from self._move_nearer()

    def _lost(self, *, blame: bool) -> Program[None]:
        core, endpoint = self._core, self._endpoint
        yield from self._leave()
        if endpoint is not None and blame:
            core.endpoints.failed(endpoint, core.now())

    def _move_nearer(self) -> Program[None]:
        """Another node is to be asked now: this one was only the second best when the subscription came to it."""
        if self._core.endpoints.choose(self._core.now()) is not self._endpoint:
            yield from self._leave()

    def _leave(self) -> Program[None]:
        stream, self._stream, self.connected = self._stream, None, False
        if stream is not None:
            yield CloseStream(stream)


def _reason(data: str) -> str:
    """Why a server ended the stream."""
    try:
        return str(json.loads(data)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""


class Push:
    """Keeps a cache in step: what is changed anywhere is dropped here."""

    AGAIN_S = 60.0  # where the servers refuse the subscription

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._subscription: Subscription | None = None
        self._heard_at = float("-inf")

    @property
    def is_up(self) -> bool:
        """Whether every change up to now has been heard of, or will be at once."""
        held = self._subscription
        return held is not None and held.level and self._core.now() - self._heard_at < SILENCE_MAX_S

    def forked(self) -> None:
        """Nobody listens here."""
        self._subscription = None

    def _note(self) -> None:
        self._heard_at = self._core.now()

    def run(self) -> Program[None]:
        """Until the client is closed."""
        cache = self._core.cache
        while True:
            held = self._subscription = Subscription(self._core, "kv*", "", "", self._note)
            try:
                if not (yield from held.connect()):
                    return
                cache.clear()
                if not (yield from held.begun()):
                    return
                cache.clear(
                    held.cursor
                )  # what changed before nobody will tell, and other nodes may be behind
                while (event := (yield from held.next())) is not None:
                    if event.reread:
                        cache.clear(event.cursor)
                    else:
                        cache.invalidate(event.mount, event.secret, event.cursor)
                return
            except StrongroomError:
                self._subscription = None
                if not (yield Pause(self.AGAIN_S)):
                    return
