"""What the leader makes of its members: who is healthy, how many may fail, and which dead one goes."""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.groups import Cluster
from support.patience import eventually

from consensus.api import Member, Peer, Role, Status
from consensus.errors import MembershipRefused
from consensus.options import RaftOptions
from node.autopilot.health import Observer, Server, dead, failure_tolerance, proven
from node.autopilot.joiners import Joiners
from node.autopilot.settings import Settings
from node.errors import InvalidRequest


def peer(name: str, *, silent_s: float | None = 0.1, match: int = 100, connected: bool = True) -> Peer:
    return Peer(Member(name, f"{name}:1"), connected, match, silent_s)


def status(*peers: Peer, learners: tuple[Peer, ...] = ()) -> Status:
    members = (Member("n1", "n1:1"), *(each.member for each in peers))
    return Status("n1", Role.LEADER, 3, "n1", 1, 100, 100, 100, members, peers, learners)


def look(given: Status, observer: Observer | None = None, *, now: float = 1000.0) -> dict[str, Server]:
    servers = (observer or Observer(now)).look(given, Settings(), now=now, now_s=now)
    return {server.id: server for server in servers}


def test_a_member_is_healthy_that_was_heard_lately_and_is_not_far_behind() -> None:
    found = look(
        status(
            peer("n2"),
            peer("n3", silent_s=11.0),
            peer("n4", match=-1000),
            peer("n5", connected=False),
            learners=(peer("n6"),),
        )
    )
    assert {name for name, server in found.items() if server.healthy} == {"n1", "n2", "n6"}
    assert {name for name, server in found.items() if server.voter} == {"n1", "n2", "n3", "n4", "n5"}
    assert [server.id for server in found.values() if server.leader] == ["n1"]


@pytest.mark.parametrize(
    ("healthy", "voters", "tolerance"), [(3, 3, 1), (2, 3, 0), (1, 1, 0), (5, 5, 2), (4, 5, 1), (2, 2, 0)]
)
def test_how_many_more_may_fail(healthy: int, voters: int, tolerance: int) -> None:
    peers = [peer(f"n{i + 1}", connected=i < healthy) for i in range(1, voters)]
    assert failure_tolerance(list(look(status(*peers)).values())) == tolerance


def test_health_that_does_not_change_has_a_beginning() -> None:
    observer = Observer(0.0)
    assert look(status(peer("n2")), observer, now=10.0)["n2"].stable_since_s == 10.0
    assert look(status(peer("n2")), observer, now=20.0)["n2"].stable_since_s == 10.0
    assert look(status(peer("n2", silent_s=60.0)), observer, now=30.0)["n2"].stable_since_s == 30.0
    assert look(status(), observer, now=40.0).keys() == {"n1"}
    assert look(status(peer("n2", silent_s=60.0)), observer, now=50.0)["n2"].stable_since_s == 50.0


def test_a_new_leader_gives_those_that_it_never_heard_the_whole_time() -> None:
    never = status(peer("n2", silent_s=None), peer("n3"))
    assert look(never, Observer(990.0), now=1000.0)["n2"].silent_s == 10.0


CLEANING = Settings(cleanup_dead_servers=True, min_quorum=3, dead_server_last_contact_threshold=60.0)


def victim(settings: Settings, *peers: Peer) -> str | None:
    found = dead(list(look(status(*peers)).values()), settings)
    return found.id if found else None


def test_a_dead_member_goes_only_if_somebody_wanted_it() -> None:
    peers = (peer("n2"), peer("n3"), peer("n4", silent_s=61.0))
    assert victim(CLEANING, *peers) == "n4"
    assert victim(Settings(dead_server_last_contact_threshold=60.0), *peers) is None
    assert victim(CLEANING, peer("n2"), peer("n3"), peer("n4", silent_s=59.0)) is None


def test_the_voters_never_become_fewer_than_min_quorum() -> None:
    assert victim(CLEANING, peer("n2"), peer("n3", silent_s=99.0)) is None


