"""Settings of a region that runs: a cap that both ends feel, shared by its own nodes and by nobody else."""

import json
import os
import time
from pathlib import Path

from support.processes import poll
from support.regions import distant_regions

from node.cli.local_wan import LocalWan
from node.regions.throttle import SLICE_S

CAP_BYTES_PER_S = 125_000  # 1Mbit
VALUE_BYTES = 400_000
UNCAPPED_BYTES_PER_S = 20_000  # of what passes a cap: greetings, handshakes, headers


def carried(wan: LocalWan) -> int:
    """Bytes from eu to us, so far."""
    return sum(each["bytes"] for each in wan.change("eu", "us", one_way=True))


def test_a_cap_that_is_set_while_a_region_runs_holds_on_the_wire(tmp_path: Path) -> None:
    with distant_regions(tmp_path, delay_s=0.001) as (eu, us, token, wan):
        us.wait_level(token, eu.regions(token)["position"])
        refused = eu.server.request("POST", "sys/regions/settings", {"bandwidth": "fast"}, token=token)
        assert (refused.status, "10Mbit" in refused.body["errors"][0]) == (400, True)
        eu.must(token, "POST", "sys/regions/settings", {"bandwidth": "1Mbit", "promote_max_lag": "1h"})
        told = eu.must(token, "GET", "sys/regions/settings")["data"]
        assert told == {"bandwidth": "1Mbit", "switchover_max_lag": 10000, "promote_max_lag": "1h0m0s"}
        assert us.must(token, "GET", "sys/regions/settings")["data"]["bandwidth"] == "", "it is eu's alone"
        records = (eu.directory / "audit.jsonl").read_text().splitlines()
        paths = [json.loads(each)["request"]["path"] for each in records]
        assert "sys/regions/settings" in paths, "its change is audited before it is answered"

        poll(lambda: eu.regions(token)["bytes_per_second_max"] == CAP_BYTES_PER_S, what="the cap holds")
        before, began = carried(wan), time.monotonic()
        eu.must(token, "POST", "secret/data/large", {"data": {"v": os.urandom(VALUE_BYTES // 2).hex()}})
        us.wait_level(token, eu.regions(token)["position"])
        took_s, sent = time.monotonic() - began, carried(wan) - before
        assert sent >= VALUE_BYTES, "nothing was measured"
        # the last slice is on its way when it is handed on
        assert sent <= CAP_BYTES_PER_S * (took_s + SLICE_S) + UNCAPPED_BYTES_PER_S * (took_s + 1)

        # a promotion that says nothing of a loss goes by the settings of its own region
        us.must(token, "POST", "sys/regions/settings", {"promote_max_lag": "1h"})
        eu.server.kill()
        poll(lambda: us.server.request("POST", "sys/regions/promote", token=token).status == 200, what="us")
