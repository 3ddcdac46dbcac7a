"""A server started from a configuration that was written for Vault: foreground, in memory, sealed, of one node."""

import json
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
from support.certs import Authority, self_signed
from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import Server, poll
from support.targets import BAO, OURS, Bao, Target

from node.cli.http_exchange import Unreachable


def vault_configuration(directory: Path, *, tls: bool = True, **more: Any) -> tuple[Path, str]:
    """A JSON file as hvac's users write it, and the address of its listener."""
    port = free_ports(1)[0]
    listener: dict[str, Any] = {"address": f"127.0.0.1:{port}", **more.pop("listener", {})}
    if tls:
        cert, key = self_signed(directory)
        listener |= {"tls_cert_file": str(cert), "tls_key_file": str(key)}
    else:
        listener |= {"tls_disable": 1}
    fields = {
        "backend": {"inmem": {}},
        "listener": {"tcp": listener},
        "disable_mlock": True,
        "default_lease_ttl": "768h",
        "max_lease_ttl": "768h",
    }
    path = directory / "vault.json"
    path.write_text(json.dumps(fields | more))
    return path, f"{'https' if tls else 'http'}://127.0.0.1:{port}"


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Server]:
    path, address = vault_configuration(tmp_path)
    with Server(tmp_path / "run", f"-config={path}", address=address, ca=tmp_path / "cert.pem") as server:
        server.start()
        server.wait_health(501)
        yield server


def client(server: Server, token: str = "") -> hvac.Client:
    return hvac.Client(server.address, token=token, verify=str(server.ca) if server.ca else True)


def test_hvac_takes_it_from_nothing_to_a_secret(in_memory: Server) -> None:
    vault = client(in_memory)
    assert not vault.sys.is_initialized()
    made = vault.sys.initialize(secret_shares=5, secret_threshold=3)
    assert (len(made["keys"]), len(made["keys_base64"])) == (5, 5)
    status = vault.sys.read_seal_status()
    assert (status["sealed"], status["t"], status["n"], status["storage_type"]) == (True, 3, 5, "inmem")
    vault.sys.submit_unseal_keys(made["keys"][1:4])
    vault.token = made["root_token"]
    vault.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    vault.secrets.kv.v2.create_or_update_secret("a", {"b": "c"}, mount_point="kv")
    vault.sys.seal()
    assert vault.sys.is_sealed()
    with pytest.raises(hvac.exceptions.VaultDown):
        vault.secrets.kv.v2.read_secret_version("a", mount_point="kv", raise_on_deleted_version=True)
    vault.sys.submit_unseal_keys(made["keys_base64"][:3])
    read = vault.secrets.kv.v2.read_secret_version("a", mount_point="kv", raise_on_deleted_version=True)
    assert read["data"]["data"] == {"b": "c"}
    vault.adapter.close()


def test_shares_that_do_not_belong_open_nothing(in_memory: Server) -> None:
    vault = client(in_memory)
    made = vault.sys.initialize(secret_shares=3, secret_threshold=2)
    vault.sys.submit_unseal_key(made["keys"][0])
    with pytest.raises(hvac.exceptions.InvalidRequest):
        vault.sys.submit_unseal_key("00" * 32 + "07")
    assert vault.sys.is_sealed()
    assert vault.sys.read_seal_status()["progress"] == 0
    vault.adapter.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_exit_code_0(in_memory: Server, number: signal.Signals) -> None:
    os.kill(in_memory.pid, number)
    assert in_memory.wait() == 0


def test_it_keeps_nothing(in_memory: Server) -> None:
    vault = client(in_memory)
    vault.sys.initialize(secret_shares=1, secret_threshold=1)
    in_memory.stop()
    in_memory.start()
    in_memory.wait_health(501)
    assert not vault.sys.is_initialized()
    vault.adapter.close()


def test_a_hang_up_takes_up_new_certificates_and_the_log_level(tmp_path: Path) -> None:
    path, address = vault_configuration(tmp_path)
    with Server(tmp_path / "run", f"-config={path}", address=address, ca=tmp_path / "cert.pem") as server:
        server.start()
        server.wait_health(501)
        host, port = address.removeprefix("https://").split(":")

        def shown() -> str:
            return ssl.get_server_certificate((host, int(port)), timeout=PATIENCE_S)

        before = shown()
        self_signed(tmp_path)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"log_level": "error"}))
        os.kill(server.pid, signal.SIGHUP)
        poll(lambda: shown() != before, what="another certificate")
        assert server.health() == 501, "the new one is trusted with its own file"
        (tmp_path / "key.pem").write_text("rubbish")
        os.kill(server.pid, signal.SIGHUP)
        assert server.health() == 501, "broken files change nothing"
        assert server.stop() == 0
        assert "stopping" not in server.log.read_text(), "an event of the level info"


