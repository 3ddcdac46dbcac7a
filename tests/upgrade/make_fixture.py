"""Keep a data directory of this release: `python tests/upgrade/make_fixture.py`, once, when it is released.

A node is initialised, used, and killed in the middle, so that its journal is ahead of its database; everything that
it keeps goes into data/VERSION/, with a snapshot and with what must be found in both.
"""

import json
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.ports import free_ports
from support.processes import Server, configuration
from support.targets import Bao, Target

from node import VERSION
from storage.database import FORMAT

KEY = bytes(range(32))  # the fixture's seal: it protects nothing
HERE = Path(__file__).parent / "data"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), HERE / VERSION)


def make(scratch: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    key = scratch / "seal.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    api, raft = free_ports(2)
    directory = scratch / "n1"
    config = configuration(directory, node_id="n1", api_port=api, cluster_port=raft, seal_key=key)
    ca = directory / "data" / "tls" / "ca.pem"
    with Server(directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=ca) as server:
        server.start()
        server.wait_health(501)
        root = server.request("PUT", "sys/init", {}).body["root_token"]
        server.wait_health(200)
        bao = Bao(Target(server.address, root, scratch, ca=ca))
        expected = fill(bao)
        bao.ok("operator", "raft", "snapshot", "save", str(target / "store.snap"))
        bao.ok("kv", "put", "kv/after", "v=after the snapshot")
        server.kill()
    with tarfile.open(target / "data.tar.gz", "w:gz") as archive:
        archive.add(directory / "data", "data")
    expected |= {"root_token": root, "format": FORMAT, "version": VERSION}
    (target / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    print(f"{target}: {sum(path.stat().st_size for path in target.iterdir()) >> 10} KiB")


def fill(bao: Bao) -> dict[str, object]:
    """Something of everything."""
    bao.ok("secrets", "enable", "-path=kv", "kv-v2")
    bao.ok("secrets", "enable", "-path=old", "-version=1", "kv")
    bao.ok("kv", "put", "old/a", "v=first engine")
    for number in range(3):
        bao.ok("kv", "put", "kv/app/db", f"password=p{number}")
    bao.ok("kv", "delete", "-versions=1", "kv/app/db")
    bao.ok("kv", "destroy", "-versions=2", "kv/app/db")
    bao.ok("kv", "metadata", "put", "-custom-metadata=owner=team", "kv/app/db")
    bao.ok("policy", "write", "reader", "-", text='path "kv/data/app/*" { capabilities = ["read"] }')
    bao.ok("auth", "enable", "userpass")
    bao.ok("write", "auth/userpass/users/ann", "password=of ann", "policies=reader")
    return {
        "secrets": {"kv/app/db": {"password": "p2"}, "old/a": {"v": "first engine"}},
        "only_in_the_journal": {"kv/after": {"v": "after the snapshot"}},
        "user": ["ann", "of ann"],
    }


if __name__ == "__main__":
    main()
