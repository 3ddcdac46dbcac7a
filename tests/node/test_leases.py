"""Leases over HTTP, with an engine that lends things and can be told not to take them back."""

import asyncio
from dataclasses import dataclass, field

import pytest
from support.httpfixture import dev_core, serve
from support.patience import eventually

from node.auth.ttl import limits
from node.core.request import Operation, Response
from node.core.router import Route, Table
from node.leases import manager
from node.leases.manager import RevocationFailed
from node.leases.planner import REVOKE_ATTEMPTS_MAX, after_failure
from node.view import View, write
from storage.command import MountPut


@dataclass
class Lender:
    """What was lent, what came back, and whether it is willing."""

    returned: list[str] = field(default_factory=list)
    broken: bool = False
    stumbles_over: str = ""

    async def lend(self, core, request, params):
        issued = manager.issue(
            core.unsealed,
            request,
            limits(core.settings, request.mount),
            asked_ns=int(request.query.get("ttl", 0)) * 10**9,
            longest_ns=0,
            renewable=request.query.get("renewable") != "no",
            data={"thing": params["name"]},
        )
        await manager.submit(core.unsealed, issued)
        return Response(
            data={"thing": params["name"]}, lease=issued.lease, warnings=list(issued.warnings) or None
        )

    async def take_back(self, store, mount, data):
        if self.broken:
            raise RevocationFailed("the lender is closed")
        if data["thing"] == self.stumbles_over:
            raise KeyError("secret detail")
        self.returned.append(data["thing"])
        return []


@pytest.fixture
def lender():
    return Lender()


@pytest.fixture
async def site(tmp_path, lender):
    async with dev_core(tmp_path) as (core, token):
        core.engines["lender"] = Table([Route("creds/{name}", {Operation.READ: lender.lend})])
        core.revokers["lender"] = lender.take_back
        now = core.unsealed.now_ns()
        mount = MountPut(now, "lend/", "m-lend", "lend_1", "lender", 0, "", 0, 3600 * 10**9)
        await core.unsealed.submit(mount)
        async with serve(core, token=token) as site:
            yield site


async def borrow(wire, name="x", query=""):
    answer = await wire.ask("GET", f"/v1/lend/creds/{name}{query}")
    assert answer.status == 200, answer.body
    return answer.json


async def lookup(wire, lease_id):
    return await wire.ask("PUT", "/v1/sys/leases/lookup", {"lease_id": lease_id})


async def test_an_answer_with_a_lease_says_how_long_it_is_good(wire):
    lent = await borrow(wire, query="?ttl=60")
    assert lent["lease_id"].startswith("lend/creds/x/")
    assert (lent["renewable"], lent["lease_duration"]) == (True, 60)
    found = (await lookup(wire, lent["lease_id"])).json["data"]
    assert (found["id"], found["path"], found["last_renewal"]) == (lent["lease_id"], "lend/creds/x", None)
    assert 0 < found["ttl"] <= 60
    assert (await wire.ask("LIST", "/v1/sys/leases/lookup/lend/creds")).json["data"]["keys"] == ["x/"]


async def test_no_lease_outlives_the_mounts_maximum(wire):
    lent = await borrow(wire, query="?ttl=7200")
    assert lent["lease_duration"] == 3600
    assert 'TTL of "2h0m0s" exceeded the effective max_ttl' in lent["warnings"][0]
    renewed = await wire.ask("PUT", "/v1/sys/leases/renew", {"lease_id": lent["lease_id"], "increment": "2h"})
    assert renewed.json["lease_duration"] <= 3600
    assert renewed.json["warnings"]


