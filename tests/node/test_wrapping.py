"""Response wrapping: what is put away comes out once, for whoever holds the token, and for nothing else."""

import asyncio
import json

import pytest
from support.corefixture import audit_records

from node.core import wrapping
from node.errors import InvalidRequest
from storage.secret import Secret

WRAP = {"X-Vault-Wrap-TTL": "60"}
INVALID = {"errors": ["wrapping token is not valid or does not exist"]}
DENIED = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}


@pytest.fixture
async def wire(site):
    wire = await site.connect()
    await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "v", "exact": 1}})
    return wire


async def wrapped(wire, method="GET", path="/v1/secret/data/a", body=None):
    answer = await wire.ask(method, path, body, headers=WRAP)
    assert answer.status == 200, answer.body
    return answer.json["wrap_info"]


async def unwrap(wire, token):
    return await wire.ask("POST", "/v1/sys/wrapping/unwrap", {"token": token})


async def test_a_wrapped_answer_holds_nothing_of_what_it_hides(wire):
    answer = await wire.ask("GET", "/v1/secret/data/a", headers=WRAP)
    info = answer.json.pop("wrap_info")
    assert answer.json["data"] is None
    assert answer.json["auth"] is None
    assert b'"k"' not in answer.body
    assert set(info) == {"token", "accessor", "ttl", "creation_time", "creation_path"}
    assert (info["ttl"], info["creation_path"]) == (60, "secret/data/a")


async def test_unwrapping_gives_the_answer_as_it_would_have_been_once(site, wire):
    plain = (await wire.ask("GET", "/v1/secret/data/a")).json
    token = (await wrapped(wire))["token"]
    opened = await unwrap(wire, token)
    assert opened.json | {"request_id": ""} == plain | {"request_id": ""}
    again = await unwrap(wire, token)
    assert (again.status, again.json) == (400, INVALID)


async def test_the_wrapping_token_alone_is_authority_enough(site, wire):
    token = (await wrapped(wire))["token"]
    holder = await site.connect(token=token)
    assert (await holder.ask("POST", "/v1/sys/wrapping/unwrap")).json["data"]["data"]["k"] == "v"
    gone = await holder.ask("PUT", "/v1/sys/wrapping/unwrap", {})
    assert (gone.status, gone.json) == (400, INVALID)


async def test_who_shows_two_tokens_needs_leave_to_unwrap(site, wire):
    body = {"policies": ["nothing"], "no_default_policy": True}
    stranger = (await wire.ask("POST", "/v1/auth/token/create", body)).json["auth"]["client_token"]
    token = (await wrapped(wire))["token"]
    outsider = await site.connect(token=stranger)
    assert (await unwrap(outsider, token)).status == 403
    assert (await unwrap(wire, token)).status == 200


async def test_who_looked_in_time_but_takes_too_late_gets_nothing(site, wire):
    token = Secret((await wrapped(wire))["token"].encode())
    first, second = (wrapping.find(site.core, token) for _ in range(2))
    assert (await wrapping.unwrap(site.core, first)).data["data"]["k"] == "v"
    for take in (wrapping.unwrap, wrapping.rewrap):
        with pytest.raises(InvalidRequest, match="wrapping token is not valid"):
            await take(site.core, second)


async def test_a_wrapping_token_is_good_for_nothing_else(site, wire):
    token = (await wrapped(wire))["token"]
    holder = await site.connect(token=token)
    for method, path, body in [
        ("GET", "/v1/secret/data/a", None),
        ("GET", "/v1/auth/token/lookup-self", None),
        ("POST", "/v1/auth/token/create", {}),
        ("GET", "/v1/cubbyhole/other", None),
        ("POST", "/v1/cubbyhole/response", {"a": 1}),
        ("POST", "/v1/sys/wrapping/wrap", {"a": 1}),
    ]:
        refused = await holder.ask(method, path, body)
        assert (refused.status, refused.json) == (403, DENIED), path
    assert (await unwrap(wire, token)).status == 200, "and none of that used it up"


async def test_nobody_else_is_given_its_policy(wire):
    body = {"policies": ["response-wrapping"]}
    refused = await wire.ask("POST", "/v1/auth/token/create", body)
    assert refused.json == {"errors": ['cannot assign policy "response-wrapping"']}
    for method, text in (("POST", "update"), ("DELETE", "delete")):
        body = {"policy": 'path "*" { capabilities = ["read"] }'} if method == "POST" else None
        refused = await wire.ask(method, "/v1/sys/policies/acl/response-wrapping", body)
        assert refused.json == {"errors": [f'cannot {text} "response-wrapping" policy']}
    assert (await wire.ask("LIST", "/v1/sys/policies/acl")).json["data"]["keys"] == ["default", "root"]


