"""The server keeps to its own OpenAPI document, whatever is sent: no 5xx, no answer that the document does not know.

STRONGROOM_API_CASES says how many cases each operation gets, STRONGROOM_API_PART which operations (3/16: the third
sixteenth of them), STRONGROOM_API_SEED what is drawn. `make api-fuzz` takes 500 cases, part by part.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.processes import Server

CASES = int(os.environ.get("STRONGROOM_API_CASES", "2"))
PART, PARTS = map(int, os.environ.get("STRONGROOM_API_PART", "1/1").split("/"))
SEED = os.environ.get("STRONGROOM_API_SEED", "1")
CHECKS = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"
# What ends the run: a sealed store, a revoked token, an answer without an end.
EXCLUDED = ("/sys/seal", "/auth/token/revoke-self", "/sys/events/subscribe/{event_type}")
PREPARED: dict[str, dict[str, object]] = {  # so that there is something to read
    "secret/data/a": {"data": {"b": "c"}},
    "fuzzed-pki/root/generate/internal": {"common_name": "example.com"},
    "fuzzed-transit/keys/a": {},
    "auth/fuzzed-userpass/users/a": {"password": "correct horse battery"},
}
TIMEOUT_S = 600 + 20 * CASES  # of a part, on a busy machine
REQUEST_TIMEOUT_S = 120
METHODS = ("get", "post", "patch", "delete")


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Server]:
    """With a mount of every engine and auth method, and something in it."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    flags = ("-dev", f"-dev-listen-address={address}", "-dev-root-token-id=root", "-dev-no-store-token")
    with Server(tmp_path / "run", *flags, address=f"http://{address}") as server:
        server.start()
        server.wait_health(200)
        catalog = server.request("GET", "sys/plugins/catalog", token="root").body["data"]
        for kind, prefix in (("secret", "sys/mounts"), ("auth", "sys/auth")):
            for name in catalog[kind]:
                server.request("POST", f"{prefix}/fuzzed-{name}", {"type": name}, token="root")
        for path, body in PREPARED.items():
            assert server.request("POST", path, body, token="root").status in (200, 204), path
        yield server


def part(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The document with the operations of this part alone, and how many there are."""
    paths, kept = document["paths"], 0
    found = [(path, method) for path in sorted(paths) for method in METHODS if method in paths[path]]
    for number, (path, method) in enumerate(found):
        if number % PARTS == PART - 1 and path not in EXCLUDED:
            kept += 1
        else:
            del paths[path][method]
    return document, kept


@pytest.mark.timeout(TIMEOUT_S)
def test_the_server_keeps_to_its_document(dev: Server, tmp_path: Path) -> None:
    document, operations = part(dev.request("GET", "sys/internal/specs/openapi", token="root").body)
    print(f"{operations} operations (part {PART} of {PARTS}), {CASES} cases each, seed {SEED}")
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(tmp_path / "openapi.json")]
    command += ["--url", f"{dev.address}/v1", "-H", "X-Vault-Token: root", "-c", CHECKS, "--seed", SEED]
    command += ["--phases", "fuzzing" if CASES < 20 else "coverage,fuzzing", "-n", str(CASES)]
    command += ["--continue-on-failure", "--no-color", "--warnings", "off", "--generation-database", "none"]
    # What fails is shown as it was drawn, and a machine that is busy is no failure.
    command += ["--no-shrink", "--suppress-health-check", "all"]
    command += ["--request-timeout", str(REQUEST_TIMEOUT_S)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "request failed" not in dev.log.read_text(), "an exception that became no answer of its own"
    assert dev.health() == 200
