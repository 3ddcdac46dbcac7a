"""What a server loads before it answers: nothing that only some servers, or some requests, will ever need."""

import subprocess
import sys

# A node with a disk, its consensus, and libraries behind single endpoints.
LATER = (
    "node.server",
    "node.memory",
    "node.engines.pki",
    "node.lifecycle",
    "consensus.group",
    "pysyncobj",
    "pysequoia",
    "argon2",
    "httpx",
    "yaml",
    "hypothesis",
)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    program = "import sys, node.cli.server, node.process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(LATER) & set(done.stdout.split())
