"""Configurations as users of Vault and OpenBao write them."""

import json
from pathlib import Path

import pytest

from node.config import ConfigError, Listener, SealSettings, Settings, load

TLS = 'tls_cert_file = "/c"\n  tls_key_file = "/k"\n'


def settings(tmp_path: Path, text: str, name: str = "vault.hcl") -> Settings:
    path = tmp_path / name
    path.write_text(text)
    return load([path], environ={})


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    return str(caught.value)


def test_a_store_in_memory_needs_no_more_than_certificates(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        'backend "inmem" {\n}\n\nlistener "tcp" {\n  ' + TLS + "}\n\ndisable_mlock = true\n\n"
        'default_lease_ttl = "24h"\nmax_lease_ttl = "768h"\n',
    )
    assert found.storage == "inmem"
    assert found.seal == SealSettings(kind="shamir")
    assert found.audit_files == ()
    assert found.listeners == (
        Listener(host="127.0.0.1", port=8200, tls_cert_file=Path("/c"), tls_key_file=Path("/k")),
    )
    assert (found.default_lease_ttl_s, found.max_lease_ttl_s) == (24 * 3600, 768 * 3600)
    assert any("disable_mlock has no effect" in notice for notice in found.notices)


def test_a_raft_stanza_names_directory_and_node(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        storage "raft" {
          path    = "/vault/data"
          node_id = "node-1"
          performance_multiplier = 1
        }
        listener "tcp" {
          address         = "0.0.0.0:8200"
          cluster_address = "10.0.0.1:8201"
          tls_cert_file   = "/c"
          tls_key_file    = "/k"
          tls_min_version = "tls12"
          telemetry { unauthenticated_metrics_access = true }
        }
        api_addr     = "https://10.0.0.1:8200"
        cluster_addr = "https://10.0.0.1:8201"
        ui           = true
        log_level    = "trace"
        telemetry {
          prometheus_retention_time = "30s"
          disable_hostname          = true
        }
        """,
    )
    assert (found.storage, found.data_dir, found.node_id) == ("raft", Path("/vault/data"), "node-1")
    assert found.cluster_address == "10.0.0.1:8201"
    assert found.listeners[0].tls_min_version == "tls12"
    assert found.metrics_unauthenticated
    assert found.log_level == "debug"
    said = " ".join(found.notices)
    for key in ("performance_multiplier", "ui", "prometheus_retention_time", "disable_hostname"):
        assert f"{key} has no effect" in said


def test_the_listener_has_the_address_of_the_cluster(tmp_path: Path) -> None:
    listener = f'listener "tcp" {{\n  cluster_address = "127.0.0.1:9999"\n  {TLS}}}\n'
    assert settings(tmp_path, 'storage "inmem" {}\n' + listener).cluster_address == "127.0.0.1:9999"


def test_the_raft_listener_may_be_bound_elsewhere_than_others_are_told(tmp_path: Path) -> None:
    told = """
        node_id = "n1"
        cluster_addr = "vault-1.example:8201"
        cluster_source_addr = "10.0.0.1"
        storage "inmem" {}
    """
    listener = f'listener "tcp" {{\n  cluster_address = "0.0.0.0:9999"\n  {TLS}}}\n'
    found = settings(tmp_path, told + listener)
    assert (found.cluster_address, found.cluster_listen) == ("vault-1.example:8201", "0.0.0.0:9999")
    assert found.cluster_source == "10.0.0.1"
    with pytest.raises(ConfigError, match="cluster_source_addr"):
        settings(tmp_path, told.replace("10.0.0.1", "here") + listener)


@pytest.mark.parametrize("flag", ["1", "true", '"true"', '"1"', '"True"'])
def test_a_flag_may_be_written_in_many_ways(tmp_path: Path, flag: str) -> None:
    found = settings(tmp_path, f'storage "inmem" {{}}\nlistener "tcp" {{ tls_disable = {flag} }}\n')
    assert found.listeners[0].tls_disable


def test_a_block_on_one_line_needs_no_commas(tmp_path: Path) -> None:
    text = 'storage "inmem" {}\nlistener "tcp" { address = "127.0.0.1:1" tls_disable = "1" }\n'
    assert settings(tmp_path, text).listeners[0].port == 1


def test_json_is_json_under_any_name(tmp_path: Path) -> None:
    text = json.dumps(
        {"backend": {"inmem": {}}, "listener": {"tcp": [{"tls_disable": 1, "address": "127.0.0.1:1"}]}}
    )
    for name in ("vault.json", "vault.hcl", "config"):
        assert settings(tmp_path, text, name).listeners[0].port == 1


def test_two_listeners_under_one_label(tmp_path: Path) -> None:
    tcp = [{"address": f"127.0.0.1:{port}", "tls_disable": True} for port in (1, 3)]
    found = settings(tmp_path, json.dumps({"storage": {"inmem": {}}, "listener": {"tcp": tcp}}))
    assert [each.port for each in found.listeners] == [1, 3]


def test_openbao_declares_its_audit_devices_and_its_static_key(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        storage "raft" { path = "/d" }
        listener "tcp" { address = "127.0.0.1:8200" }
        seal "static" {
          current_key_id = "2026"
          current_key    = "file:///etc/key"
        }
        audit "file" "main" {
          options { file_path = "/var/log/a.jsonl" }
        }
        """,
    )
    assert found.seal == SealSettings(kind="static", key_file=Path("/etc/key"))
    assert found.audit_files == (Path("/var/log/a.jsonl"),)


