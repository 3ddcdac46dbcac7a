"""auth/kubernetes: pods log in with their service account's token, if the cluster's own API says whose it is."""

from typing import Any

import jwt
import pytest
from support.asking import Asker
from support.corefixture import opened
from support.kubernetes import SECRET, Api, api, token

from node.auth.methods import kubernetes_review
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied, TooBusy

ROLE = "auth/k/role/web"
BOUNDS = {
    "bound_service_account_names": "web,web-*",
    "bound_service_account_namespaces": "shop",
    "token_policies": "default",
}


async def with_role(core, host: Api, **role: Any) -> Asker:
    ask = Asker(core)
    await ask.post("sys/auth/k", type="kubernetes")
    await ask.post("auth/k/config", kubernetes_host=host.url, token_reviewer_jwt="rev-canary")
    await ask.post(ROLE, **(BOUNDS | role))
    return ask


async def test_a_pod_logs_in(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host, token_ttl="10m")
        auth = await ask.by(None).auth("auth/k/login", role="web", jwt=token())
        assert (auth["policies"], auth["lease_duration"]) == (["default"], 600)
        assert auth["metadata"] == {
            "role": "web", "service_account_name": "web", "service_account_namespace": "shop",
            "service_account_secret_name": "", "service_account_uid": "u-1",
        }  # fmt: skip
        header, asked = host.asked[-1]
        assert header == "Bearer rev-canary"
        assert asked["spec"] == {"token": token()}
        own = await ask.by(auth["client_token"]).get("auth/token/lookup-self")
        assert own["display_name"] == "k-shop-web"
        shown = await ask.get(f"identity/entity/id/{auth['entity_id']}")
        assert shown["aliases"][0]["name"] == "u-1"


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        ({"authenticated": False}, {}),
        ({"error": "expired"}, {}),
        ({"user": {"username": "system:node:n1", "uid": "u-1"}}, {}),
        ({"user": {"username": "system:other:shop:web", "uid": "u-1"}}, {}),
        ({"user": {"username": "system:serviceaccount:shop:other", "uid": "u-1"}}, {}),
        ({"user": {"username": "system:serviceaccount:other:web", "uid": "u-1"}}, {}),
        ({"user": {"username": "system:serviceaccount:shop:web", "uid": "u-2"}}, {}),
        ({}, {"uid": "u-2"}),
        ({}, {"name": "admin"}),
        ({}, {"namespace": "kube-system"}),
    ],
)
async def test_whom_the_api_does_not_know_or_the_role_does_not_name(tmp_path, answer, sent) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        host.answer = host.knows(**answer)
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=token(**sent)), PermissionDenied)


@pytest.mark.parametrize("account", [{"name": "admin"}, {"namespace": "kube-system"}])
async def test_whom_the_api_knows_but_the_role_does_not_name(tmp_path, account) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        host.answer = host.knows(**account)
        error = await ask.refused("auth/k/login", role="web", jwt=token(**account))
        assert isinstance(error, PermissionDenied)
        assert "not authorized" in error.message


@pytest.mark.parametrize(
    "answer", [[], {"status": []}, {"status": {"authenticated": True, "user": "x"}}, None]
)
async def test_an_answer_that_is_no_review(tmp_path, answer) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        host.answer = answer
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=token()), PermissionDenied)


async def test_an_audience_is_asked_for_and_must_be_confirmed(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host, audience="vault", alias_name_source="serviceaccount_name")
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=token()), PermissionDenied)
        assert host.asked[-1][1]["spec"]["audiences"] == ["vault"]
        host.answer = host.knows(audiences=["vault"])
        auth = await ask.auth("auth/k/login", role="web", jwt=token())
        shown = await ask.get(f"identity/entity/id/{auth['entity_id']}")
        assert shown["aliases"][0]["name"] == "shop/web"


