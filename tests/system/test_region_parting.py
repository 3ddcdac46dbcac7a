"""A region that is told to order nothing any more, and regions that leave: what they keep, what others make of it."""

from pathlib import Path

from support.processes import poll
from support.regions import RegionOfOne, join, two_regions


def put(region: RegionOfOne, token: str, key: str, value: str) -> int:
    return region.server.request(
        "POST", f"secret/data/{key}", {"data": {"v": value}}, token=token, timeout=60.0
    ).status


def refusal(region: RegionOfOne, token: str, path: str, body: object = None) -> str:
    answer = region.server.request("POST", path, body, token=token)
    assert answer.status == 400, (answer.status, answer.body)
    return str(answer.body["errors"][0])


def names(region: RegionOfOne, token: str) -> list[str]:
    return [each["name"] for each in region.regions(token)["regions"]]


def test_a_demoted_region_orders_nothing_and_one_that_leaves_or_is_removed_keeps_everything(
    tmp_path: Path,
) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        assert put(eu, token, "a", "one") == 200
        us.wait_level(token, eu.regions(token)["position"])
        poll(lambda: us.regions(token)["regions"][0]["last_contact_seconds"] is not None, what="a link")
        assert "switchover us" in refusal(eu, token, "sys/regions/demote")
        assert "no region asia" in refusal(eu, token, "sys/regions/demote", {"name": "asia", "force": True})
        assert "there are eu, us" in refusal(eu, token, "sys/regions/switchover", {"name": "asia"})
        assert "eu orders writes" in refusal(us, token, "sys/regions/remove", {"name": "eu"})
        assert "eu orders writes already" in refusal(eu, token, "sys/regions/promote")
        assert "only one that orders writes" in refusal(us, token, "sys/regions/demote", {"force": True})
        assert "hand over" in refusal(eu, token, "sys/regions/leave", {"force": True})

        here = eu.regions(token)["position"]
        for span, advice in ((f"first={here + 1}", "comes after"), (f"last={here + 9}", f" to {here} are")):
            answer = eu.server.request("GET", f"sys/regions/digest?{span}", token=token)
            assert (answer.status, advice in answer.body["errors"][0]) == (400, True), answer.body

        told = eu.must(token, "POST", "sys/regions/demote", {"force": True})["data"]
        assert told == {"follows": None}
        assert eu.regions(token)["primary"] == "", "nobody is said to order writes"
        assert put(eu, token, "a", "fenced") == 503
        poll(lambda: put(us, token, "a", "fenced") == 503, what="nobody orders writes")
        assert eu.value(token, "a") == "one"
        poll(lambda: "demoted" in eu.regions(token)["stuck"], what="it says why it does not get on")

        eu.must(token, "POST", "sys/regions/promote")  # what was fenced by mistake goes on, without a loss
        assert put(eu, token, "a", "two") == 200
        poll(lambda: us.value(token, "a") == "two", what="the new epoch in the other region")

        eu.must(token, "POST", "sys/regions/demote", {"name": "us", "force": True})
        poll(lambda: us.server.request("POST", "sys/regions/promote", token=token).status == 200, what="us")
        assert put(us, token, "a", "three") == 200
        poll(lambda: eu.value(token, "a") == "three", what="the demoted region follows by itself")
        assert eu.regions(token)["role"] == "secondary"

        eu.must(token, "POST", "sys/regions/leave")
        eu.must(
            token, "POST", "sys/regions/create"
        )  # at once: what it knows of the old group means nothing here
        assert names(us, token) == ["us"]
        assert put(eu, token, "a", "of eu alone") == 200, "its token and its secrets stay"
        assert put(us, token, "a", "of us") == 200
        assert (eu.value(token, "a"), us.value(token, "a")) == ("of eu alone", "of us")
        assert [eu.regions(token)[each] for each in ("role", "epoch")] == ["primary", 1]

        ap = RegionOfOne(tmp_path / "ap", "ap")
        with ap.server:
            join(us, ap, token)
            assert "hand over" in refusal(us, token, "sys/regions/leave", {"force": True})
            assert put(us, token, "a", "of us and ap") == 200
            poll(lambda: ap.value(token, "a") == "of us and ap", what="ap follows")
            ap.must(token, "POST", "sys/regions/remove", {"name": "ap"})  # any region may be asked
            poll(lambda: "was removed" in ap.regions(token)["stuck"], what="it knows")
            refused = ap.server.request("POST", "secret/data/a", {"data": {}}, token=token)
            assert (refused.status, "was removed" in refused.body["errors"][0]) == (503, True)
            assert "ap follows" not in refused.body["errors"][0], "it follows nobody"
            assert put(us, token, "a", "later") == 200
            ap.must(token, "POST", "sys/regions/leave")
            assert ap.value(token, "a") == "of us and ap", "it has stopped following"
            for verb in ("ticket", "switchover", "promote", "demote", "remove", "leave"):
                advice = refusal(ap, token, f"sys/regions/{verb}", {"name": "us"})
                assert "`strongroom region create` makes it the first one" in advice, verb
            assert ap.regions(token)["role"] == "alone"
            assert put(ap, token, "a", "of ap") == 200
        us.must(token, "POST", "sys/regions/leave")  # the last one of a group
        assert us.must("", "GET", "sys/replication/dr/status")["data"] == {"mode": "disabled"}