def test_limits_of_requests_are_the_smallest_said(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        storage "inmem" {}
        listener "tcp" {
          tls_disable = true
          max_request_size = 1048576
          max_request_duration = "30s"
          disable_unauthed_rekey_endpoints = true
        }
        listener "tcp" {
          address = "127.0.0.1:9000"
          tls_disable = true
          max_request_size = "2097152"
        }
        """,
    )
    assert (found.body_bytes_max, found.request_timeout_s) == (1048576, 30.0)
    assert not found.unauthenticated_rekey


PLAIN = 'storage "inmem" {}\nlistener "tcp" {\n  tls_disable = true\n  %s\n}\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('storage "consul" {}', 'storage "consul" is not offered. Strongroom keeps its data itself'),
        ('storage "inmem" {}\nstorage "raft" { path = "/x" }', "storage is said 2 times"),
        ('storage "raft" {}\n' + 'listener "tcp" {\n' + TLS + "}", 'storage "raft" needs a path'),
        ('data_dir = "/a"\nstorage "raft" { path = "/b" }', 'data_dir is "/a", but storage "raft" says "/b"'),
        ('data_dir = "/a"\n' + PLAIN % "", "it has no data_dir"),
        ('storage "raft" {\npath = "/x"\nretry_join {\nleader_api_addr = "x"\n}\n}', "retry_join is not offered"),
        ('ha_storage "consul" {}', "ha_storage is not offered: the store replicates itself."),
        ("raw_storage_endpoint = true", "raw_storage_endpoint is not offered"),
        ('service_registration "consul" {}', "service_registration is not offered"),
        (PLAIN % 'x_forwarded_for_authorized_addrs = "10.0.0.0/8"', "forwarded addresses are not believed"),
        (PLAIN % 'tls_min_version = "tls10"', 'tls_min_version is "tls10"; it must be one of tls12, tls13.'),
        (PLAIN % 'tls_max_version = "tls12"', "nobody is kept from the better protocol"),
        (PLAIN % "tls_require_and_verify_client_cert = true", "tls_client_ca_file says whose"),
        (PLAIN % 'tls_disable_client_certs = "maybe"', 'is "maybe"; it must be true or false.'),
        (PLAIN % 'max_request_size = "a lot"', 'max_request_size is "a lot"'),
        ('max_lease_ttl = "1h"\n' + PLAIN % "", "default_lease_ttl must be more than zero and at most max_lease_ttl"),
        ('storage "inmem" {}\nlistener "tcp" {}', 'seal "shamir" needs tls_cert_file'),
        ('storage "inmem" {}\nseal "static" { current_key = "abc" }', "current_key must be file:///path"),
        ('audit "file" "x" {\noptions { prefix = "x" }\n}', 'must have the one option "file_path"'),
    ],
)  # fmt: skip
def test_what_is_not_offered_is_refused_with_the_reason(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text + "\n")


def test_what_is_switched_off_is_not_refused(tmp_path: Path) -> None:
    text = "raw_storage_endpoint = false\nservice_registration = {}\n".replace(
        "service_registration = {}\n", ""
    )
    assert settings(tmp_path, text + PLAIN % "").storage == "inmem"


def test_metrics_are_open_at_every_listener_or_at_none(tmp_path: Path) -> None:
    text = PLAIN % "telemetry { unauthenticated_metrics_access = true }"
    assert settings(tmp_path, text).metrics_unauthenticated
    second = 'listener "tcp" {\n  address = "127.0.0.1:9"\n  tls_disable = true\n}\n'
    assert "must be the same in every listener" in refusal(tmp_path, text + second)
