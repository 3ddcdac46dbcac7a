"""A short rehearsal of regions, with all that it needs of processes: kept promises are found kept."""

from pathlib import Path

import pytest

from chaos.regions.kills import kills
from chaos.regions.run import Plan, Run, rehearse
from chaos.regions.splits import splits


async def kills_and_splits(run: Run) -> None:
    await kills(run)
    await splits(run)


@pytest.mark.timeout(300)
def test_a_primary_is_lost_another_is_cut_off_and_every_promise_is_kept(tmp_path: Path) -> None:
    # this seed cuts the link for 1.5 s before the kill, and promotes at once
    plan = Plan(mode="kills", count=1, seed=13, nodes=1, writers=16, writes_per_s=200, round_trip_s=0.01)
    said: list[str] = []
    result = rehearse(plan, kills_and_splits, tmp_path / "regions", said.append)
    assert result.verdict.good, (result.verdict, said)
    lost, split = result.findings.promotions
    assert lost.set_aside, "nothing was lost: nothing was tested"
    assert split.set_aside, "the old primary, cut off, ordered nothing: nothing was tested"
    assert result.lost > 0
    assert result.findings.replays
