"""`bao secrets`, `policy`, `token`, `status`, `login` and `operator`, as operators type them."""

import json

import pytest
from support.clusters import under_one_leader
from support.processes import poll
from support.targets import Bao, table, unique

from node.cli.local_cluster import LocalCluster

READ_A = 'path "kv/data/a/*" {\n  capabilities = ["read", "list"]\n}\n'
MAKER = 'path "auth/token/create" { capabilities = ["update"] }'
READ_A_JSON = json.dumps({"path": {"kv/data/a/*": {"capabilities": ["read"]}}})


def create(bao: Bao, *flags: str, token: str | None = None) -> tuple[str, str]:
    """A token and its accessor."""
    auth = bao.json("token", "create", *flags, token=token)["auth"]
    return auth["client_token"], auth["accessor"]


# --- secrets ---


def test_a_secrets_engine_is_enabled_tuned_moved_and_disabled(bao: Bao) -> None:
    path, new = unique("team"), unique("moved")
    flags = (f"-path={path}", "-version=2", "-description=of the team")
    assert f"Enabled the kv secrets engine at: {path}/" in bao.ok("secrets", "enable", *flags, "kv")
    told = bao.refused("secrets", "enable", *flags, "kv")
    assert "Code: 400" in told
    assert f"path is already in use at {path}/" in told
    entry = bao.json("secrets", "list", "-detailed")[f"{path}/"]
    assert (entry["type"], entry["options"], entry["description"]) == ("kv", {"version": "2"}, "of the team")
    assert "map[version:2]" in bao.ok("secrets", "list", "-detailed")

    bao.ok("secrets", "tune", "-default-lease-ttl=1h", "-max-lease-ttl=2h", "-description=tuned", path)
    rows = table(bao.ok("read", f"sys/mounts/{path}/tune"))
    assert (rows["default_lease_ttl"], rows["max_lease_ttl"], rows["description"]) == ("1h", "2h", "tuned")

    bao.ok("secrets", "move", path, new)
    listed = bao.json("secrets", "list")
    assert f"{new}/" in listed
    assert f"{path}/" not in listed
    bao.ok("secrets", "disable", new)
    assert f"{new}/" not in bao.json("secrets", "list")
    bao.ok("secrets", "disable", new)


def test_a_mount_takes_its_secrets_along_and_its_end_is_theirs(bao: Bao, mount: str) -> None:
    new = unique("moved")
    bao.ok("kv", "put", f"{mount}/app", "a=1")
    bao.ok("secrets", "move", mount, new)
    assert bao.ok("kv", "get", "-field=a", f"{new}/app") == "1"
    bao.ok("secrets", "disable", new)
    bao.ok("secrets", "enable", f"-path={new}", "kv-v2")
    poll(lambda: "No value found" in bao("kv", "get", f"{new}/app").stderr, what="an empty new mount")


def test_an_engine_that_does_not_exist_cannot_be_enabled(bao: Bao) -> None:
    assert "plugin not found in the catalog: nosuch" in bao.refused("secrets", "enable", "nosuch")


# --- policies ---


@pytest.mark.parametrize("text", [READ_A, READ_A_JSON], ids=["hcl", "json"])
def test_a_policy_is_written_read_listed_and_deleted(bao: Bao, text: str) -> None:
    name = unique("policy")
    (bao.target.home / "policy").write_text(text)
    assert f"Uploaded policy: {name}" in bao.ok("policy", "write", name, "policy")
    assert bao.ok("policy", "read", name).strip() == text.strip()
    assert {name, "default", "root"} <= set(bao.ok("policy", "list").split())
    token, _ = create(bao, f"-policy={name}")
    assert "read" in bao.ok("token", "capabilities", token, "kv/data/a/x")
    bao.ok("policy", "delete", name)
    assert bao.refused("policy", "read", name) == f"No policy named: {name}\n"
    bao.ok("policy", "delete", name)
    assert bao.ok("token", "capabilities", token, "kv/data/a/x") == "deny\n"


def test_a_policy_name_is_lower_case_and_stdin_will_do(bao: Bao) -> None:
    name = unique("Mixed")
    assert f"Uploaded policy: {name.lower()}" in bao.ok("policy", "write", name, "-", text=READ_A)
    assert bao.ok("policy", "read", name) == READ_A


def test_a_policy_that_does_not_parse_changes_nothing(bao: Bao) -> None:
    name = unique("policy")
    bao.ok("policy", "write", name, "-", text=READ_A)
    for bad in ('path "x" { capabilities = ["fly"] }', 'path "x" { capabilities = ["read"] ', "pathological"):
        told = bao.refused("policy", "write", name, "-", text=bad)
        assert "Code: 400" in told
        assert "failed to parse policy" in told
    assert bao.ok("policy", "read", name) == READ_A


