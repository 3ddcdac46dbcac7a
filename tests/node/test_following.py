"""A region that follows and cannot reach the one that orders writes: what it answers, and what it refuses to."""

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.asking import Asker
from support.corefixture import ROOT_TOKEN, audit_records, follow, new_token, opened, opened_by_people
from support.httpfixture import Answer, Wire, serve
from support.kubernetes import api, token

from consensus.errors import ReadNotConfirmed
from node.core import pipeline
from node.core.request import Operation, Request
from node.errors import NoQuorum, Sealed
from node.regions.placing import belongs_to_the_primary
from storage.regions import SECONDARY

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
REFUSED_WITHIN_S = 30.0  # a request that waited for the other region would take three times as long


class Cut:
    """A store that is prepared by its API, then follows another region that it cannot reach."""

    def __init__(self, ask: Asker, wire: Wire) -> None:
        self.ask, self.wire = ask, wire

    async def off(self) -> None:
        await follow(self.ask.core)

    async def send(
        self, method: str, path: str, body: Any = None, *, token: str = ROOT_TOKEN, **headers: str
    ) -> Answer:
        sent = {"X-Vault-Token": token} | {name.replace("_", "-"): each for name, each in headers.items()}
        return await self.wire.ask(method, f"/v1/{path}", body, headers=sent)

    async def done(self, path: str, body: Any = None, *, token: str = ROOT_TOKEN) -> dict[str, Any]:
        answer = await self.send("POST", path, body, token=token)
        assert answer.status == 200, answer.body
        data: dict[str, Any] = answer.json["data"]
        return data

    async def log_in(self, path: str, **proof: Any) -> Answer:
        return await self.send("POST", f"auth/{path}", proof, token="")

    async def granted(self, path: str, **proof: Any) -> dict[str, Any]:
        answer = await self.log_in(path, **proof)
        assert answer.status == 200, answer.body
        auth: dict[str, Any] = answer.json["auth"]
        return auth

    async def refused(self, path: str, why: str = "", **proof: Any) -> None:
        """As something that needs the region that orders writes: clearly, and at once."""
        began = time.monotonic()
        answer = await self.log_in(path, **proof)
        assert answer.status == 503, answer.body
        assert "nothing was written" in answer.json["errors"][0]
        assert why in answer.json["errors"][0]
        assert time.monotonic() - began < REFUSED_WITHIN_S


@pytest.fixture
async def cut(tmp_path) -> AsyncIterator[Cut]:
    async with opened(tmp_path) as core, serve(core) as site:
        yield Cut(Asker(core), await site.connect())


def claims(**changes: Any) -> str:
    now = int(time.time())
    said = {"sub": "job-1", "aud": "app", "teams": [], "iat": now, "exp": now + 600} | changes
    return jwt.encode(said, KEY, "ES256")


async def with_methods(ask: Asker, **role: Any) -> None:
    """userpass at u, approle at a, jwt at j: all under the same terms."""
    for path, kind in (("u", "userpass"), ("a", "approle"), ("j", "jwt")):
        await ask.post(f"sys/auth/{path}", type=kind)
    terms = {"token_type": "batch", "token_policies": "reader", "token_ttl": "10m"} | role
    await ask.policy("reader", 'path "secret/data/a" { capabilities = ["read"] }')
    await ask.post("auth/u/users/bob", password="right", **terms)
    await ask.post("auth/a/role/web", role_id="web-id", **terms)
    await ask.post("auth/j/config", jwt_validation_pubkeys=[PEM.decode()])
    claimed = {"user_claim": "sub", "bound_audiences": "app", "groups_claim": "teams"}
    await ask.post("auth/j/role/ci", **claimed, claim_mappings={"ref": "ref"}, **terms)


async def secret_id(ask: Asker, **terms: Any) -> str:
    made = (await ask.post("auth/a/role/web/secret-id", **terms)).data
    assert made is not None
    return str(made["secret_id"])


# ---- requests that only read ----


