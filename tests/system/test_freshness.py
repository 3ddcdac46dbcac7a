"""What is acknowledged by one node is true on every node, at once."""

import base64
import contextlib
import itertools
import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.lines import Line
from support.processes import poll
from support.targets import unique

from node.cli.local_cluster import LocalCluster

ROUNDS = 200


def write(cluster: LocalCluster, node: str, path: str, body: Any, **more: Any) -> tuple[Any, Any]:
    """A write that must succeed: its answer and headers."""
    status, answer, headers = cluster.request(node, "POST", path, body, **more)
    assert status in (200, 204), answer
    return answer, headers


def others(cluster: LocalCluster, node: str) -> list[str]:
    return [each.id for each in cluster.nodes if each.id != node]


def token_of(cluster: LocalCluster, node: str, policies: list[str]) -> str:
    answer, _ = write(cluster, node, "auth/token/create", {"policies": policies})
    return str(answer["auth"]["client_token"])


@pytest.fixture
def lines(cluster: LocalCluster) -> Iterator[dict[str, Line]]:
    """One to each node."""
    made = {node.id: Line(cluster, node.id) for node in cluster.nodes}
    yield made
    for line in made.values():
        line.close()


def test_a_write_through_one_node_is_read_through_the_others_at_once(
    lines: dict[str, Line], mount: str
) -> None:
    """200 rounds, the writer changing every time."""
    path = f"{mount}/data/fresh"
    for number, node in zip(range(ROUNDS), itertools.cycle(lines), strict=False):
        assert lines[node].ask("POST", path, {"data": {"n": number}})[0] == 200
        for other in lines.keys() - {node}:
            status, answer = lines[other].ask("GET", path)
            assert (status, (answer["data"] or {}).get("data")) == (200, {"n": number}), (number, node, other)


def codes(lines: dict[str, Line], method: str, path: str, *, token: str, last: str) -> list[int]:
    """What the nodes answer, asked without a pause, `last` being asked last."""
    order = sorted(lines, key=lambda node: node == last)
    return [lines[node].ask(method, path, token=token)[0] for node in order]


def test_a_revoked_token_is_refused_by_every_node_at_once(lines: dict[str, Line]) -> None:
    for node in [*lines] * 20:
        answer = lines[node].ask("POST", "auth/token/create", {"policies": ["default"]})[1]
        token = answer["auth"]["client_token"]
        assert codes(lines, "GET", "auth/token/lookup-self", token=token, last=node) == [200] * 3
        assert lines[node].ask("POST", "auth/token/revoke", {"token": token})[0] == 204
        assert codes(lines, "GET", "auth/token/lookup-self", token=token, last=node) == [403] * 3


OF_ONE_NODE = (
    ("GET", "sys/host-info"), ("GET", "sys/config/state/sanitized"), ("GET", "sys/loggers"), ("GET", "sys/metrics"),
    ("GET", "sys/drills/node"), ("POST", "sys/tools/random/8"),
)  # fmt: skip
OF_THE_STORE = ("GET", "auth/token/lookup-self")


def test_a_node_that_slept_through_a_revocation_lets_nobody_in_by_what_it_knew(
    cluster: LocalCluster, follower: str
) -> None:
    """Not even to what concerns that node alone: the requests are there before it wakes up."""
    name, writer = unique("policy"), others(cluster, follower)[0]
    allow = 'path "*" { capabilities = ["create", "read", "update", "sudo"] }'
    write(cluster, writer, f"sys/policies/acl/{name}", {"policy": allow})

    def refused() -> bool:
        answers = _asked_in_its_sleep(cluster, follower, writer, token_of(cluster, writer, [name]))
        if 503 in answers.values():
            return False  # it found no quorum in its time, so it could not know: a busy machine
        assert set(answers.values()) == {403}, answers
        return True

    poll(refused, what="a node that finds its quorum")


def _asked_in_its_sleep(cluster: LocalCluster, sleeper: str, writer: str, token: str) -> dict[str, int]:
    """What a node answers, by path, to requests that waited for it while the token was revoked elsewhere."""
    asked = {path: (Line(cluster, sleeper), method) for method, path in (*OF_ONE_NODE, OF_THE_STORE)}
    for line, _ in asked.values():
        assert line.ask("GET", "auth/token/lookup-self", token=token)[0] == 200
    cluster.pause(sleeper)
    try:
        write(cluster, writer, "auth/token/revoke", {"token": token})
        for path, (line, method) in asked.items():
            line.send(method, path, {} if method == "POST" else None, token=token)
    finally:
        cluster.resume(sleeper)
    answers = {path: line.hear()[0] for path, (line, _) in asked.items()}
    for line, _ in asked.values():
        line.close()
    return answers


