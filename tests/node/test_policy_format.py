"""`strongroom policy fmt`: the usual form, the same meaning."""

from pathlib import Path

import pytest
from support.cli import Cli

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
