"""Drills on real nodes: what is measured, what is kept, and that nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import Cli, empty_environment, runner
from support.processes import poll
from support.regions import two_regions

from node.cli.local_cluster import LocalCluster

Drill = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs commands, after `drill` against the same server."""
    empty_environment(monkeypatch, tmp_path)
    return runner(capsys, monkeypatch)


@pytest.fixture
def drill(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Drill:
    """One `strongroom drill` against a server: (exit code, what it printed as JSON)."""

    def drilled(
        address: str, ca: Path, token: str, *arguments: object, stdin: str = ""
    ) -> tuple[int, dict[str, Any]]:
        monkeypatch.setenv("VAULT_ADDR", address)
        if address.startswith("https:"):
            monkeypatch.setenv("VAULT_CACERT", str(ca))
        monkeypatch.setenv("VAULT_TOKEN", token)
        code, out, err = cli("drill", *arguments, "-format=json", stdin=stdin)
        assert out, err
        return code, json.loads(out)

    return drilled


DOCUMENT = Path(__file__).parents[2] / "docs" / "drills.md"


def driller(ask: Callable[..., Any]) -> str:
    """A token with no more than the policy that the documentation shows; `ask` sends as root."""
    policy = re.findall(r"(?s)```hcl\n(.*?)```", DOCUMENT.read_text())[0]
    ask("POST", "sys/policies/acl/drills", {"policy": policy})
    made = ask("POST", "auth/token/create", {"policies": ["drills"], "no_default_policy": True})
    return str(made["auth"]["client_token"])


def of_cluster(cluster: LocalCluster, node_id: str) -> tuple[str, Path, str]:
    return cluster.node(node_id).api_address, cluster.ca_path, cluster.token


def test_a_leader_steps_down_and_nothing_acknowledged_is_lost(
    cluster: LocalCluster, follower: str, drill: Drill
) -> None:
    old = cluster.wait_leader()
    address, ca, _ = of_cluster(cluster, follower)
    token = driller(partial(cluster.must, follower))
    code, told = drill(address, ca, token, "leader")
    report = told["report"]
    assert (code, report["ending"], report["rpo_writes"]) == (0, "passed", 0), report
    assert report["requests"] > 10
    assert 0 < report["rto_ms"] < 30_000
    assert cluster.wait_leader() != old or any("leads now" in note for note in report["notes"])
    kept = cluster.must(follower, "GET", "sys/drills/history")["data"]["reports"][0]
    assert kept["id"] == told["id"]
    assert kept["report"] == report
    assert (kept["by"], kept["node_id"] != "") == ("token", True)
    verified, listed = drill(*of_cluster(cluster, follower), "history", "-verify")
    assert (verified, listed["verified"][told["id"]]) == (0, True)


def test_a_node_is_stopped_watched_and_brought_back(
    cluster: LocalCluster, follower: str, drill: Drill
) -> None:
    pid = cluster.pid(follower)
    asked = cluster.wait_leader()
    code, told = drill(
        *of_cluster(cluster, asked),
        *("node", follower, "-kill", "-for=100ms", f"-directory={cluster.directory}"),
    )
    report = told["report"]
    assert (code, report["ending"], report["rpo_writes"], report["target"]) == (0, "passed", 0, follower), (
        report
    )
    assert cluster.pid(follower) not in (None, pid)


def test_a_region_is_handed_over_and_back(tmp_path: Path, drill: Drill, cli: Cli) -> None:
    with two_regions(tmp_path / "regions") as (eu, us, token):
        assert us.server.ca is not None
        poll(lambda: us.regions(token)["regions"][0]["last_contact_seconds"] is not None, what="a link")
        code, told = drill(us.server.address, us.server.ca, driller(partial(us.must, token)), "region")
        report = told["report"]
        assert (code, report["ending"], report["rpo_writes"]) == (0, "passed", 0), report["notes"]
        assert (report["target"], eu.regions(token)["role"]) == ("us", "primary")
        plan = drill(us.server.address, us.server.ca, token, "plan")[1]
        entry = next(each for each in plan["regions"]["regions"] if each["name"] == "eu")
        assert [each["node_id"] for each in entry["nodes"]] == ["eu-1"]
        assert "one voter" in plan["against"]["leader"][0]

        for number in range(5):
            us.must(token, "POST", f"secret/data/app/{number}", {"data": {"v": number}})
        us.must(token, "DELETE", "secret/data/app/4")
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        key = us.directory / "seal.key"
        asked = ("isolated", f"-seal-key-file={key}", f"-directory={scratch}", "-sample=10")
        code, told = drill(us.server.address, us.server.ca, driller(partial(us.must, token)), *asked)
        report = told["report"]
        assert (code, report["ending"], report["rpo_writes"]) == (0, "passed", 0), report["notes"]
        assert any(note.startswith("4 of 5 sampled secrets (of 5)") for note in report["notes"])
        assert not list(scratch.iterdir()), "the scratch store is gone"
        assert us.regions(token)["role"] == "secondary", "the live one has not noticed"
        other = eu.directory / "seal.key"
        code, told = drill(
            us.server.address,
            us.server.ca,
            token,
            "isolated",
            f"-seal-key-file={other}",
            f"-directory={scratch}",
        )
        assert (code, told["report"]["ending"]) == (2, "failed")
        assert any("does not open the snapshot's seal" in note for note in told["report"]["notes"])
        assert not list(scratch.iterdir())
        kept = us.must(token, "GET", "sys/drills/history")["data"]
        for mistake in ((), (f"-seal-key-file={tmp_path / 'missing'}",)):
            command = ["drill", "isolated", f"-directory={scratch}", *mistake]
            assert cli(*command)[0] == 1, "a mistake, and no drill that failed"
        assert us.must(token, "GET", "sys/drills/history")["data"] == kept
        code, told, _ = cli("region", "switchover", "us")
        assert (code, us.regions(token)["role"]) == (0, "primary"), "it has waited"
        assert f"since position {us.regions(token)['epochs'][-1]['position']}" in told

        named = set().union(*(re.findall(r"strongroom_\w+", rule["expr"]) for rule in alerts()))
        snapshots = us.directory / "snapshots"
        snapshots.mkdir()
        (snapshots / "hourly-20261125T000000Z-7.snap").touch()
        shown = set(
            re.findall(rb"^(strongroom_\w+)", us.server.text("sys/metrics", token=token), re.MULTILINE)
        )
        assert len(named) > 10
        assert named <= {each.decode() for each in shown}, "every alert looks at something that is there"


def alerts() -> list[dict[str, Any]]:
    text = (Path(__file__).parents[2] / "deploy/prometheus/strongroom.rules.yml").read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_has_what_prometheus_asks_of_one() -> None:
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_a_snapshot_that_people_open_is_rehearsed_with_their_shares(tmp_path: Path, drill: Drill) -> None:
    local = LocalCluster(tmp_path / "cluster", nodes=1, seal="shamir")
    local.create()
    try:
        local.start_all()
        local.bootstrap()
        local.must("n1", "POST", "secret/data/a", {"data": {"v": 1}})
        shares = json.loads((local.directory / "init.json").read_bytes())["keys"]
        code, told = drill(
            *of_cluster(local, "n1"), "isolated", f"-directory={tmp_path}", stdin="\n".join(shares)
        )
        assert (code, told["report"]["rpo_writes"]) == (0, 0), told["report"]["notes"]
        assert not list(tmp_path.glob("strongroom-drill-*"))
    finally:
        local.stop_all()


def test_an_interrupted_drill_brings_the_node_back_and_says_so(
    cluster: LocalCluster, follower: str, tmp_path: Path, drill: Drill
) -> None:
    asked = cluster.wait_leader()
    before = cluster.pid(follower)
    command = [sys.executable, "-m", "node.cli", "drill", "node", follower, "-for=10m", "-format=json"]
    variables = os.environ | cluster.environment(asked) | {"HOME": str(tmp_path)}
    with subprocess.Popen(
        [*command, f"-directory={cluster.directory}"], env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        poll(lambda: not cluster.alive(follower), what="the node is stopped")
        code, plan = drill(*of_cluster(cluster, asked), "plan")
        assert plan["nodes"][follower] is None
        assert plan["nodes"][asked]["seal_reachable"] is True
        assert plan["regions"] is None
        assert code == (2 if plan["against"]["leader"] else 0)
        process.send_signal(signal.SIGTERM)  # as Ctrl-C
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert json.loads(told)["report"]["ending"] == "interrupted"
    assert cluster.pid(follower) not in (None, before)
    kept = cluster.must(asked, "GET", "sys/drills/history")["data"]["reports"]
    assert kept[0]["report"]["ending"] == "interrupted"
