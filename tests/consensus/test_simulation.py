"""Whole groups under crashes with power loss, partitions, lost links and handovers, on virtual time."""

import logging
import random

import pytest
from support import simworld

SECONDS = 15.0


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("consensus").setLevel(logging.CRITICAL)


@pytest.mark.parametrize("seed", [1, 2])
def test_known_histories_of_three(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = simworld.play(seed, nodes=3, seconds=SECONDS, monkeypatch=monkeypatch)
    assert seen["writes"] > 10
    assert seen["crashes"] > 0


def test_a_new_history_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    simworld.play(seed, nodes=3, seconds=SECONDS, monkeypatch=monkeypatch)


def test_a_new_history_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    simworld.play(seed, nodes=5, seconds=SECONDS, monkeypatch=monkeypatch)


def test_a_seed_repeats_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    first = simworld.play(7, nodes=3, seconds=3, monkeypatch=monkeypatch)
    assert simworld.play(7, nodes=3, seconds=3, monkeypatch=monkeypatch) == first
