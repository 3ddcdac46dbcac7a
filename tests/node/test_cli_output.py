"""What is printed: tables for people, the same JSON and YAML that programs get from Vault's own tools."""

import json
from typing import Any

import pytest
import yaml
from support.cli import Cli
from support.stub_api import Reply, stub_api

from node.cli.values import Duration, InvalidDuration, loads, parse_duration, short_duration, shown

V2: Reply = (200, {"data": {"path": "secret/", "options": {"version": "2"}}})
V1: Reply = (200, {"data": {"path": "old/", "options": None}})
ODD = {
    "zero": "", "n": 1.5, "deep": {"list": ["x", 2, {"html": "<&>"}]}, "nothing": None, "ttl": 3700, "yes": True,
    "lines": "a\nb\n", "empty": {},
}  # fmt: skip
META = {
    "created_time": "2026-11-22T07:01:24.5Z",
    "custom_metadata": None,
    "deletion_time": "",
    "destroyed": False,
}
ENVELOPE = {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, "wrap_info": None,
            "warnings": None, "auth": None}  # fmt: skip
AUTH = {
    "client_token": "s.new", "accessor": "acc", "policies": ["default", "a b"], "token_policies": ["default", "a b"],
    "metadata": {"user": "ann"}, "lease_duration": 5400, "renewable": True, "entity_id": "", "token_type": "service",
    "orphan": False, "num_uses": 0,
}  # fmt: skip
WRAP = {"token": "s.wrap", "accessor": "acc", "ttl": 60, "creation_time": "2026-11-22T07:01:51.25Z",
        "creation_path": "secret/data/app"}  # fmt: skip
LEADER = {"ha_enabled": True, "is_self": False, "leader_address": "https://n1:1",
          "leader_cluster_address": "https://n1:2", "raft_committed_index": 9, "raft_applied_index": 8}  # fmt: skip
SEAL = {"type": "shamir", "initialized": True, "sealed": False, "t": 2, "n": 3, "progress": 0, "nonce": "",
        "version": "1", "storage_type": "raft", "cluster_name": "c", "cluster_id": "id"}  # fmt: skip
MOUNT = {"uuid": "u", "type": "kv", "description": "", "accessor": "kv_1", "local": False, "seal_wrap": False,
         "config": {"max_lease_ttl": 0, "default_lease_ttl": 3600}, "options": {"version": "2"},
         "running_plugin_version": "v1"}  # fmt: skip


def whole(**parts: Any) -> Reply:
    """A server's answer with its envelope."""
    return 200, ENVELOPE | parts


