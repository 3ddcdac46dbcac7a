"""Where a folder's names lead is what the router says of each of them. The read lane itself: test_lane_alike.py."""

import itertools
import os
import random

from node.core.router import Table
from node.engines import catalog

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
FOLDERS_DRAWN = 300


def words(table: Table) -> list[str]:
    """Every literal of the table's patterns, and some that are none."""
    literals = {part for route in table.routes for part in route.pattern.split("/") if "{" not in part}
    return [*sorted(literals - {""}), "bench", "x-1"]


def test_every_name_in_a_folder_leads_where_the_router_says() -> None:
    print("seed", SEED)
    rng, tails = random.Random(SEED), 0
    for table in catalog.tables().values():
        known = words(table)
        drawn = [
            "".join(f"{rng.choice(known)}/" for _ in range(rng.randint(0, 4))) for _ in range(FOLDERS_DRAWN)
        ]
        for folder in {"", *(f"{word}/" for word in known), *drawn}:
            tail = table.tail(folder)
            if tail is None:
                continue
            tails += 1
            route, parameter, rest = tail
            for name, below in itertools.product(known, ("", "/config", "/a/b")):
                match = table.match(folder + name + below)
                assert match is not None
                assert match.route is route, (folder, name)
                assert match.params == {parameter: rest + name + below}
    assert tails > FOLDERS_DRAWN // 10, "too few to mean anything"


def test_names_reach_all_that_the_router_finds() -> None:
    for table in catalog.tables().values():
        known = words(table)
        for folder in ("", *(f"{word}/" for word in known)):
            reached = table.reached(folder)
            for name in known:
                match = table.match(folder + name)
                assert match is None or match.route in reached, (folder, name)
