"""Every call of hvac that applies to what Strongroom offers, as Python services use it."""

from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest
from support.processes import poll
from support.targets import Target, unique

POLICY = 'path "kv/data/*" { capabilities = ["read"] }'


class Kv:
    """hvac's calls with the mount point filled in."""

    def __init__(self, client: hvac.Client, mount: str) -> None:
        self.api, self.mount = client.secrets.kv.v2, mount

    def put(self, path: str, secret: dict[str, object], cas: int | None = None) -> int:
        answer = self.api.create_or_update_secret(path=path, secret=secret, cas=cas, mount_point=self.mount)
        return int(answer["data"]["version"])

    def get(self, path: str, version: int | None = None, *, raise_on_deleted: bool = True) -> dict[str, Any]:
        answer = self.api.read_secret_version(
            path=path, version=version, mount_point=self.mount, raise_on_deleted_version=raise_on_deleted
        )
        found: dict[str, Any] = answer["data"]
        return found


@pytest.fixture
def kv(client: hvac.Client, mount: str) -> Kv:
    return Kv(client, mount)


# --- KV ---


def test_secrets_are_written_with_check_and_set_and_read_by_version(kv: Kv) -> None:
    assert kv.put("app", {"a": 1}, cas=0) == 1
    assert kv.put("app", {"a": 2, "deep": {"x": [1, None, "ö"]}}) == 2
    assert kv.get("app")["data"] == {"a": 2, "deep": {"x": [1, None, "ö"]}}
    assert kv.get("app", 1)["data"] == {"a": 1}
    assert (
        kv.api.read_secret("app", mount_point=kv.mount, raise_on_deleted_version=True)["data"]["data"]["a"]
        == 2
    )
    with pytest.raises(InvalidRequest) as told:
        kv.put("app", {"a": 3}, cas=1)
    assert told.value.errors == ["check-and-set parameter did not match the current version"]


def test_patch(kv: Kv) -> None:
    kv.put("app", {"keep": 1, "change": 1})
    with pytest.warns(DeprecationWarning, match="raise_on_deleted_version"):  # hvac's own, about its future
        kv.api.patch(path="app", secret={"change": 2, "new": 3}, mount_point=kv.mount)
    assert kv.get("app")["data"] == {"keep": 1, "change": 2, "new": 3}
    with pytest.warns(DeprecationWarning, match="raise_on_deleted"), pytest.raises(InvalidPath):
        kv.api.patch(path="none", secret={"a": 1}, mount_point=kv.mount)


def test_a_deleted_version_raises_or_is_shown_empty(kv: Kv) -> None:
    kv.put("app", {"a": 1})
    kv.api.delete_latest_version_of_secret("app", mount_point=kv.mount)
    with pytest.raises(InvalidPath) as told:
        kv.get("app")
    assert told.value.json["data"]["metadata"]["version"] == 1
    shown = kv.get("app", raise_on_deleted=False)
    assert shown["data"] is None
    assert shown["metadata"]["deletion_time"] != ""
    with pytest.raises(InvalidPath) as told:
        kv.get("none", raise_on_deleted=False)
    assert told.value.errors == []


def test_versions_are_deleted_undeleted_and_destroyed(kv: Kv) -> None:
    for number in (1, 2, 3):
        kv.put("app", {"n": number})
    kv.api.delete_secret_versions("app", [1, 2], mount_point=kv.mount)
    kv.api.undelete_secret_versions("app", [2], mount_point=kv.mount)
    kv.api.destroy_secret_versions("app", [3], mount_point=kv.mount)
    versions = kv.api.read_secret_metadata("app", mount_point=kv.mount)["data"]["versions"]
    assert versions["1"]["deletion_time"]
    assert not versions["2"]["deletion_time"]
    assert versions["3"]["destroyed"] is True
    assert kv.get("app", 2)["data"] == {"n": 2}
    for gone in (1, 3):
        with pytest.raises(InvalidPath):
            kv.get("app", gone)


