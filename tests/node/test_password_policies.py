"""sys/policies/password."""

import pytest
from support.asking import Asker
from support.corefixture import opened

from node.core.request import Operation
from node.errors import InvalidRequest, NotFound
from node.policy.passwords import parse

TEXT = """
length = 20
rule "charset" {
  charset = "abcdefghij0123456789"
  min-chars = 1
}
rule "charset" {
  charset = "XYZ"
  min-chars = 5
}
"""


def test_every_password_holds_what_each_rule_asks_for() -> None:
    policy = parse(TEXT)
    made = [policy.generate() for _ in range(200)]
    assert len(set(made)) == 200
    for password in made:
        assert len(password) == 20
        assert sum(character in "XYZ" for character in password) >= 5
        assert sum(character not in "XYZ" for character in password) >= 1
    assert {password[0] in "XYZ" for password in made} == {True, False}  # the minimum is not always in front


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("length = 5", "no charset specified"),
        ('rule "charset" { charset = "ab" }', "length must be > 0"),
        ('length = 3\nrule "charset" { charset = "ab" }', "between 4 and 100 characters"),
        ('length = 101\nrule "charset" { charset = "ab" }', "between 4 and 100 characters"),
        (
            'length = 5\nrule "charset" {\n charset = "ab"\n min-chars = 9\n}',
            "require at least 9 characters but 5",
        ),
        ('length = 5\nrule "zz" { charset = "ab" }', "unrecognized rule type zz"),
        ('length = "x"\nrule "charset" { charset = "ab" }', "length must be a whole number"),
        ("zz", "invalid password policy"),
    ],
)
def test_what_is_no_password_policy(text, message) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert message in caught.value.message


async def test_they_are_kept_by_name(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/policies/password/p", policy=TEXT)
        assert await ask.get("sys/policies/password/p") == {"policy": TEXT}
        assert await ask.keys("sys/policies/password") == ["p"]
        assert len((await ask.get("sys/policies/password/p/generate"))["password"]) == 20
        assert (await ask.refused("sys/policies/password/p")).message == "missing policy"
        await ask.delete("sys/policies/password/p")
        assert isinstance(await ask.refused("sys/policies/password/p/generate", Operation.READ), NotFound)
