"""What an operator may write into a configuration, and what is said about a mistake in it."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from node.config import ConfigError, Listener, SealSettings, Settings, dev_settings, load
from node.config_schema import FileSettings, Raft, Tcp

REPOSITORY = Path(__file__).parents[2]
SEAL = 'seal "static" { key_file = "/k" }\n'
MINIMAL = 'node_id = "n1"\n' + SEAL + 'audit "file" { path = "/a.jsonl" }\n'


def settings(
    tmp_path: Path, text: str, *, environ: dict[str, str] | None = None, **overrides: str
) -> Settings:
    path = tmp_path / "strongroom.hcl"
    path.write_text(text)
    return load([path], environ=environ or {}, overrides=overrides)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    return str(caught.value)


def test_little_needs_to_be_said(tmp_path: Path) -> None:
    found = settings(tmp_path, MINIMAL)
    assert found.node_id == "n1"
    assert found.region == "local"
    assert found.cluster_name == "strongroom"
    assert found.data_dir == Path("/var/lib/strongroom")
    assert found.listeners == (Listener(host="127.0.0.1", port=8200),)
    assert found.api_address == "https://127.0.0.1:8200"
    assert found.cluster_address == "127.0.0.1:8201"
    assert found.seal == SealSettings(kind="static", key_file=Path("/k"))
    assert found.audit_files == (Path("/a.jsonl"),)
    assert (found.heartbeat_s, found.election_timeout_s) == (0.1, 1.0)
    assert (found.log_level, found.log_format, found.dev) == ("info", "json", False)
    assert found.body_bytes_max == 32 * 1024 * 1024


def test_everything_can_be_said(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        node_id = "eu-1"
        region = "eu"
        cluster_name = "prod"
        data_dir = "/data"
        api_addr = "https://vault.example.com:443"
        cluster_addr = "[fd00::1]:8201"
        listener "tcp" {
          address = "0.0.0.0:8200"
          tls_cert_file = "/c.pem"
          tls_key_file = "/k.pem"
        }
        listener "tcp" {
          address = "127.0.0.1:8300"
          tls_disable = true
        }
        seal "static" { key_file = "/seal.key" }
        audit "file" { path = "/1" }
        audit "file" { path = "/2" }
        telemetry { unauthenticated_metrics_access = true }
        raft {
          heartbeat = 1
          election_timeout = "1m30s"
        }
        log_level = "WARN"
        log_format = "standard"
        """,
    )
    assert found == Settings(
        node_id="eu-1",
        region="eu",
        cluster_name="prod",
        data_dir=Path("/data"),
        api_address="https://vault.example.com:443",
        cluster_address="[fd00::1]:8201",
        cluster_listen="[fd00::1]:8201",
        listeners=(
            Listener(host="0.0.0.0", port=8200, tls_cert_file=Path("/c.pem"), tls_key_file=Path("/k.pem")),
            Listener(host="127.0.0.1", port=8300, tls_disable=True),
        ),
        seal=SealSettings(kind="static", key_file=Path("/seal.key")),
        audit_files=(Path("/1"), Path("/2")),
        metrics_unauthenticated=True,
        heartbeat_s=1.0,
        election_timeout_s=90.0,
        log_level="warning",
        log_format="standard",
    )


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings(tmp_path, MINIMAL).node_id = "n2"  # type: ignore[misc]


def test_the_example_is_a_configuration_and_shows_every_key() -> None:
    example = REPOSITORY / "deploy/config/strongroom.hcl"
    found = load([example], environ={})
    assert found == load([example], environ={})
    uncommented = re.sub(r"(?m)^(\s*)# (\w+ += )", r"\1\2", example.read_text())
    said = set(re.findall(r"(?m)^\s*(\w+)\b(?= *=| \"| \{)", uncommented))
    known = set(FileSettings.__struct_fields__) | set(Tcp.__struct_fields__) | set(Raft.__struct_fields__)
    assert said == (known - {"storage"}) | {"key_file", "path", "unauthenticated_metrics_access"}