async def test_a_new_token_can_be_wrapped_and_revoked_by_its_accessor(wire):
    body = {"policies": ["default"]}
    info = await wrapped(wire, "POST", "/v1/auth/token/create", body)
    accessor = info["wrapped_accessor"]
    inside = (await unwrap(wire, info["token"])).json["auth"]
    assert inside["accessor"] == accessor
    found = await wire.ask("POST", "/v1/auth/token/lookup", {"token": inside["client_token"]})
    assert found.json["data"]["policies"] == ["default"]


async def test_lookup_tells_of_a_wrapping_token_without_using_it(site, wire):
    info = await wrapped(wire)
    stranger, holder = await site.connect(token=""), await site.connect(token=info["token"])
    expected = {
        "creation_path": "secret/data/a",
        "creation_time": info["creation_time"],
        "creation_ttl": 60,
    }
    body = {"token": info["token"]}
    assert (await stranger.ask("POST", "/v1/sys/wrapping/lookup", body)).json["data"] == expected
    assert (await holder.ask("GET", "/v1/sys/wrapping/lookup")).json["data"] == expected
    assert (await unwrap(wire, info["token"])).status == 200
    assert (await stranger.ask("POST", "/v1/sys/wrapping/lookup", body)).json == INVALID


async def test_rewrapping_moves_the_content_to_a_new_token(wire):
    old = await wrapped(wire)
    new = (await wire.ask("POST", "/v1/sys/wrapping/rewrap", {"token": old["token"]})).json["wrap_info"]
    assert (new["ttl"], new["creation_path"]) == (60, "secret/data/a")
    assert (await unwrap(wire, old["token"])).json == INVALID
    assert (await unwrap(wire, new["token"])).json["data"]["data"]["k"] == "v"


async def test_any_data_can_be_wrapped(wire):
    refused = await wire.ask("POST", "/v1/sys/wrapping/wrap", {"a": 1})
    assert refused.json == {"errors": ["endpoint requires response wrapping to be used"]}
    body = b'{"price":1.50,"big":123456789012345678901234567890}'
    token = (await wrapped(wire, "POST", "/v1/sys/wrapping/wrap", body))["token"]
    assert b'"data":' + body in (await unwrap(wire, token)).body


async def test_the_old_way_reads_it_from_the_tokens_cubbyhole(site, wire):
    token = (await wrapped(wire))["token"]
    holder = await site.connect(token=token)
    answer = (await holder.ask("GET", "/v1/cubbyhole/response")).json
    assert json.loads(answer["data"]["response"])["data"]["data"]["k"] == "v"
    assert answer["warnings"]
    assert (await holder.ask("GET", "/v1/cubbyhole/response")).status == 403


async def test_a_wrapping_token_ends(wire):
    answer = await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Wrap-TTL": "50ms"})
    await asyncio.sleep(0.1)  # what is tested is that time passes
    assert (await unwrap(wire, answer.json["wrap_info"]["token"])).json == INVALID


