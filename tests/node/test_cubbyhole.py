"""Cubbyhole: one token's own values, which nobody else reads and which go with it."""

import pytest


@pytest.fixture
async def root(site):
    return await site.connect()


@pytest.fixture
async def owner(site, root):
    made = await root.ask("POST", "/v1/auth/token/create", {"policies": ["default"]})
    return await site.connect(token=made.json["auth"]["client_token"])


async def test_values_are_kept_by_name_and_listed(owner):
    for path in ("x", "a/b", "a/c/d"):
        assert (await owner.ask("POST", f"/v1/cubbyhole/{path}", {"at": path})).status == 204
    read = (await owner.ask("GET", "/v1/cubbyhole/a/b")).json
    assert (read["data"], read["lease_duration"]) == ({"at": "a/b"}, 0)
    assert (await owner.ask("LIST", "/v1/cubbyhole")).json["data"] == {"keys": ["a/", "x"]}
    assert (await owner.ask("GET", "/v1/cubbyhole/a?list=true")).json["data"] == {"keys": ["b", "c/"]}
    for _ in range(2):
        assert (await owner.ask("DELETE", "/v1/cubbyhole/x")).status == 204
    gone = await owner.ask("GET", "/v1/cubbyhole/x")
    assert (gone.status, gone.json) == (404, {"errors": []})
    assert (await owner.ask("LIST", "/v1/cubbyhole/nope")).status == 404


async def test_digits_stay_as_they_were_written(owner):
    text = b'{"big":12345678901234567890123,"exact":1.50}'
    await owner.ask("POST", "/v1/cubbyhole/n", text)
    assert text in (await owner.ask("GET", "/v1/cubbyhole/n")).body


async def test_nobody_else_sees_them_not_even_root(site, root, owner):
    await owner.ask("POST", "/v1/cubbyhole/x", {"mine": 1})
    for other in (root, await site.connect()):
        assert (await other.ask("GET", "/v1/cubbyhole/x")).status == 404
        assert (await other.ask("LIST", "/v1/cubbyhole")).status == 404
    await root.ask("POST", "/v1/cubbyhole/x", {"roots": 1})
    assert (await owner.ask("GET", "/v1/cubbyhole/x")).json["data"] == {"mine": 1}


async def test_they_go_with_their_token(site, root, owner):
    await owner.ask("POST", "/v1/cubbyhole/x", {"mine": 1})
    assert site.core.unsealed.reads.entry_scan("sys:cubbyhole", "")
    await owner.ask("POST", "/v1/auth/token/revoke-self")
    assert not site.core.unsealed.reads.entry_scan("sys:cubbyhole", "")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/x", {}, 400, "missing data fields"),
        ("POST", "/x", None, 400, "missing data fields"),
        ("GET", "", None, 400, "missing path"),
        ("POST", "", {"a": 1}, 400, "missing path"),
        ("SCAN", "/", None, 405, "1 error occurred:\n\t* unsupported operation\n\n"),
        ("POST", "/x/", {"a": 1}, 400, "cannot write to a path ending in '/'"),
    ],
)
async def test_what_cannot_be_is_refused(root, method, path, body, status, error):
    answer = await root.ask(method, f"/v1/cubbyhole{path}", body)
    assert (answer.status, answer.json) == (status, {"errors": [error]})
