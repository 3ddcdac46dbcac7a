"""A region whose first node is killed while it joins: it joins again, and takes only what it has not got."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

from support.processes import poll
from support.regions import RegionOfOne, replicating_alone

from node.cli.client import Unreachable

VALUES, VALUE_BYTES = 5, 600_000
HERE_BYTES = VALUES * VALUE_BYTES // 3  # when it is killed


def arriving(region: RegionOfOne) -> dict[str, Any] | None:
    told: dict[str, Any] | None = region.must("", "GET", "sys/regions/join")["arriving"]
    return told


def joining(region: RegionOfOne, ticket: str) -> threading.Thread:
    """What it is answered is another matter: perhaps nothing."""

    def join() -> None:
        with contextlib.suppress(Unreachable):
            region.server.request("POST", "sys/regions/join", {"ticket": ticket}, timeout=120.0)

    thread = threading.Thread(target=join)
    thread.start()
    return thread


def arrived(region: RegionOfOne) -> int:
    """How many bytes are here when the state arrives again."""
    seen: list[int] = []

    def goes_on() -> bool:
        told = arriving(region)
        if told is not None and told["bytes"]:  # none while what is here is compared with what there is
            seen.append(told["bytes"])
        return bool(seen)

    poll(goes_on, what="the state arrives again")
    return seen[0]


def test_a_node_that_is_killed_or_stopped_while_it_joins_goes_on_where_it_was(tmp_path: Path) -> None:
    eu, us = (RegionOfOne(tmp_path / name, name) for name in ("eu", "us"))
    with eu.server, us.server:
        token = replicating_alone(eu)
        for number in range(VALUES):
            eu.must(
                token, "POST", f"secret/data/{number}", {"data": {"v": os.urandom(VALUE_BYTES // 2).hex()}}
            )
        eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "4Mbit"})
        poll(lambda: eu.regions(token)["bytes_per_second_max"] == 500_000, what="the cap")
        ticket = eu.must(token, "POST", "sys/regions/ticket")["data"]["ticket"]
        us.start(501)
        first = joining(us, ticket)
        poll(lambda: (arriving(us) or {"bytes": 0})["bytes"] >= HERE_BYTES, what="a part of the state")
        (told,) = (each for each in eu.regions(token)["regions"] if each["name"] == "us")
        assert told["fetching"]["bytes"] >= HERE_BYTES
        eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "1Mbit"})  # the rest takes half a minute
        poll(lambda: eu.regions(token)["bytes_per_second_max"] == 125_000, what="the cap")
        under_way = first
        for end in (us.server.kill, us.server.stop):
            end()
            under_way.join()
            us.start(501)
            under_way = joining(us, ticket)
            assert arrived(us) >= HERE_BYTES
        again = under_way
        eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "unlimited"})
        again.join()
        us.server.wait_health(200)
        assert arriving(us) is None
        assert list((us.directory / "data").glob("*.part")) == []
        us.wait_level(token, eu.regions(token)["position"])
        for number in range(VALUES):
            path = f"secret/data/{number}"
            assert us.must(token, "GET", path)["data"]["data"] == eu.must(token, "GET", path)["data"]["data"]
