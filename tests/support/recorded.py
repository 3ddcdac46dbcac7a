"""Exchanges recorded from a real OpenBao: how they are kept, asked again, and compared.

tests/recorded/GROUP.json holds steps in order: a request, and the status and body of the answer with everything
that differs from run to run (ids, times, tokens, keys) replaced by a mark. A step may `save` parts of its answer
under names that later steps use as ${name}. differences.json names what is different here on purpose, and why.

    cd tests && ../.venv/bin/python -m support.recorded           asks a real OpenBao again and rewrites the answers
    cd tests && ../.venv/bin/python -m support.recorded document  writes docs/differences.md
"""

import fnmatch
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import poll
from support.targets import BAO, Target, poll_until_answer

FOLDER = Path(__file__).parent.parent / "recorded"
DIFFERENCES = FOLDER / "differences.json"
COMMANDS = FOLDER / "cli" / "differences.json"  # of support/recorded_cli.py
DOCUMENT = FOLDER.parent.parent / "docs" / "differences.md"
FRESH = frozenset({"lifecycle"})  # asked of a server of their own, which has no store yet
RETRY_S = 30.0  # for steps that wait for a mount to come up

Step = dict[str, Any]
Answer = tuple[int, Any]

_PATTERNS = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"(?!0001)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"(s|b|hvs|hvb)\.[A-Za-z0-9_-]{20,}"), "<token>"),
    (re.compile(r"[A-Za-z0-9]{24}"), "<id>"),
    (re.compile(r"([0-9a-f]{2}:){7,}[0-9a-f]{2}"), "<serial>"),
    (re.compile(r"v?\d+\.\d+\.\d+(-\w+)?(\+builtin(\.bao)?|\+strongroom\.[\d.]+)?"), "<version>"),
)
_MASKED = frozenset({"request_id", "migration_id", "cluster_name", "public_key", "build_date", "commit_date"})
_REMAINING = frozenset({"ttl", "lease_duration"})
_UNIX = range(1_600_000_000, 2_000_000_000)


def groups(folder: Path = FOLDER) -> list[str]:
    """The names of the recordings."""
    return sorted(path.stem for path in folder.glob("*.json") if path.name != DIFFERENCES.name)


def steps(group: str, folder: Path = FOLDER) -> list[Step]:
    found: list[Step] = json.loads((folder / f"{group}.json").read_text())
    return found


def differences() -> list[dict[str, str]]:
    """[{"step": "group/name" with *, "at": a place in the answer with *, "reason"}]."""
    found: list[dict[str, str]] = json.loads(DIFFERENCES.read_text())
    return found


# --- asking ---


class Session:
    """One run of a group against one server."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._names: dict[str, str] = {}
        self._http = requests.Session()
        self._http.verify = str(target.ca) if target.ca is not None else True

    def ask(self, step: Step) -> Answer:
        """Send a step's request; its answer as it is kept."""
        deadline = time.monotonic() + (RETRY_S if step.get("retry") else 0)
        while True:
            response = self._send(step)
            if response.status_code < 400 or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        body = _parsed(response)
        for name, place in step.get("save", {}).items():
            self._names[name] = str(at_place(body, place))
        return response.status_code, normal(body, masked=frozenset(step.get("mask", ())))

    def _send(self, step: Step) -> requests.Response:
        token = self._filled(step.get("token", self._target.token))
        headers = {"X-Vault-Token": token} if token else {}
        headers |= {name: self._filled(value) for name, value in step.get("headers", {}).items()}
        body = step.get("body")
        data = (
            None
            if body is None
            else self._filled(body if isinstance(body, str) else json.dumps(body)).encode()
        )
        url = f"{self._target.address}/v1/{self._filled(step['path'])}"
        return self._http.request(
            step["method"], url, headers=headers, data=data, timeout=60, allow_redirects=False
        )

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: self._names[match[1]], text)

    def close(self) -> None:
        self._http.close()