async def test_revoking_a_wrapping_token_ends_what_it_wraps(site, wire):
    info = await wrapped(wire)
    await wire.ask("POST", "/v1/auth/token/revoke-accessor", {"accessor": info["accessor"]})
    assert (await unwrap(wire, info["token"])).json == INVALID
    assert not site.core.unsealed.reads.entry_scan("sys:wrapping", "")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"X-Vault-Wrap-TTL": "abc"}, "error parsing X-Vault-Wrap-TTL header"),
        ({"X-Vault-Wrap-TTL": "-5"}, "error parsing X-Vault-Wrap-TTL header"),
        ({"X-Vault-Wrap-TTL": "99999999h"}, "error parsing X-Vault-Wrap-TTL header"),
        (WRAP | {"X-Vault-Wrap-Format": "jwt"}, "wrapping tokens in JWT format are not offered"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused_before_anything_happens(wire, headers, error):
    answer = await wire.ask("POST", "/v1/secret/data/new", {"data": {}}, headers=headers)
    assert answer.status == 400
    assert answer.json["errors"][0].startswith(error)
    assert (await wire.ask("GET", "/v1/secret/data/new")).status == 404


async def test_the_largest_secret_can_be_wrapped(site, wire):
    largest = site.core.settings.value_bytes_max - len('{"k":""}')
    assert (await wire.ask("POST", "/v1/secret/data/big", {"data": {"k": "x" * largest}})).status == 200
    token = (await wrapped(wire, path="/v1/secret/data/big"))["token"]
    assert len((await unwrap(wire, token)).json["data"]["data"]["k"]) == largest


async def test_an_answer_that_is_too_large_is_not_wrapped_and_not_sent(wire, monkeypatch):
    monkeypatch.setattr(wrapping, "CONTENT_BYTES_MAX", 50)
    answer = await wire.ask("GET", "/v1/secret/data/a", headers=WRAP)
    assert answer.status == 413
    assert b'"k"' not in answer.body


@pytest.mark.parametrize("token", ["", "s.nobody", "x" * 2000, "eyJh.eyJi.c2ln"])
async def test_what_is_no_wrapping_token_unwraps_nothing(wire, token):
    answer = await unwrap(wire, token)
    assert answer.status == 400


async def test_answers_without_content_and_without_envelope_are_sent_as_they_are(wire):
    deleted = await wire.ask("DELETE", "/v1/secret/data/a", headers=WRAP)
    assert (deleted.status, deleted.body) == (204, b"")
    assert (await wire.ask("GET", "/v1/sys/health", headers=WRAP)).json["initialized"] is True
    assert (await wire.ask("GET", "/v1/secret/data/nope", headers=WRAP)).status == 404
    mounts = (await wire.ask("GET", "/v1/sys/mounts", headers=WRAP)).json
    assert "secret/" not in mounts
    assert mounts["wrap_info"]["creation_path"] == "sys/mounts"


@pytest.mark.parametrize(
    ("rule", "ttl", "status"),
    [
        ('min_wrapping_ttl = "30s"', "", 403),
        ('min_wrapping_ttl = "30s"', "10s", 403),
        ('min_wrapping_ttl = "30s"', "40s", 200),
        ('max_wrapping_ttl = "30s"', "40s", 403),
        ('max_wrapping_ttl = "30s"', "", 403),
        ('max_wrapping_ttl = "30s"', "20s", 200),
    ],
)
async def test_a_policy_can_insist_on_wrapping(site, wire, rule, ttl, status):
    policy = f'path "secret/data/*" {{ capabilities = ["read"]\n {rule} }}'
    await wire.ask("POST", "/v1/sys/policies/acl/wrapped", {"policy": policy})
    body = {"policies": ["wrapped"], "no_default_policy": True}
    token = (await wire.ask("POST", "/v1/auth/token/create", body)).json["auth"]["client_token"]
    limited = await site.connect(token=token)
    answer = await limited.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Wrap-TTL": ttl})
    assert answer.status == status
    assert (status == 200) == (answer.json.get("wrap_info") is not None)


async def test_a_policy_insists_also_on_a_connection_that_repeats_itself(site, wire):
    """Requests that a connection has asked before take a shorter way: it must know of wrapping too."""
    policy = 'path "secret/data/*" { capabilities = ["read", "update"]\n min_wrapping_ttl = "30s" }'
    await wire.ask("POST", "/v1/sys/policies/acl/wrapped", {"policy": policy})
    body = {"policies": ["wrapped"], "no_default_policy": True}
    token = (await wire.ask("POST", "/v1/auth/token/create", body)).json["auth"]["client_token"]
    limited = await site.connect(token=token)
    for _ in range(3):
        assert (await limited.ask("GET", "/v1/secret/data/a", headers=WRAP)).status == 200
        for _ in range(3):
            assert (await limited.ask("GET", "/v1/secret/data/a")).status == 403
            assert (await limited.ask("POST", "/v1/secret/data/a", {"data": {}})).status == 403


async def test_the_audit_log_knows_the_wrapping_token_by_its_hash_only(site, wire):
    info = await wrapped(wire)
    await unwrap(wire, info["token"])
    text = site.core.settings.audit_files[0].read_text()
    assert info["token"] not in text
    assert info["accessor"] not in text
    made = next(each for each in audit_records(site.core) if "wrap_info" in each.get("response", {}))
    shown = made["response"]["wrap_info"]
    assert shown["token"] == site.core.audit.hash(info["token"])
    assert (shown["ttl"], shown["creation_path"]) == (60, "secret/data/a")
    assert "data" not in made["response"]
