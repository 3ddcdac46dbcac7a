"""The command line as its users meet it: what it sends, prints and exits with."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.certs import Authority
from support.cli import Cli
from support.stub_api import dead_address, stub_api
from support.terminal import at_a_terminal

from node.cli.root import strongroom as root

OPEN = {
    "type": "shamir", "initialized": True, "sealed": False, "t": 2, "n": 3, "progress": 0, "nonce": "", "version": "1",
    "commit_date": "", "migration": False, "recovery_seal": False, "build_date": "",
}  # fmt: skip
SEALED = OPEN | {"sealed": True, "progress": 1, "nonce": "abc"}
ALONE = {"ha_enabled": False}


def test_importing_the_command_loads_nothing_heavy() -> None:
    """A command must start at once: the server's libraries are for the server."""
    script = (
        "import sys, node.cli.root, node.cli.operator\n"
        "import node.cli.status, node.cli.cluster, node.cli.local, node.cli.server\n"
        "heavy = {'aiohttp', 'asyncio', 'cryptography', 'hcl2', 'sqlcipher3', 'pysyncobj', 'structlog', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["kv", "nonsense"], "No such command 'nonsense'"),
        (["status", "-nonsense"], "flag provided but not defined: -nonsense"),
        (["-address=https://a:1", "status"], "-address (flags follow the command)"),
        (["kv", "-mount=a", "get", "b"], "-mount (flags follow the command)"),
        (["operator", "raft", "snapshot", "save", "/nosuch/a"], "/nosuch is not a directory"),
        (["operator", "raft", "snapshot", "inspect", "/etc/hostname"], "is not compressed as snapshots are"),
        (["local", "wan", "-directory=/nosuch"], "There is no network between regions in /nosuch"),
        (
            ["server", "-dev", "-dev-listen-address=x"],
            'Error: -dev-listen-address is "x"; it must be host:port',
        ),
        (["status", "-format"], "flag needs an argument: -format"),
        (["status", "-format=xml"], "Invalid output format: xml"),
        (["status", "-tls-skip-verify=maybe"], 'invalid boolean value "maybe" for -tls-skip-verify'),
        (["status", "-wrap-ttl=abc"], 'invalid value "abc" for flag -wrap-ttl: time: invalid duration "abc"'),
        (["status", "-header=X-Vault-Token=t"], "The header X-Vault-Token is not the user's to set."),
        (["status", "-namespace=a\nb"], "The value for the header X-Vault-Namespace cannot be sent"),
        (["read", "\udcff"], "An argument is not UTF-8 text"),
        (["status", "more"], "Got unexpected extra argument (more)"),
        (
            ["status", "-address", "localhost:8200"],
            'The address "localhost:8200" must look like https://host:port.',
        ),
        (["status", "-address", "https://x:y"], "must look like https://host:port."),
        (
            ["status", "-ca-cert", "/absent.pem"],
            "The CA certificate /absent.pem cannot be used: No such file",
        ),
        (["server"], "No configuration: name a file with -config, or use -dev"),
        (["server", "-config", "/absent.hcl"], "/absent.hcl cannot be read: No such file or directory."),
        (["server", "-dev", "-config", "a.hcl"], "-dev takes no -config."),
        (["server", "-dev-root-token-id=root"], "The -dev-... flags need -dev."),
        (
            ["server", "-dev", "-dev-listen-address=0.0.0.0:1"],
            "plain HTTP is served on a loopback address only",
        ),
        (["operator", "join"], "Missing option '-join-token'"),
        (["operator", "remove-peer"], "Missing argument 'NODE_ID'"),
        (["local", "status", "-directory", "/absent"], "/absent holds no local cluster."),
    ],
)
def test_a_local_mistake_is_a_sentence_and_exit_code_1(
    strongroom: Cli, arguments: list[str], sentence: str
) -> None:
    code, out, err = strongroom(*arguments)
    assert (code, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_command_that_does_not_exist_is_exit_code_127(strongroom: Cli) -> None:
    """As a shell has it."""
    code, out, err = strongroom("nonsense")
    assert (code, out) == (127, "")
    assert "No such command 'nonsense'" in err


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_is_asked_for_in_any_way(strongroom: Cli, flag: str) -> None:
    code, out, _ = strongroom(flag)
    assert code == 0
    assert "strongroom server -dev" in out


@pytest.mark.parametrize("style", [["-format=json"], ["-format", "json"], ["--format=json"]])
def test_options_may_be_written_as_the_user_is_used_to(strongroom: Cli, style: list[str]) -> None:
    with stub_api({"GET /v1/sys/seal-status": (200, OPEN)}) as api:
        code, out, _ = strongroom("status", *style, "-address", api.address)
    assert code == 0
    assert json.loads(out) == OPEN | ALONE


@pytest.mark.parametrize(("seal", "code"), [(OPEN, 0), (SEALED, 2)])
def test_status_tells_sealed_by_its_exit_code(strongroom: Cli, seal: dict[str, object], code: int) -> None:
    with stub_api({"GET /v1/sys/seal-status": (200, seal)}) as api:
        found, out, _ = strongroom("status", "-address", api.address)
    assert found == code
    assert ("Unseal Progress    1/2" in out) == (code == 2)


def test_status_cannot_be_told_by_nobody(strongroom: Cli) -> None:
    """Exit code 1, for 2 would say sealed."""
    code, _, err = strongroom("status", "-address", dead_address())
    assert code == 1
    assert "cannot be reached: Connection refused." in err


def test_the_server_is_named_by_flag_then_strongroom_then_vault(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = {"GET /v1/sys/seal-status": (200, OPEN)}
    with stub_api(replies) as vault, stub_api(replies) as own, stub_api(replies) as flag:
        monkeypatch.setenv("VAULT_ADDR", vault.address)
        assert strongroom("status")[0] == 0
        monkeypatch.setenv("STRONGROOM_ADDR", own.address + "/")
        assert strongroom("status")[0] == 0
        assert strongroom("status", "-address", flag.address)[0] == 0
        asked = [sum(call[1].endswith("seal-status") for call in api.asked) for api in (vault, own, flag)]
        assert asked == [1, 1, 1]


def test_the_token_comes_from_strongroom_then_vault_then_the_file(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stub_api({"PUT /v1/sys/step-down": (204, None)}) as api:

        def sent() -> str | None:
            assert strongroom("operator", "step-down", "-address", api.address)[0] == 0
            return api.asked[-1][3]

        assert sent() is None
        (tmp_path / ".vault-token").write_text("from-file\n")
        assert sent() == "from-file"
        monkeypatch.setenv("VAULT_TOKEN", "from-vault")
        assert sent() == "from-vault"
        monkeypatch.setenv("STRONGROOM_TOKEN", "from-strongroom")
        assert sent() == "from-strongroom"


def test_tls_is_verified_unless_told_otherwise(
    strongroom: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    stranger = Authority(tmp_path / "stranger")
    pem = authority.issue("server", ["localhost"])
    with stub_api({"GET /v1/sys/seal-status": (200, OPEN)}, certificate=pem) as api:
        code, _, err = strongroom("status", "-address", api.address)
        assert code == 1
        assert f"the certificate of {api.address} is not trusted" in err
        assert strongroom("status", "-address", api.address, "-ca-cert", stranger.ca)[0] == 1
        assert api.asked == []
        assert strongroom("status", "-address", api.address, "-ca-cert", authority.ca)[0] == 0
        assert strongroom("status", "-address", api.address, "-tls-skip-verify")[0] == 0
        monkeypatch.setenv("VAULT_CACERT", str(authority.ca))
        assert strongroom("status", "-address", api.address)[0] == 0


def test_a_refusal_is_told_in_the_servers_words_with_exit_code_2(strongroom: Cli) -> None:
    refusal = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
    with stub_api({"PUT /v1/sys/seal": (403, refusal)}) as api:
        code, out, err = strongroom("operator", "seal", "-address", api.address)
    assert (code, out) == (2, "")
    assert err.startswith(
        "Error sealing: Error making API request.\n\nURL: PUT " + api.address + "/v1/sys/seal\n"
    )
    assert "Code: 403. Errors:\n\n* 1 error occurred:\n\t* permission denied\n" in err


def test_an_unreachable_server_and_an_answer_that_is_not_json_are_remote_errors(strongroom: Cli) -> None:
    assert strongroom("operator", "seal", "-address", dead_address())[0] == 2
    with stub_api({"PUT /v1/sys/seal": (200, b"<html>")}) as api:
        code, _, err = strongroom("operator", "seal", "-address", api.address)
    assert code == 2
    assert "answered something that is not JSON" in err


def test_one_redirect_is_followed_with_body_and_token(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_TOKEN", "t")
    path = "/v1/sys/storage/raft/remove-peer"
    with stub_api({f"PUT {path}": (204, None)}) as leader:
        moved = {"Location": f"{leader.address}{path}"}
        with stub_api({f"PUT {path}": (307, None, moved)}) as standby:
            flags = ["-address", standby.address]
            assert strongroom("operator", "remove-peer", "n3", *flags)[0] == 0
            assert strongroom("operator", "remove-peer", "n3", "-disable-redirects", *flags)[0] == 2
        assert leader.asked == [("PUT", path, {"server_id": "n3"}, "t")]


def test_no_redirect_leads_out_of_tls(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token must not travel in the open because a server says so."""
    monkeypatch.setenv("STRONGROOM_TOKEN", "t")
    authority = Authority(tmp_path / "ca")
    pem = authority.issue("server", ["localhost"])
    with stub_api({"PUT /v1/sys/seal": (204, None)}) as open_server:
        moved = {"Location": f"{open_server.address}/v1/sys/seal"}
        with stub_api({"PUT /v1/sys/seal": (307, None, moved)}, certificate=pem) as api:
            code, _, err = strongroom("operator", "seal", "-address", api.address, "-ca-cert", authority.ca)
        assert (code, open_server.asked) == (2, [])
        assert "Code: 307" in err


def test_init_prints_keys_and_token_once(strongroom: Cli) -> None:
    answer = {"keys": ["aa", "bb"], "keys_base64": ["qg==", "uw=="], "root_token": "s.root"}
    with stub_api({"PUT /v1/sys/init": (200, answer)}) as api:
        _, out, _ = strongroom(
            "operator", "init", "-key-shares=2", "-key-threshold=1", "-address", api.address
        )
        assert "Unseal Key 1: qg==\nUnseal Key 2: uw==\n" in out
        assert "Initial Root Token: s.root\n" in out
        assert api.asked == [("PUT", "/v1/sys/init", {"secret_shares": 2, "secret_threshold": 1}, None)]
        _, out, _ = strongroom("operator", "init", "-format=json", "-address", api.address)
        assert json.loads(out) == {
            "unseal_keys_b64": ["qg==", "uw=="],
            "unseal_keys_hex": ["aa", "bb"],
            "unseal_shares": 2,
            "unseal_threshold": 3,
            "recovery_keys_b64": None,
            "recovery_keys_hex": None,
            "recovery_keys_shares": 0,
            "recovery_keys_threshold": 0,
            "root_token": "s.root",
        }
        api.replies["PUT /v1/sys/init"] = (200, {"keys": [], "keys_base64": [], "root_token": "s.root"})
        _, out, _ = strongroom("operator", "init", "-address", api.address)
        assert out.startswith("Initial Root Token: s.root\n")
        assert "Unseal Key" not in out


@pytest.mark.parametrize(("initialized", "code"), [(True, 0), (False, 2)])
def test_init_status_answers_by_exit_code(strongroom: Cli, initialized: bool, code: int) -> None:
    with stub_api({"GET /v1/sys/init": (200, {"initialized": initialized})}) as api:
        assert strongroom("operator", "init", "-status", "-address", api.address)[0] == code


@pytest.mark.parametrize(("arguments", "stdin"), [(["k1"], ""), ([], "k1\n"), (["-"], "k1\n")])
def test_an_unseal_key_comes_as_argument_or_through_a_pipe(
    strongroom: Cli, arguments: list[str], stdin: str
) -> None:
    with stub_api({"PUT /v1/sys/unseal": (200, SEALED)}) as api:
        code, out, _ = strongroom("operator", "unseal", *arguments, "-address", api.address, stdin=stdin)
        assert code == 0
        assert "Unseal Progress    1/2" in out
        assert api.asked[0][2] == {"key": "k1", "reset": False, "migrate": False}


def test_an_unseal_key_is_not_shownat_a_terminal() -> None:
    with stub_api({"PUT /v1/sys/unseal": (200, OPEN)}) as api:
        shown = at_a_terminal(
            [sys.executable, "-m", "node.cli", "operator", "unseal", "-address", api.address], "k1"
        )
        assert api.asked[0][2] == {"key": "k1", "reset": False, "migrate": False}
    assert "Unseal Key (will be hidden):" in shown
    assert "k1" not in shown


def test_unseal_says_when_no_key_came_and_can_start_over(strongroom: Cli) -> None:
    with stub_api({"PUT /v1/sys/unseal": (200, SEALED)}) as api:
        code, _, err = strongroom("operator", "unseal", "-address", api.address)
        assert code == 1
        assert "Unseal Key was expected on standard input, which is empty." in err
        assert strongroom("operator", "unseal", "-reset", "-address", api.address)[0] == 0
        assert api.asked[0] == ("PUT", "/v1/sys/unseal", {"reset": True}, None)


def test_a_join_token_travels_through_a_pipe_to_the_new_node(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_TOKEN", "root")
    with stub_api(
        {"POST /v1/sys/cluster/join-token": (200, {"data": {"token": "ticket", "ttl": 60}})}
    ) as old:
        _, ticket, _ = strongroom("operator", "join-token", "-ttl=60s", "-address", old.address)
        assert ticket == "ticket\n"
        assert old.asked == [("POST", "/v1/sys/cluster/join-token", {"ttl": "60s"}, "root")]
    with stub_api({"POST /v1/sys/storage/raft/join": (200, {"joined": True})}) as new:
        arguments = ["-join-token=-", "-leader-api-addr=https://old:8200", "-address", new.address]
        assert strongroom("operator", "join", *arguments, stdin=ticket)[0] == 0
        body = {"leader_api_addr": "https://old:8200", "join_token": "ticket"}
        assert new.asked == [("POST", "/v1/sys/storage/raft/join", body, None)], (
            "the root token is not for strangers"
        )
        new.replies["POST /v1/sys/storage/raft/join"] = (200, {"joined": False})
        assert strongroom("operator", "join", *arguments, stdin=ticket)[0] == 2


def test_server_hands_its_settings_over(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command's exit code is the server's."""
    calls: list[tuple[object, dict[str, object]]] = []

    def run(settings: object, **options: object) -> int:
        calls.append((settings, options))
        return 3

    monkeypatch.setattr("node.process.run", run)
    config = tmp_path / "a.hcl"
    config.write_text('node_id = "n1"\nseal "static" { key_file = "/k" }\naudit "none" {}\n')
    assert strongroom("server", "-config", config, "-log-level=debug")[0] == 3
    assert strongroom("server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token")[0] == 3
    (first, plain), (second, dev) = calls
    assert (first.node_id, first.log_level, first.dev) == ("n1", "debug", False)  # type: ignore[attr-defined]
    assert plain["read_settings"]() == first, "what SIGHUP reads again"  # type: ignore[operator]
    assert second.dev  # type: ignore[attr-defined]
    assert dev == {"dev_root_token": "root", "store_token": False}
    assert not second.data_dir.exists(), "a -dev server leaves nothing behind"  # type: ignore[attr-defined]


def test_every_command_is_in_the_documentation_and_has_help(strongroom: Cli) -> None:
    document = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    pending: list[tuple[list[str], click.Command]] = [([], root)]
    while pending:
        words, command = pending.pop()
        assert command.help, f"{words} has no help"
        assert not words or words[-1] in document, f"{words} is not documented"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                pending.append(([*words, name], below))
        elif words:
            code, out, err = strongroom(*words, "-help")
            assert (code, err) == (0, "")
            assert out.startswith(f"Usage: strongroom {' '.join(words)} ")


def test_a_token_that_cannot_be_sent_is_not_shown(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("s.geheim\nInjected: yes", "s.geheim☃"):
        monkeypatch.setenv("STRONGROOM_TOKEN", token)
        code, _, err = strongroom("token", "lookup")
        assert code == 1
        assert "X-Vault-Token" in err
        assert "geheim" not in err