TABLES: dict[str, tuple[dict[str, Reply], str]] = {
    "read x": (
        {"GET /v1/x": whole(data=ODD)},
        """\
Key        Value
---        -----
deep       map[list:[x 2 map[html:<&>]]]
empty      map[]
lines      a
b
n          1.5
nothing    <nil>
ttl        1h1m40s
yes        true
zero       n/a
""",
    ),
    "read leased": (
        {"GET /v1/leased": whole(lease_id="a/b", lease_duration=7200, renewable=True, data={"user": "u"})},
        """\
Key                Value
---                -----
lease_id           a/b
lease_duration     2h
lease_renewable    true
user               u
""",
    ),
    "read old/app": (
        {"GET /v1/old/app": whole(lease_duration=2764800, data={"x": "1"})},
        "Key                 Value\n---                 -----\nrefresh_interval    768h\nx                   1\n",
    ),
    "kv get old/app": (
        {"GET /v1/sys/internal/ui/mounts/old/app": V1, "GET /v1/old/app": whole(data={"x": "1"})},
        "== Data ==\nKey    Value\n---    -----\nx      1\n",
    ),
    "kv get secret/app": (
        {"GET /v1/secret/data/app": whole(data={"data": {"user": "ann"}, "metadata": META | {"version": 3}})},
        """\
= Secret Path =
secret/data/app

======= Metadata =======
Key                Value
---                -----
created_time       2026-11-22T07:01:24.5Z
custom_metadata    <nil>
deletion_time      n/a
destroyed          false
version            3

==== Data ====
Key     Value
---     -----
user    ann
""",
    ),
    "kv put secret/app a=1": (
        {"PUT /v1/secret/data/app": whole(data=META | {"version": 4})},
        """\
= Secret Path =
secret/data/app

======= Metadata =======
Key                Value
---                -----
created_time       2026-11-22T07:01:24.5Z
custom_metadata    <nil>
deletion_time      n/a
destroyed          false
version            4
""",
    ),
    "kv get -wrap-ttl=60 secret/app": (
        {"GET /v1/secret/data/app": whole(wrap_info=WRAP)},
        """\
Key                              Value
---                              -----
wrapping_token:                  s.wrap
wrapping_accessor:               acc
wrapping_token_ttl:              1m
wrapping_token_creation_time:    2026-11-22 07:01:51.25 +0000 UTC
wrapping_token_creation_path:    secret/data/app
""",
    ),
    "kv metadata get secret/app": (
        {
            "GET /v1/secret/metadata/app": whole(
                data={"max_versions": 0, "custom_metadata": {"b": "2", "a": "1"}, "versions": {
                    "10": {"destroyed": True}, "9": {"destroyed": False}}}
            )
        },
        """\
== Metadata Path ==
secret/metadata/app

======= Metadata =======
Key                Value
---                -----
custom_metadata    map[a:1 b:2]
max_versions       0

==== Version 9 ====
Key          Value
---          -----
destroyed    false

=== Version 10 ===
Key          Value
---          -----
destroyed    true
""",
    ),
    "list x": ({"GET /v1/x?list=true": whole(data={"keys": ["b/", "a"]})}, "Keys\n----\na\nb/\n"),
    "token create": (
        {"POST /v1/auth/token/create": whole(auth=AUTH)},
        """\
Key                  Value
---                  -----
token                s.new
token_accessor       acc
token_duration       1h30m
token_renewable      true
token_policies       ["default" "a b"]
identity_policies    []
policies             ["default" "a b"]
token_meta_user      ann
""",
    ),
    "token capabilities x": (
        {"POST /v1/sys/capabilities-self": whole(data={"capabilities": ["read", "list"]})},
        "list, read\n",
    ),
    "status": (
        {"GET /v1/sys/seal-status": (200, SEAL), "GET /v1/sys/leader": (200, LEADER)},
        """\
Key                     Value
---                     -----
Seal Type               shamir
Initialized             true
Sealed                  false
Total Shares            3
Threshold               2
Version                 1
Storage Type            raft
Cluster Name            c
Cluster ID              id
HA Enabled              true
HA Cluster              https://n1:2
HA Mode                 standby
Active Node Address     https://n1:1
Raft Committed Index    9
Raft Applied Index      8
""",
    ),
    "secrets list": (
        {"GET /v1/sys/mounts": (200, {"data": {"secret/": MOUNT}})},
        """\
Path       Type    Accessor    Description
----       ----    --------    -----------
secret/    kv      kv_1        n/a
""",
    ),
    "operator key-status": (
        {"GET /v1/sys/key-status": (200, {"term": 2, "install_time": "2026-11-22T07:01:53.5Z", "encryptions": 7})},
        "Key Term            2\nInstall Time        22 Nov 26 07:01 UTC\nEncryption Count    7\n",
    ),
    "operator raft list-peers": (
        {
            "GET /v1/sys/storage/raft/configuration": whole(
                data={"config": {"servers": [{"node_id": "n1", "address": "a:1", "leader": True, "voter": True}]}}
            )
        },
        "Node    Address    State     Voter\n----    -------    -----     -----\nn1      a:1        leader    true\n",
    ),
    "operator generate-root -status": (
        {
            "GET /v1/sys/generate-root-token/attempt": whole(
                data={"nonce": "n", "started": True, "progress": 1, "required": 2, "otp_length": 26}
            )
        },
        "Nonce         n\nStarted       true\nProgress      1/2\nComplete      false\nOTP Length    26\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", TABLES)
def test_tables_are_those_that_people_know(strongroom: Cli, command: str) -> None:
    replies, expected = TABLES[command]
    with stub_api({"GET /v1/sys/internal/ui/mounts/secret/app": V2} | replies) as api:
        code, out, err = strongroom(*command.split(), "-address", api.address)
    assert (code, err) == (0, "")
    assert out == expected


def test_json_keeps_order_spelling_and_numbers(strongroom: Cli) -> None:
    raw = (
        b'{"request_id":"r","data":{"z":1.50,"a":12345678901234567890,"h":"<&>"},'
        b'"auth":null,"warnings":null,"lease_duration":0,"renewable":false,"lease_id":""}'
    )
    with stub_api({"GET /v1/x": (200, raw)}) as api:
        _, out, _ = strongroom("read", "-format=json", "x", "-address", api.address)
        _, bare, _ = strongroom("read", "-format=raw", "x", "-address", api.address)
    assert out == (
        '{\n  "request_id": "r",\n  "lease_id": "",\n  "lease_duration": 0,\n  "renewable": false,\n  "data": {\n'
        '    "a": 12345678901234567890,\n    "h": "\\u003c\\u0026\\u003e",\n    "z": 1.50\n  },\n'
        '  "warnings": null\n}\n'
    )
    assert bare.encode() == raw + b"\n"


def test_json_has_auth_and_wrapping_only_when_they_came(strongroom: Cli) -> None:
    with stub_api(
        {"POST /v1/auth/token/create": whole(auth=AUTH), "GET /v1/x": whole(wrap_info=WRAP)}
    ) as api:
        _, made, _ = strongroom("token", "create", "-format=json", "-address", api.address)
        _, wrapped, _ = strongroom("read", "x", "-format=json", "-address", api.address)
    assert list(json.loads(made)) == [
        "request_id",
        "lease_id",
        "lease_duration",
        "renewable",
        "data",
        "warnings",
        "auth",
    ]
    assert list(json.loads(made)["auth"]) == [
        "client_token", "accessor", "policies", "token_policies", "identity_policies", "metadata", "orphan",
        "entity_id", "lease_duration", "renewable", "mfa_requirement",
    ]  # fmt: skip
    assert json.loads(wrapped)["wrap_info"] == WRAP | {"wrapped_accessor": ""}


def test_yaml_is_the_json_for_every_parser(strongroom: Cli) -> None:
    """Also for those that take a bare n for false, and a bare time for a time."""
    data = ODD | {"y": "no", "when": "2026-11-22T07:01:24Z", "number": "017", "e": 1e21}
    with stub_api({"GET /v1/x": whole(data=data)}) as api:
        _, as_yaml, _ = strongroom("read", "-format=yaml", "x", "-address", api.address)
        _, as_json, _ = strongroom("read", "-format=json", "x", "-address", api.address)
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    for quoted in ('"n": 1.5', '"y": "no"', 'when: "2026-11-22T07:01:24Z"', 'number: "017"'):
        assert quoted in as_yaml


@pytest.mark.parametrize(
    ("field", "form", "printed"),
    [
        ("n", "table", "1.5"), ("n", "json", "1.5"), ("ttl", "table", "3700"), ("lines", "table", "a\nb\n"),
        ("lines", "json", '"a\\nb\\n"'), ("zero", "table", ""), ("zero", "json", '""'), ("empty", "table", "map[]"),
        ("yes", "table", "true"), ("deep", "table", "map[list:[x 2 map[html:<&>]]]"),
        ("empty", "yaml", "{}\n"), ("deep", "yaml", "list:\n- x\n- 2\n- html: <&>\n"),
    ],
)  # fmt: skip
def test_a_field_is_printed_bare(strongroom: Cli, field: str, form: str, printed: str) -> None:
    with stub_api({"GET /v1/x": whole(data=ODD)}) as api:
        flags = [f"-field={field}", f"-format={form}", "-address", api.address]
        assert strongroom("read", "x", *flags) == (0, printed, "")


def test_a_field_that_is_not_there_is_exit_code_1(strongroom: Cli) -> None:
    replies = {"GET /v1/sys/internal/ui/mounts/secret/app": V2, "GET /v1/x": whole(data=ODD)}
    replies["GET /v1/secret/data/app"] = whole(data={"data": {"a": "1"}, "metadata": META | {"version": 1}})
    with stub_api(replies) as api:
        at = ["-address", api.address]
        assert strongroom("read", "-field=nope", "x", *at) == (1, "", 'Field "nope" not present in secret\n')
        assert strongroom("read", "-field=nothing", "x", *at) == (
            1,
            "",
            'Field "nothing" not present in secret\n',
        )
        assert strongroom("kv", "get", "-field=version", "secret/app", *at)[:2] == (1, "")
        assert strongroom("kv", "get", "-field=a", "secret/app", *at) == (0, "1", "")


def test_nothing_there_is_exit_code_2(strongroom: Cli) -> None:
    replies: dict[str, Reply] = {"GET /v1/sys/internal/ui/mounts/secret/app": V2}
    with stub_api(replies) as api:
        at = ["-address", api.address]
        assert strongroom("read", "x", *at) == (2, "", "No value found at x\n")
        assert strongroom("kv", "get", "secret/app", *at) == (2, "", "No value found at secret/data/app\n")
        assert strongroom("list", "x", *at) == (2, "", "No value found at x\n")
        assert strongroom("list", "-format=json", "x", *at) == (2, "{}\n", "")


def test_a_deleted_version_shows_its_metadata(strongroom: Cli) -> None:
    """404 with an answer is an answer."""
    gone = ENVELOPE | {
        "data": {"data": None, "metadata": META | {"version": 5, "deletion_time": "2026-11-22T07:01:28Z"}}
    }
    replies = {"GET /v1/sys/internal/ui/mounts/secret/app": V2, "GET /v1/secret/data/app": (404, gone)}
    with stub_api(replies) as api:
        code, out, _ = strongroom("kv", "get", "secret/app", "-address", api.address)
        assert code == 0
        assert "deletion_time      2026-11-22T07:01:28Z" in out
        assert "Data" not in out
        refused = strongroom("kv", "get", "-field=a", "secret/app", "-address", api.address)
    assert refused == (2, "", "No data found at secret/data/app\n")


def test_warnings_are_for_people_only(strongroom: Cli) -> None:
    with stub_api({"GET /v1/x": whole(data={"a": "b"}, warnings=["w " * 60])}) as api:
        _, out, err = strongroom("read", "x", "-address", api.address)
        assert "WARNING!" in err
        assert all(len(line) <= 80 for line in err.splitlines())
        _, out, err = strongroom("read", "-format=json", "x", "-address", api.address)
    assert err == ""
    assert json.loads(out)["warnings"] == ["w " * 60]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"data": 1}', b'"x"', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize(
    "command",
    [
        "read x",
        "kv get secret/app",
        "status",
        "operator init",
        "secrets list",
        "token lookup",
        "policy read x",
    ],
)
def test_another_kind_of_server_is_told_and_never_a_traceback(
    strongroom: Cli, command: str, body: bytes
) -> None:
    paths = ["x", "sys/internal/ui/mounts/secret/app", "sys/seal-status", "sys/leader", "sys/mounts",
             "auth/token/lookup-self", "sys/policies/acl/x"]  # fmt: skip
    replies: dict[str, Reply] = {f"GET /v1/{path}": (200, body) for path in paths}
    with stub_api(replies | {"PUT /v1/sys/init": (200, body)}) as api:
        code, _, err = strongroom(*command.split(), "-address", api.address)
    assert code in (0, 1, 2)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "printed"),
    [("0", "0s"), ("90", "1m30s"), ("1h30m", "1h30m0s"), ("1.5s", "1.5s"), ("-1ns", "-1ns"), ("1500us", "1.5ms"),
     ("25h", "25h0m0s"), ("1h0.5s", "1h0m0.5s")],
)  # fmt: skip
def test_durations_are_read_and_written_as_go_does(text: str, printed: str) -> None:
    assert str(parse_duration(text)) == printed
    assert parse_duration(printed) == parse_duration(text)


