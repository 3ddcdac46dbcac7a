"""Fixtures that several test modules of the node share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli, empty_environment, runner
from support.httpfixture import Answer, Site, Wire, dev_core, serve


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A listener before a store in memory, with KV version 2 at secret/."""
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        yield site


@pytest.fixture
async def wire(site: Site) -> Wire:
    """A connection with the root token."""
    return await site.connect()


@pytest.fixture
def kv(wire: Wire) -> Callable[..., Awaitable[Answer]]:
    """Ask for a path of the mount secret/."""

    async def ask(
        method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        return await wire.ask(method, f"/v1/secret/{path}", body, headers=headers)

    return ask


@pytest.fixture
def strongroom(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs one command in this process, at home in tmp_path, with no settings: (exit code, stdout, stderr)."""
    empty_environment(monkeypatch, tmp_path)
    return runner(capsys, monkeypatch)
