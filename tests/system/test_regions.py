"""Two regions: what is written in one is read in the other, and either of them can go on alone."""

import json
import os
import time
from pathlib import Path

import pytest
from support.cli import empty_environment, runner
from support.processes import poll
from support.regions import distant_regions, second_node, two_regions

from node.cli import region_authors
from node.enrol import REGION, Ticket


def staleness_of(region, token, wanted):
    """(status, milliseconds as told) of a read."""
    headers = {"X-Strongroom-Consistency": wanted}
    answer = region.server.request("GET", "secret/data/there", token=token, headers=headers)
    return answer.status, answer.headers.get("x-strongroom-staleness-ms", "")


def links_of(region, token, name):
    return next(each for each in region.regions(token)["regions"] if each["name"] == name)["links"]


def nodes_of(region, token):
    return region.must(token, "GET", "sys/cluster/nodes")["data"]["nodes"]


def lag_of(region, token):
    told = next(each for each in region.regions(token)["regions"] if each["name"] == region.name)
    return told["lag_seconds"]  # None: it was not level yet


def test_a_region_follows_serves_reads_and_carries_writes_to_the_one_that_orders(tmp_path: Path) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        eu.must(token, "POST", "secret/data/before", {"data": {"v": 1}})
        poll(lambda: us.value(token, "before") == 1, what="a write of the primary in the secondary")
        # a write in the region that follows is answered from the other one, and read back here at once
        made = us.must(token, "POST", "secret/data/there", {"data": {"v": 2}})
        assert made["data"]["version"] == 1
        assert us.value(token, "there") == 2
        assert eu.value(token, "there") == 2
        refused = us.server.request(
            "POST", "secret/data/there", {"data": {"v": 3}, "options": {"cas": 0}}, token=token
        )
        assert refused.status == 400
        assert "check-and-set" in refused.body["errors"][0]
        # tokens made in one region work in the other
        child = us.must(token, "POST", "auth/token/create", {"policies": ["default"]})["auth"]["client_token"]
        assert eu.must(child, "GET", "auth/token/lookup-self")["data"]["id"] == child
        # a second node of the region that follows: the other region learns where it is reached
        second = second_node(us)
        with second.server:
            second.server.start()
            second.server.wait_health(501)
            ticket = us.must(token, "POST", "sys/cluster/join-token")["data"]["token"]
            second.must("", "POST", "sys/storage/raft/join", {"join_token": ticket}, timeout=60.0)
            poll(lambda: len(links_of(eu, token, "us")) == 2, what="its link is known")
        here = us.regions(token)
        assert (here["region"], here["role"], here["primary"]) == ("us", "secondary", "eu")

        def is_level() -> bool:
            mine = next(each for each in us.regions(token)["regions"] if each["name"] == "us")
            return (mine["lag_entries"], mine["lag_seconds"]) == (0, 0.0)

        poll(is_level, what="level")
        poll(
            lambda: recovery_of(us) == ("secondary", "stream-wals", "ready", 0, 0.0),
            what="level, in Vault's words",
        )

        def is_followed() -> bool:
            (told,) = recovery(eu)["secondaries"]
            return (told["node_id"], told["connection_status"], told["lag_seconds"]) == (
                "us",
                "connected",
                0.0,
            )

        poll(is_followed, what="the primary knows")
        level = b"strongroom_region_lag_seconds 0.0"
        poll(lambda: level in us.server.text("sys/metrics", token=token), what="level, as metrics tell")


def recovery(region):
    return region.must("", "GET", "sys/replication/status")["data"]["dr"]


def recovery_of(region):
    told = recovery(region)
    names = ("mode", "state", "connection_state", "lag_entries", "lag_seconds")
    return tuple(told[name] for name in names)


def test_a_node_that_is_cut_off_from_its_own_region_does_not_pass_for_level(tmp_path: Path) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        second = second_node(eu)
        with second.server:
            second.server.start()
            second.server.wait_health(501)
            ticket = eu.must(token, "POST", "sys/cluster/join-token")["data"]["token"]
            second.must("", "POST", "sys/storage/raft/join", {"join_token": ticket}, timeout=60.0)
            poll(lambda: all(each["voter"] for each in nodes_of(eu, token)), what="a second vote")
            poll(lambda: len(links_of(us, token, "eu")) == 2, what="its link is known")
            poll(lambda: lag_of(us, token) == 0.0, what="level")
            second.server.kill()
            # the other node answers as before; but what its region acknowledges it would not know
            poll(lambda: lag_of(us, token), what="the lag grows")
            poll(lambda: "cut off from its own region" in us.regions(token)["stuck"], what="the reason")