@pytest.mark.parametrize("path", ["sys/leases/renew", "sys/renew"])
async def test_a_lease_is_renewed_from_now(wire, path):
    lease_id = (await borrow(wire, query="?ttl=60"))["lease_id"]
    for target, body in (
        (path, {"lease_id": lease_id, "increment": 90}),
        (f"{path}/{lease_id}", {"increment": 90}),
    ):
        renewed = (await wire.ask("PUT", f"/v1/{target}", body)).json
        told = (renewed["lease_id"], renewed["renewable"], renewed["lease_duration"], renewed["data"])
        assert told == (lease_id, True, 90, None)
    assert (await lookup(wire, lease_id)).json["data"]["last_renewal"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "lease_id must be specified"),
        ({"lease_id": "nope"}, "lease not found"),
        ({"lease_id": "nope", "increment": "x"}, 'invalid duration for field "increment"'),
    ],
)
async def test_what_cannot_be_renewed(wire, body, error):
    answer = await wire.ask("PUT", "/v1/sys/leases/renew", body)
    assert (answer.status, answer.json) == (400, {"errors": [error]})


async def test_some_leases_are_not_renewable(wire):
    lease_id = (await borrow(wire, query="?renewable=no"))["lease_id"]
    answer = await wire.ask("PUT", "/v1/sys/leases/renew", {"lease_id": lease_id})
    assert answer.json == {"errors": ["lease is not renewable"]}


@pytest.mark.parametrize("prefix", ["sys/leases/revoke", "sys/revoke"])
async def test_a_revoked_lease_is_taken_back_at_once(wire, lender, prefix):
    first, second = [(await borrow(wire, name))["lease_id"] for name in "ab"]
    assert (await wire.ask("PUT", f"/v1/{prefix}", {"lease_id": first})).status == 204
    assert (await wire.ask("PUT", f"/v1/{prefix}/{second}", {"sync": True})).status == 204
    assert lender.returned == ["a", "b"]
    assert (await lookup(wire, first)).json == {"errors": ["invalid lease"]}
    assert (await wire.ask("PUT", f"/v1/{prefix}", {"lease_id": first})).status == 204, "again is no error"


async def test_a_lease_can_be_let_end_without_waiting(site, wire, lender):
    lease_id = (await borrow(wire))["lease_id"]
    lender.broken = True
    assert (await wire.ask("PUT", f"/v1/sys/leases/revoke/{lease_id}", {"sync": False})).status == 202
    assert (await lookup(wire, lease_id)).status == 400, "it is no longer good"
    lender.broken = False
    await wire.ask("POST", "/v1/sys/leases/tidy")
    assert lender.returned == ["x"]


async def test_what_nobody_sweeps_is_swept_by_the_node_itself(site, wire, lender):
    lease_id = (await borrow(wire))["lease_id"]
    await wire.ask("PUT", f"/v1/sys/leases/revoke/{lease_id}", {"sync": False})
    await eventually(lambda: site.core.unsealed.reads.lease(lease_id) is None, "the lease is swept")
    assert lender.returned == ["x"]


async def test_leases_end_with_the_token_that_asked_for_them(site, wire, lender):
    policy = {"policy": 'path "lend/*" { capabilities = ["read"] }'}
    await wire.ask("POST", "/v1/sys/policies/acl/borrower", policy)
    made = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["borrower"]})).json["auth"]
    borrower = await site.connect(token=made["client_token"])
    lease_id = (await borrow(borrower))["lease_id"]
    await wire.ask("POST", "/v1/auth/token/revoke-accessor", {"accessor": made["accessor"]})
    assert (await lookup(wire, lease_id)).status == 400
    await wire.ask("POST", "/v1/sys/leases/tidy")
    assert lender.returned == ["x"]


async def test_leases_of_a_batch_token_end_with_its_parent_and_no_later_than_itself(site, wire, lender):
    policy = (
        'path "lend/*" { capabilities = ["read"] } path "auth/token/create" { capabilities = ["update"] }'
    )
    await wire.ask("POST", "/v1/sys/policies/acl/borrower", {"policy": policy})
    made = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["borrower"], "ttl": "1h"})).json[
        "auth"
    ]
    parent = await site.connect(token=made["client_token"])
    body = {"type": "batch", "ttl": "90s", "policies": ["borrower"]}
    batch = (await parent.ask("POST", "/v1/auth/token/create", body)).json["auth"]["client_token"]
    lent = await borrow(await site.connect(token=batch), query="?ttl=1800")
    assert 80 <= lent["lease_duration"] <= 90
    await wire.ask("POST", "/v1/auth/token/revoke", {"token": made["client_token"]})
    assert (await lookup(wire, lent["lease_id"])).status == 400


