"""Fixtures that several test modules of the node share."""

from pathlib import Path

import pytest
from support.cli import Cli, empty_environment, runner


@pytest.fixture
def strongroom(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs one command in this process, at home in tmp_path, with no settings: (exit code, stdout, stderr)."""
    empty_environment(monkeypatch, tmp_path)
    return runner(capsys, monkeypatch)
