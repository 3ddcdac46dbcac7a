"""What former releases left on disk is opened, with everything in it."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.processes import Server, configuration
from support.targets import Bao, Target

from node import VERSION
from storage.database import FORMAT

DATA = Path(__file__).parent / "data"
RELEASES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
KEY = bytes(range(32))


def expected_of(release: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / release / "expected.json").read_text())
    if release == VERSION and found["format"] != FORMAT:
        pytest.skip(f"{release} is not finished and has another format by now: run make_fixture.py again")
    return found


def node(tmp_path: Path) -> tuple[Path, Server]:
    """A node with the fixture's seal key; its data directory is empty yet."""
    key = tmp_path / "seal.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    api, raft = free_ports(2)
    directory = tmp_path / "n1"
    config = configuration(directory, node_id="n1", api_port=api, cluster_port=raft, seal_key=key)
    ca = directory / "data" / "tls" / "ca.pem"
    return config, Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca)


def check(server: Server, expected: dict[str, Any], tmp_path: Path, *secrets: str) -> None:
    bao = Bao(Target(server.address, expected["root_token"], tmp_path, ca=server.ca))
    for part in secrets:
        for path, content in expected[part].items():
            found = bao.json("kv", "get", path)["data"]
            assert found.get("data", found) == content or found == content, path
    metadata = bao.json("kv", "metadata", "get", "kv/app/db")["data"]
    assert metadata["custom_metadata"] == {"owner": "team"}
    assert [version["destroyed"] for version in metadata["versions"].values()] == [False, True, False]
    name, password = expected["user"]
    login = bao.json("write", f"auth/userpass/login/{name}", f"password={password}")
    token = login["auth"]["client_token"]
    assert bao.ok("kv", "get", "-field=password", "kv/app/db", token=token) == "p2"
    bao.ok("kv", "put", "kv/app/db", "password=written by this release")
    assert bao.json("kv", "get", "kv/app/db")["data"]["metadata"]["version"] == 4


@pytest.mark.parametrize("release", RELEASES)
def test_the_data_directory_of_a_former_release_is_opened(release: str, tmp_path: Path) -> None:
    """It was killed with a journal ahead of its database."""
    expected = expected_of(release)
    _, server = node(tmp_path)
    with tarfile.open(DATA / release / "data.tar.gz") as archive:
        archive.extractall(tmp_path / "n1", filter="data")
    with server:
        server.start()
        server.wait_health(200)
        check(server, expected, tmp_path, "secrets", "only_in_the_journal")
        assert server.stop() == 0
        server.start()
        server.wait_health(200)


@pytest.mark.parametrize("release", RELEASES)
def test_a_snapshot_of_a_former_release_begins_a_store(release: str, tmp_path: Path) -> None:
    expected = expected_of(release)
    config, server = node(tmp_path)
    for verb in ("verify", "bootstrap"):
        command = [
            sys.executable,
            "-m",
            "node.cli",
            "operator",
            "raft",
            "snapshot",
            verb,
            f"-config={config}",
        ]
        done = subprocess.run(
            [*command, str(DATA / release / "store.snap")],
            env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    with server:
        server.start()
        server.wait_health(200)
        check(server, expected, tmp_path, "secrets")