def test_metadata(kv: Kv) -> None:
    kv.put("app", {"a": 1})
    kv.api.update_metadata(
        "app",
        mount_point=kv.mount,
        max_versions=5,
        cas_required=True,
        delete_version_after="3h",
        custom_metadata={"owner": "ops"},
    )
    found = kv.api.read_secret_metadata("app", mount_point=kv.mount)["data"]
    assert (found["max_versions"], found["cas_required"], found["custom_metadata"]) == (
        5,
        True,
        {"owner": "ops"},
    )
    assert found["delete_version_after"] == "3h0m0s"
    assert kv.get("app")["metadata"]["custom_metadata"] == {"owner": "ops"}
    with pytest.raises(InvalidRequest):
        kv.put("app", {"a": 2})
    kv.api.delete_metadata_and_all_versions("app", mount_point=kv.mount)
    with pytest.raises(InvalidPath):
        kv.api.read_secret_metadata("app", mount_point=kv.mount)


def test_lists_by_the_list_method(kv: Kv) -> None:
    for path in ("a", "dir/x", "dir/y"):
        kv.put(path, {"v": 1})
    assert kv.api.list_secrets("", mount_point=kv.mount)["data"]["keys"] == ["a", "dir/"]
    assert kv.api.list_secrets("dir", mount_point=kv.mount)["data"]["keys"] == ["x", "y"]
    with pytest.raises(InvalidPath):
        kv.api.list_secrets("none", mount_point=kv.mount)


def test_the_mount_is_configured(kv: Kv) -> None:
    kv.api.configure(max_versions=2, cas_required=True, delete_version_after="1h", mount_point=kv.mount)
    found = kv.api.read_configuration(mount_point=kv.mount)["data"]
    assert (found["max_versions"], found["cas_required"]) == (2, True)
    assert found["delete_version_after"] == "1h0m0s"
    with pytest.raises(InvalidRequest):
        kv.put("app", {"a": 1})


def test_generic_calls(client: hvac.Client, mount: str) -> None:
    client.write_data(f"{mount}/data/app", data={"data": {"a": 1}})
    found = client.read(f"{mount}/data/app")
    assert found is not None
    assert found["data"]["data"] == {"a": 1}
    listed = client.list(f"{mount}/metadata")
    assert listed is not None
    assert listed["data"]["keys"] == ["app"]
    client.delete(f"{mount}/metadata/app")
    assert client.read(f"{mount}/data/app") is None
    assert client.list(f"{mount}/metadata") is None


# --- tokens ---


def test_a_token_lives_and_dies(client: hvac.Client, target: Target) -> None:
    tokens = client.auth.token
    made = tokens.create(policies=["default"], ttl="1h", meta={"team": "a"}, display_name="ci", num_uses=0)
    token, accessor = made["auth"]["client_token"], made["auth"]["accessor"]
    assert made["auth"]["lease_duration"] == 3600
    assert made["auth"]["renewable"] is True
    assert tokens.lookup(token)["data"]["meta"] == {"team": "a"}
    assert tokens.lookup_accessor(accessor)["data"]["display_name"] == "token-ci"
    assert accessor in tokens.list_accessors()["data"]["keys"]
    assert tokens.renew(token, increment="2h")["auth"]["lease_duration"] == 7200
    assert tokens.renew_accessor(accessor)["auth"]["client_token"] == ""
    with target.using(token) as own:
        assert own.auth.token.lookup_self()["data"]["accessor"] == accessor
        assert own.auth.token.renew_self(increment="30m")["auth"]["lease_duration"] == 1800
        assert own.is_authenticated()
        own.auth.token.revoke_self()
        with pytest.raises(Forbidden):
            own.auth.token.lookup_self()
        assert not own.is_authenticated()
    tokens.revoke(token)


