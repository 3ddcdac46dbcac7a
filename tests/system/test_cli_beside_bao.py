"""Our command line beside the real `bao`: the same commands at the same node print and answer the same.

Each of them changes state of its own (under {own}), so that both find what they expect.
"""

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support.processes import poll
from support.targets import BAO, OURS, Bao, Target, unique

POLICY = 'path "{own}/*" { capabilities = ["read"] }'
DOCUMENT = '{"text": "a\\nb", "n": 1.50, "big": 12345678901234567890, "deep": {"l": [1, null, true, "<&>"]}, "ttl": 90}'
SCRIPT = [
    "status -field=sealed",
    "kv put {own}/app user=ann pass=@file.txt",
    "kv put -mount={own} app user=bob",
    "kv put -format=json {own}/app user=eve",
    "kv put -field=version {own}/app user=eve",
    "kv put {own}/doc @doc.json",
    'kv put {own}/typed - <<<{"k": {"deep": "ö"}}',
    "kv put {own}/typed v=- <<<from stdin",
    "kv get {own}/app",
    "kv get -version=1 {own}/app",
    "kv get -format=json {own}/doc",
    "kv get {own}/doc",
    "kv get -field=deep {own}/doc",
    "kv get -field=deep -format=json {own}/doc",
    "kv get -field=n {own}/doc",
    "kv get -field=nope {own}/doc",
    "kv get -field=data {own}/doc",
    "kv get -version=99 {own}/app",
    "kv get {own}/none",
    "kv get nomount-{own}/none",
    "kv get",
    "kv get -version=abc {own}/app",
    "kv put {own}/app",
    "kv put {own}/app novalue",
    "kv put {own}/app x=@/absent",
    "kv put -cas=0 {own}/app a=b",
    "kv put -cas=4 {own}/app a=b",
    "kv patch {own}/app c=d",
    "kv patch -method=rw {own}/app e=f",
    "kv patch {own}/none c=d",
    "kv patch -cas=1 {own}/app c=d",
    "kv list {own}",
    "kv list -format=json {own}",
    "kv list -format=json {own}/none",
    "kv scan {own}",
    "kv list {own}/none",
    "kv metadata put -max-versions=5 -custom-metadata=owner=me -custom-metadata=team=x {own}/app",
    "kv metadata patch -custom-metadata=owner=you -remove-custom-metadata=team {own}/app",
    "kv metadata get {own}/app",
    "kv metadata get -format=json {own}/app",
    "kv metadata get {own}/none",
    "kv delete {own}/app",
    "kv get {own}/app",
    "kv get -format=json {own}/app",
    "kv get -field=user {own}/app",
    "kv undelete -versions=7 {own}/app",
    "kv undelete {own}/app",
    "kv destroy -versions=3 {own}/app",
    "kv rollback -version=3 {own}/app",
    "kv rollback -version=4 {own}/app",
    "kv metadata delete {own}/app",
    "read {own}/config",
    "read -format=json {own}/data/doc",
    "read -field=data {own}/data/doc",
    "read {own}/none",
    "write {own}/config max_versions=3",
    "write {own}/config",
    "list {own}/metadata",
    "list -format=json {own}/metadata/none",
    "delete {own}/metadata/typed",
    "patch {own}/metadata/doc max_versions=4",
    "policy write {own} - <<<" + POLICY,
    "policy read {own}",
    "policy read -format=json {own}",
    "policy read none",
    "policy delete {own}",
    "policy delete default",
    "token create -policy=default -ttl=1h",
    "token create -policy=default -ttl=1h -format=json",
    "token create -policy=default -field=token_policies",
    "token create -policy=none-such -no-default-policy",
    "token create -ttl=abc",
    "token create -policy=default -period=30m -display-name=x -metadata=k=v -use-limit=5 -orphan",
    "token lookup",
    "token lookup -format=json",
    "token lookup none",
    "token lookup -accessor",
    "token renew",
    "token revoke",
    "token revoke none",
    "token capabilities {own}/data/app",
    "token capabilities -format=json {own}/data/app",
    "token capabilities",
    "secrets enable -path={own}-2 -description=d kv-v2",
    "secrets enable -path={own}-2 kv-v2",
    "secrets enable none-such",
    "secrets tune -description=hello -default-lease-ttl=1h {own}-2",
    "secrets disable {own}-2",
    "secrets disable {own}-2",
    "secrets list -format=json",
    "secrets move none none-2",
    "auth list",
    "auth list -format=json",
    "read -nonsense x",
    "read -format=xml x",
    "read -wrap-ttl=abc x",
    "nonsense",
    "kv put -output-policy {own}/app a=b",
    "list -output-policy {own}/metadata",
    "print token",
    "login -no-store -format=json {token}",
    "login -token-only {token}",
    "login none",
    "auth enable -path={own} userpass",
    "write auth/{own}/users/ann password=pw policies=default",
    "read auth/{own}/users/ann",
    "login -no-store -format=json -method=userpass -path={own} username=ann password=pw",
    "login -no-store -method=userpass -path={own} username=ann password=wrong",
    "login -method=userpass password=x",
    "auth tune -default-lease-ttl=2h {own}",
    "auth list -detailed",
    "auth disable {own}",
    "auth disable {own}",
    "kv get -wrap-ttl=60s {own}/doc",
    "kv get -wrap-ttl=60s -format=json {own}/doc",
    "write sys/wrapping/wrap a=b",
    "write -field=wrapping_token_ttl sys/wrapping/wrap a=b",
    "write sys/wrapping/lookup token=none",
    "unwrap none",
    "lease lookup none",
    "lease renew none",
    "lease revoke none",
    "lease revoke -prefix {own}",
    "lease revoke -force none",
    "write cubbyhole/{own} a=1",
    "read -format=yaml cubbyhole/{own}",
    "list cubbyhole",
    "delete cubbyhole/{own}",
    "token create -type=batch -policy=default",
    "secrets list -detailed",
    "status -format=json",
    "status",
    "path-help sys/mounts",
    "path-help none",
    "audit list -format=json",
    "audit enable -path={own} file file_path=/dev/null",
    "audit disable {own}",
    "operator key-status -format=json",
    "operator members -format=json",
    "operator raft list-peers",
    "operator raft list-peers -format=json",
    "operator raft remove-peer",
    "operator rotate-keys -status -format=json",
    "operator rotate-keys -status",
    "operator generate-root -status",
    "operator generate-root -cancel",
    "operator init -status",
    "operator init",
    "operator init -status -format=json",
    "version-history",
    "version-history -format=json",
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


@pytest.mark.timeout(600)  # three hundred programs are started
def test_the_same_commands_print_and_answer_the_same(
    bao: Bao, target: Target, mounts: tuple[str, str]
) -> None:
    home: Path = target.home
    (home / "doc.json").write_text(DOCUMENT)
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
