"""New unseal keys for old ones, as the people who hold them type it."""

import json
import sys

import pytest
from support.cli import Cli
from support.stub_api import Reply, stub_api
from support.terminal import at_a_terminal

NONCE = "2be02584-7231-4133-3323-e6769e42ff99"
STATE = {
    "nonce": NONCE, "started": True, "t": 2, "n": 3, "progress": 1, "required": 2, "pgp_fingerprints": None,
    "backup": False, "verification_required": False,
}  # fmt: skip
DONE = {"nonce": NONCE, "complete": True, "keys": ["aa", "bb"], "keys_base64": ["qg==", "uw=="], "backup": False,
        "pgp_fingerprints": None, "verification_required": False}  # fmt: skip
COMMANDS = {"rekey": ("sys/rekey", STATE), "rotate-keys": ("sys/rotate/root", {"data": STATE})}


@pytest.fixture(params=COMMANDS)
def process(request: pytest.FixtureRequest) -> tuple[str, str, dict[str, Reply]]:
    """(command, where it goes, answers to its status and its start)."""
    base, answer = COMMANDS[request.param]
    return (
        request.param,
        base,
        {f"GET /v1/{base}/init": (200, answer), f"PUT /v1/{base}/update": (200, answer)},
    )


def test_each_holder_gives_a_key_and_sees_how_far_it_is(
    strongroom: Cli, process: tuple[str, str, dict[str, Reply]]
) -> None:
    command, base, replies = process
    with stub_api(replies) as api:
        at = ["-address", api.address]
        for words, stdin in ((["k1", f"-nonce={NONCE}"], ""), (["-"], "k1\n"), ([], "k1\n")):
            code, out, _ = strongroom("operator", command, *words, *at, stdin=stdin)
            assert code == 0
            assert api.asked[-1][:3] == ("PUT", f"/v1/{base}/update", {"key": "k1", "nonce": NONCE})
            assert "Progress                 1/2" in out
        code, _, err = strongroom("operator", command, "k1", *at)
        assert code == 1
        assert NONCE in err, "a key on the command line needs the nonce that its holder was told"


def test_the_last_key_brings_the_new_ones(
    strongroom: Cli, process: tuple[str, str, dict[str, Reply]]
) -> None:
    command, base, replies = process
    done = DONE if command == "rekey" else {"data": DONE}
    with stub_api(replies | {f"PUT /v1/{base}/update": (200, done)}) as api:
        words = ["operator", command, "k2", f"-nonce={NONCE}", "-address", api.address]
        _, out, _ = strongroom(*words)
        assert "Key 1: qg==\nKey 2: uw==\n" in out
        assert f"Operation nonce: {NONCE}" in out
        assert "a key threshold of 2" in out
        assert json.loads(strongroom(*words, "-format=json")[1]) == DONE


def test_new_keys_that_have_to_be_proved_say_how(
    strongroom: Cli, process: tuple[str, str, dict[str, Reply]]
) -> None:
    command, base, replies = process
    waiting = DONE | {"verification_required": True, "verification_nonce": "v"}
    proved = {"nonce": "v", "complete": True}
    replies |= {
        f"PUT /v1/{base}/update": (200, waiting),
        f"GET /v1/{base}/verify": (200, {"nonce": NONCE, "started": True, "t": 2, "n": 3, "progress": 0}),
        f"PUT /v1/{base}/verify": (200, proved),
    }
    with stub_api(replies) as api:
        at = ["-address", api.address]
        _, out, _ = strongroom("operator", command, "k2", f"-nonce={NONCE}", *at)
        assert "not in force yet" in out
        assert "nonce v" in out
        _, out, _ = strongroom("operator", command, "-verify", "qg==", f"-nonce={NONCE}", *at)
        assert "they are in force" in out


def test_nothing_can_be_given_where_nothing_was_begun(
    strongroom: Cli, process: tuple[str, str, dict[str, Reply]]
) -> None:
    command, base, _ = process
    with stub_api({f"GET /v1/{base}/init": (200, {"started": False})}) as api:
        code, _, err = strongroom("operator", command, "k1", "-address", api.address)
    assert code == 1
    assert '"-init"' in err


def test_a_key_is_not_shown_at_a_terminal() -> None:
    base, answer = COMMANDS["rekey"]
    with stub_api({f"GET /v1/{base}/init": (200, answer), f"PUT /v1/{base}/update": (200, answer)}) as api:
        shown = at_a_terminal(
            [sys.executable, "-m", "node.cli", "operator", "rekey", "-address", api.address], "k1"
        )
        assert api.asked[-1][2] == {"key": "k1", "nonce": NONCE}
    assert NONCE in shown
    assert "k1" not in shown


@pytest.mark.parametrize("told", ["keybase:ann", "/absent"])
def test_public_keys_are_files(strongroom: Cli, told: str) -> None:
    code, _, err = strongroom("operator", "rekey", "-init", f"-pgp-keys={told}")
    assert code == 1
    assert told in err