async def test_a_prefix_ends_all_below_it(wire, lender):
    for name in ("a", "a", "b"):
        await borrow(wire, name)
    assert (await wire.ask("PUT", "/v1/sys/leases/revoke-prefix/lend/creds/a", {})).status == 204
    assert lender.returned == ["a", "a"]
    assert (await wire.ask("GET", "/v1/sys/leases/count")).json["data"] == {
        "counts": {"lend/": 1},
        "lease_count": 1,
    }


async def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(wire, lender):
    for name in ("a", "ab"):
        await borrow(wire, name)
    for prefix in ("lend/cred", "len", "lend/creds/a"):
        assert (await wire.ask("PUT", f"/v1/sys/leases/revoke-prefix/{prefix}", {})).status == 204
    assert lender.returned == ["a"]


async def test_a_prefix_may_be_a_lease(wire, lender):
    lease_id = (await borrow(wire))["lease_id"]
    assert (await wire.ask("PUT", f"/v1/sys/leases/revoke-prefix/{lease_id}", {})).status == 204
    assert lender.returned == ["x"]


async def test_what_cannot_be_taken_back_is_kept_shown_and_tried_again(site, wire, lender):
    lease_id = (await borrow(wire))["lease_id"]
    lender.broken = True
    failed = await wire.ask("PUT", "/v1/sys/leases/revoke", {"lease_id": lease_id})
    assert failed.status == 400
    assert failed.json["errors"][0].startswith(f'failed to revoke "{lease_id}" (the lender is closed)')
    for _ in range(REVOKE_ATTEMPTS_MAX - 1):
        await wire.ask("PUT", "/v1/sys/leases/revoke-prefix/lend", {})
    shown = (await wire.ask("GET", "/v1/sys/leases?type=irrevocable")).json["data"]
    assert shown["lease_count"] == 1
    assert (shown["leases"][0]["lease_id"], shown["leases"][0]["error"]) == (lease_id, "the lender is closed")
    assert (await wire.ask("GET", "/v1/sys/leases/count?type=irrevocable")).json["data"]["lease_count"] == 1
    lender.broken = False
    assert (await wire.ask("PUT", "/v1/sys/leases/revoke", {"lease_id": lease_id})).status == 204
    assert lender.returned == ["x"]


async def test_metrics_count_what_was_not_taken_back(wire, lender):
    async def gauges():
        text = (await wire.ask("GET", "/v1/sys/metrics?format=prometheus")).body.decode()
        return [line for line in text.splitlines() if line.startswith("strongroom_leases_")]

    await borrow(wire)
    assert await gauges() == ["strongroom_leases_overdue 0.0", "strongroom_leases_irrevocable 0.0"]
    lender.broken = True
    for _ in range(REVOKE_ATTEMPTS_MAX):
        await wire.ask("PUT", "/v1/sys/leases/revoke-prefix/lend", {})
    assert await gauges() == ["strongroom_leases_overdue 0.0", "strongroom_leases_irrevocable 1.0"]


def test_pauses_between_attempts_grow_and_end():
    @dataclass
    class Attempted:
        attempts: int

    retries = [after_failure(Attempted(attempts), 0) for attempts in range(REVOKE_ATTEMPTS_MAX)]
    pauses = [retry.at_ns for retry in retries]
    assert pauses == sorted(set(pauses))
    assert [retry.irrevocable for retry in retries] == [False] * (REVOKE_ATTEMPTS_MAX - 1) + [True]


async def test_a_lease_that_the_engine_stumbles_over_keeps_no_other_alive(wire, lender):
    lender.stumbles_over = "bad"
    for name in ("a", "bad", "z"):
        await borrow(wire, name)
    failed = await wire.ask("PUT", "/v1/sys/leases/revoke-prefix/lend", {})
    assert failed.status == 400
    assert "(the engine failed: KeyError)" in failed.json["errors"][0]
    assert lender.returned == ["a", "z"]