def test_a_node_without_a_quorum_tells_of_itself_and_nothing_else(
    cluster: LocalCluster, follower: str, mount: str
) -> None:
    write(cluster, follower, f"{mount}/data/a", {"data": {}})
    asked = {path: Line(cluster, follower) for path in ("sys/metrics", "sys/host-info", f"{mount}/data/a")}
    for node in others(cluster, follower):
        cluster.pause(node)

    def alone() -> bool:
        for path, line in asked.items():
            line.send("GET", path)
        return [line.hear()[0] for line in asked.values()] == [200, 200, 503]

    try:
        poll(alone, what="the end of the lease")
    finally:
        for node in others(cluster, follower):
            cluster.resume(node)
        for line in asked.values():
            line.close()
    for node in cluster.nodes:
        poll(
            lambda node=node: cluster.request(node.id, "POST", f"{mount}/data/a", {"data": {}})[0] == 200,
            what="a quorum",
        )


def test_a_policy_change_acts_on_every_node_at_once(
    cluster: LocalCluster, lines: dict[str, Line], mount: str
) -> None:
    name, path = unique("policy"), f"{mount}/data/guarded"
    write(cluster, "n1", path, {"data": {"a": 1}})
    allow = f'path "{mount}/data/*" {{ capabilities = ["read"] }}'
    deny = f'path "{mount}/data/*" {{ capabilities = ["deny"] }}'
    write(cluster, "n1", f"sys/policies/acl/{name}", {"policy": allow})
    token = token_of(cluster, "n1", [name])
    for round_, node in zip(range(60), itertools.cycle(lines), strict=False):
        text, expected = (deny, 403) if round_ % 2 else (allow, 200)
        assert lines[node].ask("PUT", f"sys/policies/acl/{name}", {"policy": text})[0] == 204
        assert {line.ask("GET", path, token=token)[0] for line in lines.values()} == {expected}, (
            round_,
            node,
        )


@contextlib.contextmanager
def busy(cluster: LocalCluster, path: str) -> Iterator[None]:
    """Others write through every node meanwhile, so that each has something that it has not applied yet."""
    over = threading.Event()

    def write_on(node: str) -> None:
        line = Line(cluster, node)
        while not over.is_set():
            line.ask("POST", f"{path}/{node}", {"data": {}})
        line.close()

    with ThreadPoolExecutor(len(cluster.nodes)) as pool:
        writers = [pool.submit(write_on, node.id) for node in cluster.nodes]
        try:
            yield
        finally:
            over.set()
        for writer in writers:
            writer.result()


def test_who_lost_a_permission_writes_nothing_through_any_node(
    cluster: LocalCluster, lines: dict[str, Line], mount: str
) -> None:
    """By a revocation or by a policy, while every node has more to apply than it has applied."""
    name = unique("policy")
    path = f"{mount}/data/lost"
    grant, deny = (
        f'path "{path}" {{ capabilities = [{given}] }}' for given in ('"create", "update"', '"deny"')
    )
    with busy(cluster, f"{mount}/data/busy"):
        for number, node in enumerate([*lines] * 8):
            assert lines[node].ask("PUT", f"sys/policies/acl/{name}", {"policy": grant})[0] in (200, 204)
            token = token_of(cluster, node, [name])
            for each in lines:
                assert lines[each].ask("POST", path, {"data": {"n": number}}, token=token)[0] == 200
            if number % 2:
                taken = lines[node].ask("POST", "auth/token/revoke", {"token": token})
            else:
                taken = lines[node].ask("PUT", f"sys/policies/acl/{name}", {"policy": deny})
            assert taken[0] in (200, 204)
            order = sorted(lines, key=lambda each: each == node)
            answers = [lines[each].ask("POST", path, {"data": {}}, token=token)[0] for each in order]
            assert answers == [403] * 3, number
            assert lines[node].ask("GET", path)[1]["data"]["data"] == {"n": number}


def test_a_use_limit_holds_over_all_nodes_together(cluster: LocalCluster) -> None:
    """Three uses, spent on three nodes: none is left on any."""
    answer, _ = write(cluster, "n1", "auth/token/create", {"policies": ["default"], "num_uses": 3})
    token = answer["auth"]["client_token"]
    for expected in (200, 403):
        for node in cluster.nodes:
            assert cluster.request(node.id, "GET", "auth/token/lookup-self", token=token)[0] == expected