async def test_what_only_reads_is_answered_whatever_its_method(cut: Cut) -> None:
    ask = cut.ask
    await ask.post("sys/mounts/transit", type="transit")
    for name, kind in (("k", "aes256-gcm96"), ("s", "ed25519")):
        await ask.post(f"transit/keys/{name}", type=kind)
    child = await new_token(ask.core, policies=["default"])
    entity = (await ask.post("identity/entity", name="ann")).data
    assert entity is not None
    wrapped = await cut.send("GET", "sys/policies/acl/default", X_Vault_Wrap_TTL="60")
    wrapping = wrapped.json["wrap_info"]["token"]
    await cut.off()
    sealed = (await cut.done("transit/encrypt/k", {"plaintext": "aGk="}))["ciphertext"]
    assert (await cut.done("transit/decrypt/k", {"ciphertext": sealed}))["plaintext"] == "aGk="
    assert (await cut.done("transit/rewrap/k", {"ciphertext": sealed}))["ciphertext"] != sealed
    assert (await cut.done("transit/datakey/wrapped/k"))["ciphertext"]
    mac = (await cut.done("transit/hmac/k", {"input": "aGk="}))["hmac"]
    assert (await cut.done("transit/verify/k", {"input": "aGk=", "hmac": mac}))["valid"]
    signature = (await cut.done("transit/sign/s", {"input": "aGk="}))["signature"]
    assert (await cut.done("transit/verify/s", {"input": "aGk=", "signature": signature}))["valid"]
    assert (await cut.done("sys/tools/hash", {"input": "aGk="}))["sum"]
    assert (await cut.done("sys/tools/random"))["random_bytes"]
    assert (await cut.done("sys/capabilities-self", {"paths": ["x"]}))["x"] == ["root"]
    assert (await cut.done("sys/capabilities", {"token": child, "path": "x"}))["x"] == ["deny"]
    assert (await cut.done("auth/token/lookup", {"token": child}))["policies"] == ["default"]
    assert (await cut.done("sys/policies/explain", {"path": "x", "operation": "read"}))["allowed"]
    assert (await cut.done("sys/wrapping/lookup", {"token": wrapping}))["creation_ttl"] == 60
    assert (await cut.done("identity/lookup/entity", {"name": "ann"}))["id"] == entity["id"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "secret/data/a", {"data": {"v": 1}}),
        ("DELETE", "secret/data/a", None),
        ("POST", "transit/encrypt/new", {"plaintext": "aGk="}),  # it would make the key
        ("POST", "transit/keys/k/rotate", None),
        ("POST", "sys/policies/acl/p", {"policy": 'path "x" { capabilities = ["read"] }'}),
        ("POST", "auth/token/create", {"policies": ["default"]}),
        ("POST", "auth/token/renew-self", None),
        ("POST", "auth/token/revoke-accessor", {"accessor": "x"}),
        ("POST", "sys/wrapping/wrap", {"a": "b"}),
        ("POST", "cubbyhole/a", {"v": 1}),
    ],
)
async def test_what_writes_is_refused_at_once_and_says_that_nothing_happened(
    cut: Cut, method: str, path: str, body: Any
) -> None:
    await cut.ask.post("sys/mounts/transit", type="transit")
    await cut.ask.post("transit/keys/k")
    await cut.off()
    position, began = cut.ask.core.unsealed.position, time.monotonic()
    answer = await cut.send(method, path, body)
    assert answer.status == 503, answer.body
    assert "nothing was written" in answer.json["errors"][0]
    assert time.monotonic() - began < REFUSED_WITHIN_S
    assert cut.ask.core.unsealed.position == position


@pytest.mark.parametrize(
    ("path", "travels"),
    [
        ("secret/data/a", True),
        ("sys/policies/acl/p", True),
        ("sys/regions/switchover", True),
        ("sys/drills/history", True),
        ("sys/rotate", True),
        ("sys/unseal", False),
        ("sys/rekey/init", False),
        ("sys/regions/promote", False),
        ("sys/cluster/join-token", False),
        ("sys/storage/raft/remove-peer", False),
        ("sys/storage/raft/snapshot", False),
        ("auth/token/lookup", False),
    ],
)
def test_what_is_about_a_region_alone_stays_there(cut: Cut, path: str, travels: bool) -> None:
    request = Request("id", Operation.UPDATE, path)
    match = pipeline.route(cut.ask.core, request)
    assert match is not None
    assert belongs_to_the_primary(request, match.route) == travels


async def test_an_answer_cannot_be_put_away_nor_fetched(cut: Cut) -> None:
    wrapped = await cut.send("GET", "sys/policies/acl/default", X_Vault_Wrap_TTL="60")
    await cut.off()
    for method, path in (("GET", "sys/policies/acl/default"), ("POST", "sys/tools/random")):
        assert (await cut.send(method, path, X_Vault_Wrap_TTL="60")).status == 503
    unwrapped = await cut.send("POST", "sys/wrapping/unwrap", token=wrapped.json["wrap_info"]["token"])
    assert unwrapped.status == 503, "a wrapping token is good once, wherever it is shown"
    assert b"path" not in unwrapped.body


async def test_a_token_with_a_use_count_is_good_for_nothing_where_uses_cannot_be_counted(cut: Cut) -> None:
    counted = await new_token(cut.ask.core, policies=["default"], num_uses=5)
    await cut.off()
    assert (await cut.send("GET", "auth/token/lookup-self", token=counted)).status == 503
    told = await cut.ask.get("auth/token/lookup-self")  # others are not affected
    assert told["policies"] == ["root"]


