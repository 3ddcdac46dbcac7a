"""What each command asks of the server: method, path and body, as Vault's own tools ask."""

from typing import Any

import pytest
from support.cli import Cli
from support.stub_api import LOST, Reply, stub_api

V2: Reply = (200, {"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}})
V1: Reply = (200, {"data": {"path": "old/", "type": "kv", "options": None}})
VERSION: Reply = (
    200,
    {"data": {"version": 3, "created_time": "2026-11-22T07:01:24Z"}, "root_token": "s.root"},
)
NO_CONFIG: dict[str, Any] = {
    "options": None, "default_lease_ttl": "0s", "max_lease_ttl": "0s", "force_no_cache": False
}  # fmt: skip
MOUNT: dict[str, Any] = {
    "type": "kv", "description": "", "config": NO_CONFIG, "local": False, "seal_wrap": False,
    "external_entropy_access": False, "options": None,
}  # fmt: skip
TOKEN: dict[str, Any] = {
    "ttl": "0s", "explicit_max_ttl": "0s", "period": "0s", "display_name": "", "num_uses": 0, "renewable": True,
    "type": "service", "entity_alias": "",
}  # fmt: skip
REKEY: dict[str, Any] = {
    "secret_shares": 5, "secret_threshold": 3, "pgp_keys": None, "backup": False, "require_verification": False
}  # fmt: skip

WRITES: list[tuple[str, str, str, Any]] = [
    ("write auth/userpass/users/ann password=pw policies=a,b", "PUT", "auth/userpass/users/ann",
     {"password": "pw", "policies": "a,b"}),
    ("write -f sys/rotate", "PUT", "sys/rotate", None),
    ("write /sys/x/ a=b a=c a=d", "PUT", "sys/x", {"a": ["b", "c", "d"]}),
    ("write x a=b=c", "PUT", "x", {"a": "b=c"}),
    ("write x a=\\@literal", "PUT", "x", {"a": "@literal"}),
    ("patch x a=1", "PATCH", "x", {"a": "1"}),
    ("delete x/y", "DELETE", "x/y", None),
    ("kv put secret/app a=1", "PUT", "secret/data/app", {"data": {"a": "1"}, "options": {}}),
    ("kv put -cas=0 secret/app a=1", "PUT", "secret/data/app", {"data": {"a": "1"}, "options": {"cas": 0}}),
    ("kv put secret/app a=1 -cas 4", "PUT", "secret/data/app", {"data": {"a": "1"}, "options": {"cas": 4}}),
    ("kv put -mount=secret app a=1", "PUT", "secret/data/app", {"data": {"a": "1"}, "options": {}}),
    ("kv put -mount secret/ /app/ a=1", "PUT", "secret/data/app", {"data": {"a": "1"}, "options": {}}),
    ("kv put old/app a=1 -cas=1", "PUT", "old/app", {"a": "1"}),
    ("kv put secret/data/app a=1", "PUT", "secret/data/data/app", {"data": {"a": "1"}, "options": {}}),
    ("kv patch secret/app a=1 -remove-data=b", "PATCH", "secret/data/app",
     {"data": {"a": "1", "b": None}, "options": {}}),
    ("kv patch -cas=2 secret/app a=1", "PATCH", "secret/data/app", {"data": {"a": "1"}, "options": {"cas": 2}}),
    ("kv delete secret/app", "DELETE", "secret/data/app", None),
    ("kv delete -versions=1,2 -versions=3 secret/app", "PUT", "secret/delete/app", {"versions": ["1", "2", "3"]}),
    ("kv delete old/app -versions=1", "DELETE", "old/app", None),
    ("kv undelete -versions=2 secret/app", "PUT", "secret/undelete/app", {"versions": ["2"]}),
    ("kv destroy -versions=2 secret/app", "PUT", "secret/destroy/app", {"versions": ["2"]}),
    ("kv metadata put secret/app", "PUT", "secret/metadata/app", {}),
    ("kv metadata put -max-versions=2 -cas-required -custom-metadata=a=b -delete-version-after=2h secret/app", "PUT",
     "secret/metadata/app",
     {"cas_required": True, "custom_metadata": {"a": "b"}, "delete_version_after": "2h0m0s", "max_versions": 2}),
    ("kv metadata patch -cas-required=false -custom-metadata=a=b -remove-custom-metadata=c secret/app", "PATCH",
     "secret/metadata/app", {"cas_required": False, "custom_metadata": {"a": "b", "c": None}}),
    ("kv metadata delete secret/app", "DELETE", "secret/metadata/app", None),
    ("kv enable-versioning old", "POST", "sys/mounts/old/tune",
     {"options": {"version": "2"}, "default_lease_ttl": "", "max_lease_ttl": "", "force_no_cache": False}),
    ("secrets enable kv", "POST", "sys/mounts/kv", MOUNT),
    ("secrets enable -path=a/b -version=2 -description=d -default-lease-ttl=1h -options=x=y kv", "POST",
     "sys/mounts/a/b", MOUNT | {
         "description": "d", "config": NO_CONFIG | {"default_lease_ttl": "1h0m0s"},
         "options": {"x": "y", "version": "2"}}),
    ("secrets enable -local -seal-wrap -passthrough-request-headers=X-A -listing-visibility=unauth kv", "POST",
     "sys/mounts/kv", MOUNT | {
         "local": True, "seal_wrap": True,
         "config": NO_CONFIG | {"passthrough_request_headers": ["X-A"], "listing_visibility": "unauth"}}),
    ("secrets tune -description= -max-lease-ttl=2h secret", "POST", "sys/mounts/secret/tune",
     {"options": None, "default_lease_ttl": "", "max_lease_ttl": "2h0m0s", "force_no_cache": False, "description": ""}),
    ("secrets disable secret/", "DELETE", "sys/mounts/secret", None),
    ("secrets move a b", "POST", "sys/remount", {"from": "a/", "to": "b/"}),
    ("auth enable -path=people userpass", "POST", "sys/auth/people", MOUNT | {"type": "userpass"}),
    ("auth tune -token-type=batch -user-lockout-threshold=3 people", "POST", "sys/mounts/auth/people/tune",
     {"options": None, "default_lease_ttl": "", "max_lease_ttl": "", "force_no_cache": False, "token_type": "batch",
      "user_lockout_config": {"lockout_threshold": "3"}}),
    ("auth disable people", "DELETE", "sys/auth/people", None),
    ("auth move auth/a auth/b", "POST", "sys/remount", {"from": "auth/a/", "to": "auth/b/"}),
    ("policy write App -", "PUT", "sys/policies/acl/app", {"policy": "typed"}),
    ("policy explain read secret/data/a -policy=a -policy=b k=v", "PUT", "sys/policies/explain",
     {"operation": "read", "path": "secret/data/a", "policies": ["a", "b"], "data": {"k": "v"}}),
    ("policy explain list a -token=-", "PUT", "sys/policies/explain",
     {"operation": "list", "path": "a", "token": "typed"}),
    ("audit enable -path=f file file_path=/x", "PUT", "sys/audit/f",
     {"type": "file", "description": "", "options": {"file_path": "/x"}, "local": False}),
    ("audit disable f/", "DELETE", "sys/audit/f", None),
    ("policy delete App", "DELETE", "sys/policies/acl/app", None),
    ("token create", "POST", "auth/token/create", TOKEN),
    ("token create -policy=a -policy=b -ttl=90 -use-limit=2 -metadata=k=v -orphan -renewable=false -id=x -role=r",
     "POST", "auth/token/create/r", TOKEN | {
         "policies": ["a", "b"], "ttl": "1m30s", "num_uses": 2, "meta": {"k": "v"}, "no_parent": True,
         "renewable": False, "id": "x"}),
    ("token lookup t", "POST", "auth/token/lookup", {"token": "t"}),
    ("token lookup -accessor a", "POST", "auth/token/lookup-accessor", {"accessor": "a"}),
    ("token renew -i 1h", "PUT", "auth/token/renew-self", {"increment": 3600}),
    ("token renew t", "PUT", "auth/token/renew", {"increment": 0, "token": "t"}),
    ("token renew -accessor a", "PUT", "auth/token/renew-accessor", {"accessor": "a", "increment": 0}),
    ("token revoke t", "PUT", "auth/token/revoke", {"token": "t"}),
    ("token revoke -self", "PUT", "auth/token/revoke-self", None),
    ("token revoke -accessor a", "PUT", "auth/token/revoke-accessor", {"accessor": "a"}),
    ("token revoke -mode=orphan t", "PUT", "auth/token/revoke-orphan", {"token": "t"}),
    ("token revoke -mode=path auth/people", "PUT", "sys/leases/revoke-prefix/auth/people", None),
    ("token capabilities secret/a", "POST", "sys/capabilities-self", {"path": "secret/a", "token": "root"}),
    ("token capabilities t secret/a", "POST", "sys/capabilities", {"path": "secret/a", "token": "t"}),
    ("lease lookup a/b", "PUT", "sys/leases/lookup", {"lease_id": "a/b"}),
    ("lease renew -increment=1h a/b", "PUT", "sys/leases/renew", {"increment": 3600, "lease_id": "a/b"}),
    ("lease revoke a/b", "PUT", "sys/leases/revoke/a/b", {"sync": False}),
    ("lease revoke -sync -prefix a", "PUT", "sys/leases/revoke-prefix/a", {"sync": True}),
    ("lease revoke -force -prefix a", "PUT", "sys/leases/revoke-force/a", None),
    ("unwrap t", "PUT", "sys/wrapping/unwrap", {"token": "t"}),
    ("unwrap", "PUT", "sys/wrapping/unwrap", None),
    ("operator rotate", "POST", "sys/rotate/keyring", None),
    ("operator seal", "PUT", "sys/seal", None),
    ("operator init -n 3 -t=2", "PUT", "sys/init", {"secret_shares": 3, "secret_threshold": 2}),
    ("operator rekey -init", "PUT", "sys/rekey/init", REKEY),
    ("operator rekey -cancel", "DELETE", "sys/rekey/init", None),
    ("operator rekey -verify -cancel", "DELETE", "sys/rekey/verify", None),
    ("operator rekey -target=recovery -init -verify", "PUT", "sys/rekey-recovery-key/init",
     REKEY | {"require_verification": True}),
    ("operator rotate-keys -init -key-shares=3 -key-threshold=2", "POST", "sys/rotate/root/init",
     REKEY | {"secret_shares": 3, "secret_threshold": 2}),
    ("operator generate-root -init -otp=abc", "PUT", "sys/generate-root-token/attempt", {"otp": "abc", "pgp_key": ""}),
    ("operator generate-root -cancel", "DELETE", "sys/generate-root-token/attempt", None),
    ("operator raft join https://a:1", "POST", "sys/storage/raft/join", {"leader_api_addr": "https://a:1"}),
    ("operator raft promote n2", "PUT", "sys/storage/raft/promote", {"server_id": "n2"}),
    ("operator raft autopilot set-config -min-quorum=3 -cleanup-dead-servers -last-contact-threshold=5s", "PUT",
     "sys/storage/raft/autopilot/configuration",
     {"min_quorum": 3, "cleanup_dead_servers": True, "last_contact_threshold": "5s"}),
    ("region ticket", "POST", "sys/regions/ticket", {"ttl": "10m0s"}),
    ("region ticket -ttl=1h", "POST", "sys/regions/ticket", {"ttl": "1h0m0s"}),
]  # fmt: skip


def replies_to(method: str, path: str) -> dict[str, Any]:
    """What a command needs before and after the request that is looked at."""
    found = {
        f"GET /v1/sys/internal/ui/mounts/{place}": V2 for place in ("secret", "secret/app", "secret/data/app")
    }
    found["GET /v1/sys/internal/ui/mounts/old/app"] = V1
    found["GET /v1/sys/generate-root-token/attempt"] = (200, {"data": {"started": False}})
    found["GET /v1/sys/key-status"] = (200, {"term": 1, "install_time": "2026-11-22T07:01:24Z"})
    found[f"{method} /v1/{path}"] = VERSION
    return found


@pytest.mark.parametrize(("command", "method", "path", "body"), WRITES, ids=[case[0] for case in WRITES])
def test_a_write_is_the_request_that_servers_know(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, command: str, method: str, path: str, body: Any
) -> None:
    monkeypatch.setenv("STRONGROOM_TOKEN", "root")
    with stub_api(replies_to(method, path)) as api:
        strongroom(*command.split(), "-address", api.address, stdin="typed")
        asked = [call[:3] for call in api.asked]
    assert (method, f"/v1/{path}", body) in asked
    assert not [call for call in asked if call[0] != "GET" and call != (method, f"/v1/{path}", body)]


READS = [
    ("read a/b", "a/b"),
    ("read a b=c", "a?b=c"),
    ("read a b=c b=d", "a?b=c&b=d"),
    ("read 'a b'/ö?#%", "'a%20b'/%C3%B6%3F%23%25"),
    ("list a", "a?list=true"),
    ("list -after=k -limit=3 a", "a?after=k&limit=3&list=true"),
    ("scan a", "a?scan=true"),
    ("kv get secret/app", "secret/data/app"),
    ("kv get -version=2 secret/app", "secret/data/app?version=2"),
    ("kv get -version=2 old/app", "old/app"),
    ("kv list secret/app", "secret/metadata/app?list=true"),
    ("kv list -mount=secret", "secret/metadata?list=true"),
    ("kv scan secret/app", "secret/metadata/app?scan=true"),
    ("kv list old/app", "old/app?list=true"),
    ("kv metadata get secret/app", "secret/metadata/app"),
    ("secrets list", "sys/mounts"),
    ("auth list", "sys/auth"),
    ("audit list", "sys/audit"),
    ("policy list", "sys/policies/acl?list=true"),
    ("policy read App", "sys/policies/acl/app"),
    ("token lookup", "auth/token/lookup-self"),
    ("path-help sys/mounts", "sys/mounts?help=1"),
    ("operator raft list-peers", "sys/storage/raft/configuration"),
    ("operator raft autopilot state", "sys/storage/raft/autopilot/state"),
    ("operator raft autopilot get-config", "sys/storage/raft/autopilot/configuration"),
    ("operator rekey -status", "sys/rekey/init"),
    ("operator rotate-keys -status -target=recovery", "sys/rotate/recovery/init"),
    ("operator generate-root -status", "sys/generate-root-token/attempt"),
]


@pytest.mark.parametrize(("command", "target"), READS, ids=[case[0] for case in READS])
def test_a_read_asks_for_the_path_that_servers_know(strongroom: Cli, command: str, target: str) -> None:
    words = ["read", "'a b'/ö?#%"] if command.startswith("read '") else command.split()
    with stub_api(replies_to("GET", "nothing")) as api:
        strongroom(*words, "-address", api.address)
        assert api.asked[-1][:3] == ("GET", f"/v1/{target}", None)


def test_a_refusal_names_the_address_that_was_asked(strongroom: Cli) -> None:
    with stub_api({"GET /v1/x?first=1&last=2&last=3": (400, {"errors": ["no"]})}) as api:
        code, _, err = strongroom("read", "x", "first=1", "last=2", "last=3", "-address", api.address)
        assert api.asked[-1][1] == "/v1/x?first=1&last=2&last=3"
        assert (code, f"URL: GET {api.address}/v1/x?first=1&last=2&last=3" in err) == (2, True), err


def test_a_patch_by_reading_and_writing_loses_no_others_write(strongroom: Cli) -> None:
    """The version that was read is the one that may be replaced."""
    found = {"data": {"data": {"keep": 1.50, "drop": "x", "change": "a"}, "metadata": {"version": 7}}}
    replies = replies_to("PUT", "secret/data/app") | {"GET /v1/secret/data/app": (200, found)}
    with stub_api(replies) as api:
        flags = ["-method=rw", "-remove-data=drop", "-address", api.address]
        assert strongroom("kv", "patch", "secret/app", "change=b", *flags)[0] == 0
        assert api.asked[-1][2] == {"data": {"keep": 1.5, "change": "b"}, "options": {"cas": 7}}


def test_a_patch_falls_back_where_the_server_has_none(strongroom: Cli) -> None:
    found = {"data": {"data": {"a": "1"}, "metadata": {"version": 2}}}
    replies = replies_to("PUT", "secret/data/app") | {
        "GET /v1/secret/data/app": (200, found),
        "PATCH /v1/secret/data/app": (405, {"errors": []}),
    }
    with stub_api(replies) as api:
        assert strongroom("kv", "patch", "secret/app", "b=2", "-address", api.address)[0] == 0
        assert api.asked[-1][2] == {"data": {"a": "1", "b": "2"}, "options": {"cas": 2}}
        assert (
            strongroom("kv", "patch", "-method=patch", "secret/app", "b=2", "-address", api.address)[0] == 2
        )


def test_a_rollback_writes_the_old_data_over_the_current_version(strongroom: Cli) -> None:
    current = {
        "data": {"data": {"v": "new"}, "metadata": {"version": 9, "deletion_time": "", "destroyed": False}}
    }
    old = {
        "data": {"data": {"v": "old"}, "metadata": {"version": 4, "deletion_time": "", "destroyed": False}}
    }
    replies = replies_to("PUT", "secret/data/app") | {
        "GET /v1/secret/data/app": (200, current),
        "GET /v1/secret/data/app?version=4": (200, old),
    }
    with stub_api(replies) as api:
        assert strongroom("kv", "rollback", "-version=4", "secret/app", "-address", api.address)[0] == 0
        assert api.asked[-1][2] == {"data": {"v": "old"}, "options": {"cas": 9}}
        old["data"]["metadata"]["destroyed"] = True
        code, _, err = strongroom("kv", "rollback", "-version=4", "secret/app", "-address", api.address)
    assert (code, err) == (2, "Cannot roll back to a version that has been destroyed\n")


def test_headers_carry_namespace_wrapping_and_ones_own(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "t")
    monkeypatch.setenv("BAO_NAMESPACE", "team")
    with stub_api({"GET /v1/a": (200, {"data": {"b": "c"}})}) as api:
        assert strongroom("read", "a", "-header=X-Own=1", "-wrap-ttl=90", "-address", api.address)[0] == 0
        sent = {name.lower(): value for name, value in api.headers[-1].items()}
        assert strongroom("read", "a", "-ns=/other/", "-address", api.address)[0] == 0
        assert api.headers[-1]["X-Vault-Namespace"] == "other/"
    assert sent["x-vault-request"] == "true"
    assert (sent["x-vault-token"], sent["x-vault-namespace"]) == ("t", "team/")
    assert (sent["x-own"], sent["x-vault-wrap-ttl"]) == ("1", "1m30s")


def test_preflight_requests_are_not_wrapped(strongroom: Cli) -> None:
    """Or nobody could tell where the key lives."""
    replies = replies_to("GET", "secret/data/app")
    with stub_api(replies) as api:
        strongroom("kv", "get", "-wrap-ttl=60", "secret/app", "-address", api.address)
        wrapped = ["X-Vault-Wrap-TTL" in headers for headers in api.headers]
    assert wrapped == [False, True]


def test_a_request_is_tried_again_only_when_that_is_asked_for(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then as the same write, by its request id."""
    monkeypatch.setattr("node.cli.client.RETRY_WAIT_MIN_S", 0.0)
    with stub_api({"PUT /v1/a": (503, {"errors": ["sealed"]}), "PUT /v1/b": (501, None)}) as api:
        assert strongroom("write", "-f", "a", "-address", api.address)[0] == 2
        assert len(api.asked) == 1
        monkeypatch.setenv("VAULT_MAX_RETRIES", "2")
        assert strongroom("write", "-f", "a", "-address", api.address)[0] == 2
        ids = [headers["X-Strongroom-Request-Id"] for headers in api.headers[1:]]
        assert strongroom("write", "-f", "b", "-address", api.address)[0] == 2
        assert len(api.asked) == 5, "501 is not worth a second try"
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert api.headers[0]["X-Strongroom-Request-Id"] not in ids


def test_requests_can_be_shown_instead_of_sent(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_TOKEN", "secret-token")
    with stub_api(replies_to("GET", "nothing")) as api:
        code, out, _ = strongroom(
            "kv", "put", "-output-curl-string", "secret/app", "a=it's", "-address", api.address
        )
        assert code == 0
        assert out == (
            'curl -X PUT -H "X-Vault-Request: true" -H "X-Vault-Token: $(strongroom print token)" '
            '-d \'{"data":{"a":"it\'"\'"\'s"},"options":{}}\' '
            f'"{api.address}/v1/secret/data/app"\n'
        )
        assert "secret-token" not in out
        _, out, _ = strongroom("kv", "patch", "-output-policy", "secret/app", "a=1", "-address", api.address)
        assert out == 'path "secret/data/app" {\n  capabilities = ["patch"]\n}\n'
        _, out, _ = strongroom("list", "-output-policy", "auth/token/accessors", "-address", api.address)
        assert out == 'path "auth/token/accessors" {\n  capabilities = ["list", "sudo"]\n}\n'
        assert {call[0] for call in api.asked} == {"GET"}, "only where the key lives was asked"


def test_an_older_server_has_root_tokens_made_at_another_place(strongroom: Cli) -> None:
    state = {"nonce": "n", "started": True, "progress": 0, "required": 1, "complete": False}
    replies: dict[str, Reply] = {"GET /v1/sys/generate-root/attempt": (200, state)}
    replies["PUT /v1/sys/generate-root/update"] = (200, state | {"complete": True, "encoded_token": "enc"})
    replies["DELETE /v1/sys/generate-root/attempt"] = (204, None)
    with stub_api(replies) as api:
        at = ["-address", api.address]
        _, out, _ = strongroom("operator", "generate-root", "-nonce=n", "share", *at)
        assert api.asked[-1][:3] == ("PUT", "/v1/sys/generate-root/update", {"key": "share", "nonce": "n"})
        assert "Encoded Token    enc" in out
        assert strongroom("operator", "generate-root", "-cancel", *at)[0] == 0


def test_an_encoded_root_token_is_decoded_without_a_server(strongroom: Cli) -> None:
    flags = ["-decode=Bhw+MHc8IRwUXhZ2BWECdhEEMT8BKB4PIwI", "-otp=u2Lw3khIx0tECVwBuoXHYMPDBN"]
    assert strongroom("operator", "generate-root", *flags) == (0, "s.rGDWIUlnb3F7u4dkiwXeNKaL", "")
    assert strongroom("operator", "generate-root", flags[0], "-otp=short")[0] == 1


def test_a_command_asks_all_it_wants_to_know_on_one_connection(strongroom: Cli) -> None:
    found: Reply = (200, {"data": {"data": {"a": "1"}, "metadata": {"version": 1}}})
    replies = replies_to("PUT", "secret/data/app") | {"GET /v1/secret/data/app": found}
    with stub_api(replies, keep_alive=True) as api:
        assert strongroom("kv", "get", "-field=a", "secret/app", "-address", api.address)[:2] == (0, "1")
        assert (len(api.ports), len(set(api.ports))) == (2, 1)


def test_a_connection_that_ends_between_two_questions_is_no_trouble_for_a_read(strongroom: Cli) -> None:
    """A write may have arrived, and is not sent again behind the user's back."""
    answers: list[Reply] = [LOST, (200, {"data": {"data": {"a": "1"}, "metadata": {"version": 1}}})]
    replies = replies_to("GET", "nothing") | {
        "GET /v1/secret/data/app": lambda _: answers.pop(0),
        "PUT /v1/secret/data/app": LOST,
    }
    with stub_api(replies, keep_alive=True) as api:
        at = ["-address", api.address]
        assert strongroom("kv", "get", "-field=a", "secret/app", *at)[:2] == (0, "1")
        code, _, err = strongroom("kv", "put", "secret/app", "a=2", *at)
        assert (code, [call[0] for call in api.asked].count("PUT")) == (2, 1)
        assert "Whether the write was made is not known." in err


@pytest.mark.parametrize(
    "last", [(400, {"errors": ["path is already in use"]}), (503, {"errors": ["sealed"]}), LOST]
)
def test_a_write_that_may_have_been_made_is_never_told_as_a_failure(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, last: Reply
) -> None:
    """Whatever a later attempt is told: it may be refused because the first was made."""
    monkeypatch.setattr("node.cli.client.RETRY_WAIT_MIN_S", 0.0)
    monkeypatch.setenv("VAULT_MAX_RETRIES", "1")
    answers = [LOST, last]
    with stub_api({"PUT /v1/sys/x": lambda _: answers.pop(0)}) as api:
        code, _, err = strongroom("write", "-f", "sys/x", "-address", api.address)
    assert code == 2
    assert "Whether the write was made is not known." in err
