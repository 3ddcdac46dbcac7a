"""What a region goes by towards the others: what is taken, and what it means for a node."""

from typing import Any

import pytest

from node.errors import InvalidRequest
from node.regions.settings import Settings
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
