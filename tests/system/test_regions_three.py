"""Three regions: who may take over, and what becomes of what the others hold."""

from collections.abc import Iterator

import pytest
from support.processes import poll
from support.regions import RegionOfOne, three_regions

LOSS = {"accept_loss": True}
Three = tuple[RegionOfOne, RegionOfOne, RegionOfOne, str]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Started once: each test finds and leaves eu as the one that orders writes, and the others in step with it."""
    with three_regions(tmp_path_factory.mktemp("three")) as found:
        yield found


def put(region: RegionOfOne, token: str, key: str, value: object) -> None:
    region.must(token, "POST", f"secret/data/{key}", {"data": {"v": value}}, timeout=60.0)


def set_aside(region: RegionOfOne, token: str) -> set[str]:
    entries = region.must(token, "GET", "sys/regions/divergence")["data"]["entries"]
    return {each["path"] for each in entries if each["kind"] == "KvPut"}


def test_who_holds_most_is_named_and_who_holds_more_than_the_successor_sets_it_aside(regions: Three) -> None:
    eu, us, asia, token = regions
    eu.must(token, "POST", "sys/regions/switchover", {"name": "us"})
    us.wait_role(token, "primary")
    put(asia, token, "planned", 1)  # the third region follows whoever took over
    poll(lambda: eu.value(token, "planned") == 1, what="the former primary follows")
    # asia holds what eu has not got, and us, which ordered it, is gone
    eu.server.kill()
    put(us, token, "ahead", 1)
    poll(lambda: asia.value(token, "ahead") == 1, what="asia has it")
    us.server.kill()
    eu.start(200)

    def asia_is_named() -> bool:
        refused = eu.server.request("POST", "sys/regions/promote", {"max_lag": "1h"}, token=token)
        assert refused.status == 400
        return "asia has 1 of them: promote that region instead" in refused.body["errors"][0]

    poll(asia_is_named, what="it has heard what asia holds")
    told = eu.must(token, "POST", "sys/regions/promote", LOSS, timeout=60.0)["data"]
    assert told["ahead"] == {"asia": 1}
    put(eu, token, "after", 1)
    poll(lambda: asia.value(token, "after") == 1, what="asia follows the one that was promoted")
    assert asia.value(token, "ahead") is None
    assert set_aside(asia, token) == {"ahead"}
    us.start(200)
    poll(lambda: us.value(token, "after") == 1, what="the former primary follows")
    assert set_aside(us, token) == {"ahead"}
    for each in (eu, us, asia):
        poll(
            lambda each=each: each.regions(token)["primary"] == "eu",
            what=f"{each.name} knows who orders writes",
        )


def test_of_two_that_are_promoted_at_once_one_prevails_and_the_other_sets_its_writes_aside(
    regions: Three,
) -> None:
    eu, us, asia, token = regions
    put(eu, token, "both", 1)
    for region in (us, asia):
        poll(lambda region=region: region.value(token, "both") == 1, what="in step")
    eu.server.kill()
    us.pause()
    asia.must(token, "POST", "sys/regions/promote", LOSS, timeout=60.0)
    put(asia, token, "of-asia", 1)
    asia.pause()
    us.resume()
    us.must(token, "POST", "sys/regions/promote", LOSS, timeout=60.0)
    put(us, token, "of-us", 1)
    assert asia.name < us.name
    asia.resume()
    poll(lambda: asia.value(token, "of-us") == 1, what="the earlier name follows the later one")
    assert asia.value(token, "of-asia") is None
    assert "of-asia" in set_aside(asia, token)
    assert set_aside(us, token).isdisjoint({"of-asia", "of-us"})
    eu.start(200)
    put(eu, token, "from-eu", 1)  # who comes back finds the one that prevailed
    assert us.value(token, "from-eu") == 1
