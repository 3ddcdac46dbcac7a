"""Commands that were run with the real `bao` at a real OpenBao: how they are kept, run again, and compared.

tests/recorded/cli/GROUP.json holds steps in order: a command line, and the exit code, what was printed and what was
complained of, with marks in the place of everything that differs from run to run. A step may `save` parts of what is
printed under names that later steps use as ${name}; of one that says `"only": "code"` nothing else is kept.
differences.json beside them names what is different here on purpose, and why.

    cd tests && ../.venv/bin/python -m support.recorded_cli   runs them at a real OpenBao again and rewrites the results
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support import recorded
from support.recorded import Step
from support.targets import BAO, Bao, Target

FOLDER = recorded.FOLDER / "cli"
DIFFERENCES = recorded.COMMANDS
FRESH = frozenset({"lifecycle"})  # run at a server of their own, which has no store yet
NAMED_LENGTH_MIN = 8  # shorter values may be part of anything
ROOT = "root-of-the-recording"

Run = Callable[[list[str], str | None, str], tuple[int, str, str]]
"""(arguments, standard input, token or "") -> (exit code, standard output, standard error)"""

DOCUMENT = '{"text": "a\\nb", "n": 1.50, "big": 12345678901234567890, "deep": {"l": [1, null, true, "<&>"]}, "ttl": 90}'
POLICY = 'path "kvx/*" {\ncapabilities = ["read"]\n}\n'

_ADDRESS = re.compile(r"https?://127\.0\.0\.1:\d+")
_COUNTED = frozenset({"encryptions"})
_NAMES_OF_THE_RUN = frozenset({"cluster_name", "Cluster Name", "encryptions"})
_MARKS = (
    (re.compile(r"vault:v(\d+):[A-Za-z0-9+/=_-]+"), r"<vault:v\1>"),  # before ids: parts of it look like some
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)"), "<time>"),
    (re.compile(r"\d\d? \w{3} \d\d \d\d:\d\d UTC"), "<time>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b(s|b|hvs|hvb)\.[A-Za-z0-9_-]{20,}"), "<token>"),
    (re.compile(r"\b[A-Za-z0-9]{24}\b"), "<id>"),
    (re.compile(r"(?<=[a-z]_)[0-9a-f]{8}\b"), "<hex>"),
    (re.compile(r"\b(vault|strongroom)-cluster-[0-9a-f]{8}\b"), "<cluster>"),
    (re.compile(r"\b1[6-9]\d{8}\b"), "<unix>"),
    (re.compile(r"(?<=Encryption Count  )  \d+"), "<n>"),
    (re.compile(r"(?<=migration ID )\S+"), "<migration>"),
    (re.compile(r"\bv?\d+\.\d+\.\d+(-\w+)?(\+builtin(\.bao)?|\+strongroom\.[\d.]+)?\b"), "<version>"),
)
_DURATION = re.compile(r"(?<![\w.-])(?:(\d+)h)?(?:(\d+)m)?(\d+)s(?![\w.-])")
_WIDTH = re.compile(r"(?<=\S  ) +|(?<=---)-+(?=  |$)")
_RULE = re.compile(r"-+ +-+ *")


def differences() -> list[dict[str, str]]:
    """As recorded.differences(); "command" says for which of the two, if not for both."""
    found: list[dict[str, str]] = json.loads(DIFFERENCES.read_text())
    return found


class Shell:
    """One run of a group: remembers what steps save."""

    def __init__(self, run: Run, token: str) -> None:
        self._run = run
        self._token = token
        self._names = {"root": token}

    def do(self, step: Step) -> dict[str, Any]:
        """Run a step; {"code", "printed", "complaint"} as they are kept."""
        arguments = [self._filled(word) for word in shlex.split(step["run"])]
        token = self._filled(step.get("token", self._token))
        code, out, err = self._run(arguments, step.get("stdin"), token)
        for name, place in step.get("save", {}).items():
            self._names[name] = _saved(out, place)
        if step.get("only") == "code":
            return {"code": code, "printed": None, "complaint": bool(err)}
        return {"code": code, "printed": self._kept(self._named(out), step), "complaint": self._text(err)}

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: self._names[match[1]], text)

    def _kept(self, printed: str, step: Step) -> Any:
        try:
            found = json.loads(printed)
        except ValueError:
            return self._text(printed)
        if isinstance(found, dict | list):
            return recorded.normal(found, masked=_COUNTED | frozenset(step.get("mask", ())))
        return self._text(printed)

    def _text(self, text: str) -> list[Any]:
        return [_block(each) for each in normal_text(self._named(text)).split("\n\n")] if text else []

    def _named(self, text: str) -> str:
        """With what was saved under its name."""
        for name, value in self._names.items():
            if len(value) >= NAMED_LENGTH_MIN:
                text = text.replace(value, f"<{name}>")
        return _ADDRESS.sub("<address>", text)


def _saved(printed: str, place: str) -> str:
    """Nothing is found in what a command prints that failed where it succeeded before."""
    if place == ".":
        return printed.strip()
    try:
        return str(recorded.at_place(json.loads(printed), place))
    except (ValueError, LookupError, TypeError):
        return "nothing-saved"


def normal_text(text: str) -> str:
    """A text with a mark in the place of what no two runs share; durations in whole minutes."""
    for pattern, mark in _MARKS:
        text = pattern.sub(mark, text)
    return _DURATION.sub(_in_minutes, text)


def _in_minutes(match: re.Match[str]) -> str:
    """Long ones in tens of minutes: the time that a run takes does not count."""
    hours, minutes, seconds = (int(each or 0) for each in match.groups())
    whole = hours * 3600 + minutes * 60 + seconds
    if whole <= 60:
        return match[0]
    step = 60 if whole <= 600 else 600
    minutes = -(-whole // step) * step // 60
    return (f"{minutes // 60}h" if minutes >= 60 else "") + (f"{minutes % 60}m" if minutes % 60 else "")


def _block(text: str) -> Any:
    """The lines of a paragraph; a table of two columns by its first, with the place of the second."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    for number, line in enumerate(lines[:3]):
        if number > 0 and _RULE.fullmatch(line):
            second = line.rindex(" -") + 1
            rows = {each[:second].rstrip(): each[second:] for each in lines[number - 1 :]}
            rows |= dict.fromkeys(rows.keys() & _NAMES_OF_THE_RUN, "<of the run>")
            return [*lines[: number - 1], {"second column at": second, **rows}]
    return [
        _WIDTH.sub("", line) for line in lines
    ]  # the widths of many columns are those of ids and versions