async def test_names_may_be_patterns(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        host.answer = host.knows(name="web-7")
        assert await ask.auth("auth/k/login", role="web", jwt=token("web-7"))
        old = {f"kubernetes.io/serviceaccount/{key}": value for key, value in
               (("namespace", "shop"), ("service-account.name", "web-7"), ("service-account.uid", "u-1"))}  # fmt: skip
        assert await ask.auth("auth/k/login", role="web", jwt=jwt.encode(old, SECRET, "HS256"))


async def test_without_a_reviewer_the_callers_own_token_is_shown(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        await ask.post("auth/k/config", kubernetes_host=host.url)
        assert await ask.auth("auth/k/login", role="web", jwt=token())
        assert host.asked[-1][0] == f"Bearer {token()}"


async def test_inside_a_pod_its_own_token_is_shown_unless_that_is_switched_off(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kubernetes_review, "IN_POD", tmp_path)
    (tmp_path / "token").write_text("of-the-pod")
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        await ask.post("auth/k/config", kubernetes_host=host.url)
        assert await ask.auth("auth/k/login", role="web", jwt=token())
        assert host.asked[-1][0] == "Bearer of-the-pod"


async def test_an_api_that_does_not_answer_is_no_refusal(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        host.status = 500
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=token()), TooBusy)
        await ask.post("auth/k/config", kubernetes_host="http://127.0.0.1:1")
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=token()), TooBusy)


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("config", {}, "no host provided"),
        (
            "config",
            {"kubernetes_host": "h", "disable_local_ca_jwt": True},
            "kubernetes_ca_cert must be given",
        ),
        ("config", {"kubernetes_host": "h", "pem_keys": "zz"}, "error parsing public key"),
        ("role/x", {}, '"bound_service_account_names" can not be empty'),
        (
            "role/x",
            {"bound_service_account_names": "a"},
            '"bound_service_account_namespaces" can not be empty',
        ),
        ("role/x", BOUNDS | {"bound_service_account_names": "*,a"}, 'can not mix "*" with values'),
        ("role/x", BOUNDS | {"alias_name_source": "zz"}, "invalid alias_name_source"),
        ("role/x", BOUNDS | {"bound_service_account_namespace_selector": "{}"}, "is not offered"),
        ("login", {"jwt": "x"}, "missing role"),
        ("login", {"role": "web"}, "missing jwt"),
        ("login", {"role": "nope", "jwt": "x"}, 'invalid role name "nope"'),
    ],
)
async def test_refusals(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core, api() as host:
        error = await (await with_role(core, host)).refused(f"auth/k/{path}", **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


@pytest.mark.parametrize("sent", ["zz", "a.b.c", "x" * 70_000, jwt.encode({"sub": "x"}, SECRET, "HS256")])
async def test_what_is_no_service_accounts_token_is_not_even_asked_about(tmp_path, sent) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        assert isinstance(await ask.refused("auth/k/login", role="web", jwt=sent), PermissionDenied)
        assert host.asked == []


async def test_configuration_and_roles_are_kept(tmp_path) -> None:
    async with opened(tmp_path) as core, api() as host:
        ask = await with_role(core, host)
        shown = await ask.get("auth/k/config")
        assert (shown["kubernetes_host"], shown["token_reviewer_jwt_set"]) == (host.url, True)
        assert "rev-canary" not in repr(shown)
        assert (await ask.get(ROLE))["bound_service_account_names"] == ["web", "web-*"]
        assert await ask.keys("auth/k/role") == ["web"]
        own = ask.by((await ask.auth("auth/k/login", role="web", jwt=token()))["client_token"])
        await ask.delete(ROLE)
        assert isinstance(await ask.refused(ROLE, Operation.READ), NotFound)
        assert (await own.refused("auth/token/renew-self")).message == "could not load role"
        for unreadable in ("zz", "PBÏ"):
            warned = await ask.post("auth/k/config", kubernetes_host=host.url, kubernetes_ca_cert=unreadable)
            assert warned.warnings is not None
