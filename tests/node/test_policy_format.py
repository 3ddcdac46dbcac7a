"""`strongroom policy fmt`: the usual form, the same meaning."""

import random
from pathlib import Path

import pytest
from support.cli import Cli

from node.cli.policy_format import formatted
from node.policy.parse import parse

UNTIDY = """\
# what the app may
path "secret/*"   {
  capabilities=["read","list"]   # trailing
  # inner
  allowed_parameters = { "a" = [], "bb" = ["x"] }
      min_wrapping_ttl = "1s"
  required_parameters=[
     "a",
        "b"
  ]
}
path "b" { capabilities = [ "deny" ] }


// another style
path "c" {
/* of several
   lines */
  capabilities = ["read"]

  denied_parameters {
    "x" = []
  }
}
"""
TIDY = """\
# what the app may
path "secret/*" {
  capabilities = ["read", "list"] # trailing

  # inner
  allowed_parameters = {
    "a"  = []
    "bb" = ["x"]
  }

  min_wrapping_ttl = "1s"

  required_parameters = [
    "a",
    "b",
  ]
}

path "b" {
  capabilities = ["deny"]
}

// another style
path "c" {
  /* of several
     lines */
  capabilities = ["read"]

  denied_parameters {
    "x" = []
  }
}
"""


def test_a_policy_is_written_in_the_usual_form(strongroom: Cli, tmp_path: Path) -> None:
    file = tmp_path / "p.hcl"
    file.write_text(UNTIDY)
    assert strongroom("policy", "fmt", file) == (0, f"Success! Formatted policy: {file}\n", "")
    assert file.read_text() == TIDY
    assert parse("p", TIDY) == parse("p", UNTIDY)


def test_what_is_in_the_usual_form_stays_as_it_is(strongroom: Cli, tmp_path: Path) -> None:
    file = tmp_path / "p.hcl"
    file.write_text(TIDY)
    before = file.stat().st_mtime_ns
    assert strongroom("policy", "fmt", file)[0] == 0
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path {", "failed to parse policy"),
        ('path "a" { capabilities = ["nope"] }', "failed to parse policy"),
        ('{"path": {"a": {"capabilities": ["read"]}}}', "policies in JSON are not formatted"),
        ('path "a" { capabilities /* odd */ = ["read"] }', "a comment stands in the middle of a rule"),
    ],
)
def test_what_cannot_be_formatted_is_left_alone(
    strongroom: Cli, tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "p.hcl"
    file.write_text(text)
    code, _, err = strongroom("policy", "fmt", file)
    assert code == 1
    assert reason in err
    assert file.read_text() == text
    assert strongroom("policy", "fmt", tmp_path / "absent")[0] == 1


def _drawn(dice: random.Random) -> str:
    """A policy with comments and layout of all kinds, as people leave them behind."""
    number = iter(range(1000))

    def remark() -> str:
        kind = dice.choice(
            ["", "", "", " # {}", " // {}", " /* {} */", "\n  # {}\n  # more", "\n\n/* {}\n of lines */"]
        )
        return kind.format(f"note {next(number)}")

    def end() -> str:
        return remark() + dice.choice(["\n", "\n\n", "\n\n\n"])

    def words(choices: list[str]) -> str:
        chosen = dice.sample(choices, dice.randrange(1, len(choices)))
        if dice.random() < 0.5:
            return "[" + dice.choice([",", ", ", " , "]).join(f'"{each}"' for each in chosen) + "]"
        return "[" + "".join(f'\n "{each}",{remark()}\n' for each in chosen) + end() + "]"

    lines = [end()]
    for _ in range(dice.randrange(4)):
        body = [
            f"capabilities{dice.choice(['=', ' = ', '  ='])}{words(['read', 'list', 'update', 'create'])}{end()}"
        ]
        if dice.random() < 0.5:
            body.append(f'min_wrapping_ttl="{dice.randrange(1, 9)}s"{end()}')
        if dice.random() < 0.5:
            inner = f'"a" = {words(["x", "y"])}{end()} b=[]{end()}'
            body.append(f"allowed_parameters {dice.choice(['', '= '])}{{{end()}{inner}}}{end()}")
        dice.shuffle(body)
        lines.append(
            f'path "{dice.choice(["a/*", "b", "c/+/d"])}{next(number)}" {{{end()}{"".join(body)}}}{end()}'
        )
    return "".join(lines)


def test_whatever_a_policy_looks_like_it_keeps_its_meaning_and_its_comments() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(400):
        text = _drawn(dice)
        written = formatted(text)  # refuses to lose a comment, or to change a rule
        assert formatted(written) == written, text
