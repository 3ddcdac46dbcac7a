"""hvac's calls of the system backend, against one server from a configuration file, or a real OpenBao."""

from collections.abc import Iterator

import hvac
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest
from support.processes import poll
from support.targets import Target, unique

READER = {"path": {"secret/*": {"capabilities": ["read", "list"]}}}


@pytest.fixture
def secret(vault: hvac.Client) -> Iterator[str]:
    """Where something is to wrap."""
    path = unique("kv")
    vault.sys.enable_secrets_engine("kv", path=path)
    vault.write(f"{path}/a", x=1)
    yield f"{path}/a"
    vault.sys.disable_secrets_engine(path)


# --- mounts ---


def test_a_mount_comes_moves_and_goes(vault: hvac.Client) -> None:
    path, moved = unique("m"), unique("moved")
    vault.sys.enable_secrets_engine("kv", path=path, description="mine", config={"max_lease_ttl": "2h"})
    shown = vault.sys.list_mounted_secrets_engines()["data"][f"{path}/"]
    assert (shown["type"], shown["description"], shown["config"]["max_lease_ttl"]) == ("kv", "mine", 7200)
    vault.sys.tune_mount_configuration(path, default_lease_ttl="1h", description="tuned")
    tuned = vault.sys.read_mount_configuration(path)["data"]
    assert (tuned["default_lease_ttl"], tuned["max_lease_ttl"], tuned["description"]) == (3600, 7200, "tuned")
    vault.write(f"{path}/a", x=1)
    vault.sys.move_backend(path, moved)
    poll(lambda: vault.read(f"{moved}/a") is not None, what="the move")
    vault.sys.disable_secrets_engine(moved)
    vault.sys.disable_secrets_engine(moved)
    assert f"{moved}/" not in vault.sys.list_mounted_secrets_engines()["data"]


def test_mounts_that_cannot_be(vault: hvac.Client) -> None:
    with pytest.raises(InvalidRequest, match="plugin not found in the catalog: nosuch"):
        vault.sys.enable_secrets_engine("nosuch")
    with pytest.raises(InvalidRequest, match='cannot mount "sys/"'):
        vault.sys.enable_secrets_engine("kv", path="sys")
    with pytest.raises(InvalidRequest, match='cannot unmount "cubbyhole/"'):
        vault.sys.disable_secrets_engine("cubbyhole")
    with pytest.raises(InvalidRequest, match="cannot fetch sysview"):
        vault.sys.read_mount_configuration("nosuch")


def test_what_is_always_mounted(vault: hvac.Client) -> None:
    mounted = vault.sys.list_mounted_secrets_engines()["data"]
    assert {name: mounted[name]["type"] for name in ("cubbyhole/", "identity/", "sys/")} == {
        "cubbyhole/": "cubbyhole",
        "identity/": "identity",
        "sys/": "system",
    }


# --- auth methods ---


def test_an_auth_method_comes_and_goes(vault: hvac.Client) -> None:
    path = unique("up")
    vault.sys.enable_auth_method("userpass", description="people", path=path)
    shown = vault.sys.list_auth_methods()["data"][f"{path}/"]
    assert (shown["type"], shown["description"]) == ("userpass", "people")
    vault.sys.tune_auth_method(path, default_lease_ttl="1h", description="tuned")
    tuned = vault.sys.read_auth_method_tuning(path)["data"]
    assert (tuned["default_lease_ttl"], tuned["description"]) == (3600, "tuned")
    vault.sys.disable_auth_method(path)
    assert f"{path}/" not in vault.sys.list_auth_methods()["data"]


# --- policies ---


def test_policies_by_both_apis(vault: hvac.Client) -> None:
    old, new = unique("old"), unique("new")
    vault.sys.create_or_update_policy(old, READER)
    assert "secret/*" in vault.sys.read_policy(old)["data"]["rules"]
    assert old in vault.sys.list_policies()["data"]["policies"]
    vault.sys.create_or_update_acl_policy(new, 'path "a" { capabilities = ["deny"] }')
    assert vault.sys.read_acl_policy(new)["data"]["policy"] == 'path "a" { capabilities = ["deny"] }'
    assert {old, new} <= set(vault.sys.list_acl_policies()["data"]["keys"])
    vault.sys.delete_policy(old)
    vault.sys.delete_acl_policy(new)
    for read in (vault.sys.read_policy, vault.sys.read_acl_policy):
        with pytest.raises(InvalidPath):
            read(old)


def test_capabilities(vault: hvac.Client, single: Target) -> None:
    name = unique("reader")
    vault.sys.create_or_update_policy(name, READER)
    token = vault.auth.token.create(policies=[name], ttl="1h")["auth"]
    paths = ["secret/a", "other"]
    expected = {"secret/a": ["list", "read"], "other": ["deny"]}
    found = vault.sys.get_capabilities(paths, token=token["client_token"])
    assert {path: found["data"][path] for path in paths} == expected
    found = vault.sys.get_capabilities(paths, accessor=token["accessor"])
    assert {path: found["data"][path] for path in paths} == expected
    with single.using(token["client_token"]) as own:
        assert own.sys.get_capabilities("secret/a")["data"]["capabilities"] == ["list", "read"]


# --- wrapping ---