def test_a_switchover_there_and_back_loses_nothing(tmp_path: Path) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        eu.must(token, "POST", "secret/data/a", {"data": {"v": 1}})
        refused = us.server.request("POST", "sys/regions/promote", token=token)
        assert refused.status == 400
        assert "switchover us" in refused.body["errors"][0]
        refused = eu.server.request("POST", "sys/regions/switchover", {"name": "eu"}, token=token)
        assert "eu orders writes already" in refused.body["errors"][0]
        own = next(each for each in eu.regions(token)["regions"] if each["name"] == "eu")
        assert own["last_contact_seconds"] is None, "else it passes for lost when it hands over"
        ticket = us.must(token, "POST", "sys/regions/ticket")["data"]["ticket"]  # of any region
        assert Ticket.parse(ticket, REGION).addresses == [eu.server.address]
        for leaving, coming in ((eu, us), (us, eu)):
            poll(lambda coming=coming: coming.regions(token)["stuck"] == "", what="in step")
            leaving.must(token, "POST", "sys/regions/switchover", {"name": coming.name})
            leaving.must(
                token, "POST", "secret/data/a", {"data": {"v": coming.name}}
            )  # waits, and is carried over
            assert coming.regions(token)["role"] == "primary"
            poll(lambda leaving=leaving: leaving.regions(token)["role"] == "secondary", what="it follows")
            poll(
                lambda leaving=leaving, coming=coming: leaving.value(token, "a") == coming.name,
                what="in step",
            )
        versions = eu.must(token, "GET", "secret/metadata/a")["data"]["versions"]
        assert sorted(versions) == ["1", "2", "3"]


def test_a_region_takes_over_from_one_that_is_gone_and_the_old_one_acknowledges_nothing_more(
    tmp_path: Path,
) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        eu.must(token, "POST", "secret/data/a", {"data": {"v": 1}})
        us.wait_level(token, eu.regions(token)["position"])
        eu.server.kill()
        lost = us.server.request("POST", "secret/data/a", {"data": {"v": 2}}, token=token)
        assert lost.status == 503, "nobody orders writes, and nothing happened"
        poll(lambda: lag_of(us, token) != 0.0, what="the lag grows, or is not even known")
        refused = us.server.request("POST", "sys/regions/promote", token=token)
        assert refused.status == 400
        assert "accept_loss" in refused.body["errors"][0]
        us.must(token, "POST", "sys/regions/promote", {"accept_loss": True})
        us.must(token, "POST", "secret/data/a", {"data": {"v": 2}})
        eu.start(200)
        # the old primary finds its successor before it acknowledges anything
        made = eu.must(token, "POST", "secret/data/a", {"data": {"v": 3}})
        assert made["data"]["version"] == 3
        assert us.value(token, "a") == 3
        assert eu.regions(token)["role"] == "secondary"
        assert eu.value(token, "a") == 3


def asking(region, token, capsys, monkeypatch, home):
    """A function that runs `strongroom region ...` at a region: (exit code, JSON)."""
    empty_environment(monkeypatch, home)
    for name, value in (("ADDR", region.server.address), ("TOKEN", token), ("CACERT", str(region.server.ca))):
        monkeypatch.setenv(f"VAULT_{name}", value)
    run = runner(capsys, monkeypatch)

    def asked(verb, *flags):
        code, out, err = run("region", verb, "-format=json", *flags)
        assert out, err
        return code, json.loads(out)

    return asked