def test_the_defaults_that_the_example_shows_are_the_defaults(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy/config/strongroom.hcl").read_text()
    shown = re.sub(r"(?m)^(\s*)# (?!tls_(?:cert|key))(\w+ += )", r"\1\2", text)
    assert settings(tmp_path, shown) == load([REPOSITORY / "deploy/config/strongroom.hcl"], environ={})


def test_json_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "strongroom.json"
    path.write_text(
        json.dumps(
            {
                "node_id": "n1",
                "listener": [{"tcp": {"address": "127.0.0.1:9000", "tls_disable": True}}],
                "seal": {"shamir": {}},
                "audit": {"none": {}},
                "raft": {"heartbeat": "50ms", "election_timeout": 0.5},
            }
        )
    )
    found = load([path], environ={})
    assert found.api_address == "http://127.0.0.1:9000"
    assert found.seal == SealSettings(kind="shamir")
    assert found.audit_files == ()
    assert (found.heartbeat_s, found.election_timeout_s) == (0.05, 0.5)


def test_a_directory_is_read_in_alphabetical_order_and_the_later_file_wins(tmp_path: Path) -> None:
    (tmp_path / "10-base.hcl").write_text(MINIMAL + 'region = "a"\ncluster_name = "kept"\n')
    (tmp_path / "20-site.json").write_text('{"region": "b", "audit": {"file": {"path": "/b.jsonl"}}}')
    (tmp_path / "README").write_text("not a configuration")
    found = load([tmp_path], environ={})
    assert (found.region, found.cluster_name, found.audit_files) == ("b", "kept", (Path("/b.jsonl"),))
    last = tmp_path / "10-base.hcl"
    assert load([tmp_path, last], environ={}).region == "a"


def test_environment_wins_over_files_and_flags_over_both(tmp_path: Path) -> None:
    environ = {
        "STRONGROOM_NODE_ID": "n2",
        "STRONGROOM_DATA_DIR": "/elsewhere",
        "STRONGROOM_LOG_LEVEL": "error",
        "STRONGROOM_API_ADDR": "https://10.0.0.1:8200",
        "STRONGROOM_CLUSTER_ADDR": "10.0.0.1:8201",
        "STRONGROOM_SEAL_KEY_FILE": "/credentials/seal.key",
        "STRONGROOM_REGION": "",
    }
    found = settings(tmp_path, MINIMAL, environ=environ, log_level="debug")
    assert found.node_id == "n2"
    assert found.data_dir == Path("/elsewhere")
    assert found.api_address == "https://10.0.0.1:8200"
    assert found.cluster_address == "10.0.0.1:8201"
    assert found.seal.key_file == Path("/credentials/seal.key")
    assert found.log_level == "debug"
    assert found.region == "local", "an empty variable says nothing"


def test_a_flag_that_was_not_given_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.hcl"
    path.write_text(MINIMAL + 'log_level = "error"\n')
    assert load([path], environ={}, overrides={"log_level": None}).log_level == "error"


def test_a_seal_key_file_from_outside_does_not_replace_people(tmp_path: Path) -> None:
    text = 'listener "tcp" {\naddress = "127.0.0.1:1"\ntls_disable = true\n}\nseal "shamir" {}\naudit "none" {}\n'
    with pytest.raises(ConfigError, match='the configured seal is not "static"'):
        settings(tmp_path, text, environ={"STRONGROOM_SEAL_KEY_FILE": "/k"})


def test_the_host_name_names_a_node_that_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Vault-7.example.com")
    assert settings(tmp_path, MINIMAL.replace('node_id = "n1"\n', "")).node_id == "vault-7"
    monkeypatch.setattr("socket.gethostname", lambda: "my_host")
    assert "set node_id" in refusal(tmp_path, MINIMAL.replace('node_id = "n1"\n', ""))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('nodeid = "x"', "unknown key `nodeid` at the top level."),
        ('listener "tcp" { addres = "x" }', "unknown key `addres` at listener[0].tcp."),
        ('listener "udp" { address = "x" }', "unknown key `udp` at listener[0]."),
        ('listener "unix" { address = "x" }', 'is not offered; listen on a loopback address with "tcp".'),
        ('seal "dev" {}', 'seal "shamir" {} is opened by people.'),
        ('seal "static" {}', "seal[0].static: object missing required field `key_file`."),
        ('node_id = "a"\nnode_id = "b"', 'strongroom.hcl:2:9 is not HCL: the argument "node_id" is set twice.'),
        ("raft {\nheartbeat = true\n}", "raft[0].heartbeat: expected `int | float | str`, got `bool`."),
        ("raft {}\nraft {}", "raft is said 2 times; once is allowed."),
        ("node_id = 5", "node_id: expected `str`, got `int`."),
        ('region = "${HOME}"', 'region is an expression; only plain values are understood.'),
        ("raft {\nheartbeat = 1 + 1\n}", "is not HCL: illegal character '+'."),
        ("a = [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "nests brackets deeper than 16."),
        ("# " + "x" * 65536, "is larger than 65536 bytes."),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    message = refusal(tmp_path, text + "\n")
    assert message.startswith(f"{tmp_path}/strongroom.hcl")
    assert message.endswith(sentence)


def test_what_does_not_parse_is_named_with_line_and_column(tmp_path: Path) -> None:
    assert re.search(r"strongroom\.hcl:3:\d+ is not HCL: ", refusal(tmp_path, 'node_id = "a"\nregion = \n'))
    path = tmp_path / "a.json"
    for text, sentence in (
        ('{"node_id": }', "a.json:1:13 is not JSON: Expecting value."),
        ("[]", "a.json must hold one JSON object."),
        ('{"region": "a", "region": "b"}', "a.json gives a key twice; its keys are region."),
        ('{"region": "\udcff"}', "a.json is not UTF-8 text."),
    ):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(ConfigError) as caught:
            load([path], environ={})
        assert str(caught.value).endswith(sentence)


SHAMIR = 'listener "tcp" { address = "127.0.0.1:1" }\nseal "shamir" {}\naudit "none" {}'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL + 'region = "EU"', 'region is "EU"; it must be 1 to 63 of a-z, 0-9 and "-"'),
        (SEAL + 'node_id = "-a"', 'node_id is "-a"; it must be'),
        (MINIMAL + 'telemetry { unauthenticated_metrics_access = "yes" }', 'is "yes"; it must be true or false.'),
        (MINIMAL + 'cluster_name = ""', 'cluster_name is ""; it must be'),
        (SEAL + f'node_id = "{"a" * 64}"', "it must be 1 to 63"),
        (MINIMAL + 'log_level = "loud"', 'log_level is "loud"; it must be one of debug, info, warning, error.'),
        (MINIMAL + "read_workers = 65", "read_workers is 65; it must be 0 (none) to 64."),
        (MINIMAL + "read_workers = 1\nread_lane = false", "read_workers needs read_lane and raft.read_leases"),
        (MINIMAL + "read_workers = 1\nraft { read_leases = false }", "workers read under a node's lease"),
        (MINIMAL + "read_workers = 1\nvalue_cache_mib = 0", "read_workers needs value_cache_mib"),
        (MINIMAL + 'read_workers = 1\naudit "file" { path = "/dev/null" }', "is no regular file"),
        ('storage "inmem" {}\nlistener "tcp" { tls_disable = true }\nread_workers = 1', "is for stores on disk"),
        (MINIMAL + 'log_format = "xml"', 'log_format is "xml"; it must be one of json, standard.'),
        (MINIMAL
            + 'listener "tcp" { address = "127.0.0.1" }', 'listener[0] address is "127.0.0.1"; it must be host:port'),
        (MINIMAL + 'listener "tcp" { address = "127.0.0.1:0" }', "it must be host:port"),
        (MINIMAL + 'listener "tcp" { address = "127.0.0.1:65536" }', "it must be host:port"),
        (MINIMAL + 'listener "tcp" { address = "::1:8200" }', "an IPv6 host in [brackets]"),
        (MINIMAL + 'listener "tcp" {\naddress = "0.0.0.0:8200"\ntls_disable = true\n}',
         "listener[0] has tls_disable on 0.0.0.0:8200; plain HTTP is served on a loopback address only"),
        (MINIMAL + 'listener "tcp" {\naddress = "10.0.0.1:8200"\ntls_disable = true\n}', "on a loopback address only"),
        (MINIMAL + 'listener "tcp" {\naddress = "127.0.0.1:1"\ntls_cert_file = "/c"\n}', "it needs both or neither."),
        (MINIMAL + 'listener "tcp" {\naddress = "127.0.0.1:1"\ntls_cert_file = "/c"\ntls_key_file = "/k"\n'
         "tls_disable = true\n}", "has tls_disable and certificate files"),
        (MINIMAL + 'listener "tcp" { address = "0.0.0.0:8200" }', "api_addr must be given: the listener's 0.0.0.0"),
        (MINIMAL + 'api_addr = "127.0.0.1:8200"', "it must look like https://host:port."),
        (MINIMAL + 'api_addr = "https://a/b"', "it must look like https://host:port."),
        (MINIMAL + 'api_addr = "https://a"', 'api_addr is "a"; it must be host:port'),
        (MINIMAL + 'api_addr = "http://10.0.0.1:8200"', "http:// is allowed for a loopback address only."),
        (MINIMAL + 'cluster_addr = "0.0.0.0:8201"', "cluster_addr must be an address that other nodes can reach"),
        (MINIMAL + 'cluster_addr = "127.0.0.1:8200"', "which a listener for clients uses already."),
        (MINIMAL + 'raft { election_timeout = "200ms" }', "raft.election_timeout must be at least three heartbeats"),
        (MINIMAL + 'raft { heartbeat = "fast" }', 'raft.heartbeat is "fast"; a duration is written "100ms"'),
        (MINIMAL + "raft { heartbeat = -1 }", "raft.heartbeat is -1, but a duration cannot be negative."),
        (MINIMAL + "raft { heartbeat = 0 }", "and both more than zero"),
        ('audit "none" {}', "Exactly one seal is needed"),
        (SEAL, 'No audit log: say audit "file" { path = "..." }, or audit "none" {}'),
        (MINIMAL + 'audit "none" {}', 'audit "none" and audit "file" exclude each other.'),
        (MINIMAL + 'audit "file" { path = "/a.jsonl" }', 'Two audit "file" blocks name the same path.'),
        (SHAMIR, "a sealed node has no key to protect its own TLS key."),
        (MINIMAL + 'region_bandwidth = "10"', '"10Mbit"'),
        (MINIMAL + 'region_bandwidth = "fast"', '"10Mbit"'),
        (MINIMAL + 'region_bandwidth = "999kbit"', "at least 1Mbit"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text + "\n")


@pytest.mark.parametrize(
    ("said", "bytes_per_s"),
    [("10Mbit", 1_250_000), ("1.5Gbit/s", 187_500_000), ("1000 kbit", 125_000), ("", 0)],
)
def test_a_bandwidth_is_written_in_bits(tmp_path: Path, said: str, bytes_per_s: float) -> None:
    assert settings(tmp_path, f'{MINIMAL}region_bandwidth = "{said}"').link_bytes_per_s == bytes_per_s


def test_shamir_is_accepted_with_files_of_its_own_or_in_plain_on_loopback(tmp_path: Path) -> None:
    files = SHAMIR.replace(" }\nseal", '\ntls_cert_file = "/c"\ntls_key_file = "/k"\n}\nseal').replace(
        "{ addr", "{\naddr"
    )
    assert settings(tmp_path, files + "\n").seal.kind == "shamir"
    plain = SHAMIR.replace(" }\nseal", "\ntls_disable = true\n}\nseal").replace("{ addr", "{\naddr")
    assert settings(tmp_path, plain + "\n").seal.kind == "shamir"


def test_nothing_to_read_is_a_sentence(tmp_path: Path) -> None:
    for paths, sentence in (
        ([], "No configuration: name a file with -config, or use -dev"),
        ([tmp_path], "holds no *.hcl and no *.json file."),
        ([tmp_path / "absent.hcl"], "cannot be read: No such file or directory."),
    ):
        with pytest.raises(ConfigError) as caught:
            load(paths, environ={})
        assert sentence in str(caught.value)


def test_dev_is_open_plain_and_on_loopback(tmp_path: Path) -> None:
    found = dev_settings(
        data_dir=tmp_path, environ={"STRONGROOM_SEAL_KEY_FILE": "/k", "STRONGROOM_NODE_ID": "me"}
    )
    assert (found.dev, found.seal, found.audit_files) == (True, SealSettings(kind="shamir"), ())
    assert found.api_address == "http://127.0.0.1:8200"
    assert found.listeners == (Listener(host="127.0.0.1", port=8200, tls_disable=True),)
    assert (found.node_id, found.data_dir) == ("me", tmp_path)
    with pytest.raises(ConfigError, match="-dev-listen-address has tls_disable on"):
        dev_settings(data_dir=tmp_path, listen="0.0.0.0:1")