async def test_two_who_take_back_the_same_at_once_both_succeed(site, wire, lender):
    """The leader's sweep and a revocation that waits for its end: what they write for it is the same entry."""
    store, view = site.core.unsealed, View(site.core.unsealed, "m-lend")
    await write(store, view.put("ledger", {"lent": 1}))
    lease_id = (await borrow(wire))["lease_id"]
    await manager.end(store, lease_id)
    both = asyncio.Barrier(2)

    async def take_back(store, mount, data):
        item = view.get("ledger")
        if not lender.returned:
            await both.wait()  # both have looked before either writes
            lender.returned.append("x")
        return [view.put("ledger", {"lent": 0}, expect=item.revision)]

    lease = store.reads.lease(lease_id)
    tries = (manager.take_back(store, {"lender": take_back}, [lease]) for _ in range(2))
    assert await asyncio.gather(*tries) == [[], []]
    assert view.get("ledger").value == {"lent": 0}
    assert store.reads.lease(lease_id) is None


async def test_force_forgets_what_cannot_be_taken_back(wire, lender):
    lease_id = (await borrow(wire))["lease_id"]
    lender.broken = True
    assert (await wire.ask("PUT", "/v1/sys/leases/revoke-force/lend", {})).status == 204
    assert (await lookup(wire, lease_id)).status == 400
    assert (await wire.ask("GET", "/v1/sys/leases/count?type=irrevocable")).json["data"]["lease_count"] == 0


async def test_a_mount_takes_back_what_it_lent_before_it_goes(site, wire, lender):
    await borrow(wire)
    lender.broken = True
    refused = await wire.ask("DELETE", "/v1/sys/mounts/lend")
    assert refused.status == 400
    assert "sys/leases/revoke-force/lend/" in refused.json["errors"][0]
    assert "lend/" in (await wire.ask("GET", "/v1/sys/mounts")).json["data"]
    lender.broken = False
    assert (await wire.ask("DELETE", "/v1/sys/mounts/lend")).status == 204
    assert lender.returned == ["x"]


async def test_a_prefix_of_an_auth_method_ends_the_tokens_that_it_made(site, wire):
    token = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["default"]})).json["auth"][
        "client_token"
    ]
    for prefix in ("auth/token/cre", "auth/tok"):
        await wire.ask("PUT", f"/v1/sys/leases/revoke-prefix/{prefix}", {})
        assert (await wire.ask("POST", "/v1/auth/token/lookup", {"token": token})).status == 200
    assert (await wire.ask("PUT", "/v1/sys/leases/revoke-prefix/auth/token/create", {})).status == 204
    holder = await site.connect(token=token)
    assert (await holder.ask("GET", "/v1/auth/token/lookup-self")).status == 403
    assert (await wire.ask("GET", "/v1/auth/token/lookup-self")).status == 200, (
        "what never expires holds no lease"
    )


async def test_the_last_use_of_a_token_gets_no_lease(site, wire):
    policy = {"policy": 'path "lend/*" { capabilities = ["read"] }'}
    await wire.ask("POST", "/v1/sys/policies/acl/borrower", policy)
    body = {"policies": ["borrower"], "num_uses": 1}
    token = (await wire.ask("POST", "/v1/auth/token/create", body)).json["auth"]["client_token"]
    once = await site.connect(token=token)
    answer = await once.ask("GET", "/v1/lend/creds/x")
    assert answer.json == {"errors": ["a token with one use left cannot hold a lease"]}
    assert (await wire.ask("GET", "/v1/sys/leases/count")).json["data"]["lease_count"] == 0


@pytest.mark.parametrize(
    "path", ["leases", "leases/lookup/", "leases/lookup/lend", "leases/revoke-prefix/lend"]
)
async def test_what_shows_or_ends_the_leases_of_others_takes_sudo(site, wire, path):
    policy = {"policy": 'path "sys/*" { capabilities = ["create", "read", "update", "list"] }'}
    await wire.ask("POST", "/v1/sys/policies/acl/most", policy)
    token = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["most"]})).json["auth"][
        "client_token"
    ]
    most = await site.connect(token=token)
    method = "PUT" if "revoke" in path else "LIST" if "lookup" in path else "GET"
    answer = await most.ask(method, f"/v1/sys/{path}", {} if method == "PUT" else None)
    assert answer.status == 403