def test_one_at_a_time_the_one_that_is_silent_longest() -> None:
    assert (
        victim(CLEANING, peer("n2"), peer("n3"), peer("n4", silent_s=70.0), peer("n5", silent_s=90.0)) == "n5"
    )


def test_nobody_is_removed_whom_the_rest_would_need() -> None:
    """Of five three are silent: whatever is removed, what is left has no healthy majority."""
    silent = [peer(f"n{i}", silent_s=99.0) for i in (3, 4, 5)]
    assert victim(CLEANING, peer("n2"), *silent) is None


def test_a_new_node_votes_when_it_was_healthy_for_as_long_as_is_asked_for() -> None:
    settings, observer = Settings(server_stabilization_time=20.0), Observer(0.0)

    def at(now: float, learner: Peer) -> set[str]:
        given = status(peer("n2"), learners=(learner,))
        return proven(observer.look(given, settings, now=now, now_s=now), settings)

    assert "n4" not in at(100.0, peer("n4", connected=False))
    assert "n4" not in at(101.0, peer("n4"))
    assert "n4" not in at(120.5, peer("n4"))
    assert "n4" in at(121.0, peer("n4"))
    assert "n4" not in at(122.0, peer("n4", match=-5000))
    assert "n4" not in at(123.0, peer("n4"))
    assert "n4" in at(143.0, peer("n4"))


async def test_a_joiner_learns_at_once_votes_when_it_is_proven_and_is_let_go_when_nobody_wants_it(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path, RaftOptions())
    group = await cluster.boot()
    await cluster.led()
    for name in ("n2", "n3"):
        await cluster.join(name)
    wanted = {name: cluster.member(name).address for name in ("n2", "n3")}
    settings, observer, now = Settings(server_stabilization_time=10.0), Observer(0.0), 0.0

    async def attempt(step: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(MembershipRefused):
            await step

    async with asyncio.TaskGroup() as tasks:
        joiners = Joiners(tasks, attempt)

        def look() -> dict[str, Server]:
            servers = observer.look(group.status(), settings, now=now, now_s=now)
            joiners.note(servers, settings)
            joiners.match(group, wanted)
            return {server.id: server for server in servers}

        def later() -> dict[str, Server]:
            nonlocal now
            now += 1.0
            return look()

        def healthy() -> set[str]:
            return {server.id for server in look().values() if server.healthy}

        await eventually(lambda: healthy() == {"n1", "n2", "n3"}, "both learn")
        assert cluster.members("n1") == ["n1"]
        del wanted["n3"]
        await eventually(lambda: "n3" not in look(), "n3 is let go")
        now = 9.0
        assert not look()["n2"].voter
        await eventually(lambda: "n2" in later() and look()["n2"].voter, "n2 votes")
        wanted.clear()
    assert cluster.members("n1") == ["n1", "n2"]
    await cluster.close()


def test_settings_have_the_fields_limits_and_defaults_that_clients_know() -> None:
    assert Settings().shown() == {
        "cleanup_dead_servers": False,
        "last_contact_threshold": "10s",
        "dead_server_last_contact_threshold": "24h0m0s",
        "server_stabilization_time": "0s",
        "min_quorum": 0,
        "max_trailing_logs": 1000,
    }
    changed = Settings().changed({"last_contact_threshold": "5s", "max_trailing_logs": "7"})
    assert (changed.last_contact_threshold, changed.max_trailing_logs, changed.min_quorum) == (5.0, 7, 0)
    for wrong in (
        {"cleanup_dead_servers": True},
        {"cleanup_dead_servers": True, "min_quorum": 2},
        {"dead_server_last_contact_threshold": "30s"},
        {"min_quorum": "x"},
        {"min_quorum": -1},
        {"last_contact_threshold": "soon"},
    ):
        with pytest.raises(InvalidRequest):
            Settings().changed(wrong)
