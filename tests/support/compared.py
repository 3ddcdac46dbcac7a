"""Requests that are asked of a real OpenBao and of our server side by side; what differs is printed.

    cd tests && ../.venv/bin/python -m support.compared STEPS.json...

A file holds steps as tests/recorded/GROUP.json does, without answers: {"name", "method", "path"} and, where wanted,
"body", "headers", "token" ("" for none), "save", "mask", "retry". A step {"wait": SECONDS} lets time pass. Both servers
are new and in development mode. Ends with 1 if anything differs. Made for long tables of odd requests, of which those
that are worth it become recordings.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support import recorded
from support.ports import free_ports
from support.processes import Server
from support.recorded import Answer, Session, Step
from support.targets import Target

ROOT = "root-of-the-comparison"
SHOWN_CHARACTERS_MAX = 300


@contextmanager
def ours(home: Path) -> Iterator[Target]:
    """Our server in development mode."""
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", ROOT, home)
    flags = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}"]
    with Server(home, *flags, f"-dev-listen-address={target.address[7:]}", address=target.address) as server:
        server.start()
        server.wait_health(200)
        yield target


def answers(target: Target, steps: Sequence[Step]) -> list[Answer]:
    """What one server says. A step whose answer lacks what it saves, or that needs what was not saved, has status 0."""
    session, found = Session(target), []
    try:
        for step in steps:
            if "wait" in step:
                time.sleep(step["wait"])
                found.append((0, None))
                continue
            try:
                found.append(session.ask(step))
            except LookupError as error:
                found.append((0, f"nothing saved: {error}"))
    finally:
        session.close()
    return found


def compared(steps: Sequence[Step]) -> Iterator[str]:
    """A line for every place of every answer that differs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        recorded.openbao(token=ROOT, dev=True) as real,
        ours(Path(folder)) as target,
        ThreadPoolExecutor(2) as pool,
    ):
        theirs, our = pool.map(lambda each: answers(each, steps), (real, target))
    for step, (status, answer), (our_status, our_answer) in zip(steps, theirs, our, strict=True):
        found = [("status", status, our_status)] if status != our_status else []
        for at, said, here in (*found, *recorded.compare(answer, our_answer)):
            told = (json.dumps(each, ensure_ascii=False)[:SHOWN_CHARACTERS_MAX] for each in (said, here))
            yield f"{step['name']} at {at}: OpenBao {next(told)}, here {next(told)}"


def main(files: Sequence[str]) -> int:
    differing = 0
    for file in files:
        steps: list[Step] = json.loads(Path(file).read_text())
        lines = list(compared(steps))
        differing += len(lines)
        print(*lines, f"{file}: {len(steps)} steps, {len(lines)} differences", sep="\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
