"""Password policies: how long a generated password is and what it is drawn from. Pure, but for the drawing.

The language is Vault's (https://developer.hashicorp.com/vault/docs/concepts/password-policies): `length`, and blocks
`rule "charset" { charset = "..." min-chars = n }`. A password holds the minimum of each rule, is filled up from all
characters of all rules, and is then shuffled, with the system's generator throughout.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from node import hcl
from node.errors import InvalidRequest

POLICY_BYTES_MAX = 64 * 1024
LENGTH_MIN, LENGTH_MAX = 4, 100
RULES_MAX = 64
CHARSET_CHARACTERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Rule:
    charset: str  # each character once, sorted
    minimum: int


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    length: int
    rules: tuple[Rule, ...]

    def generate(self) -> str:
        """A new password."""
        everything = "".join(sorted({character for rule in self.rules for character in rule.charset}))
        drawn = [secrets.choice(rule.charset) for rule in self.rules for _ in range(rule.minimum)]
        drawn += [secrets.choice(everything) for _ in range(self.length - len(drawn))]
        secrets.SystemRandom().shuffle(drawn)
        return "".join(drawn)


def parse(text: str) -> PasswordPolicy:
    """The policy that a text describes. Raises InvalidRequest("invalid password policy: ...")."""
    if len(text.encode("utf-8", "surrogatepass")) > POLICY_BYTES_MAX:
        raise InvalidRequest(f"invalid password policy: more than {POLICY_BYTES_MAX} bytes")
    try:
        entries = hcl.loads(text)
    except hcl.HclError as error:
        raise InvalidRequest(f"invalid password policy: {error}") from None
    length, rules = 0, []
    for key, value in entries:
        if key == "length":
            length = _number(value, key)
        elif key == "rule":
            rules.append(_rule(value))
        else:
            raise _invalid(f'unknown key "{key}"')
    return _checked(length, tuple(rules))


def _checked(length: int, rules: tuple[Rule, ...]) -> PasswordPolicy:
    if length <= 0:
        raise _invalid("length must be > 0")
    if not any(rule.charset for rule in rules):
        raise _invalid("no charset specified")
    needed = sum(rule.minimum for rule in rules)
    if needed > length:
        raise _invalid(f"specified rules require at least {needed} characters but {length} is specified")
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise InvalidRequest(f"passwords must be between {LENGTH_MIN} and {LENGTH_MAX} characters")
    if len(rules) > RULES_MAX:
        raise _invalid(f"more than {RULES_MAX} rules")
    return PasswordPolicy(length, rules)


def _rule(block: Any) -> Rule:
    """A labelled block: [(label, body)]."""
    if not isinstance(block, hcl.Block) or len(block) != 1 or not isinstance(block[0][1], hcl.Block):
        raise _invalid('expected rule "charset" { ... }')
    label, body = block[0]
    if label != "charset":
        raise _invalid(f"unrecognized rule type {label}")
    given = dict(body)
    charset, minimum = given.pop("charset", ""), given.pop("min-chars", 0)
    if given:
        raise _invalid(f'unknown key "{next(iter(given))}" in a rule')
    if not isinstance(charset, str) or not charset.isprintable() or len(charset) > CHARSET_CHARACTERS_MAX:
        raise _invalid(f"a charset has at most {CHARSET_CHARACTERS_MAX} printable characters")
    if not charset:
        raise _invalid("no charset specified")
    return Rule("".join(sorted(set(charset))), _number(minimum, "min-chars"))


def _number(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _invalid(f"{key} must be a whole number")
    return value


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"invalid password policy: {problem}")
