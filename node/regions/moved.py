"""Regions that came back at other addresses than those under which the store has them.

The region that orders writes puts right what the store has, once it has heard of such a region there; one that follows
learns of its primary's new addresses through the primary alone, and has to find it before.
"""

import dataclasses
import math
import time
from collections.abc import Iterable

from node.regions.stream import Standing
from node.store import Store
from storage.command import RegionPut
from storage.rows import Region

LINKS_MAX = 16  # of a region


class Moved:
    """Where regions say that they are."""

    def __init__(self) -> None:
        self._links: dict[str, tuple[str, ...]] = {}  # by region
        self._answered_at: dict[str, float] = {}  # monotonic seconds, by region

    def answered(self, region: str) -> None:
        """It is to be found."""
        self._answered_at[region] = time.monotonic()

    def note(self, told: Standing, *, lost_s: float) -> None:
        """A region says so. It is believed where it has not answered for `lost_s`: who was removed long ago, and has
        not heard of it, may say it of one that has its name by now.
        """
        silent_s = time.monotonic() - self._answered_at.get(told.region, -math.inf)
        if told.links and silent_s > lost_s:
            self._links[told.region] = told.links[:LINKS_MAX]

    def amended(self, region: Region) -> Region:
        """With those links, too, until the store has them."""
        links = self._links.get(region.name, ())
        if set(links) <= set(region.links):
            self._links.pop(region.name, None)
            return region
        return dataclasses.replace(region, links=tuple(dict.fromkeys((*links, *region.links))))


async def put_right(store: Store, told: Iterable[Standing]) -> None:
    """Let the store have the addresses that regions tell of themselves."""
    known = {each.name: each for each in store.regions()}
    for each in told:
        region = known.get(each.region)
        if (
            region is None
            or not each.links
            or (region.endpoints, region.links) == (each.endpoints, each.links)
        ):
            continue
        await store.submit(
            RegionPut(time_ns=store.now_ns(), name=each.region, endpoints=each.endpoints, links=each.links)
        )