def _parsed(response: requests.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        return response.content.decode("utf-8", "replace")


def at_place(body: Any, place: str) -> Any:
    """What is at "name.0.name" of an answer. Raises LookupError, or TypeError where nothing can be inside."""
    for name in place.split("."):
        body = body[int(name) if isinstance(body, list) else name]
    return body


# --- comparing ---


def normal(value: Any, key: str = "", *, masked: frozenset[str] = frozenset()) -> Any:
    """An answer with a mark in the place of what no two runs share."""
    if isinstance(value, dict):
        return {name: normal(item, name, masked=masked) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [normal(item, key, masked=masked) for item in value]
    if key in masked and value not in ("", None):
        return f"<{key}>"
    if isinstance(value, str):
        return _normal_text(value, key)
    if isinstance(value, int) and not isinstance(value, bool):
        if value in _UNIX:
            return "<unix>"
        if key in _REMAINING:
            step = 60 if value <= 600 else 600  # the time that a run takes does not count
            return -(-value // step) * step
    return value


def _normal_text(text: str, key: str) -> str:
    if key in _MASKED and text:
        return f"<{key}>"
    for pattern, mark in _PATTERNS:
        if pattern.fullmatch(text):
            return mark
    text = re.sub(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", r"<pem \1>", text, flags=re.DOTALL)
    text = re.sub(r"vault:v(\d+):[A-Za-z0-9+/=_-]+", r"<vault:v\1>", text)
    text = re.sub(r"(?<=[a-z]_)[0-9a-f]{8}\b", "<hex>", text)
    return re.sub(r"(?<=/)[A-Za-z0-9]{24}\b", "<id>", text)


def compare(expected: Any, found: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each place where two answers differ, with what is in it; a missing member is "<none>"."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted({*expected, *found}):
            yield from compare(expected.get(name, "<none>"), found.get(name, "<none>"), f"{at}.{name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from compare(one, other, f"{at}[{number}]")
    elif expected != found or type(expected) is not type(found):
        yield at or ".", expected, found


def is_meant(difference: dict[str, str], step: str, at: str) -> bool:
    """Whether a difference covers a place in a step's answer."""
    steps_meant, places = difference["step"], difference["at"]
    return fnmatch.fnmatchcase(step, steps_meant) and any(
        fnmatch.fnmatchcase(at, each) for each in places.split()
    )


# --- recording ---


@contextmanager
def openbao(*, token: str, dev: bool) -> Iterator[Target]:
    """A real OpenBao: in development mode, or in memory with nothing initialised."""
    with tempfile.TemporaryDirectory() as folder:
        target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", token, Path(folder), real=True)
        flags = [f"-config={fresh_configuration(target)}"]
        if dev:
            flags = ["-dev", f"-dev-root-token-id={token}", "-dev-no-store-token"]
            flags.append(f"-dev-listen-address={target.address[7:]}")
        with (target.home / "server.log").open("wb") as log:
            command = [str(BAO), "server", *flags]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=target.environment(""))
        client = target.client()
        try:
            poll(lambda: poll_until_answer(client), what="an answer of OpenBao")
            yield target
        finally:
            client.adapter.close()
            process.kill()
            process.wait(PATIENCE_S)


def record(wanted: set[str], *, token: str, dev: bool) -> None:
    """Ask every step of these groups of a real OpenBao of their own, and keep what is answered."""
    with openbao(token=token, dev=dev) as target:
        for group in sorted(wanted):
            _record(group, target)


def fresh_configuration(target: Target) -> Path:
    """Of a server in memory that nobody has initialised."""
    path = target.home / "server.json"
    listener = {"address": target.address[7:], "tls_disable": True}
    path.write_text(json.dumps({"storage": {"inmem": {}}, "listener": {"tcp": listener}}))
    return path


def _record(group: str, target: Target) -> None:
    session = Session(target)
    answered = [
        step | dict(zip(("status", "answer"), session.ask(step), strict=True)) for step in steps(group)
    ]
    session.close()
    write(group, answered, FOLDER)


def write(group: str, answered: list[Step], folder: Path) -> None:
    """One step a line, so that a change of one is a change of one line."""
    lines = ",\n".join(json.dumps(step, ensure_ascii=False) for step in answered)
    (folder / f"{group}.json").write_text(f"[\n{lines}\n]\n")
    print(f"{group}: {len(answered)} steps")


def document() -> str:
    """docs/differences.md."""
    lines = [
        "# Differences from OpenBao",
        "",
        "Recorded exchanges with a real OpenBao are asked again here, and the answers compared, member by member.",
        "These differ on purpose (`tests/recorded/differences.json`). A test fails on any other, and on one that is",
        "none any more.",
        "",
        *_table(differences()),
        "",
        "## Commands",
        "Commands that were run with `bao` at a real OpenBao are run here with `bao` and with `strongroom`, and exit",
        "codes and all that is printed compared (`tests/recorded/cli/differences.json`); how `strongroom` complains is",
        "its own.",
        "",
        *_table(json.loads(COMMANDS.read_text())),
    ]
    return "\n".join(lines) + "\n"


def _table(listed: list[dict[str, str]]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for each in listed:
        only = f" ({each['command']} only)" if "command" in each else ""
        reasons.setdefault(each["reason"], []).append(f"`{each['step']}`{only}")
    rows = [f"| {', '.join(dict.fromkeys(places))} | {reason} |" for reason, places in reasons.items()]
    return ["| where | reason |", "| --- | --- |", *rows]


def main() -> None:
    if sys.argv[1:] == ["document"]:
        DOCUMENT.write_text(document())
        return
    record({each for each in groups() if each not in FRESH}, token="root-of-the-recording", dev=True)
    for group in sorted(FRESH):
        record({group}, token="", dev=False)


if __name__ == "__main__":
    main()
