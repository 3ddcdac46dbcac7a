"""Commands about a cluster, run with `bao` at three real OpenBao servers: how they are run again, and compared.

Who leads, and at which address, differs from run to run: nodes are named by the part that they play, and what is
printed is compared without its order. tests/recorded/cluster/commands.json holds the steps: as those of
recorded_cli.py, but "at" says which node is asked, if not the leader.

    cd tests && PYTHONPATH=.. ../.venv/bin/python -m support.recorded_cluster   runs them at real servers again
"""

import dataclasses
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support import recorded, recorded_cli
from support.recorded import Step
from support.recorded_cli import Run
from support.targets import BAO, Target

FOLDER = recorded.FOLDER / "cluster"
_MASKED = frozenset(
    {"hostname", "last_echo", "active_time", "raft_committed_index", "raft_applied_index"}
    | {"last_index", "last_term", "last_contact", "stable_since"}
    | {"LastIndex", "LastTerm", "LastContact", "StableSince"}
)
_LEFT_OUT = frozenset({"commit_date"})  # of what was installed, where that is known
_MEASURED = re.compile(r"(?<=Last Index: )\d+|(?<=Last Term: )\d+|(?<=Last Contact: )\S+")


def steps() -> list[Step]:
    return recorded.steps("commands", FOLDER)


class Cluster:
    """Three nodes, one of which leads, and how a command is run at one of them."""

    def __init__(self, target: Target, at: Callable[[Target], Run]) -> None:
        """`target`: any of them."""
        self._root = target.token
        self._parts = _parts(target)
        addresses = {part: text for text, part in self._parts.items()}
        self._runs = {
            part: at(dataclasses.replace(target, address=addresses[f"<API of {part} 0>"]))
            for part in ("leader", "follower")
        }

    def do(self, step: Step) -> dict[str, Any]:
        """Run a step; {"code", "printed", "complaint"} as they are kept."""
        run = self._runs[step.get("at", "leader")]
        code, out, err = run(shlex.split(step["run"]), None, step.get("token", self._root))
        if step.get("only") == "code":
            return {"code": code, "printed": None, "complaint": bool(err)}
        return {"code": code, "printed": _kept(self._named(out)), "complaint": _kept(self._named(err))}

    def _named(self, text: str) -> str:
        for found, part in self._parts.items():
            text = re.sub(rf"(?<!\w){re.escape(found)}(?!\w)", part, text)
        return text


def _parts(target: Target) -> dict[str, str]:
    """What stands in the place of each node's addresses and id; the longest first."""
    client = target.client()
    try:
        servers = client.sys.read_raft_config()["data"]["config"]["servers"]
        nodes = client.read("sys/ha-status")["data"]["nodes"]
    finally:
        client.adapter.close()
    apis = {each["cluster_address"].removeprefix("https://"): each["api_address"] for each in nodes}
    counted = {"leader": 0, "follower": 0}
    parts: dict[str, str] = {}
    for server in sorted(servers, key=lambda each: str(each["node_id"])):
        role = "leader" if server["leader"] else "follower"
        part = f"{role} {counted[role]}"
        counted[role] += 1
        parts |= {
            apis[server["address"]]: f"<API of {part}>",
            server["address"]: f"<{part}'s address>",
            server["node_id"]: f"<{part}>",
        }
    return dict(sorted(parts.items(), key=lambda each: -len(each[0])))


def _kept(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        words = recorded_cli.normal_text("\n".join(" ".join(line.split()) for line in text.splitlines()))
        lines = [re.sub(r"-{3,}", "---", _MEASURED.sub("<measured>", line)) for line in words.splitlines()]
        return sorted(line for line in lines if line)
    return _unordered(recorded.normal(found, masked=_MASKED))


def _unordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unordered(each) for name, each in sorted(value.items()) if name not in _LEFT_OUT}
    return sorted((_unordered(each) for each in value), key=json.dumps) if isinstance(value, list) else value


def main() -> None:
    from bench.openbao import OpenBao

    real = OpenBao("of the recording")
    with tempfile.TemporaryDirectory() as home:
        try:
            real.start(Path(home) / "servers")
            real.wait_whole()
            target = Target(real.leader(), real.root_token, Path(home), ca=real.ca_path, real=True)
            recorded_cli.furnish(target.home)
            cluster = Cluster(target, lambda at: recorded_cli.process(at, [str(BAO)]))
            recorded.write("commands", [step | cluster.do(step) for step in steps()], FOLDER)
        finally:
            real.stop()


if __name__ == "__main__":
    main()
