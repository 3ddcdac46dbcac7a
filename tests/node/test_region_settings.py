"""What a region goes by towards the others: what is taken, and what it means for a node."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import opened

from node.errors import InvalidRequest
from node.regions.settings import KEPT, Settings
from node.regions.throttle import SLICE_BYTES_MAX, Throttle

CONFIGURED = 1000.0


def test_what_is_not_named_stays_and_durations_are_shown_as_go_does() -> None:
    found = Settings().changed({"bandwidth": "10Mbit", "promote_max_lag": "90s"})
    assert found.changed({"switchover_max_lag": "500"}).shown() == {
        "bandwidth": "10Mbit",
        "switchover_max_lag": 500,
        "promote_max_lag": "1m30s",
    }


@pytest.mark.parametrize(
    ("said", "bytes_per_s"), [("10Mbit", 1_250_000.0), ("unlimited", 0.0), ("", CONFIGURED)]
)
def test_a_region_caps_all_its_nodes_or_leaves_it_to_their_configuration(
    said: str, bytes_per_s: float
) -> None:
    assert Settings(bandwidth="1Gbit").changed({"bandwidth": said}).bytes_per_s(CONFIGURED) == bytes_per_s


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "settings are bandwidth, switchover_max_lag, promote_max_lag"),
        ({"bandwith": "10Mbit"}, "bandwith: settings are bandwidth"),
        ({"bandwidth": "fast"}, '"unlimited" is no cap'),
        ({"bandwidth": "10kbit"}, "at least 1Mbit"),
        ({"bandwidth": ["10Mbit"]}, "bandwidth"),
        ({"switchover_max_lag": -1}, "from 0 to"),
        ({"switchover_max_lag": 1.5}, "switchover_max_lag"),
        ({"promote_max_lag": "-1s"}, "promote_max_lag"),
        ({"promote_max_lag": "800h"}, "from 0 to"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        Settings().changed({"promote_max_lag": "1s"} | data if data else data)


async def test_a_cap_holds_from_the_moment_in_which_it_is_set() -> None:
    throttle = Throttle(0.0)
    assert throttle.slice_bytes == SLICE_BYTES_MAX
    throttle.limit(2.0)
    assert throttle.slice_bytes == 1


async def test_what_is_changed_at_the_same_time_is_changed_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is made of what was there, and refused where that is not any more: it is made anew then."""
    async with opened(tmp_path) as core:
        store, submit = core.unsealed, core.unsealed.submit
        together, submitted = asyncio.Barrier(2), itertools.count()

        async def submit_together(*what: Any, **how: Any) -> Any:
            if next(submitted) < 2:
                await together.wait()
            return await submit(*what, **how)

        monkeypatch.setattr(store, "submit", submit_together)
        changes = {"switchover_max_lag": 7}, {"promote_max_lag": "5s"}
        await asyncio.gather(*(KEPT.change(store, each) for each in changes))
        kept = KEPT.current(store)
        assert (kept.switchover_max_lag, kept.promote_max_lag) == (7, 5.0)
