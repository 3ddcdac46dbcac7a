"""The commands that were recorded with `bao` at a real OpenBao, run here: with `bao`, and with ours in its place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import recorded, recorded_cli, recorded_cluster
from support.cli import empty_environment, runner
from support.ports import free_ports
from support.processes import Server
from support.recorded import Step
from support.recorded_cli import Run, Shell
from support.targets import BAO, Target

from node.cli.local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(600)  # half a thousand programs are started
COMMANDS = ("bao", "strongroom")
LOCAL_ERROR = 1  # the exit code of commands that never ask a server


@pytest.fixture(scope="module", params=COMMANDS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Target]]:
    """A command, and a server in development mode for it alone."""
    home = tmp_path_factory.mktemp("recorded")
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", recorded_cli.ROOT, home)
    flags = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={target.token}"]
    flags.append(f"-dev-listen-address={target.address[7:]}")
    with Server(home / "run", *flags, address=target.address) as server:
        server.start()
        server.wait_health(200)
        yield request.param, target


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Target]:
    """A server that nobody has initialised."""
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", "", tmp_path)
    configuration = recorded.fresh_configuration(target)
    with Server(tmp_path / "run", f"-config={configuration}", address=target.address) as server:
        server.start()
        server.wait_health(501)
        yield target


@pytest.fixture
def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a Run of our command in this process: starting hundreds of interpreters tells nothing more."""

    def at(target: Target) -> Run:
        empty_environment(monkeypatch, target.home)
        monkeypatch.chdir(target.home)
        run = runner(capsys, monkeypatch)

        def once(arguments: list[str], stdin: str | None, token: str) -> tuple[int, str, str]:
            monkeypatch.delenv("VAULT_TOKEN", raising=False)
            for name, value in target.environment(token).items():
                monkeypatch.setenv(name, value)
            return run(*arguments, stdin=stdin or "")

        return once

    return at


@pytest.mark.parametrize(
    "group", [each for each in recorded.groups(recorded_cli.FOLDER) if each not in recorded_cli.FRESH]
)
def test_commands_do_as_recorded(opened: tuple[str, Target], group: str, in_process: Any) -> None:
    command, target = opened
    compare_with_recording(command, target, group, in_process)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("group", sorted(recorded_cli.FRESH))
def test_commands_at_a_server_without_a_store_do_as_recorded(
    fresh: Target, group: str, command: str, in_process: Any
) -> None:
    compare_with_recording(command, fresh, group, in_process)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_about_the_cluster_do_as_recorded(
    cluster: LocalCluster, command: str, tmp_path: Path, in_process: Any
) -> None:
    leader = cluster.node(cluster.wait_leader())
    target = Target(leader.api_address, cluster.token, tmp_path, ca=cluster.ca_path)
    recorded_cli.furnish(tmp_path)
    asked = recorded_cluster.Cluster(
        target, (lambda at: recorded_cli.process(at, [str(BAO)])) if command == "bao" else in_process
    )
    for step in recorded_cluster.steps():
        done = asked.do(step)
        for at, was, now in _differences(command, step, done):
            raise AssertionError(f"{step['run']} at {at}: recorded {was!r}, here {now!r}")


def compare_with_recording(command: str, target: Target, group: str, in_process: Any) -> None:
    """Exit code and output of every command of a group: any difference is in the list, with its reason."""
    recorded_cli.furnish(target.home)
    run = recorded_cli.process(target, [str(BAO)]) if command == "bao" else in_process(target)
    shell = Shell(run, target.token)
    meant = [each for each in recorded_cli.differences() if each.get("command", command) == command]
    needed: set[int] = set()
    unmeant: list[str] = []
    for step in recorded.steps(group, recorded_cli.FOLDER):
        if command == "bao" and step["code"] == LOCAL_ERROR:
            continue
        name = f"{group}/{step.get('name', step['run'])}"
        for at, was, now in _differences(command, step, shell.do(step)):
            covering = {i for i, each in enumerate(meant) if recorded.is_meant(each, name, at)}
            needed |= covering
            if not covering:
                unmeant.append(f"{name} at {at}: recorded {was!r}, here {now!r}")
    assert not unmeant, "\n".join(unmeant)
    stale = [each for i, each in enumerate(meant) if each["step"].startswith(f"{group}/") and i not in needed]
    assert not stale, "differences that are none any more"


def _differences(command: str, step: Step, done: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The words of complaints are compared where they are the server's: with the same `bao`."""
    for part, found in done.items():
        expected = step[part]
        if part == "complaint" and command != "bao":
            expected, found = bool(expected), bool(found)
        yield from recorded.compare(expected, found, part)


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (f"ciphertext  vault:v1:{'x' * 24}+{'y' * 19}=", "ciphertext  <vault:v1>"),
        ("ttl 59m59s", "ttl 1h"),
        ("ttl 45s", "ttl 45s"),
        ("in auth_token_0123abcd", "in auth_token_<hex>"),
        (f"accessor {'a1' * 12}", "accessor <id>"),
    ],
)
def test_marks_stand_for_what_no_two_runs_share(printed: str, kept: str) -> None:
    assert recorded_cli.normal_text(printed) == kept