def test_orphans_and_periods(client: hvac.Client, target: Target) -> None:
    tokens = client.auth.token
    orphan = tokens.create_orphan(policies=["default"], ttl="1h")["auth"]
    periodic = tokens.create(policies=["default"], period="30m", no_parent=True, renewable=True)["auth"]
    assert orphan["orphan"] is True
    assert periodic["lease_duration"] == 1800
    assert tokens.lookup(periodic["client_token"])["data"]["period"] == 1800
    with target.using(periodic["client_token"]) as own:
        assert own.auth.token.renew_self(increment="9h")["auth"]["lease_duration"] == 1800


def test_ways_to_revoke(client: hvac.Client, target: Target) -> None:
    tokens, name = client.auth.token, unique("maker")
    client.sys.create_or_update_policy(name, 'path "auth/token/create" { capabilities = ["update"] }')
    by_accessor = tokens.create(policies=["default"])["auth"]
    tokens.revoke_accessor(by_accessor["accessor"])
    with pytest.raises(Forbidden):
        tokens.lookup(by_accessor["client_token"])
    parent = tokens.create(policies=[name])["auth"]["client_token"]
    with target.using(parent) as own:
        child = own.auth.token.create(policies=["default"])["auth"]["client_token"]
    tokens.revoke_and_orphan_children(parent)
    assert tokens.lookup(child)["data"]["orphan"] is True
    with pytest.raises(InvalidRequest):
        tokens.revoke_and_orphan_children(parent)
    tokens.tidy()


def test_a_token_may_not_give_away_what_it_does_not_have(client: hvac.Client, target: Target) -> None:
    name = unique("maker")
    client.sys.create_or_update_policy(name, 'path "auth/token/create" { capabilities = ["update"] }')
    with target.using(client.auth.token.create(policies=[name])["auth"]["client_token"]) as own:
        for wanted in ("root", "other"):
            with pytest.raises((InvalidRequest, Forbidden)):
                own.auth.token.create(policies=[wanted])
        with pytest.raises((InvalidRequest, Forbidden)):
            own.auth.token.create(policies=[name], no_parent=True)


# --- sys/ ---


def test_policies_by_the_old_and_the_new_name(client: hvac.Client) -> None:
    name = unique("policy")
    client.sys.create_or_update_policy(name, POLICY)
    assert client.sys.read_policy(name)["data"]["rules"] == POLICY
    assert {name, "root", "default"} <= set(client.sys.list_policies()["data"]["policies"])
    new = POLICY.replace("read", "list")
    client.sys.create_or_update_acl_policy(name, new)
    assert client.sys.read_acl_policy(name)["data"]["policy"] == new
    assert name in client.sys.list_acl_policies()["data"]["keys"]
    client.sys.delete_policy(name)
    client.sys.delete_acl_policy(name)
    with pytest.raises(InvalidPath):
        client.sys.read_policy(name)
    with pytest.raises(InvalidRequest):
        client.sys.create_or_update_policy(name, 'path "x" { capabilities = ["fly"] }')


def test_a_policy_may_be_given_as_an_object(client: hvac.Client) -> None:
    name = unique("policy")
    client.sys.create_or_update_policy(name, {"path": {"a": {"capabilities": ["read"]}}})
    assert client.sys.get_capabilities(paths=["a"], token=_token(client, name))["data"]["capabilities"] == [
        "read"
    ]


def _token(client: hvac.Client, policy: str) -> str:
    return str(client.auth.token.create(policies=[policy])["auth"]["client_token"])


def test_mounts(client: hvac.Client) -> None:
    path, new = unique("engine"), unique("moved")
    client.sys.enable_secrets_engine("kv", path=path, description="mine", options={"version": 2})
    entry = client.sys.list_mounted_secrets_engines()["data"][f"{path}/"]
    assert (entry["type"], entry["description"], entry["options"]["version"]) == ("kv", "mine", "2")
    assert client.sys.retrieve_mount_option(path, "version") == "2"
    client.sys.tune_mount_configuration(path, default_lease_ttl="1h", max_lease_ttl="2h", description="ours")
    tuned = client.sys.read_mount_configuration(path)["data"]
    assert (tuned["default_lease_ttl"], tuned["max_lease_ttl"], tuned["description"]) == (3600, 7200, "ours")
    with pytest.raises(InvalidRequest):
        client.sys.enable_secrets_engine("kv", path=path, options={"version": "2"})
    client.sys.move_backend(path, new)
    poll(lambda: f"{new}/" in client.sys.list_mounted_secrets_engines()["data"], what="the move")
    client.sys.disable_secrets_engine(new)
    assert f"{new}/" not in client.sys.list_mounted_secrets_engines()["data"]
    assert "token/" in client.sys.list_auth_methods()["data"]