@pytest.mark.parametrize("text", ["", "abc", "1x", "1h2", "-", "1 h", "h", "1.2.3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidDuration):
        parse_duration(text)


def test_tables_shorten_durations() -> None:
    assert [short_duration(s) for s in (0, 59, 60, 3600, 3630, 3700, 2764800)] == [
        "0s", "59s", "1m", "1h", "1h30s", "1h1m40s", "768h"
    ]  # fmt: skip
    assert Duration.of_seconds(5).seconds == 5


def test_values_look_as_go_prints_them() -> None:
    assert (
        shown(loads('{"b": [1, 2.50, null, true], "a": {"x": "y"}}'))
        == "map[a:map[x:y] b:[1 2.50 <nil> true]]"
    )


def test_who_is_refused_by_the_policies_is_told_what_they_would_have_to_say(strongroom: Cli) -> None:
    """And not whose token is not valid: no policy would help."""
    refusal = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
    replies: dict[str, Reply] = {"GET /v1/sys/internal/ui/mounts/secret/app": V2}
    replies |= {"GET /v1/secret/data/app": (403, refusal), "GET /v1/x?list=true": (403, refusal)}
    with stub_api(replies | {"GET /v1/x": (403, {"errors": ["permission denied"]})}) as api:
        at = ["-address", api.address]
        _, _, err = strongroom("kv", "get", "secret/app", *at)
        assert err.endswith('would have to say:\n\npath "secret/data/app" {\n  capabilities = ["read"]\n}\n')
        assert 'capabilities = ["list"]' in strongroom("list", "x", *at)[2]
        assert "policy" not in strongroom("read", "x", *at)[2]


def test_a_word_too_many_in_a_keys_path_is_named(strongroom: Cli) -> None:
    with stub_api({"GET /v1/sys/internal/ui/mounts/secret/data/app": V2}) as api:
        code, _, err = strongroom("kv", "get", "secret/data/app", "-address", api.address)
    assert code == 2
    assert err.splitlines() == [
        "No value found at secret/data/data/app",
        'The key is named without "data/": strongroom kv get -mount=secret app',
    ]


def test_a_policys_verdict_is_told_with_the_rules_behind_it(strongroom: Cli) -> None:
    rule = {"policy": "app", "path": "secret/data/app", "capabilities": ["read", "list"]}
    other = {"policy": "all", "path": "secret/*", "capabilities": ["deny"]}
    found: dict[str, Any] = {
        "allowed": True, "reason": "the most specific rule grants read", "deciding_rules": [rule],
        "other_matching_rules": [other], "unknown_policies": ["absent"],
    }  # fmt: skip
    with stub_api({"PUT /v1/sys/policies/explain": lambda _: whole(data=found)}) as api:
        words = ["policy", "explain", "read", "secret/data/app", "-address", api.address]
        code, out, _ = strongroom(*words)
        assert (code, out) == (
            0,
            """\
Allowed: the most specific rule grants read.
These policies do not exist: absent.

Policy    Path               Capabilities    Decides
------    ----               ------------    -------
app       secret/data/app    read, list      true
all       secret/*           deny            false
""",
        )
        found |= {
            "allowed": False,
            "reason": "no rule matches this path",
            "deciding_rules": [],
            "other_matching_rules": [],
        }
        found["unknown_policies"] = []
        assert strongroom(*words)[:2] == (2, "Not allowed: no rule matches this path.\n")
        code, out, _ = strongroom(*words, "-format=json")
        assert (code, json.loads(out)) == (2, found)
