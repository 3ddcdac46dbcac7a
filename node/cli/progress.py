"""Steps that take time, told as they happen: what is being done, a sign of life every second, how long it took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

SIGN_OF_LIFE_S = 1.0


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print `what`, a dot each second while the body runs, and the time it took."""
    click.echo(what, nl=False)
    done = threading.Event()

    def dots() -> None:
        while not done.wait(SIGN_OF_LIFE_S):
            click.echo(".", nl=False)

    started = time.monotonic()
    thread = threading.Thread(target=dots, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        _end(done, thread)
        click.echo(" failed")
        raise
    _end(done, thread)
    click.echo(f" {time.monotonic() - started:.1f} s")


def _end(done: threading.Event, thread: threading.Thread) -> None:
    done.set()
    thread.join()
