"""A process that ends at any named point of taking, shipping, installing or compacting leaves two good nodes."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.groups import eventually
from support.killpoints import KILLED, POINTS, Pair, prepare, small_segments

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared")
    small_segments()
    asyncio.run(prepare(directory))
    return directory


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_leaves_good_nodes(prepared: Path, tmp_path: Path, point: str) -> None:
    directory = tmp_path / "pair"
    shutil.copytree(prepared, directory)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    child = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-m", "support.killpoints", str(directory), point],
        env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert child.returncode == KILLED, f"{point} was not reached\n{child.stderr}"

    pair = Pair(directory)
    for node_id in ("n1", "n2"):
        await pair.start(node_id)
    first, second = (pair.machines[node_id] for node_id in ("n1", "n2"))
    held = set(first.reads.policies())
    try:
        if "n2" not in {member.id for member in pair.groups["n1"].status().members}:
            await pair.groups["n1"].add_member(pair.member("n2"), 60.0)
        await pair.write(12, "after")
        await eventually(lambda: first.applied_index == second.applied_index, "the same log at both", 60.0)
        assert held <= set(first.reads.policies())
        assert first.state_digest() == second.state_digest()
        directory_of_snapshots = directory / "n2" / "raft" / "snapshots"
        assert not list(directory_of_snapshots.glob("incoming*")), "an installation that never ends"
    finally:
        await pair.stop()
