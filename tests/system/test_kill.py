"""Nodes are killed and lose power while clients write: nothing that was acknowledged is lost, or happens twice."""

import secrets
from pathlib import Path

import pytest

from chaos.nemesis import Odds
from chaos.report import lines
from chaos.run import SEED_BITS, Plan, rehearse

KILLS = 8


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "odds", [Odds(), Odds(power_loss=0.7, database_loss=0.5)], ids=["killed", "power loss"]
)
def test_acknowledged_writes_survive(odds: Odds, tmp_path: Path) -> None:
    """Eight faults under 24 writers on three nodes; the same code as `make chaos`."""
    said: list[str] = []
    plan = Plan(kills=KILLS, seed=secrets.randbits(SEED_BITS), odds=odds)
    result = rehearse(plan, tmp_path / "cluster", said.append)
    story = "\n".join([*said, *lines(result.history, result.verdict)])
    assert result.verdict.good, story
    assert result.tally.faults == KILLS, story
    assert sum(write.version is not None for write in result.history.writes) >= 100 * KILLS // 2, story
