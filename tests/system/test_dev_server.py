"""`strongroom server -dev`: from nothing to a working store in one command."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ports import free_ports
from support.processes import Server, poll
from support.targets import Bao, Target


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Server]:
    """A dev server that thinks tmp_path is the user's home."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    flags = ("-dev", f"-dev-listen-address={address}")
    with Server(tmp_path / "run", *flags, address=f"http://{address}", env={"HOME": str(tmp_path)}) as server:
        server.start()
        server.wait_health(200)
        poll(lambda: "Root token" in server.output.read_text(), what="the banner")
        yield server


def test_the_root_token_is_printed_and_kept_for_the_cli(dev: Server, tmp_path: Path) -> None:
    kept = tmp_path / ".vault-token"
    printed = re.search(r"Root token: (\S+)", dev.output.read_text())
    assert printed is not None
    assert printed[1] == kept.read_text().strip()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert dev.address in dev.output.read_text()
    assert printed[1] not in dev.log.read_text()


def test_the_cli_needs_nothing_but_the_address(dev: Server, tmp_path: Path) -> None:
    bao = Bao(Target(dev.address, "", tmp_path))
    bao.ok("kv", "put", "secret/hello", "greeting=world")
    assert bao.ok("kv", "get", "-field=greeting", "secret/hello") == "world"
    assert bao.ok("kv", "list", "secret").split()[-1] == "hello"
    assert bao.ok("status").count("false") >= 1
    bao.ok("policy", "write", "p", "-", text='path "secret/data/hello" { capabilities = ["read"] }')
    token = bao.json("token", "create", "-policy=p")["auth"]["client_token"]
    assert bao.ok("kv", "get", "-field=greeting", "secret/hello", token=token) == "world"
    assert "permission denied" in bao.refused("kv", "put", "secret/hello", "a=b", token=token)


def test_sealing_and_unsealing_can_be_tried(dev: Server, tmp_path: Path) -> None:
    bao = Bao(Target(dev.address, "", tmp_path))
    key = re.search(r"Unseal key: (\S+)", dev.output.read_text())
    bao.ok("kv", "put", "secret/kept", "a=1")
    bao.ok("operator", "seal")
    assert bao("status").returncode == 2
    assert key is not None
    assert bao.json("operator", "unseal", key[1])["sealed"] is False
    assert bao.ok("kv", "get", "-field=a", "secret/kept") == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked_with_exit_code_0(dev: Server, number: signal.Signals) -> None:

    os.kill(dev.pid, number)
    assert dev.wait() == 0


def test_a_root_token_can_be_chosen_and_kept_to_oneself(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    flags = ("-dev", f"-dev-listen-address={address}", "-dev-root-token-id=root", "-dev-no-store-token")
    with Server(tmp_path / "run", *flags, address=f"http://{address}", env={"HOME": str(tmp_path)}) as server:
        server.start()
        server.wait_health(200)
        assert poll(lambda: server.request("GET", "sys/mounts", token="root").status == 200, what="the token")
        assert not (tmp_path / ".vault-token").exists()
        assert server.stop() == 0


def test_tls_can_be_tried_with_an_authority_made_for_the_occasion(tmp_path: Path) -> None:
    """The certificate is checked by the client, against the file that the server left."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    left = tmp_path / "tls"
    left.mkdir()
    flags = (
        "-dev-tls",
        f"-dev-tls-cert-dir={left}",
        f"-dev-listen-address={address}",
        "-dev-root-token-id=root",
    )
    ca, env = left / "strongroom-ca.pem", {"HOME": str(tmp_path)}
    with Server(tmp_path / "run", *flags, address=f"https://{address}", ca=ca, env=env) as server:
        server.start()
        poll(lambda: "Root token" in server.output.read_text(), what="the banner")
        bao = Bao(Target(f"https://{address}", "root", tmp_path, ca=ca))
        bao.ok("kv", "put", "secret/hello", "greeting=world")
        assert "certificate" in Bao(Target(f"https://{address}", "root", tmp_path)).refused(
            "kv", "get", "secret/hello"
        )
        assert f"VAULT_CACERT={left}" in server.output.read_text()
        assert (left / "strongroom-key.pem").stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0