def test_capabilities(client: hvac.Client, target: Target) -> None:
    name = unique("policy")
    client.sys.create_or_update_policy(name, POLICY)
    auth = client.auth.token.create(policies=[name])["auth"]
    paths = ["kv/data/a", "kv/metadata/a"]
    by_token = client.sys.get_capabilities(paths=paths, token=auth["client_token"])["data"]
    by_accessor = client.sys.get_capabilities(paths=paths, accessor=auth["accessor"])["data"]
    assert by_token["kv/data/a"] == ["read"]
    assert by_token["kv/metadata/a"] == ["deny"]
    assert by_accessor == by_token
    with target.using(auth["client_token"]) as own:
        assert own.sys.get_capabilities(paths=["kv/data/a"])["data"]["kv/data/a"] == ["read"]


def test_health_leader_seal_and_init(client: hvac.Client, target: Target) -> None:
    assert client.sys.read_health_status(method="HEAD").status_code in (200, 429)
    told = client.sys.read_health_status(method="GET", standby_ok=True)
    told = told if isinstance(told, dict) else told.json()
    assert told["initialized"] is True
    assert told["sealed"] is False
    assert client.sys.read_health_status(method="GET", standby_code=299, active_code=299).status_code == 299
    assert client.sys.read_seal_status()["sealed"] is False
    assert not client.sys.is_sealed()
    assert client.sys.read_init_status()["initialized"] is True
    assert client.sys.is_initialized()
    leader = client.sys.read_leader_status()
    if not target.real:
        assert leader["ha_enabled"] is True
        assert leader["is_self"] is False


def test_step_down_and_raft_configuration(client: hvac.Client, cluster: object) -> None:
    servers = client.sys.read_raft_config()["data"]["config"]["servers"]
    assert len(servers) == 3
    assert sum(server["leader"] for server in servers) == 1
    assert client.sys.step_down().status_code == 204
    name = unique("after")
    poll(lambda: _written(client, name), what="a write after the step-down")


def _written(client: hvac.Client, name: str) -> bool:
    try:
        client.secrets.kv.v2.create_or_update_secret(name, secret={"a": 1}, mount_point="secret")
    except hvac.exceptions.VaultError:
        return False
    return True


def test_errors_become_hvacs_exceptions_with_their_messages(
    client: hvac.Client, target: Target, mount: str
) -> None:
    with pytest.raises(InvalidPath) as missing:
        client.secrets.kv.v2.read_secret_version("none", mount_point=mount, raise_on_deleted_version=True)
    assert missing.value.errors == []
    with pytest.raises(InvalidRequest) as bad:
        client.sys.enable_secrets_engine("nosuch")
    assert bad.value.errors == ["plugin not found in the catalog: nosuch"]
    with target.using("s.nobodynobodynobodynobody") as stranger, pytest.raises(Forbidden) as refused:
        stranger.secrets.kv.v2.read_secret_version("a", mount_point=mount, raise_on_deleted_version=True)
    assert refused.value.errors == ["permission denied"]
    with target.using(_token(client, "default")) as weak, pytest.raises(Forbidden) as denied:
        weak.secrets.kv.v2.read_secret_version("a", mount_point=mount, raise_on_deleted_version=True)
    assert denied.value.errors == ["1 error occurred:\n\t* permission denied\n\n"]


def test_one_client_serves_many_requests_on_one_connection(kv: Kv) -> None:
    for number in range(30):
        kv.put("app", {"n": number})
        assert kv.get("app")["data"] == {"n": number}
