"""Nodes are killed, paused, cut off and lose power under clients: nothing is lost, happens twice, or is read stale."""

import secrets
from pathlib import Path

import pytest

from chaos.faults import Odds
from chaos.report import lines
from chaos.run import SEED_BITS, Plan, rehearse

STRIKES = 5


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("strikes", "odds", "more"),
    [(STRIKES, Odds(), False), (2 * STRIKES, Odds(power_loss=0.7, database_loss=0.5), True)],
    ids=["killed", "power loss, pauses, cuts"],
)
def test_acknowledged_writes_survive(strikes: int, odds: Odds, more: bool, tmp_path: Path) -> None:
    """24 writers and six readers on three nodes; the same code as `make chaos`."""
    said: list[str] = []
    plan = Plan(strikes=strikes, seed=secrets.randbits(SEED_BITS), odds=odds, pauses=more, cuts=more)
    result = rehearse(plan, tmp_path / "cluster", said.append)
    story = "\n".join([*said, *lines(result.history, result.verdict)])
    assert result.verdict.good, story
    assert result.tally.faults.total() >= strikes, story
    assert sum(write.version is not None for write in result.history.writes) >= 100 * strikes // 2, story
    assert len(result.history.reads) >= 100, story
