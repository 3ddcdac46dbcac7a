"""Logging in, and where the token is kept afterwards."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.stub_api import Reply, stub_api
from support.terminal import at_a_terminal

LOOKUP: Reply = (
    200,
    {"data": {"accessor": "acc", "policies": ["root"], "ttl": 0, "renewable": False, "meta": None}},
)
AUTH = {"client_token": "s.new", "accessor": "acc", "policies": ["p"], "token_policies": ["p"], "metadata": None,
        "lease_duration": 60, "renewable": True}  # fmt: skip
LOGGED_IN: Reply = (200, {"data": None, "auth": AUTH})


def test_a_token_is_checked_and_kept_for_this_user_only(strongroom: Cli, tmp_path: Path) -> None:
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        code, out, err = strongroom("login", "-address", api.address, "s.mine")
        assert api.asked == [("GET", "/v1/auth/token/lookup-self", None, "s.mine")]
        assert (code, err) == (0, "")
        assert "token_duration       ∞" in out
        kept = tmp_path / ".vault-token"
        assert kept.read_text() == "s.mine"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert strongroom("token", "lookup", "-address", api.address)[0] == 0
        assert api.asked[-1][3] == "s.mine"
    assert [path.name for path in tmp_path.iterdir()] == [".vault-token"]


def test_a_refused_login_keeps_nothing(strongroom: Cli, tmp_path: Path) -> None:
    with stub_api({"GET /v1/auth/token/lookup-self": (403, {"errors": ["permission denied"]})}) as api:
        code, out, err = strongroom("login", "s.bad", "-address", api.address)
    assert (code, out) == (2, "")
    assert err.startswith("Error authenticating: error looking up token: Error making API request.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (["-method=userpass", "username=ann", "password=pw"], "auth/userpass/login/ann", {"password": "pw"}),
        (["-method=userpass", "-path=people", "username=ann", "password=-"],
         "auth/people/login/ann", {"password": "typed"}),
        (["-method=approle", "role_id=r", "secret_id=s"], "auth/approle/login", {"role_id": "r", "secret_id": "s"}),
    ],
)  # fmt: skip
def test_credentials_are_exchanged_for_a_token(
    strongroom: Cli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    path: str,
    body: object,
) -> None:
    """An older token has no part in it."""
    (tmp_path / ".vault-token").write_text("s.old")
    with stub_api({f"PUT /v1/{path}": LOGGED_IN}) as api:
        assert strongroom("login", *words, "-address", api.address, stdin="typed")[0] == 0
        assert api.asked == [("PUT", f"/v1/{path}", body, None)]
    assert (tmp_path / ".vault-token").read_text() == "s.new"


def test_what_is_printed_can_be_chosen(strongroom: Cli, tmp_path: Path) -> None:
    with stub_api({"PUT /v1/auth/userpass/login/ann": LOGGED_IN}) as api:
        words = ["login", "-method=userpass", "username=ann", "password=pw", "-address", api.address]
        assert strongroom(*words, "-token-only") == (0, "s.new", "")
        assert not (tmp_path / ".vault-token").exists()
        _, out, err = strongroom(*words, "-no-store", "-format=json")
        assert json.loads(out)["auth"]["client_token"] == "s.new"
        assert "not stored" in err
        assert not (tmp_path / ".vault-token").exists()
        assert strongroom(*words, "-no-print") == (0, "", "")
        assert strongroom(*words, "-field=token")[1] == "s.new"
    assert (tmp_path / ".vault-token").read_text() == "s.new"


def test_who_logs_in_is_told_that_a_variable_is_stronger(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAO_TOKEN", "other")
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        _, _, err = strongroom("login", "s.mine", "-address", api.address)
    assert "BAO_TOKEN environment variable is set" in err


def test_a_wrapped_login_is_unwrapped_before_it_is_kept(strongroom: Cli, tmp_path: Path) -> None:
    wrap = {"token": "s.wrap", "accessor": "a", "ttl": 60, "creation_time": "", "creation_path": ""}
    replies: dict[str, Reply] = {
        "PUT /v1/auth/userpass/login/ann": (200, {"wrap_info": wrap}),
        "PUT /v1/sys/wrapping/unwrap": LOGGED_IN,
    }
    with stub_api(replies) as api:
        words = [
            "login",
            "-method=userpass",
            "-wrap-ttl=60",
            "username=ann",
            "password=pw",
            "-address",
            api.address,
        ]
        assert strongroom(*words)[0] == 0
        assert api.asked[-1][3] == "s.wrap"
        assert (tmp_path / ".vault-token").read_text() == "s.new"
        assert strongroom(*words, "-token-only")[1] == "s.wrap"


def test_a_token_is_asked_for_without_showing_it(tmp_path: Path) -> None:
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        command = [
            sys.executable,
            "-m",
            "node.cli",
            "login",
            "-no-store",
            "-no-print",
            "-address",
            api.address,
        ]
        shown = at_a_terminal(command, "s.typed")
        assert api.asked[-1][3] == "s.typed"
    assert "Token (will be hidden):" in shown
    assert "s.typed" not in shown


def test_nobody_is_asked_where_nobody_is(strongroom: Cli) -> None:
    code, _, err = strongroom("login")
    assert code == 2
    assert "nobody can be asked here for the Token" in err


def _helper(home: Path, text: str) -> Path:
    program = home / "helper.sh"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o700)
    (home / ".vault").write_text(f'# mine\ntoken_helper = "{program}"\n')
    return program


def test_an_external_helper_keeps_the_token(strongroom: Cli, tmp_path: Path) -> None:
    """Called with get and store, as those of Vault are."""
    _helper(
        tmp_path, f'case "$1" in store) cat > {tmp_path}/kept;; get) cat {tmp_path}/kept;; *) exit 3;; esac'
    )
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        (tmp_path / "kept").write_text("")
        assert strongroom("login", "s.mine", "-address", api.address)[0] == 0
        assert (tmp_path / "kept").read_text() == "s.mine"
        assert not (tmp_path / ".vault-token").exists()
        assert strongroom("token", "lookup", "-address", api.address)[0] == 0
        assert api.asked[-1][3] == "s.mine"
    assert strongroom("print", "token") == (0, "s.mine\n", "")


def test_a_helper_that_fails_is_a_local_error(strongroom: Cli, tmp_path: Path) -> None:
    program = _helper(tmp_path, "echo locked >&2; exit 1")
    code, _, err = strongroom("print", "token")
    assert code == 1
    assert f"The token helper {program} failed at get: locked" in err
    program.unlink()
    assert "cannot be run: No such file" in strongroom("print", "token")[2]


def test_a_token_file_elsewhere_and_one_that_cannot_be_read(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "t"
    monkeypatch.setenv("BAO_TOKEN_PATH", str(elsewhere))
    elsewhere.write_text(" s.there \n")
    assert strongroom("print", "token")[1] == "s.there\n"
    elsewhere.write_bytes(b"\xff\xfe")
    assert strongroom("print", "token")[0] == 1
    monkeypatch.setenv("BAO_TOKEN_PATH", str(tmp_path / "absent" / "t"))
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        code, _, err = strongroom("login", "s.mine", "-address", api.address)
    assert code == 1
    assert "cannot be stored" in err


def test_a_link_in_the_tokens_place_is_not_written_through(strongroom: Cli, tmp_path: Path) -> None:
    """The token must not land in a file that others read."""
    public = tmp_path / "public"
    public.write_text("theirs")
    os.symlink(public, tmp_path / ".vault-token")
    with stub_api({"GET /v1/auth/token/lookup-self": LOOKUP}) as api:
        assert strongroom("login", "s.mine", "-address", api.address)[0] == 0
    assert public.read_text() == "theirs"
    assert (tmp_path / ".vault-token").read_text() == "s.mine"
