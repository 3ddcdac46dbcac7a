"""One reading of a path, or none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api.paths import BadPath, Redirect, Target, parse, parse_bool


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v1/secret/data/a", "secret/data/a", {}),
        ("/v1/", "", {}),
        ("/v1/a/", "a/", {}),
        ("/v1/a%20b", "a b", {}),
        ("/v1/sch%C3%BCtz", "schütz", {}),
        ("/v1/a%252e", "a%2e", {}),
        ("/v1/.hidden/..x/a.b", ".hidden/..x/a.b", {}),
        ("/v1/a?list=true&after=x%2Fy", "a", {"list": "true", "after": "x/y"}),
        ("/v1/a?list", "a", {"list": ""}),
        ("/v2/a", None, {}),
        ("/v1", None, {}),
        ("/", None, {}),
    ],
)
def test_a_canonical_target_is_read_once(target, path, query):
    assert parse(target) == Target(path, query)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/v1//secret/data/a", "/v1/secret/data/a"),
        ("/v1/secret/data/../data/a", "/v1/secret/data/a"),
        ("/v1/secret/./data/a?version=1", "/v1/secret/data/a?version=1"),
        ("/v1/a/b/..", "/v1/a/"),
        ("/v1/a/.", "/v1/a/"),
        ("/../../v1/a", "/v1/a"),
        ("//evil.example/v1/a", "/evil.example/v1/a"),
        ("/v1/a%20b/../c%3Fd", "/v1/c%3Fd"),
        ("/\\evil.example/..//", "/"),
        ("/..", "/"),
    ],
)
def test_an_uncleaned_path_is_redirected_and_never_served(target, location):
    assert parse(target) == Redirect(location)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/secret/data/app%2f..%2fother",
        "/v1/secret/data/%2e%2e/other",
        "/v1/secret/data/.%2E/other",
        "/v1/a%00b",
        "/v1/a%0d%0ab",
        "/v1/a%7f",
        "/v1/a%c2%85",
        "/v1/a%e2%80%8b",
        "/v1/%ff",
        "/v1/%c0%af",
        "/v1/%zz",
        "/v1/a%2",
        "/v1/a#b",
        "http://host/v1/a",
        "v1/a",
        "*",
        "",
        "/v1/a?version=1&version=2",
        "/v1/a?x=%zz",
        "/v1/a?x=%ff",
        "/v1/a?" + "&".join(f"f{i}=1" for i in range(40)),
    ],
)
def test_a_path_with_more_than_one_reading_is_refused(target):
    with pytest.raises(BadPath):
        parse(target)


@settings(max_examples=300)
@given(st.text(alphabet="/.%2eEfFab\\\0é ", max_size=30))
def test_what_is_served_has_no_empty_or_relative_segment(text):
    try:
        target = parse("/v1/" + text)
    except BadPath:
        return
    if isinstance(target, Redirect):
        again = parse(target.location)
        assert isinstance(again, Target)
        return
    assert target.path is not None
    assert target.path.isprintable()
    inner = target.path.removesuffix("/").split("/")
    assert not {".", ".."} & set(inner)
    assert target.path in ("", "/") or "" not in inner


def test_booleans_are_go_booleans():
    assert [parse_bool(text) for text in ("1", "t", "T", "TRUE", "true", "True")] == [True] * 6
    assert [parse_bool(text) for text in ("0", "f", "F", "FALSE", "false", "False", "")] == [False] * 7
    with pytest.raises(BadPath):
        parse_bool("yes")