def test_an_answer_is_wrapped_and_unwrapped_once(vault: hvac.Client, secret: str) -> None:
    wrapped = vault.adapter.get(f"/v1/{secret}", wrap_ttl="60s")["wrap_info"]
    assert (wrapped["ttl"], wrapped["creation_path"]) == (60, secret)
    assert vault.sys.unwrap(wrapped["token"])["data"] == {"x": 1}
    with pytest.raises(InvalidRequest, match="wrapping token is not valid or does not exist"):
        vault.sys.unwrap(wrapped["token"])


def test_the_holder_of_a_wrapping_token_needs_no_other(
    vault: hvac.Client, single: Target, secret: str
) -> None:
    wrapped = vault.adapter.get(f"/v1/{secret}", wrap_ttl="60s")["wrap_info"]
    with single.using(wrapped["token"]) as holder:
        assert holder.sys.unwrap()["data"] == {"x": 1}


def test_data_and_tokens_can_be_wrapped(vault: hvac.Client) -> None:
    wrapped = vault.sys.wrap({"mine": [1, 2]}, ttl=60)["wrap_info"]
    assert vault.sys.unwrap(wrapped["token"])["data"] == {"mine": [1, 2]}
    made = vault.auth.token.create(policies=["default"], ttl="1h", wrap_ttl="60s")
    assert made["auth"] is None
    inside = vault.sys.unwrap(made["wrap_info"]["token"])["auth"]
    assert inside["accessor"] == made["wrap_info"]["wrapped_accessor"]
    assert vault.auth.token.lookup(inside["client_token"])["data"]["policies"] == ["default"]


# --- leases ---


@pytest.fixture
def leased(vault: hvac.Client) -> Iterator[str]:
    """A PKI mount whose certificates have leases."""
    path = unique("pki")
    vault.sys.enable_secrets_engine("pki", path=path)
    vault.secrets.pki.generate_root("internal", "root", {"key_type": "ec", "ttl": "700h"}, mount_point=path)
    role = {"allow_any_name": True, "generate_lease": True, "key_type": "ec", "ttl": "1h"}
    vault.secrets.pki.create_or_update_role("web", role, mount_point=path)
    yield path
    vault.sys.disable_secrets_engine(path)


def issued(vault: hvac.Client, mount: str) -> str:
    answer = vault.secrets.pki.generate_certificate("web", "a.test.com", mount_point=mount)
    return str(answer["lease_id"])


def test_leases_are_read_listed_and_revoked(vault: hvac.Client, leased: str) -> None:
    lease_id = issued(vault, leased)
    shown = vault.sys.read_lease(lease_id)["data"]
    assert (shown["id"], shown["renewable"]) == (lease_id, False)
    assert vault.sys.list_leases(f"{leased}/issue")["data"]["keys"] == ["web/"]
    with pytest.raises(InvalidRequest, match="lease is not renewable"):
        vault.sys.renew_lease(lease_id)
    vault.sys.revoke_lease(lease_id)
    with pytest.raises(InvalidRequest, match="invalid lease"):
        vault.sys.read_lease(lease_id)
    vault.sys.revoke_lease(lease_id)


@pytest.mark.parametrize("call", ["revoke_prefix", "revoke_force"])
def test_leases_are_revoked_by_prefix(vault: hvac.Client, leased: str, call: str) -> None:
    ids = [issued(vault, leased) for _ in range(3)]
    getattr(vault.sys, call)(f"{leased}/issue")
    for lease_id in ids:
        with pytest.raises(InvalidRequest):
            vault.sys.read_lease(lease_id)
    assert len(vault.list(f"{leased}/certs/revoked")["data"]["keys"]) == 3


def test_a_lease_ends_with_its_token(vault: hvac.Client, single: Target, leased: str) -> None:
    name = unique("issuer")
    vault.sys.create_or_update_policy(name, {"path": {f"{leased}/issue/*": {"capabilities": ["update"]}}})
    token = vault.auth.token.create(policies=[name], ttl="1h")["auth"]["client_token"]
    with single.using(token) as holder:
        lease_id = issued(holder, leased)
    vault.auth.token.revoke(token)

    def ended() -> bool:
        try:
            vault.sys.read_lease(lease_id)
        except InvalidRequest:
            return True
        return False

    poll(ended, what="the end of the lease")
    poll(lambda: vault.list(f"{leased}/certs/revoked") is not None, what="the revocation")


def test_leases_of_others_are_not_for_everybody(vault: hvac.Client, single: Target, leased: str) -> None:
    issued(vault, leased)
    token = vault.auth.token.create(policies=["default"], ttl="1h")["auth"]["client_token"]
    with single.using(token) as stranger:
        for call in (stranger.sys.list_leases, stranger.sys.revoke_prefix, stranger.sys.revoke_force):
            with pytest.raises(Forbidden):
                call(leased)


# --- the server ---


def test_health_leader_and_seal(vault: hvac.Client) -> None:
    assert vault.sys.is_initialized()
    assert not vault.sys.is_sealed()
    assert vault.sys.read_health_status(method="GET")["sealed"] is False
    assert vault.sys.read_health_status(method="HEAD").status_code == 200
    assert "ha_enabled" in vault.sys.read_leader_status()
    assert vault.sys.read_seal_status()["sealed"] is False
    assert vault.is_authenticated()
    assert vault.lookup_token()["data"]["policies"] == ["root"]


def test_the_encryption_key_is_rotated(vault: hvac.Client) -> None:
    before = vault.sys.get_encryption_key_status()["data"]["term"]
    vault.sys.rotate_encryption_key()
    assert vault.sys.get_encryption_key_status()["data"]["term"] == before + 1
