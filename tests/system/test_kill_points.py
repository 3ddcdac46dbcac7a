"""A process that ends at any named point of taking, shipping, installing or compacting leaves two good nodes."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.killpoints import KILLED, POINTS, RESTORE_POINTS, Pair, prepare, prepare_restore, small_segments
from support.patience import PATIENCE_S, eventually

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
    kill_at(directory, point)
    await check_joining(directory)


def kill_at(directory: Path, point: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    child = subprocess.run(
        [sys.executable, "-m", "support.killpoints", str(directory), point],
        env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert child.returncode == KILLED, f"{point} was not reached\n{child.stderr}"


async def check_joining(directory: Path) -> None:
    pair = Pair(directory)
    for node_id in ("n1", "n2"):
        await pair.start(node_id)
    first, second = (pair.machines[node_id] for node_id in ("n1", "n2"))
    held = set(first.reads.policies())
    try:
        if "n2" not in {member.id for member in pair.groups["n1"].status().members}:
            await pair.groups["n1"].add_member(pair.member("n2"), 60.0)
        await pair.write(12, "after")
        await eventually(lambda: first.applied_index == second.applied_index, "the same log at both")
        assert held <= set(first.reads.policies())
        assert first.state_digest() == second.state_digest()
        directory_of_snapshots = directory / "n2" / "raft" / "snapshots"
        assert not list(directory_of_snapshots.glob("incoming*")), "an installation that never ends"
    finally:
        await pair.stop()


@pytest.fixture(scope="module")
def restorable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("restorable")
    small_segments()
    asyncio.run(prepare_restore(directory))
    return directory


@pytest.mark.parametrize("point", RESTORE_POINTS)
async def test_a_kill_in_a_restore_leaves_the_old_state_or_the_restored_one(
    restorable: Path, tmp_path: Path, point: str
) -> None:
    """On both members the same, whole, and the group goes on from it."""
    directory = tmp_path / "pair"
    shutil.copytree(restorable, directory)
    kill_at(directory, point)
    pair = Pair(directory)
    for node_id in ("n1", "n2"):
        await pair.start(node_id)
    first, second = (pair.machines[node_id] for node_id in ("n1", "n2"))
    try:
        await pair.write(3, "goes-on")
        await eventually(lambda: first.applied_index == second.applied_index, "the same log at both")
        assert first.state_digest() == second.state_digest()
        policies = set(first.reads.policies())
        assert {f"kept{i}" for i in range(12)} | {f"goes-on{i}" for i in range(3)} <= policies
        lost = {f"lost{i}" for i in range(3)} & policies
        assert len(lost) in (0, 3), "half a restore"
    finally:
        await pair.stop()