def test_the_built_in_policies_are_protected(bao: Bao) -> None:
    assert 'cannot delete "root" policy' in bao.refused("policy", "delete", "root")
    assert "cannot delete default policy" in bao.refused("policy", "delete", "default")
    assert 'cannot update "root" policy' in bao.refused("policy", "write", "root", "-", text=READ_A)
    assert bao.refused("policy", "read", "root") == "No policy named: root\n"


def test_the_cli_formats_policies(bao: Bao) -> None:
    path = bao.target.home / "format.hcl"
    path.write_text('path "a" { capabilities=["read"] }')
    bao.ok("policy", "fmt", str(path))
    assert 'capabilities = ["read"]' in path.read_text()
    name = unique("policy")
    bao.ok("policy", "write", name, str(path))


# --- tokens ---


def test_a_token_is_created_as_asked(bao: Bao) -> None:
    flags = ("-ttl=1h", "-display-name=ci bot", "-metadata=team=a", "-metadata=env=b")
    token, accessor = create(bao, "-policy=default", *flags)
    rows = table(bao.ok("token", "lookup", token))
    assert rows["accessor"] == accessor
    assert rows["id"] == token
    assert (rows["creation_ttl"], rows["display_name"]) == ("1h", "token-ci-bot")
    assert (rows["meta"], rows["policies"], rows["orphan"]) == ("map[env:b team:a]", "[default]", "false")
    by_accessor = bao.json("token", "lookup", "-accessor", accessor)["data"]
    assert by_accessor["id"] == ""
    assert by_accessor["accessor"] == accessor
    assert bao.json("token", "lookup", token=token)["data"]["display_name"] == "token-ci-bot"


def test_a_root_token_makes_root_tokens_that_never_end(bao: Bao) -> None:
    auth = bao.json("token", "create")["auth"]
    assert (auth["policies"], auth["lease_duration"], auth["renewable"]) == (["root"], 0, False)
    told = bao.refused("token", "renew", auth["client_token"])
    assert "lease is not renewable" in told
    bao.ok("token", "revoke", auth["client_token"])


def test_policies_of_a_token(bao: Bao) -> None:
    name = unique("policy")
    bao.ok("policy", "write", name, "-", text=READ_A)
    with_default = bao.json("token", "create", f"-policy={name}")["auth"]
    without = bao.json("token", "create", f"-policy={name}", "-no-default-policy")["auth"]
    assert with_default["policies"] == ["default", name]
    assert without["policies"] == [name]
    warned = bao("token", "create", "-policy=no-such-policy")
    assert warned.returncode == 0
    assert 'Policy "no-such-policy" does not exist' in warned.stderr
    capped = bao("token", "create", "-policy=default", "-ttl=9000h")
    assert table(capped.stdout)["token_duration"] == "768h"
    assert "capped accordingly" in " ".join(capped.stderr.split())


def test_a_token_is_renewed_up_to_its_limit(bao: Bao) -> None:
    token, accessor = create(bao, "-policy=default", "-ttl=1h", "-explicit-max-ttl=2h")
    assert table(bao.ok("token", "renew", token))["token_duration"] == "1h"
    assert bao.json("token", "renew", "-increment=90m", token)["auth"]["lease_duration"] == 5400
    capped = bao("token", "renew", "-increment=5h", token)
    assert capped.returncode == 0
    assert "capped accordingly" in " ".join(capped.stderr.split())
    by_accessor = bao.json("token", "renew", "-accessor", accessor)["auth"]
    assert by_accessor["client_token"] == ""
    fixed, _ = create(bao, "-policy=default", "-ttl=1h", "-renewable=false")
    assert "lease is not renewable" in bao.refused("token", "renew", fixed)
    assert "token not found" in bao.refused("token", "renew", "nosuch")


def test_a_periodic_token_renews_itself_for_ever(bao: Bao) -> None:
    token, _ = create(bao, "-policy=default", "-period=30m")
    assert table(bao.ok("token", "lookup", token))["period"] == "30m"
    auth = bao.json("token", "renew", "-increment=5h", token=token)["auth"]
    assert auth["lease_duration"] == 1800


def test_a_token_with_a_use_limit_is_gone_after_its_last_use(bao: Bao) -> None:
    token, _ = create(bao, "-policy=default", "-use-limit=2")
    assert table(bao.ok("token", "lookup", token=token))["num_uses"] == "1"
    assert table(bao.ok("token", "lookup", token=token))["num_uses"] == "-1"
    assert "permission denied" in bao.refused("token", "lookup", token=token)
    assert "bad token" in bao.refused("token", "lookup", token)


def test_revocation_takes_the_children_along_but_no_orphans(bao: Bao) -> None:
    name = unique("maker")
    bao.ok("policy", "write", name, "-", text=MAKER)
    parent, _ = create(bao, f"-policy={name}")
    child, _ = create(bao, "-policy=default", token=parent)
    orphan, _ = create(bao, "-policy=default", "-orphan")
    assert bao.json("token", "lookup", orphan)["data"]["orphan"] is True
    bao.ok("token", "revoke", parent)
    for gone in (parent, child):
        assert "bad token" in bao.refused("token", "lookup", gone)
    bao.ok("token", "lookup", orphan)
    bao.ok("token", "revoke", parent)


