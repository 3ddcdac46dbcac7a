"""Our command line beside the real `bao` at a follower of a cluster: the same commands print and answer the same.

Each of them changes state of its own (under {own}), so that both find what they expect. test_recorded_cli.py has
hundreds more at a node alone.
"""

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support.processes import poll
from support.targets import BAO, OURS, Bao, Target, unique

SCRIPT = [
    "status",
    "status -format=json",
    "kv put {own}/app user=ann pass=@file.txt",
    "kv put -cas=0 {own}/app a=b",
    "kv get {own}/app",
    "kv get -format=json {own}/app",
    "kv patch {own}/app c=d",
    "kv metadata get {own}/app",
    "kv delete {own}/app",
    "secrets tune -description=hello -default-lease-ttl=1h {own}",
    "secrets list -format=json",
    "secrets list -detailed",
    "auth list",
    "token create -policy=default -ttl=1h",
    "token lookup",
    "login -no-store -format=json {token}",
    "kv get -wrap-ttl=60s {own}/app",
    "write cubbyhole/{own} a=1",
    "read -format=yaml cubbyhole/{own}",
    "lease revoke -prefix {own}",
    "list -output-policy {own}/metadata",
    "path-help sys/mounts",
    "audit list -format=json",
    "audit enable -path={own} file file_path=/dev/null",
    "audit disable {own}",
    "operator key-status -format=json",
    "operator members -format=json",
    "operator raft list-peers",
    "operator raft list-peers -format=json",
    "operator raft autopilot get-config",
    "operator raft remove-peer",
    "operator raft remove-peer none",
    "operator rotate-keys -status -format=json",
    "operator generate-root -status",
    "operator init -status",
    "operator init",
    "version-history",
]
_CHANGING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)"), "TIME"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\b(hvs|s|b)\.[A-Za-z0-9_-]{20,}"), "TOKEN"),
    (re.compile(r"\b[A-Za-z0-9]{24}\b"), "ACCESSOR"),
    (re.compile(r'("ttl": |ttl +)[\dhms]+'), r"\1N"),
    (re.compile(r'("encryptions": |raft_\w+": |Raft \w+ Index +)\d+'), r"\1N"),
    (re.compile(r'(accessor"?:? +"?)\w+'), r"\1ACCESSOR"),
]


def same(printed: str, mounts: tuple[str, str]) -> str:
    """What is printed, without what differs from run to run."""
    for pattern, name in _CHANGING:
        printed = pattern.sub(name, printed)
    for mount in mounts:
        printed = printed.replace(mount, "OWN")
    return printed


@pytest.fixture
def mounts(bao: Bao) -> tuple[str, str]:
    """One mount for each of the two, of the same length: headings are as wide as paths."""
    names = unique("kv"), unique("kv")
    for name in names:
        bao.ok("secrets", "enable", f"-path={name}", "kv-v2")
        poll(lambda name=name: bao("read", f"{name}/config").returncode == 0, what="a usable mount")  # type: ignore[misc]
    return names


def test_the_same_commands_print_and_answer_the_same(
    bao: Bao, target: Target, mounts: tuple[str, str]
) -> None:
    home: Path = target.home
    (home / "file.txt").write_text("two\nlines\n")
    commands = (Bao(target, [str(BAO)]), Bao(target, OURS))
    differences = []
    with ThreadPoolExecutor(len(commands)) as pool:
        for line in SCRIPT:
            theirs, ours = pool.map(partial(outcome, line, mounts), commands, mounts)
            if theirs != ours:
                differences.append(f"{line}\n  bao:  {theirs}\n  ours: {ours}")
    assert not differences, "\n".join(differences)


def outcome(line: str, mounts: tuple[str, str], command: Bao, own: str) -> tuple[int, str, bool]:
    """(exit code, what is printed, whether there is a complaint) of a line of the script."""
    told = line.replace("{own}", own).replace("{token}", command.target.token)
    words, separator, text = told.partition(" <<<")
    done = command(*shlex.split(words), text=text if separator else None)
    return done.returncode, same(done.stdout, mounts), bool(done.stderr)