async def test_a_key_whose_next_version_is_due_goes_on_with_the_one_that_it_has(
    cut: Cut, monkeypatch
) -> None:
    await cut.ask.post("sys/mounts/transit", type="transit")
    await cut.ask.post("transit/keys/k", auto_rotate_period="1h")
    await cut.off()
    store = cut.ask.core.unsealed
    later_ns = store.now_ns() + 2 * 3600 * 10**9
    monkeypatch.setattr(store, "now_ns", lambda: later_ns)
    assert (await cut.done("transit/encrypt/k", {"plaintext": "aGk="}))["key_version"] == 1


async def test_identity_tokens_are_signed_though_their_key_is_due_to_be_replaced(
    cut: Cut, monkeypatch
) -> None:
    await with_methods(cut.ask)
    await cut.ask.post(
        "identity/oidc/key/k", rotation_period="1h", verification_ttl="1h", allowed_client_ids=["*"]
    )
    await cut.ask.post("identity/oidc/role/r", key="k", ttl="10m")
    await cut.ask.policy("reader", 'path "identity/oidc/token/r" { capabilities = ["read"] }')
    who = (await cut.granted("u/login/bob", password="right"))["client_token"]
    signed = (await cut.send("GET", "identity/oidc/token/r", token=who)).json["data"]["token"]
    await cut.off()
    store = cut.ask.core.unsealed
    later_ns = store.now_ns() + 2 * 3600 * 10**9
    monkeypatch.setattr(store, "now_ns", lambda: later_ns)
    who = (await cut.granted("u/login/bob", password="right"))["client_token"]
    again = (await cut.send("GET", "identity/oidc/token/r", token=who)).json["data"]["token"]
    assert jwt.get_unverified_header(again)["kid"] == jwt.get_unverified_header(signed)["kid"]


async def test_a_region_that_is_sealed_or_has_no_quorum_does_not_take_over(tmp_path, monkeypatch) -> None:
    async def unconfirmed(*_: object, **__: object) -> int:
        raise ReadNotConfirmed("nobody answers")

    async with opened_by_people(tmp_path, 1, 1) as people:
        core, ask = people.core, Asker(people.core, people.token)
        await follow(core)
        with monkeypatch.context() as patch:
            group = core.unsealed.group
            patch.setattr(group, "fresh_now", lambda: False)
            patch.setattr(group, "read_index", unconfirmed)
            assert isinstance(await ask.refused("sys/regions/promote", accept_loss=True), NoQuorum)
            assert core.unsealed.region_role() == SECONDARY
        await ask.post("sys/seal")
        assert isinstance(await ask.refused("sys/regions/promote", accept_loss=True), Sealed)


# ---- log-ins ----


async def test_every_method_gives_batch_tokens_that_work(cut: Cut) -> None:
    ask = cut.ask
    async with api() as host:
        await with_methods(ask)
        await ask.post("sys/auth/k", type="kubernetes")
        await ask.post("auth/k/config", kubernetes_host=host.url, token_reviewer_jwt="rev")
        bounds = {"bound_service_account_names": "web", "bound_service_account_namespaces": "shop"}
        await ask.post("auth/k/role/web", **bounds, token_type="batch", token_policies="reader")
        known = await secret_id(ask)
        await ask.post("secret/data/a", data={"v": 1})
        proofs: list[tuple[str, dict[str, Any]]] = [
            ("u/login/bob", {"password": "right"}),
            ("a/login", {"role_id": "web-id", "secret_id": known}),
            ("j/login", {"role": "ci", "jwt": claims()}),
            ("k/login", {"role": "web", "jwt": token()}),
        ]
        before = [(await cut.granted(path, **proof))["entity_id"] for path, proof in proofs]
        await cut.off()
        for (path, proof), entity_id in zip(proofs, before, strict=True):
            auth = await cut.granted(path, **proof)
            assert auth["client_token"].startswith("b."), path
            assert auth["entity_id"] == entity_id
            read = await cut.send("GET", "secret/data/a", token=auth["client_token"])
            assert read.json["data"]["data"] == {"v": 1}, path


async def test_a_first_login_gives_a_token_of_nobody(cut: Cut) -> None:
    await with_methods(cut.ask)
    known = await secret_id(cut.ask)
    await cut.off()
    answer = await cut.log_in("a/login", role_id="web-id", secret_id=known)
    assert answer.status == 200, answer.body
    assert answer.json["auth"]["entity_id"] == ""
    assert any("no entity" in each for each in answer.json["warnings"])


async def test_a_service_token_is_refused_and_the_error_names_the_way_out(cut: Cut) -> None:
    await with_methods(cut.ask, token_type="service")
    known = await secret_id(cut.ask)
    await cut.off()
    await cut.refused("u/login/bob", "token_type=batch", password="right")
    await cut.refused("a/login", "token_type=batch", role_id="web-id", secret_id=known)
    await cut.refused("j/login", "token_type=batch", role="ci", jwt=claims())
    answer = await cut.log_in("u/login/bob", password="wrong")
    assert (answer.status, answer.json["errors"]) == (400, ["invalid username or password"])


