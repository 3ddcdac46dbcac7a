"""What the core asks of the world. The core is made of generators that yield these; a driver answers them.

So the retries, the fail-over, the logins and the cache are written once, and are the same for `Client` and
`AsyncClient`. A generator's code between two yields is never interrupted by another's: the drivers see to it.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """One HTTP request. Answered with an Answer or a Failure."""

    url: str
    method: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(default=None, repr=False)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SendAll:
    """Several at once. Answered with a list, in the same order, of Answer, Failure and the seconds that each took."""

    requests: tuple[Send, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds. Answered with True, or with False if the client was closed meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Run a program while no other of the same key runs. Answered with its result; what it raises is raised here.

    wait_s: for its turn, at most; then the answer is BUSY, and nothing was run. None: however long it takes.
    """

    key: Hashable
    program: "Callable[[], Program[Any]]"
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. body: its JSON, or None."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Nothing came back. sent: the request may have reached the server. untrusted: its certificate was refused."""

    reason: str
    sent: bool
    untrusted: bool = False


BUSY = Failure("other calls of this client have waited for an answer all the time", sent=False)
CLOSED = Failure("the client is closed", sent=False)  # the answer to everything from then on


@dataclass(frozen=True, slots=True)
class OpenStream:
    """An answer that goes on: a GET whose lines are read one after the other. Answered with a Stream, with an Answer
    (another status than 200) or with a Failure. silence_s: without a line for so long it counts as broken.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float = 30.0
    silence_s: float = 30.0


class Stream:
    """What a driver reads from; it belongs to one program."""


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Answered with a list of lines, at least one, or with a Failure: it has ended."""

    stream: Stream = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Answered with None."""

    stream: Stream = field(repr=False)


Effect = Send | SendAll | Pause | Exclusive | OpenStream | ReadStream | CloseStream
Program = Generator[Effect, Any, T]
