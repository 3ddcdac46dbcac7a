"""Completion in a shell: commands, flags, and the paths that the server has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.patience import PATIENCE_S
from support.stub_api import Reply, StubApi, stub_api

REPLIES: dict[str, Reply] = {
    "GET /v1/sys/internal/ui/mounts": (
        200,
        {"data": {"secret": {"secret/": {"type": "kv"}, "sys/": {"type": "system"}, "old/": {"type": "kv"}}}},
    ),
    "GET /v1/sys/internal/ui/mounts/secret": (200, {"data": {"path": "secret/", "options": {"version": "2"}}}),
    "GET /v1/secret/metadata?list=true": (200, {"data": {"keys": ["app", "apple/", "b"]}}),
    "GET /v1/auth/token/roles?list=true": (200, {"data": {"keys": ["web"]}}),
}  # fmt: skip


def completed(api: StubApi, home: Path, *words: str) -> list[str]:
    """What bash is offered for the last word."""
    asked = {
        "_STRONGROOM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("strongroom", *words)),
        "COMP_CWORD": str(len(words)),
        "STRONGROOM_ADDR": api.address,
        "HOME": str(home),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-c", "from node.cli import main; main()"]
    done = subprocess.run(command, env=asked, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["kv", "ge"], ["get"]),
        (["operator", "raft", "auto"], ["autopilot"]),
        (["kv", "get", "-fi"], ["-field"]),
        (["kv", "get", "--fi"], ["--field"]),
        (["status", "-format", "j"], ["json"]),
        (["kv", "get", "s"], ["secret/"]),
        (["read", "s"], ["secret/", "sys/"]),
        (["kv", "get", "secret/app"], ["secret/app", "secret/apple/"]),
        (["kv", "get", "-mount", "secret", "b"], ["b"]),
        (["kv", "metadata", "get", "-format", "json", "secret/b"], ["secret/b"]),
        (["read", "auth/token/roles/"], ["auth/token/roles/web"]),
        (["kv", "get", "secret/none/"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_word_is_completed(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    with stub_api(REPLIES) as api:
        assert completed(api, tmp_path, *words) == offered


def test_a_server_that_is_away_completes_nothing(tmp_path: Path) -> None:
    with stub_api() as api:
        pass
    assert completed(api, tmp_path, "read", "s") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_it_can_read(strongroom: Cli, shell: str) -> None:
    code, out, _ = strongroom("completion", shell)
    assert code == 0
    assert "_STRONGROOM_COMPLETE" in out
    if program := shutil.which(shell):
        read = subprocess.run(
            [program, "-n"], input=out, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert (read.returncode, read.stderr) == (0, "")


def test_other_shells_are_refused(strongroom: Cli) -> None:
    assert strongroom("completion", "tcsh")[0] == 1
