"""hvac's calls of tokens, AppRole and userpass, against one server from a configuration file, or a real OpenBao."""

from collections.abc import Iterator

import hvac
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest
from support.targets import Target, unique

# --- tokens ---


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({"ttl": "1h"}, {"renewable": True, "orphan": False, "type": "service"}),
        ({"ttl": "1h", "no_parent": True}, {"orphan": True}),
        ({"period": "30m"}, {"period": 1800}),
        ({"ttl": "1h", "meta": {"k": "v"}}, {"meta": {"k": "v"}}),
        ({"ttl": "1h", "renewable": False}, {"renewable": False}),
        ({"ttl": "1h", "num_uses": 5}, {"num_uses": 5}),
        ({"ttl": "1h", "display_name": "app"}, {"display_name": "token-app"}),
        ({"ttl": "1h", "explicit_max_ttl": "2h"}, {"explicit_max_ttl": 7200}),
        ({"ttl": "1h", "type": "batch"}, {"type": "batch", "renewable": False}),
    ],
)
def test_tokens_are_what_was_asked_for(
    vault: hvac.Client, asked: dict[str, object], shown: dict[str, object]
) -> None:
    token = vault.auth.token.create(policies=["default"], **asked)["auth"]["client_token"]
    found = vault.auth.token.lookup(token)["data"]
    assert shown.items() <= found.items()
    assert found["policies"] == ["default"]


def test_tokens_renew_and_end(vault: hvac.Client, single: Target) -> None:
    made = vault.auth.token.create(policies=["default"], ttl="1h")["auth"]
    assert vault.auth.token.renew(made["client_token"], increment="2h")["auth"]["lease_duration"] == 7200
    assert vault.auth.token.renew_accessor(made["accessor"])["auth"]["client_token"] == ""
    with single.using(made["client_token"]) as own:
        assert own.auth.token.lookup_self()["data"]["accessor"] == made["accessor"]
        own.auth.token.renew_self()
        own.auth.token.revoke_self()
        with pytest.raises(Forbidden):
            own.auth.token.lookup_self()


@pytest.mark.parametrize("way", ["revoke", "revoke_accessor", "revoke_and_orphan_children"])
def test_ways_to_revoke(vault: hvac.Client, single: Target, way: str) -> None:
    made = vault.auth.token.create(policies=["default", "nosuch"], ttl="1h")["auth"]
    getattr(vault.auth.token, way)(made["accessor" if "accessor" in way else "client_token"])
    with single.using(made["client_token"]) as own, pytest.raises(Forbidden):
        own.auth.token.lookup_self()
    with pytest.raises(Forbidden, match="bad token"):
        vault.auth.token.lookup(made["client_token"])


def test_token_roles(vault: hvac.Client) -> None:
    role = unique("role")
    vault.auth.token.create_or_update_role(role, allowed_policies="default", token_period="1h", orphan=True)
    shown = vault.auth.token.read_role(role)["data"]
    assert (shown["allowed_policies"], shown["token_period"], shown["orphan"]) == (["default"], 3600, True)
    assert role in vault.auth.token.list_roles()["data"]["keys"]
    made = vault.auth.token.create(role_name=role)["auth"]
    assert (made["policies"], made["orphan"], made["lease_duration"]) == (["default"], True, 3600)
    vault.auth.token.delete_role(role)
    with pytest.raises(InvalidPath):
        vault.auth.token.read_role(role)


def test_accessors_are_listed(vault: hvac.Client) -> None:
    accessor = vault.auth.token.create(policies=["default"], ttl="1h")["auth"]["accessor"]
    assert accessor in vault.list("auth/token/accessors")["data"]["keys"]
    assert vault.auth.token.lookup_accessor(accessor)["data"]["id"] == ""


# --- AppRole ---


@pytest.fixture
def approle(vault: hvac.Client) -> Iterator[str]:
    path = unique("approle")
    vault.sys.enable_auth_method("approle", path=path)
    vault.auth.approle.create_or_update_approle(
        "web", token_policies=["default"], token_ttl="20m", secret_id_num_uses=2, mount_point=path
    )
    yield path
    vault.sys.disable_auth_method(path)