def test_ways_to_revoke(bao: Bao) -> None:
    name = unique("maker")
    bao.ok("policy", "write", name, "-", text=MAKER)
    token, accessor = create(bao, "-policy=default")
    bao.ok("token", "revoke", "-accessor", accessor)
    assert "bad token" in bao.refused("token", "lookup", token)
    token, _ = create(bao, "-policy=default")
    bao.ok("token", "revoke", "-self", token=token)
    assert "permission denied" in bao.refused("token", "lookup", token=token)
    parent, _ = create(bao, f"-policy={name}")
    child, _ = create(bao, "-policy=default", token=parent)
    bao.ok("token", "revoke", "-mode=orphan", parent)
    assert "bad token" in bao.refused("token", "lookup", parent)
    assert bao.json("token", "lookup", child)["data"]["orphan"] is True
    assert "token to revoke not found" in bao.refused("token", "revoke", "-mode=orphan", parent)


def test_what_does_not_exist_cannot_be_looked_up(bao: Bao) -> None:
    assert "bad token" in bao.refused("token", "lookup", "nosuch")
    assert "invalid accessor" in bao.refused("token", "lookup", "-accessor", "nosuch")
    assert "invalid token" in bao.refused("token", "capabilities", "nosuch", "kv/data/a")


def test_capabilities(bao: Bao) -> None:
    token = bao.mint(READ_A + 'path "sys/capabilities-self" { capabilities = ["update"] }')
    assert bao.ok("token", "capabilities", "kv/data/a/b") == "root\n"
    assert bao.ok("token", "capabilities", token, "kv/data/a/b") == "list, read\n"
    assert bao.ok("token", "capabilities", token, "kv/data/b") == "deny\n"
    assert bao.ok("token", "capabilities", "kv/data/a/b", token=token) == "list, read\n"


def test_login_keeps_the_token_for_later_commands(bao: Bao) -> None:
    token, _ = create(bao, "-policy=default")
    assert "Success! You are now authenticated" in bao.ok("login", token, token="")
    assert bao.json("token", "lookup", token="")["data"]["id"] == token
    (bao.target.home / ".vault-token").unlink()
    assert "permission denied" in bao.refused("login", "nosuch", token="")


# --- the cluster ---


def test_status_tells_an_open_node_from_others(bao: Bao) -> None:
    rows = table(bao.ok("status"))
    assert rows["Sealed"] == "false"
    assert rows["Initialized"] == "true"
    assert table(bao.ok("status", token=""))["Sealed"] == "false", "no token is needed"
    assert "Vault is initialized" in bao.ok("operator", "init", "-status")
    assert "Vault is already initialized" in bao.refused("operator", "init")


def test_status_of_a_follower_names_the_leader(bao: Bao, cluster: LocalCluster) -> None:
    told = bao.json("status")
    leader = cluster.node(cluster.wait_leader())
    assert (told["ha_enabled"], told["storage_type"], told["leader_address"]) == (
        True,
        "raft",
        leader.api_address,
    )
    assert "standby" in bao.ok("status")


def test_peers_are_listed(bao: Bao, cluster: LocalCluster) -> None:
    def look(leader: str) -> None:
        servers = bao.json("operator", "raft", "list-peers")["data"]["config"]["servers"]
        assert {(s["node_id"], s["address"]) for s in servers} == {
            (node.id, f"127.0.0.1:{node.cluster_port}") for node in cluster.nodes
        }
        assert [s["node_id"] for s in servers if s["leader"]] == [leader]
        assert all(s["voter"] for s in servers)

    under_one_leader(cluster, look)
    rows = bao.ok("operator", "raft", "list-peers").splitlines()[2:]
    assert sorted(row.split()[2] for row in rows) == ["follower", "follower", "leader"]


def test_the_leader_steps_down_when_a_follower_is_told_so(bao: Bao, cluster: LocalCluster) -> None:
    before = cluster.wait_leader()
    assert "Stepped down" in bao.ok("operator", "step-down")
    assert cluster.wait_leader(other_than=before) != before
    bao.ok("kv", "put", "secret/after-step-down", "a=1")


def test_a_sealed_node_serves_nothing_while_the_others_go_on(
    bao: Bao, cluster: LocalCluster, follower: str
) -> None:
    other = next(node.id for node in cluster.nodes if node.id != follower)
    assert "Vault is sealed" in bao.ok("operator", "seal")
    done = bao("status")
    assert done.returncode == 2
    assert table(done.stdout)["Sealed"] == "true"
    assert "Vault is sealed" in bao.refused("kv", "get", "secret/x")
    assert cluster.health(follower) == 503
    assert cluster.request(other, "POST", "secret/data/sealed-peer", {"data": {"a": 1}})[0] == 200
    cluster.stop(follower)
    cluster.start(follower)
    cluster.wait_caught_up(follower)
    assert bao.ok("kv", "get", "-field=a", "secret/sealed-peer") == "1"