def test_what_was_acknowledged_and_did_not_travel_is_set_aside_and_can_be_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_regions(tmp_path) as (eu, us, token):
        eu.must(token, "POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
        eu.must(token, "POST", "secret/data/both", {"data": {"v": 1}})
        us.wait_level(token, eu.regions(token)["position"])
        own = eu.must(token, "GET", "auth/token/lookup-self")["data"]["accessor"]
        us.server.kill()  # what eu acknowledges now does not travel
        eu.must(token, "POST", "sys/rotate")  # nor the key that it is under
        large = os.urandom(450_000).hex()
        for key, value in (("lost", large), ("taken", "of eu"), ("taken", "of eu")):
            eu.must(token, "POST", f"secret/data/{key}", {"data": {"v": value}})
        eu.must(token, "POST", "old/lost", {"v": "of eu"})
        eu.server.kill()
        us.start(200)
        us.must(token, "POST", "sys/regions/promote", {"accept_loss": True}, timeout=60.0)
        us.must(token, "POST", "sys/rotate")  # another key of that number
        us.must(token, "POST", "secret/data/taken", {"data": {"v": "of us"}})
        eu.start(200)
        poll(lambda: eu.value(token, "taken") == "of us", what="the old primary takes the new history")
        assert eu.value(token, "lost") is None
        rotated, *entries = eu.must(token, "GET", "sys/regions/divergence")["data"]["entries"]
        assert rotated["kind"] == "KeyTermAdd"
        told = [(each["kind"], each["mount"], each["path"], each["version"]) for each in entries]
        places = ("secret/", "lost", 1), ("secret/", "taken", 1), ("secret/", "taken", 2), ("old/", "lost", 1)
        assert told == [("KvPut", *each) for each in places]
        written = region_authors.find(entries, [eu.directory / "audit.jsonl"])
        assert {written[each["id"]]["display_name"] for each in entries} == {"root"}
        hashed = eu.must(token, "POST", "sys/audit-hash/file", {"input": own})["data"]["hash"]
        assert {written[each["id"]]["accessor"] for each in entries} == {hashed}
        assert all(len(each["request_id"]) == 32 for each in entries)
        region = asking(eu, token, capsys, monkeypatch, tmp_path)
        code, made = region("divergence", "-replay=all")
        (_, key), (lost, first), (taken, second), (_, third), last = (
            (each["path"], each["outcome"]) for each in made
        )
        assert "forgotten" in key, "there is nothing in it that anybody has written"
        assert (code, lost, first, taken) == (2, "secret/lost", "version 1", "secret/taken")
        assert "check-and-set" in second, "the new history goes first"
        assert entries[1]["id"] in third, "though version 1 is there: it is another one"
        assert last == ("old/lost", "version 1")
        assert us.must(token, "GET", "old/lost")["data"] == {"v": "of eu"}
        assert us.value(token, "lost") == large
        assert us.value(token, "taken") == "of us"
        gone = eu.server.request("POST", f"sys/regions/divergence/{entries[0]['id']}", token=token)
        assert (gone.status, entries[0]["id"] in gone.body["errors"][0]) == (404, True), "once and no more"
        code, made = region("divergence", "-discard=all")
        assert (code, [each["path"] for each in made]) == (0, ["secret/taken", "secret/taken"])
        assert eu.must(token, "GET", "sys/regions/divergence")["data"]["entries"] == []
        assert eu.regions(token)["stuck"] == ""


def test_regions_that_are_far_apart_follow_and_forward_and_outlive_a_cut(tmp_path: Path) -> None:
    with distant_regions(tmp_path, delay_s=0.05) as (eu, us, token, wan):
        eu.must(token, "POST", "secret/data/before", {"data": {"v": 1}})
        poll(lambda: us.value(token, "before") == 1, what="a write of the primary in the secondary")
        began = time.monotonic()
        us.must(token, "POST", "secret/data/there", {"data": {"v": 2}})
        assert time.monotonic() - began >= 0.1, "nothing comes through but by the link"
        assert us.value(token, "there") == 2
        poll(lambda: lag_of(us, token) == 0.0, what="level")
        wan.cut(swallow=True)
        eu.must(token, "POST", "secret/data/meanwhile", {"data": {"v": 3}})
        poll(lambda: lag_of(us, token), what="the lag grows")
        assert us.value(token, "there") == 2, "what is there can be read"
        assert us.value(token, "meanwhile") is None
        assert staleness_of(us, token, "max-staleness=30s")[0] == 200
        poll(lambda: staleness_of(us, token, "max-staleness=1s")[0] == 412, what="too old for who says so")
        status, told_ms = staleness_of(us, token, "stale-ok")
        assert (status, int(told_ms) > 1000) == (200, True), "what the other region acknowledged counts"
        assert staleness_of(eu, token, "max-staleness=1s")[0] == 200, "the one that orders writes has it all"
        wan.heal()
        poll(lambda: us.value(token, "meanwhile") == 3, what="what was written meanwhile")
        poll(lambda: staleness_of(us, token, "max-staleness=5s")[0] == 200, what="level, as answers tell")
        # a narrow link: the answer to a write is here sooner than the write, behind a large one
        for attempt in range(1, 6):
            wan.change(bits_per_s=1_200_000 // attempt)
            eu.must(token, "POST", "secret/data/large", {"data": {"v": os.urandom(450_000).hex()}})
            made = us.server.request("POST", f"secret/data/small{attempt}", {"data": {"v": 4}}, token=token)
            assert made.status == 200
            index = made.headers["x-vault-index"]
            if us.value(token, f"small{attempt}") is None:
                break
        else:
            raise AssertionError("it has always arrived: nothing is tested")
        wan.change(bits_per_s=0)

        def passes_it_on() -> bool:
            read = us.server.request(
                "GET", f"secret/data/small{attempt}", token=token, headers={"X-Vault-Index": index}
            )
            assert read.status in (200, 412), "older than the index that the writer was told"
            return read.status == 200

        poll(passes_it_on, what="a read that waits for the index of the write")