def test_a_plain_listener_and_a_pid_file(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    path, address = vault_configuration(tmp_path, tls=False, pid_file=str(pid_file))
    with Server(tmp_path / "run", f"-config={path}", address=address) as server:
        server.start()
        server.wait_health(501)
        assert int(pid_file.read_text()) == server.pid
        server.wait_logged("disable_mlock has no effect")
        assert server.stop() == 0
        assert not pid_file.exists()


def test_clients_must_show_a_certificate_where_it_is_said(tmp_path: Path) -> None:
    path, address = vault_configuration(
        tmp_path,
        listener={
            "tls_client_ca_file": str(tmp_path / "cert.pem"),
            "tls_require_and_verify_client_cert": "true",
            "tls_min_version": "tls12",
        },
    )
    with Server(tmp_path / "run", f"-config={path}", address=address, ca=tmp_path / "cert.pem") as server:
        server.start()
        deadline = time.monotonic() + PATIENCE_S
        own = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
        known = hvac.Client(address, verify=str(tmp_path / "cert.pem"), cert=own)
        while True:
            try:
                assert not known.sys.is_initialized()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        known.adapter.close()
        with pytest.raises(Unreachable):
            server.health()


def test_a_client_certificate_logs_in_where_the_listener_asks_for_one(tmp_path: Path) -> None:
    """With hvac and with bao: below an intermediate that the client brings along. TLS refuses a foreign one."""
    root = Authority(tmp_path / "root")
    middle = Authority(tmp_path / "middle", above=root)
    client_file = middle.issue("ann", ["ann.example.com"])
    client_file.write_bytes(client_file.read_bytes() + middle.ca.read_bytes())
    stranger = Authority(tmp_path / "stranger").issue("eve", ["ann.example.com"])
    path, address = vault_configuration(tmp_path, listener={"tls_client_ca_file": str(root.ca)})
    ca = tmp_path / "cert.pem"
    with Server(tmp_path / "run", f"-config={path}", address=address, ca=ca) as server:
        server.start()
        server.wait_health(501)
        operator = client(server)
        made = operator.sys.initialize(secret_shares=1, secret_threshold=1)
        operator.sys.submit_unseal_key(made["keys"][0])
        operator.token = made["root_token"]
        operator.sys.enable_auth_method("cert")
        operator.auth.cert.create_ca_certificate_role("web", certificate_file=str(root.ca))
        with pytest.raises(hvac.exceptions.InvalidRequest, match="no client certificate supplied"):
            operator.adapter.post("/v1/auth/cert/login")
        operator.adapter.close()

        ann = hvac.Client(address, verify=str(ca), cert=(str(client_file), str(client_file)))
        answer = ann.auth.cert.login(cert_pem=str(client_file), key_pem=str(client_file))
        assert answer["auth"]["metadata"]["common_name"] == "ann"
        assert ann.lookup_token()["data"]["display_name"] == "cert-web"
        assert ann.auth.token.renew_self()["auth"]["renewable"]
        ann.adapter.close()

        eve = hvac.Client(address, verify=str(ca), cert=(str(stranger), str(stranger)))
        with pytest.raises(OSError):
            eve.sys.read_health_status(method="GET")
        eve.adapter.close()
        server.wait_logged("SSLCertVerificationError")

        target = Target(address, "", tmp_path, ca)
        flags = [f"-client-cert={client_file}", f"-client-key={client_file}", "-method=cert", "-no-store"]
        for command in ([str(BAO)], OURS):
            told = Bao(target, command).json("login", *flags, "name=web")
            assert told["auth"]["metadata"]["cert_name"] == "web"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"backend": {"file": {"path": "/x"}}}, 'storage "file" is not offered.'),
        ({"storage": {"inmem": {}}}, "backend is the older name of storage"),
        ({"seal": {"awskms": {}}}, 'seal "awskms" is not offered'),
        ({"telemetry": {"statsd_address": "x:1"}}, "metrics are scraped from sys/metrics"),
    ],
)
def test_what_is_not_offered_is_said_at_start(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    path, _ = vault_configuration(tmp_path, **more)
    with Server(tmp_path / "run", f"-config={path}") as server:
        server.start()
        assert server.wait() == 1
        assert sentence in server.log.read_text()
