"""What `strongroom cluster status` and `members` show: whom nobody hears, who leads, who lags."""

import json
from pathlib import Path

import pytest
from support.cli import Cli
from support.stub_api import StubApi, dead_address, stub_api


def _member(node_id: str, address: str, *, voter: bool = True) -> dict[str, object]:
    return {
        "node_id": node_id,
        "region": "local",
        "api_address": address,
        "cluster_address": "127.0.0.1:1",
        "voter": voter,
    }


def _account(node_id: str, role: str, leader: str | None, applied: int) -> dict[str, object]:
    return {
        "node_id": node_id,
        "region": "local",
        "role": role,
        "term": 7,
        "last_index": applied,
        "commit_index": applied,
        "applied_index": applied,
        "leader_id": leader,
        "sealed": False,
        "initialized": True,
        "version": "0.1.0",
        "pid": 42,
    }


def _cluster_of_three(one: StubApi, two: StubApi, *, leader: str | None) -> None:
    """n1 at 12, n2 at 10 (without a vote), n3 dead."""
    nodes = [
        _member("n1", one.address),
        _member("n2", two.address, voter=False),
        _member("n3", dead_address()),
    ]
    one.replies["GET /v1/sys/cluster/nodes"] = (200, {"data": {"nodes": nodes}})
    one.replies["GET /v1/sys/cluster/node"] = (
        200,
        _account("n1", "leader" if leader else "candidate", leader, 12),
    )
    two.replies["GET /v1/sys/cluster/node"] = (200, {"data": _account("n2", "follower", leader, 10)})


def test_cluster_status_shows_a_dead_node_and_the_lag(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_TOKEN", "t")
    with stub_api() as one, stub_api() as two:
        _cluster_of_three(one, two, leader="n1")
        code, out, err = strongroom("cluster", "status", "-address", one.address)
        assert (code, err) == (0, "")
        assert [call[3] for call in one.asked + two.asked] == ["t", None, None], (
            "the token goes to one node only"
        )
    heading, _, *rows, empty, verdict = out.splitlines()
    assert heading.split() == [
        "Node",
        "Region",
        "Address",
        "Role",
        "Term",
        "Last",
        "Index",
        "Lag",
        "Sealed",
        "PID",
    ]
    assert rows[0].split() == ["n1", "local", one.address, "leader", "7", "12", "0", "false", "42"]
    assert rows[1].split() == [
        "n2", "local", two.address, "follower", "(no", "vote", "yet)", "7", "10", "2", "false", "42"
    ]  # fmt: skip
    assert rows[2].split()[3:] == ["unreachable", "-", "-", "-", "-", "-"]
    assert (empty, verdict) == ("", "The leader is n1.")


def test_cluster_status_without_a_leader_exits_with_2(strongroom: Cli) -> None:
    with stub_api() as one, stub_api() as two:
        _cluster_of_three(one, two, leader=None)
        code, out, _ = strongroom("cluster", "status", "-address", one.address)
    assert code == 2
    assert out.endswith("There is no leader.\n")


def test_cluster_status_as_json_is_what_the_documentation_promises(strongroom: Cli) -> None:
    with stub_api() as one, stub_api() as two:
        _cluster_of_three(one, two, leader="n1")
        _, out, _ = strongroom("cluster", "status", "-format=json", "-address", one.address)
    report = json.loads(out)
    assert {key: report[key] for key in ("leader_id", "term", "last_index")} == {
        "leader_id": "n1",
        "term": 7,
        "last_index": 12,
    }
    assert [node["lag"] for node in report["nodes"]] == [0, 2, None]
    assert [node["reachable"] for node in report["nodes"]] == [True, True, False]
    assert "Connection refused" in report["nodes"][2]["error"]
    document = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    promised = json.loads(document.split("```json\n")[1].split("```")[0])
    assert promised.keys() == report.keys()
    assert all(promised["nodes"][0].keys() == node.keys() for node in report["nodes"])


def test_cluster_status_believes_the_newest_term(strongroom: Cli) -> None:
    """A leader cut off from the others may not have noticed yet."""
    with stub_api() as one, stub_api() as two:
        _cluster_of_three(one, two, leader="n1")
        two.replies["GET /v1/sys/cluster/node"] = (200, _account("n2", "leader", "n2", 13) | {"term": 8})
        _, out, _ = strongroom("cluster", "status", "-address", one.address)
    assert out.endswith("The leader is n2.\n")


def test_members_are_listed(strongroom: Cli) -> None:
    node = {
        "hostname": "h", "api_address": "https://a:1", "cluster_address": "https://a:2", "active_node": False,
        "last_echo": "2026-11-22T07:03:44.123Z", "version": "1",
    }  # fmt: skip
    with stub_api({"GET /v1/sys/ha-status": (200, {"data": {"nodes": [node]}})}) as api:
        _, out, _ = strongroom("operator", "members", "-address", api.address)
        assert out.splitlines()[2].split() == [
            "h", "https://a:1", "https://a:2", "false", "1", "n/a", "2026-11-22T07:03:44Z"
        ]  # fmt: skip
        _, out, _ = strongroom("operator", "members", "-format=json", "-address", api.address)
        assert json.loads(out) == {"Nodes": [node]}
