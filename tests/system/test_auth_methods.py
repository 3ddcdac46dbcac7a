"""Logins, locks and identities hold over all nodes together, whichever of them is asked."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.lines import Line
from support.targets import unique

from node.cli.local_cluster import LocalCluster

ROUNDS = 12
SELF = "auth/token/lookup-self"


@pytest.fixture
def lines(cluster: LocalCluster) -> Iterator[list[Line]]:
    """One to each node."""
    made = [Line(cluster, node.id) for node in cluster.nodes]
    yield made
    for line in made:
        line.close()


def ok(answer: tuple[int, Any]) -> Any:
    assert answer[0] in (200, 204), answer
    return answer[1]


def at_once(lines: list[Line], method: str, path: str, body: Any) -> list[tuple[int, Any]]:
    """The same request to every node, sent at the same moment."""
    start = threading.Barrier(len(lines))

    def one(line: Line) -> tuple[int, Any]:
        start.wait()
        return line.ask(method, path, body)

    with ThreadPoolExecutor(len(lines)) as pool:
        return list(pool.map(one, lines))


def enable(line: Line, kind: str) -> str:
    path = unique(kind)
    ok(line.ask("POST", f"sys/auth/{path}", {"type": kind}))
    return path


def test_a_secret_id_for_one_login_gives_one_token_however_many_nodes_are_asked(lines: list[Line]) -> None:
    path = enable(lines[0], "approle")
    ok(lines[0].ask("POST", f"auth/{path}/role/r", {"role_id": path, "secret_id_num_uses": 1}))
    for line in itertools.islice(itertools.cycle(lines), ROUNDS):
        secret_id = ok(line.ask("POST", f"auth/{path}/role/r/secret-id"))["data"]["secret_id"]
        answers = at_once(lines, "POST", f"auth/{path}/login", {"role_id": path, "secret_id": secret_id})
        assert sorted(status for status, _ in answers) == [200, 400, 400]
        token = next(answer["auth"]["client_token"] for status, answer in answers if status == 200)
        assert [line.ask("GET", SELF, token=token)[0] for line in lines] == [200] * 3


def test_failures_at_different_nodes_add_up_to_a_lock_at_all(lines: list[Line]) -> None:
    path = enable(lines[0], "userpass")
    ok(lines[1].ask("POST", f"auth/{path}/users/bob", {"password": "pw", "token_policies": "default"}))
    login = f"auth/{path}/login/"
    for line, name in zip(itertools.cycle(lines), ["bob", "BOB", "Bob", "bob", "bOb"], strict=False):
        assert line.ask("POST", login + name, {"password": "wrong"})[0] == 400
    assert [line.ask("POST", f"{login}bob", {"password": "pw"})[0] for line in lines] == [403] * 3
    accessor = ok(lines[2].ask("GET", f"sys/auth/{path}"))["data"]["accessor"]
    ok(lines[0].ask("POST", f"sys/locked-users/{accessor}/unlock/bob"))
    assert [line.ask("POST", f"{login}bob", {"password": "pw"})[0] for line in lines] == [200] * 3


def test_first_logins_at_all_nodes_at_once_are_one_entity(lines: list[Line]) -> None:
    path = enable(lines[0], "userpass")
    for number in range(ROUNDS):
        ok(lines[0].ask("POST", f"auth/{path}/users/u{number}", {"password": "pw"}))
        answers = at_once(lines, "POST", f"auth/{path}/login/u{number}", {"password": "pw"})
        assert len({ok(answer)["auth"]["entity_id"] for answer in answers}) == 1


def test_a_batch_token_is_known_everywhere_and_dies_with_its_parent_everywhere(lines: list[Line]) -> None:
    for line in itertools.islice(itertools.cycle(lines), ROUNDS):
        parent = ok(line.ask("POST", "auth/token/create", {"policies": ["root"], "ttl": "1h"}))["auth"][
            "client_token"
        ]
        asked = {"type": "batch", "policies": ["default"]}
        batch = ok(line.ask("POST", "auth/token/create", asked, token=parent))["auth"]["client_token"]
        assert [each.ask("GET", SELF, token=batch)[0] for each in lines] == [200] * 3
        ok(line.ask("POST", "auth/token/revoke", {"token": parent}))
        assert [each.ask("GET", SELF, token=batch)[0] for each in lines] == [403] * 3


def test_what_an_entity_is_allowed_changes_at_every_node_at_once(lines: list[Line], mount: str) -> None:
    path, policy = enable(lines[0], "userpass"), unique("policy")
    ok(lines[0].ask("POST", f"auth/{path}/users/bob", {"password": "pw"}))
    auth = ok(lines[0].ask("POST", f"auth/{path}/login/bob", {"password": "pw"}))["auth"]
    ok(lines[0].ask("POST", f"{mount}/data/a", {"data": {"x": 1}}))
    text = f'path "{mount}/data/a" {{ capabilities = ["read"] }}'
    ok(lines[0].ask("POST", f"sys/policies/acl/{policy}", {"policy": text}))
    entity, token = f"identity/entity/id/{auth['entity_id']}", auth["client_token"]
    states: list[tuple[dict[str, Any], int]] = [
        ({"policies": [policy]}, 200),
        ({"policies": []}, 403),
        ({"policies": [policy]}, 200),
        ({"disabled": True}, 403),
        ({"disabled": False}, 200),
    ]
    for line in lines * 3:
        for change, expected in states:
            ok(line.ask("POST", entity, change))
            assert {each.ask("GET", f"{mount}/data/a", token=token)[0] for each in lines} == {expected}


def test_a_renewal_never_wakes_a_revoked_token(lines: list[Line]) -> None:
    """Renewed at two nodes while it is revoked at the third."""
    for number in range(ROUNDS):
        made = ok(lines[0].ask("POST", "auth/token/create", {"policies": ["default"], "ttl": "1h"}))["auth"]
        token, start = made["client_token"], threading.Barrier(3)
        revoker = lines[number % 3]

        def act(line: Line, token: str = token, start: Any = start, revoker: Line = revoker) -> int:
            start.wait()
            path = "auth/token/revoke" if line is revoker else "auth/token/renew"
            return line.ask("POST", path, {"token": token})[0]

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(act, lines))
        assert [line.ask("GET", SELF, token=token)[0] for line in lines] == [403] * 3
        assert [line.ask("POST", "auth/token/renew", {"token": token})[0] for line in lines] == [400] * 3


def test_disabling_a_method_ends_its_tokens_at_every_node(lines: list[Line]) -> None:
    for line in lines:
        path = enable(line, "userpass")
        ok(line.ask("POST", f"auth/{path}/users/bob", {"password": "pw"}))
        tokens = [
            ok(each.ask("POST", f"auth/{path}/login/bob", {"password": "pw"}))["auth"]["client_token"]
            for each in lines
        ]
        ok(line.ask("DELETE", f"sys/auth/{path}"))
        for token in tokens:
            assert [each.ask("GET", SELF, token=token)[0] for each in lines] == [403] * 3