def furnish(home: Path) -> None:
    """The files that commands read."""
    (home / "doc.json").write_text(DOCUMENT)
    (home / "file.txt").write_text("two\nlines\n")
    (home / "policy.hcl").write_text(POLICY)


def process(target: Target, command: list[str]) -> Run:
    """Runs a command as a process of its own, in the target's home."""
    bao = Bao(target, command)

    def run(arguments: list[str], stdin: str | None, token: str) -> tuple[int, str, str]:
        done = bao(*arguments, text=stdin, token=token)
        return done.returncode, done.stdout, done.stderr

    return run


def record(wanted: Mapping[str, Any] | set[str], *, fresh: bool) -> None:
    """Run every step of these groups at a real OpenBao of their own, and keep what comes of it."""
    with recorded.openbao(token="" if fresh else ROOT, dev=not fresh) as target:
        furnish(target.home)
        for group in sorted(wanted):
            shell = Shell(process(target, [str(BAO)]), target.token)
            recorded.write(group, [step | shell.do(step) for step in recorded.steps(group, FOLDER)], FOLDER)


def main() -> None:
    wanted = set(sys.argv[1:]) or set(recorded.groups(FOLDER))
    record(wanted - FRESH, fresh=False)
    for group in sorted(wanted & FRESH):
        record({group}, fresh=True)


if __name__ == "__main__":
    main()
