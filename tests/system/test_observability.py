"""What a node tells those who run it: metrics for Prometheus, logs as JSON."""

import re
import ssl
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from support.clusters import under_one_leader
from support.patience import PATIENCE_S
from support.processes import poll, records

from node import VERSION
from node.cli.local_cluster import LocalCluster


def scrape(cluster: LocalCluster, node: str, token: str) -> dict[str, float]:
    """Sample name with labels -> value, of sys/metrics in Prometheus' text format."""
    address = f"{cluster.node(node).api_address}/v1/sys/metrics?format=prometheus"
    request = urllib.request.Request(address, headers={"X-Vault-Token": token})
    context = ssl.create_default_context(cafile=str(cluster.ca_path))
    with urllib.request.urlopen(request, context=context, timeout=PATIENCE_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (re.split(r" (?=\S+$)", x) for x in lines if x[:1] != "#")}


def test_metrics_tell_the_state_of_raft_the_seal_and_requests(cluster: LocalCluster, mount: str) -> None:
    under_one_leader(cluster, partial(_tell_of_leader, cluster))
    for node in cluster.nodes:
        cluster.must(node.id, "GET", f"{mount}/config")
        samples = scrape(cluster, node.id, cluster.token)
        assert samples["strongroom_unsealed"] == 1
        assert samples["strongroom_raft_members"] >= 3
        assert 0 < samples["strongroom_raft_applied_index"] <= samples["strongroom_raft_last_index"]
        assert samples["strongroom_raft_term"] >= 1
        assert samples["strongroom_raft_journal_fsync_seconds_count"] > 0
        counted = 'strongroom_http_request_duration_seconds_count{code="200",operation="read"}'
        assert samples[counted] > 0
        assert samples["strongroom_http_requests_in_flight"] >= 1
        assert samples[f'strongroom_build_info{{version="{VERSION}"}}'] == 1


def _tell_of_leader(cluster: LocalCluster, leader: str) -> None:
    for node in cluster.nodes:
        samples = scrape(cluster, node.id, cluster.token)
        assert samples["strongroom_raft_is_leader"] == (node.id == leader)
        assert samples["strongroom_raft_has_leader"] == 1


def test_metrics_need_a_token_and_count_refusals(cluster: LocalCluster) -> None:
    assert cluster.request("n1", "GET", "sys/metrics", token="")[0] == 403
    name = 'strongroom_http_request_duration_seconds_count{code="403",operation="read"}'
    before = scrape(cluster, "n1", cluster.token)[name]
    assert cluster.request("n1", "GET", "sys/mounts", token="s.wrong")[0] == 403
    assert scrape(cluster, "n1", cluster.token)[name] == before + 1


def test_metrics_name_no_path_and_no_token(cluster: LocalCluster, mount: str) -> None:
    cluster.must("n1", "POST", f"{mount}/data/x", {"data": {}})
    assert not [
        name for name in scrape(cluster, "n1", cluster.token) if mount in name or cluster.token in name
    ]


def logged(path: Path, event: str) -> list[dict[str, Any]]:
    """The whole lines of a log, once one of them is of an event."""
    lines = records(path)
    return lines if any(line["event"] == event for line in lines) else []


def test_log_lines_are_json_and_say_when_who_and_what(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        lines = poll(partial(logged, node.log_path, "node unsealed"), what="the line of the unsealing")
        assert all(line.keys() >= {"ts", "level", "event", "logger"} for line in lines)
        assert {line["node"] for line in lines if "node" in line} == {node.id}
        assert "listening" in {line["event"] for line in lines}
        assert [line for line in lines if line["level"] in ("error", "critical")] == []


def test_answers_carry_the_id_that_the_audit_log_knows(
    cluster: LocalCluster, follower: str, mount: str
) -> None:
    answer = cluster.must(follower, "GET", f"{mount}/config")
    audit = cluster.node(follower).audit_path.read_text()
    assert audit.count(answer["request_id"]) == 2
