"""The command line in this process: what it prints, and the code it exits with."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.cli import root

Cli = Callable[..., tuple[int, str, str]]
PREFIXES = ("STRONGROOM_", "VAULT_", "BAO_")


def empty_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nothing of the developer's own settings reaches the commands."""
    for name in os.environ:
        if name.startswith(PREFIXES) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A function that runs one command: (exit code, stdout, stderr)."""

    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = root.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