async def test_a_secret_id_with_a_use_count_is_not_spent_where_it_cannot_be_counted(cut: Cut) -> None:
    await with_methods(cut.ask)
    once = await secret_id(cut.ask, num_uses=1)
    await cut.off()
    for _ in range(2):
        await cut.refused("a/login", "counted", role_id="web-id", secret_id=once)


async def test_who_is_no_longer_allowed_here_is_refused(cut: Cut) -> None:
    ask = cut.ask
    await with_methods(ask)
    known, destroyed = await secret_id(ask), await secret_id(ask)
    proof = {"role_id": "web-id", "secret_id": known}
    entity_id = (await cut.granted("a/login", **proof))["entity_id"]
    await ask.post("auth/a/role/web/secret-id/destroy", secret_id=destroyed)
    await ask.delete("auth/u/users/bob")
    await ask.post(f"identity/entity/id/{entity_id}", disabled=True)
    await ask.delete("sys/auth/j")
    await cut.off()
    assert (await cut.log_in("a/login", **proof)).status == 403
    assert (await cut.log_in("a/login", **(proof | {"secret_id": destroyed}))).status == 400
    assert (await cut.log_in("u/login/bob", password="right")).status == 400
    assert (await cut.log_in("j/login", role="ci", jwt=claims())).status in (403, 404)


async def test_who_is_said_to_be_somebody_else_by_now_is_not_let_in_as_who_he_was(cut: Cut) -> None:
    """Policies may be built on what a method says of its callers, and on the groups that they are in."""
    ask = cut.ask
    await with_methods(ask)
    group = (await ask.post("identity/group", name="ops", type="external", policies=["reader"])).data
    assert group is not None
    accessor = (await ask.get("sys/auth/j"))["accessor"]
    await ask.post("identity/group-alias", name="ops", mount_accessor=accessor, canonical_id=group["id"])
    proof = {"role": "ci", "jwt": claims(ref="main")}
    await cut.granted("j/login", **proof)
    await cut.off()
    await cut.granted("j/login", **proof)
    await cut.refused("j/login", "changed", role="ci", jwt=claims(ref="feature"))
    await cut.refused("j/login", "changed", role="ci", jwt=claims(ref="main", teams=["ops"]))
    await cut.refused("j/login", "groups", role="ci", jwt=claims(sub="job-2", teams=["ops"]))
    await cut.granted("j/login", role="ci", jwt=claims(sub="job-3", teams=["unheard of"]))


async def test_guesses_are_counted_by_the_node_and_a_success_is_not_held_up_by_a_count(cut: Cut) -> None:
    await with_methods(cut.ask)
    await cut.granted("u/login/bob", password="right")
    assert (await cut.log_in("u/login/bob", password="wrong")).status == 400  # the one that is replicated
    await cut.off()
    await cut.granted("u/login/bob", password="right")
    for _ in range(4):
        assert (await cut.log_in("u/login/bob", password="wrong")).status == 400
    assert (await cut.log_in("u/login/BOB", password="right")).status == 403
    for _ in range(5):
        assert (await cut.log_in("u/login/nobody", password="wrong")).status == 400
    assert (await cut.log_in("u/login/nobody", password="wrong")).status == 403, "a lock tells who exists"


async def test_batch_tokens_are_made_from_tokens_too(cut: Cut) -> None:
    await cut.off()
    answer = await cut.send("POST", "auth/token/create", {"type": "batch", "policies": ["default"]})
    made = answer.json["auth"]["client_token"]
    assert made.startswith("b.")
    assert (await cut.send("GET", "auth/token/lookup-self", token=made)).status == 200


async def test_what_is_refused_here_is_asked_of_the_region_that_knows_more_first(cut: Cut) -> None:
    """A secret id that is unknown here may have been made a moment ago."""
    await with_methods(cut.ask)
    await cut.off()
    answer = await cut.log_in("a/login", role_id="web-id", secret_id="made elsewhere")
    assert answer.status == 400
    told = [each["error"] for each in audit_records(cut.ask.core)[-4:] if each["type"] == "response"]
    assert [each.partition(":")[0] for each in told] == ["not granted here", "invalid role or secret ID"]


async def test_the_record_says_what_became_of_a_request_that_was_answered_alone(cut: Cut) -> None:
    await with_methods(cut.ask, token_type="service")
    await cut.off()
    await cut.refused("u/login/bob", password="right")
    last = [each for each in audit_records(cut.ask.core) if each["type"] == "response"][-1]
    assert "service token" in last["error"]
