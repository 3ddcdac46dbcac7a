"""`strongroom events ...`: what happens to secrets, as it happens."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import click

from node.cli.client import Client
from node.cli.flags import DURATION, Group, flag
from node.cli.http_exchange import Unreachable
from node.cli.output import Output, RemoteError
from node.cli.paths import API_PATH
from node.cli.remote import Prints, remote
from node.cli.values import Duration

SILENCE_S = 25.0  # the server shows itself every ten
AGAIN_S = 1.0
ATTEMPTS_MAX = 30  # without a sign of the server
LATER = frozenset({429, 502, 503, 504})  # a node that starts is sealed for a moment


@click.group(cls=Group)
def events() -> None:
    """Listen to what happens to secrets."""


@events.command()
@click.argument("event_type", metavar="TYPE", type=API_PATH)
@flag("timeout", DURATION, help="End after this time.")
@flag("filter", help='Only events that an expression lets through: data_path == "secret/data/x".')
@flag("namespaces", help="The root namespace is the only one.")
@flag("after", help="Go on behind this cursor: vault_index of the last event that was heard.")
@remote(Prints.FORMATS)
def subscribe(
    client: Client,
    out: Output,
    event_type: str,
    timeout: Duration | None,
    filter: str | None,  # noqa: A002 - what the flag is called
    namespaces: str | None,
    after: str | None,
) -> int:
    """Print events of a TYPE (kv-v2/data-*) as they happen: a CloudEvent in JSON on every line.

    A broken connection is made again where it broke off, and nothing is missed.

    \b
    strongroom events subscribe 'kv-v2/data-write'
    """
    asked = {"filter": filter, "namespaces": namespaces}
    query = {name: value for name, value in asked.items() if value}
    tail = _Tail(client, f"sys/events/subscribe/{event_type}", query, after or "")
    for document in tail.documents(None if timeout is None else time.monotonic() + timeout.seconds):
        click.echo(document)
    return 0


@dataclass(slots=True)
class _Tail:
    """A subscription over as many connections as it takes."""

    client: Client
    path: str
    query: dict[str, str]
    cursor: str
    failures: int = 0  # since the server last showed itself
    last: bool = False  # the server has said that it is over

    def documents(self, deadline: float | None) -> Iterator[str]:
        """The data of events. Raises RemoteError when the server refuses, or is gone for good."""
        while True:
            query = dict(self.query)
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                query["timeout"] = f"{left:.3f}s"
            try:
                yield from self._one(query)
            except (Unreachable, RemoteError) as e:
                self.failures += 1
                is_away = isinstance(e, Unreachable) or e.status in LATER
                if not is_away or self.failures >= ATTEMPTS_MAX or not self.cursor:
                    raise RemoteError(str(e)) from e
            if self.last:
                return
            time.sleep(AGAIN_S)

    def _one(self, query: dict[str, str]) -> Iterator[str]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.cursor} if self.cursor else {})
        cursor = name = data = ""
        for line in self.client.lines(self.path, query, headers, silence_s=SILENCE_S):
            part, _, value = line.partition(": ")
            if part == "id":
                cursor = value
            elif part == "event":
                name = value
            elif part == "data":
                data = value
            elif not line:
                self.cursor, self.failures = cursor or self.cursor, 0
                if name == "end":
                    self.last = "time asked for" in data
                elif data:
                    yield data
                name = data = ""
