"""How the command line gets to its server: TLS, proxies, sockets, time."""

import http.server
import os
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certs import Authority
from support.cli import Cli
from support.patience import PATIENCE_S
from support.stub_api import Reply, StubApi, stub_api

OPEN: Reply = (200, {"type": "shamir", "sealed": False, "initialized": True})
STATUS = "GET /v1/sys/seal-status"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def tls(authority: Authority) -> Iterator[StubApi]:
    """A server that is called localhost."""
    with stub_api({STATUS: OPEN}, certificate=authority.issue("server", ["localhost"])) as api:
        yield api


def test_a_directory_of_authorities_will_do(
    strongroom: Cli, tls: StubApi, authority: Authority, tmp_path: Path
) -> None:
    directory = tmp_path / "trusted"
    directory.mkdir()
    shutil.copy(Authority(tmp_path / "other").ca, directory / "a.pem")
    assert strongroom("status", "-ca-path", directory, "-address", tls.address)[0] == 1
    shutil.copy(authority.ca, directory / "b.pem")
    assert strongroom("status", "-ca-path", directory, "-address", tls.address)[0] == 0
    assert strongroom("status", "-ca-path", tmp_path / "absent", "-address", tls.address)[0] == 1


def test_a_server_may_be_reached_by_another_name_than_its_certificates(
    strongroom: Cli, tls: StubApi, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ["-address", tls.address.replace("localhost", "127.0.0.1"), "-ca-cert", authority.ca]
    assert "is not trusted" in strongroom("status", *at)[2]
    assert strongroom("status", "-tls-server-name=localhost", *at)[0] == 0
    assert "is not trusted" in strongroom("status", "-tls-server-name=other", *at)[2]
    monkeypatch.setenv("BAO_TLS_SERVER_NAME", "localhost")
    assert strongroom("status", *at)[0] == 0


def test_who_mixes_up_http_and_https_is_told(strongroom: Cli, tls: StubApi) -> None:
    assert "an address with https://" in strongroom("status", "-address", f"http://{tls.address[8:]}")[2]
    with stub_api({STATUS: OPEN}) as plain:
        complaint = strongroom("status", "-address", f"https://{plain.address[7:]}")[2]
        assert "does not speak TLS: its address begins with http://" in complaint


def test_a_client_certificate_is_shown(
    strongroom: Cli, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = authority.issue("server", ["localhost"])
    own = authority.issue("client", ["client"])
    with stub_api({STATUS: OPEN}, certificate=pem, client_ca=authority.ca) as api:
        at = ["-address", api.address, "-ca-cert", authority.ca]
        assert strongroom("status", *at)[0] == 1
        assert strongroom("status", "-client-cert", own, "-client-key", own, *at)[0] == 0
        assert "needs its key" in strongroom("status", "-client-cert", own, *at)[2]
        assert "cannot be used" in strongroom("status", "-client-cert", "/absent", "-client-key", own, *at)[2]
        monkeypatch.setenv("VAULT_CLIENT_CERT", str(own))
        monkeypatch.setenv("VAULT_CLIENT_KEY", str(own))
        assert strongroom("status", *at)[0] == 0


def test_a_proxy_carries_the_request(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_api({"GET http://far.invalid:1/v1/sys/seal-status": OPEN}) as proxy:
        for name in ("VAULT_PROXY_ADDR", "STRONGROOM_HTTP_PROXY", "HTTP_PROXY"):
            with monkeypatch.context() as only:
                only.setenv(name, proxy.address)
                assert strongroom("status", "-address=http://far.invalid:1")[0] == 0, name
        assert len(proxy.asked) == 6, "the status and the leader, each time"


def test_the_usual_proxy_is_not_for_this_machine_nor_for_exceptions(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub_api({STATUS: OPEN}) as api, stub_api() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        assert strongroom("status", "-address", api.address)[0] == 0
        monkeypatch.setenv("NO_PROXY", "far.invalid")
        assert strongroom("status", "-address=http://far.invalid:1")[0] == 1
        assert proxy.asked == []


def test_a_socket_in_the_file_system_is_an_address_too(strongroom: Cli, tmp_path: Path) -> None:
    path = tmp_path / "s"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"sealed": true}')

        def address_string(self) -> str:
            return "local"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert strongroom("status", f"-address=unix://{path}")[0] == 2
        finally:
            server.shutdown()
            thread.join()
    os.unlink(path)
    assert strongroom("status", f"-address=unix://{path}")[0] == 1


def test_nobody_waits_longer_than_was_asked_for(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slowly(_: str | None) -> Reply:
        answered.wait(PATIENCE_S)
        return OPEN

    with stub_api({STATUS: slowly}) as api:
        monkeypatch.setenv("VAULT_CLIENT_TIMEOUT", "50ms")
        code, _, err = strongroom("status", "-address", api.address)
        answered.set()
    assert code == 1
    assert "did not answer within 0.05 s" in err


def test_an_agent_is_asked_instead_of_the_server(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_api({STATUS: OPEN}) as agent, stub_api({STATUS: OPEN}) as server:
        monkeypatch.setenv("VAULT_AGENT_ADDR", agent.address)
        monkeypatch.setenv("VAULT_ADDR", server.address)
        assert strongroom("status")[0] == 0
        assert (len(agent.asked), len(server.asked)) == (2, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAULT_CLIENT_TIMEOUT", "soon"), ("VAULT_MAX_RETRIES", "-1"), ("VAULT_MAX_RETRIES", "1000"),
        ("VAULT_RATE_LIMIT", "fast"), ("VAULT_RATE_LIMIT", "0"), ("VAULT_WRAP_TTL", "1x"), ("VAULT_FORMAT", "xml"),
    ],
)  # fmt: skip
def test_a_variable_that_makes_no_sense_is_named(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, out, err = strongroom("token", "lookup")
    assert (code, out) == (1, "")
    assert name.removeprefix("VAULT_") in err or value in err


def test_requests_keep_to_the_rate_that_was_asked_for(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("node.cli.client.time.sleep", waits.append)
    with stub_api({STATUS: OPEN}) as api:
        monkeypatch.setenv("VAULT_RATE_LIMIT", "4")
        assert strongroom("status", "-address", api.address)[0] == 0
        assert waits == [0.25, 0.25]
        monkeypatch.setenv("VAULT_RATE_LIMIT", "4:10")
        assert strongroom("status", "-address", api.address)[0] == 0
        assert waits == [0.25, 0.25], "a command asks less often than a burst"


def test_a_write_that_was_sent_before_the_server_went_away_stays_unknown(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the last attempt could not be sent at all."""
    monkeypatch.setattr("node.cli.client.RETRY_WAIT_MIN_S", 0.0)
    monkeypatch.setenv("VAULT_MAX_RETRIES", "1")
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def once() -> None:
        connection, _ = listener.accept()
        listener.close()
        connection.recv(65536)
        connection.close()

    server = threading.Thread(target=once)
    server.start()
    code, _, err = strongroom("write", "-f", "x", "-address", address)
    server.join()
    assert code == 2
    assert "cannot be reached" in err
    assert "Whether the write was made is not known." in err