def test_a_service_logs_in_by_approle(vault: hvac.Client, single: Target, approle: str) -> None:
    api = vault.auth.approle
    role_id = api.read_role_id("web", mount_point=approle)["data"]["role_id"]
    made = api.generate_secret_id("web", metadata={"who": "me"}, mount_point=approle)["data"]
    with single.using() as service:
        answer = service.auth.approle.login(role_id, made["secret_id"], mount_point=approle)["auth"]
        assert (answer["policies"], answer["lease_duration"], answer["metadata"]["role_name"]) == (
            ["default"],
            1200,
            "web",
        )
        assert service.is_authenticated()
        service.auth.approle.login(role_id, made["secret_id"], mount_point=approle)
        with pytest.raises(InvalidRequest, match="invalid role or secret ID"):
            service.auth.approle.login(role_id, made["secret_id"], mount_point=approle)


def test_secret_ids_are_looked_up_listed_and_destroyed(vault: hvac.Client, approle: str) -> None:
    api = vault.auth.approle
    made = api.generate_secret_id("web", mount_point=approle)["data"]
    found = api.read_secret_id("web", made["secret_id"], mount_point=approle)["data"]
    assert found["secret_id_accessor"] == made["secret_id_accessor"]
    listed = api.list_secret_id_accessors("web", mount_point=approle)["data"]["keys"]
    assert listed == [made["secret_id_accessor"]]
    shown = api.read_secret_id_accessor("web", made["secret_id_accessor"], mount_point=approle)["data"]
    assert shown["secret_id_num_uses"] == 2
    api.destroy_secret_id("web", made["secret_id"], mount_point=approle)
    with pytest.raises(InvalidPath):
        api.list_secret_id_accessors("web", mount_point=approle)
    custom = api.create_custom_secret_id("web", "chosen", mount_point=approle)["data"]
    assert custom["secret_id"] == "chosen"
    api.destroy_secret_id_accessor("web", custom["secret_id_accessor"], mount_point=approle)


def test_roles_are_kept_by_name(vault: hvac.Client, approle: str) -> None:
    api = vault.auth.approle
    assert api.list_roles(mount_point=approle)["data"]["keys"] == ["web"]
    shown = api.read_role("web", mount_point=approle)["data"]
    assert (shown["token_policies"], shown["token_ttl"], shown["secret_id_num_uses"]) == (
        ["default"],
        1200,
        2,
    )
    api.update_role_id("web", "my-role", mount_point=approle)
    assert api.read_role_id("web", mount_point=approle)["data"]["role_id"] == "my-role"
    api.delete_role("web", mount_point=approle)
    with pytest.raises(InvalidPath):
        api.read_role("web", mount_point=approle)


# --- userpass ---


@pytest.fixture
def userpass(vault: hvac.Client) -> Iterator[str]:
    path = unique("up")
    vault.sys.enable_auth_method("userpass", path=path)
    vault.auth.userpass.create_or_update_user("bob", password="pw", policies=["default"], mount_point=path)
    yield path
    vault.sys.disable_auth_method(path)


def test_a_person_logs_in_by_password(vault: hvac.Client, single: Target, userpass: str) -> None:
    with single.using() as person:
        made = person.auth.userpass.login("bob", "pw", mount_point=userpass)["auth"]
        assert (made["policies"], made["metadata"]["username"]) == (["default"], "bob")
        assert person.is_authenticated()
        for name, password in (("bob", "wrong"), ("nobody", "pw")):
            with pytest.raises(InvalidRequest, match="invalid username or password"):
                person.auth.userpass.login(name, password, mount_point=userpass)


def test_users_are_kept_by_name(vault: hvac.Client, single: Target, userpass: str) -> None:
    api = vault.auth.userpass
    assert api.list_user(mount_point=userpass)["data"]["keys"] == ["bob"]
    assert "password" not in api.read_user("bob", mount_point=userpass)["data"]
    api.update_password_on_user("bob", "new", mount_point=userpass)
    with single.using() as person:
        person.auth.userpass.login("bob", "new", mount_point=userpass)
        with pytest.raises(InvalidRequest):
            person.auth.userpass.login("bob", "pw", mount_point=userpass)
    api.delete_user("bob", mount_point=userpass)
    with pytest.raises(InvalidPath):
        api.list_user(mount_point=userpass)


def test_tokens_go_with_the_method_that_made_them(vault: hvac.Client, single: Target) -> None:
    path = unique("up")
    vault.sys.enable_auth_method("userpass", path=path)
    vault.auth.userpass.create_or_update_user("bob", password="pw", policies=["default"], mount_point=path)
    with single.using() as person:
        person.auth.userpass.login("bob", "pw", mount_point=path)
        vault.sys.disable_auth_method(path)
        assert not person.is_authenticated()
