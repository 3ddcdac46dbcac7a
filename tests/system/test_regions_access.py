"""Who gets in, and what is given out, in two regions: each thing once, wherever it is asked for."""

import base64
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from support.processes import poll
from support.regions import RegionOfOne, two_regions

from node.cli.http_exchange import Answer

READER = """
path "secret/data/*" { capabilities = ["read"] }
path "cubbyhole/*" { capabilities = ["create", "read", "update"] }
"""
Two = tuple[RegionOfOne, RegionOfOne, str]
AT_ONCE_S = 10.0  # a request that waits for the other region takes nine times as long


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Started once; the tests go on from each other: eu orders writes at first, and us at last."""
    with two_regions(tmp_path_factory.mktemp("access")) as (eu, us, token):
        eu.must(token, "POST", "sys/policies/acl/reader", {"policy": READER})
        eu.must(token, "POST", "secret/data/a", {"data": {"v": 1}})
        for path, kind in (("userpass", "userpass"), ("approle", "approle")):
            eu.must(token, "POST", f"sys/auth/{path}", {"type": kind})
        for name, kind in (("sam", "service"), ("bea", "batch")):
            terms = {"token_policies": "reader", "token_type": kind}
            eu.must(token, "POST", f"auth/userpass/users/{name}", {"password": "right"} | terms)
            eu.must(token, "POST", f"auth/approle/role/{name}", {"role_id": name} | terms)
        us.wait_level(token, eu.regions(token)["position"])
        yield eu, us, token


def log_in(region: RegionOfOne, name: str, password: str = "right") -> Answer:
    return region.server.request("POST", f"auth/userpass/login/{name}", {"password": password})


def read(region: RegionOfOne, token: str) -> int:
    return region.server.request("GET", "secret/data/a", token=token).status


def unwrap(region: RegionOfOne, token: str) -> Answer:
    return region.server.request("POST", "sys/wrapping/unwrap", token=token)


def at_once(*asked: Callable[[], Any]) -> list[Any]:
    """The answers to several requests that are sent at the same time."""
    answers: list[Any] = [None] * len(asked)

    def ask(number: int) -> None:
        answers[number] = asked[number]()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return answers


def test_log_ins_that_write_are_decided_by_the_region_that_orders_writes(regions: Two) -> None:
    eu, us, token = regions
    for name, prefix in (("sam", "s."), ("bea", "b.")):
        auth = log_in(us, name).body["auth"]
        assert auth["client_token"].startswith(prefix)
        assert auth["entity_id"], "the first log-in makes an entity, in whichever region"
        assert (read(us, auth["client_token"]), read(eu, auth["client_token"])) == (200, 200)
    # a secret id with one use: two regions at once, one token
    made = eu.must(token, "POST", "auth/approle/role/sam/secret-id", {"num_uses": 1})["data"]
    proof = {"role_id": "sam", "secret_id": made["secret_id"]}
    asked = [lambda each=each: each.server.request("POST", "auth/approle/login", proof) for each in (us, eu)]
    assert sorted(each.status for each in at_once(*asked)) == [200, 400]
    # what is not known here yet is known there: a user who was just made, and wrong passwords
    eu.must(token, "POST", "auth/userpass/users/new", {"password": "right", "token_type": "batch"})
    assert log_in(us, "new").status == 200
    for number in range(5):
        assert log_in((us, eu)[number % 2], "new", "wrong").status == 400
    assert (log_in(us, "new").status, log_in(eu, "new").status) == (403, 403), "one count for both regions"


def test_uses_wrappings_and_cubbyholes_are_one_and_the_same_in_both_regions(regions: Two) -> None:
    eu, us, token = regions
    made = {"policies": ["reader"], "num_uses": 3}
    counted = us.must(token, "POST", "auth/token/create", made)["auth"]["client_token"]
    assert [read(each, counted) for each in (us, eu, us)] == [200, 200, 200]
    assert [read(each, counted) for each in (us, eu)] == [403, 403], (
        "three uses, and not three in each region"
    )
    child = us.must(token, "POST", "auth/token/create", {"policies": ["reader"]})["auth"]["client_token"]
    us.must(child, "POST", "cubbyhole/own", {"v": 1})
    for each in (us, eu):
        assert each.must(child, "GET", "cubbyhole/own")["data"] == {"v": 1}
    for first, second in ((us, eu), (eu, us)):
        wrapped = first.server.request(
            "GET", "secret/data/a", token=child, headers={"X-Vault-Wrap-TTL": "60"}
        )
        wrapping = wrapped.body["wrap_info"]["token"]
        us.wait_level(token, eu.regions(token)["position"])
        answers = at_once(*(functools.partial(unwrap, each, wrapping) for each in (first, second)))
        assert sorted(each.status for each in answers) == [200, 400], "a wrapping token is good once"


def test_a_token_ends_everywhere_whoever_is_asked_to_end_it(regions: Two) -> None:
    eu, us, token = regions
    short = us.must(token, "POST", "auth/token/create", {"policies": ["reader"], "ttl": "2s"})["auth"]
    period = us.must(token, "POST", "auth/token/create", {"policies": ["reader"], "period": "1h"})["auth"]
    renewed = us.must(period["client_token"], "POST", "auth/token/renew-self", {"increment": "5s"})["auth"]
    assert renewed["lease_duration"] == 3600
    us.must(token, "POST", "auth/token/revoke", {"token": period["client_token"]})
    assert (read(us, period["client_token"]), read(eu, period["client_token"])) == (403, 403)
    poll(
        lambda: (read(us, short["client_token"]), read(eu, short["client_token"])) == (403, 403),
        what="its end",
    )

    def is_swept() -> bool:
        """The leader of the region that orders writes took it out, and the other one heard of it."""
        known = [
            each.server.request("LIST", "auth/token/accessors", token=token).body["data"]["keys"]
            for each in (eu, us)
        ]
        return all(short["accessor"] not in each for each in known)

    poll(is_swept, what="its row is gone in both regions")


def test_what_admits_a_node_admits_no_region_and_the_other_way_round(regions: Two) -> None:
    """A node is given the sealed root key, a region the key itself."""
    eu, _, token = regions

    def spend(text: str, entrance: str, wanted: dict[str, Any]) -> Answer:
        secret = msgspec.msgpack.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))[0]
        return eu.server.request("POST", entrance, {"secret": secret.hex(), **wanted})

    key = base64.b64encode(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    region = {"region": "af", "endpoints": [], "links": ["127.0.0.1:1"], "public_key": key}
    node = dict.fromkeys(("peer_request", "listener_request", "link_address"), "") | {
        "node_id": "eu-9",
        "region": "eu",
        "api_address": "https://127.0.0.1:1",
        "cluster_address": "127.0.0.1:2",
        "hosts": [],
    }
    for_node = eu.must(token, "POST", "sys/cluster/join-token")["data"]["token"]
    for_region = eu.must(token, "POST", "sys/regions/ticket")["data"]["ticket"]
    refused = (
        (for_node, "sys/regions/enrol", region, "ticket is invalid"),
        (for_region, "sys/cluster/join", node, "join token is invalid"),
    )
    for text, entrance, wanted, words in refused:
        answer = spend(text, entrance, wanted)
        assert (answer.status, words in answer.body["errors"][0]) == (403, True), answer.body
    assert spend(for_region, "sys/regions/enrol", region).body["data"]["sealed"]
    eu.must(token, "POST", "sys/regions/remove", {"name": "af"})


def test_a_new_key_term_travels_and_each_region_opens_it_with_its_own_seal(regions: Two) -> None:
    eu, us, token = regions

    def term(region: RegionOfOne) -> int:
        return int(region.must(token, "GET", "sys/key-status")["data"]["term"])

    assert eu.seal_key != us.seal_key
    us.must(token, "POST", "sys/rotate")  # asked of any region
    poll(lambda: (term(eu), term(us)) == (2, 2), what="the term in both")
    eu.must(token, "POST", "secret/data/second", {"data": {"v": 2}})
    us.wait_level(token, eu.regions(token)["position"])
    us.server.kill()
    us.start(200)
    assert us.must(token, "GET", "secret/data/second")["data"]["data"] == {"v": 2}
    poll(lambda: us.regions(token)["stuck"] == "" and us.regions(token)["regions"], what="it follows")
    poll(functools.partial(switched, eu, us, token), what="it is ready to take over")
    us.wait_role(token, "primary")
    eu.wait_role(token, "secondary")
    eu.must(token, "POST", "sys/rotate")
    us.must(token, "POST", "secret/data/later", {"data": {"v": 3}})
    poll(lambda: (term(eu), term(us)) == (3, 3), what="the next term in both")
    poll(lambda: eu.value(token, "later") == 3, what="what it encrypts")


def switched(leaving: RegionOfOne, coming: RegionOfOne, token: str) -> bool:
    answer = leaving.server.request("POST", "sys/regions/switchover", {"name": coming.name}, token=token)
    return answer.status < 300


def test_cut_off_a_region_refuses_at_once_and_lets_in_whom_it_can_and_takes_over_what_is_due(
    regions: Two,
) -> None:
    follower, primary, token = regions  # they have changed places
    primary.must(token, "POST", "sys/mounts/pki", {"type": "pki"})
    primary.must(token, "POST", "pki/root/generate/internal", {"common_name": "root", "ttl": "1h"})
    primary.must(token, "POST", "pki/roles/r", {"allow_any_name": True, "generate_lease": True})
    issued = follower.must(token, "POST", "pki/issue/r", {"common_name": "a.example", "ttl": "8s"})
    follower.wait_level(token, primary.regions(token)["position"])
    primary.pause()  # it is there, and swallows whatever is sent
    batch = log_in(follower, "bea").body["auth"]["client_token"]
    assert read(follower, batch) == 200

    def refused_at_once() -> bool:
        began = time.monotonic()
        answer = follower.server.request(
            "POST", "secret/data/a", {"data": {"v": 2}}, token=token, timeout=60.0
        )
        if answer.status != 503 or time.monotonic() - began > AT_ONCE_S:
            return False
        told = answer.body["errors"][0]
        return "nothing was written" in told and "eu follows us" in told and "behind it" in told

    poll(refused_at_once, what="a refusal that comes at once")
    assert log_in(follower, "sam").status == 503
    assert read(follower, log_in(follower, "bea").body["auth"]["client_token"]) == 200
    assert follower.must(token, "POST", "sys/tools/hash", {"input": "aGk="})["data"]["sum"]
    primary.server.kill()
    follower.must(token, "POST", "sys/regions/promote", {"accept_loss": True}, timeout=60.0)
    assert log_in(follower, "sam").status == 200

    def lease_is_gone() -> bool:
        asked = {"lease_id": issued["lease_id"]}
        return follower.server.request("POST", "sys/leases/lookup", asked, token=token).status == 400

    poll(lease_is_gone, what="the new primary took the lease back")