def test_lists_and_mounts_are_as_fresh_as_values(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        path = unique("engine")
        write(cluster, node.id, f"sys/mounts/{path}", {"type": "kv-v2"})
        for other in others(cluster, node.id):
            write(cluster, other, f"{path}/data/by-{other}", {"data": {}})
        listed = [
            cluster.request(each.id, "LIST", f"{path}/metadata")[1]["data"]["keys"] for each in cluster.nodes
        ]
        assert listed == [[f"by-{other}" for other in others(cluster, node.id)]] * 3
        assert cluster.request(node.id, "DELETE", f"sys/mounts/{path}")[0] == 204
        for each in cluster.nodes:
            assert cluster.request(each.id, "GET", f"{path}/data/by-n1")[0] == 404


def test_the_index_of_a_write_makes_even_a_stale_read_see_it(lines: dict[str, Line], mount: str) -> None:
    """X-Vault-Index: the node waits until it has applied what the caller saw elsewhere."""
    path = f"{mount}/data/indexed"
    for number, node in zip(range(ROUNDS), itertools.cycle(lines), strict=False):
        assert lines[node].ask("POST", path, {"data": {"n": number}})[0] == 200
        seen = {"X_Strongroom_Consistency": "stale-ok", "X_Vault_Index": lines[node].index}
        for other in lines.keys() - {node}:
            status, answer = lines[other].ask("GET", path, **seen)
            assert (status, (answer["data"] or {}).get("data")) == (200, {"n": number}), (number, node, other)


def test_an_index_that_is_not_there_yet_is_429_and_garbage_is_400(
    cluster: LocalCluster, follower: str
) -> None:
    headers = cluster.request(follower, "GET", "sys/mounts")[2]
    index = json.loads(base64.b64decode(headers["x-vault-index"]))

    def ask(value: object) -> tuple[int, Any]:
        sent = {"X-Vault-Index": base64.b64encode(json.dumps(value).encode()).decode()}
        status, _, headers = cluster.request(follower, "GET", "sys/mounts", headers=sent)
        return status, headers.get("retry-after")

    assert ask(index | {"value": str(int(index["value"]) + 10**6)}) == (429, "1")
    assert ask(index | {"cluster": str(uuid.uuid4())})[0] == 400
    assert ask("x")[0] == 400


def test_the_same_request_id_writes_once(cluster: LocalCluster, mount: str) -> None:
    """A retry, even through another node, gets the first outcome; a new id writes again."""
    path, once = f"{mount}/data/once", {"X-Strongroom-Request-Id": uuid.uuid4().hex}
    answers = [
        write(cluster, node.id, path, {"data": {"a": 1}}, headers=once)[0]["data"] for node in cluster.nodes
    ]
    assert [answer["version"] for answer in answers] == [1, 1, 1]
    assert len({answer["created_time"] for answer in answers}) == 1
    again = {"X-Strongroom-Request-Id": uuid.uuid4().hex}
    assert write(cluster, "n1", path, {"data": {"a": 2}}, headers=again)[0]["data"]["version"] == 2
    assert (
        cluster.request("n1", "POST", path, {"data": {}}, headers={"X-Strongroom-Request-Id": "no"})[0] == 400
    )


def test_a_retried_token_creation_gives_the_same_token(cluster: LocalCluster) -> None:
    once = {"X-Strongroom-Request-Id": uuid.uuid4().hex}
    made = [
        write(cluster, node.id, "auth/token/create", {"policies": ["default"]}, headers=once)[0]["auth"]
        for node in cluster.nodes
    ]
    assert len({auth["client_token"] for auth in made}) == 1
    assert len({auth["accessor"] for auth in made}) == 1


def test_a_node_that_was_paused_catches_up_before_it_answers(
    cluster: LocalCluster, follower: str, mount: str
) -> None:
    writer = next(node for node in others(cluster, follower))
    path = f"{mount}/data/paused"
    write(cluster, writer, path, {"data": {"n": 0}})
    cluster.pause(follower)
    try:
        for number in range(1, 20):
            write(cluster, writer, path, {"data": {"n": number}})
    finally:
        cluster.resume(follower)
    answer = poll(lambda: _answered(cluster, follower, path), what="an answer of the resumed node")
    assert answer["data"]["data"] == {"n": 19}


def _answered(cluster: LocalCluster, node: str, path: str) -> Any:
    """The first answer that is not an excuse must be the right one."""
    status, answer, _ = cluster.request(node, "GET", path)
    assert status in (200, 503), answer
    return answer if status == 200 else None
