"""Fixtures that several test modules of the consensus package share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.groups import Cluster
from support.journals import write_journal


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A group of three members that has a leader."""
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    yield cluster
    await cluster.close()


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, int]:
    """A closed journal of ALL in term 1, then a vote in term 4; and where its last frame ends."""
    return write_journal(tmp_path)
