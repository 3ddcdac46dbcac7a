"""Values that do not show."""

import copy
import logging
import pickle
import traceback

import pytest
import strongroom
from strongroom import AppRole, Client, ConfigurationError, Secret, SecretMap, SecretVersion, Token, UserPass

VALUE = "correct horse"


@pytest.mark.parametrize(
    "holder",
    [
        Secret(VALUE),
        SecretMap({"password": VALUE}),
        SecretVersion("app", SecretMap({"password": VALUE})),
        Token(VALUE),
        UserPass("ann", VALUE),
        AppRole("role", VALUE),
        Client("http://127.0.0.1:1", Token(VALUE)),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_nothing_shows_a_secret(holder: object, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().warning("%s %r", holder, holder)
    try:
        raise RuntimeError(holder)
    except RuntimeError as error:
        told = "".join(traceback.format_exception(error))
    shown = [repr(holder), str(holder), f"{holder}", f"{holder!r:>40}", caplog.text, told, repr([holder])]
    assert not [text for text in shown if VALUE in text]


@pytest.mark.parametrize("token", [VALUE + "\r\nInjected: yes", VALUE + "☃"])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client("http://127.0.0.1:1", Token(token))
    assert VALUE not in str(caught.value)
    with pytest.raises(ConfigurationError):
        Client("http://127.0.0.1:1", namespace="a\nb")


def test_it_is_there_for_who_asks() -> None:
    version = SecretVersion("app", SecretMap({"password": VALUE, "port": 5432}))
    assert version["password"].reveal() == VALUE
    assert version.data.reveal() == {"password": VALUE, "port": 5432}
    assert (list(version.data), len(version.data), "port" in version.data) == (["password", "port"], 2, True)
    assert "password" in repr(version), "keys may be seen"


def test_secrets_are_compared_with_secrets_only() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("other")
    assert Secret(1) != Secret("1")
    assert Secret(VALUE) != VALUE
    assert Secret({"a": 1}) == Secret({"a": 1})
    assert Secret("\ud800") == Secret("\ud800"), "JSON can carry half a character"
    assert Secret("\ud800") != Secret("\ud801")


def test_what_is_done_to_a_revealed_value_reaches_nobody_else() -> None:
    held = SecretMap({"hosts": ["a"], "of": {"b": 1}})
    held["hosts"].reveal().append("mine")
    held.reveal()["of"]["mine"] = 2
    assert held.reveal() == {"hosts": ["a"], "of": {"b": 1}}


@pytest.mark.parametrize(
    "holder", [Secret(VALUE), SecretMap({"a": VALUE})], ids=lambda holder: type(holder).__name__
)
def test_they_are_not_written_anywhere_by_accident(holder: object) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(holder)
    with pytest.raises(TypeError):
        copy.copy(holder)
    with pytest.raises(TypeError):
        hash(holder)


def test_what_is_public_is_listed_in_order() -> None:
    public = [name for name in vars(strongroom) if not name.startswith("_")]
    assert sorted(strongroom.__all__) == sorted(public)
    assert all(hasattr(strongroom, name) for name in strongroom.__all__)
