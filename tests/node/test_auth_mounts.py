"""sys/auth: enabling, showing, tuning, moving and disabling auth methods."""

import pytest
from support.asking import Asker
from support.corefixture import new_token, opened

from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied


async def test_enabled_shown_and_disabled(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        config = {"default_lease_ttl": "1h", "listing_visibility": "unauth"}
        await ask.post("sys/auth/people", type="userpass", description="d", config=config)
        shown = (await ask.get("sys/auth"))["people/"]
        assert shown == (await ask.get("sys/auth/people"))
        assert (shown["type"], shown["description"]) == ("userpass", "d")
        assert shown["accessor"].startswith("auth_userpass_")
        assert shown["config"]["token_type"] == "default-service"
        assert "people/" not in (await ask.get("sys/mounts"))
        assert (await ask.get("sys/mounts/auth/people/tune"))["default_lease_ttl"] == 3600
        assert (await ask.refused("sys/auth/people", type="userpass")).message == (
            "path is already in use at people/"
        )
        await ask.delete("sys/auth/people")
        assert list(await ask.get("sys/auth")) == ["token/"]
        await ask.delete("sys/auth/people")


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("sys/auth/x", {"type": "nope"}, "plugin not found in the catalog: nope"),
        ("sys/auth/x", {"type": "token"}, "token credential backend cannot be instantiated"),
        ("sys/auth/x", {}, "backend type must be specified as a string"),
        ("sys/auth/token", {"type": "userpass"}, "path is already in use at token/"),
        ("sys/auth/token/tune", {"token_type": "batch"}, "'token_type' cannot be set"),
        (
            "sys/auth/nope/tune",
            {"description": "x"},
            'tune of path "auth/nope/" failed: no mount entry found',
        ),
        ("sys/mounts/auth/x", {"type": "userpass"}, 'cannot mount "auth/x/"'),
        (
            "sys/auth/x",
            {"type": "userpass", "config": {"token_type": "zz"}},
            "invalid value for 'token_type'",
        ),
    ],
)
async def test_what_cannot_be_enabled_or_tuned(tmp_path, path, data, message) -> None:
    async with opened(tmp_path) as core:
        error = await Asker(core).refused(path, **data)
        assert isinstance(error, InvalidRequest)
        assert message in error.message


async def test_the_token_store_is_always_there_and_can_be_tuned(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        before = (await ask.get("sys/auth"))["token/"]
        await ask.post("sys/auth/token/tune", default_lease_ttl="1h", max_lease_ttl="2h")
        after = (await ask.get("sys/auth"))["token/"]
        assert (after["accessor"], after["uuid"]) == (before["accessor"], before["uuid"])
        assert (await ask.auth("auth/token/create", policies="default"))["lease_duration"] == 3600
        assert (await ask.auth("auth/token/create", policies="default", ttl="9h"))["lease_duration"] == 7200
        assert (await ask.get("auth/token/lookup-self"))["ttl"] == 0
        assert isinstance(await ask.refused("sys/auth/token", Operation.DELETE), InvalidRequest)
        assert isinstance(await ask.refused("auth/token/nope"), NotFound)


async def test_enabling_needs_sudo(tmp_path) -> None:
    async with opened(tmp_path) as core:
        plain = await new_token(core, policy='path "sys/auth/*" { capabilities = ["create", "update"] }')
        asker = Asker(core, plain)
        assert isinstance(await asker.refused("sys/auth/x", type="userpass"), PermissionDenied)
        sudo = await new_token(core, policy='path "sys/auth/*" { capabilities = ["update", "sudo"] }')
        await Asker(core, sudo).post("sys/auth/x", type="userpass")


async def test_a_stranger_sees_only_what_shows_itself_and_logs_in_nowhere_else(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask, stranger = Asker(core), Asker(core, None)
        await ask.post("sys/auth/open", type="userpass", config={"listing_visibility": "unauth"})
        await ask.post("sys/auth/hidden", type="userpass")
        assert list((await stranger.get("sys/internal/ui/mounts"))["auth"]) == ["open/"]
        assert isinstance(await stranger.refused("auth/nope/login/x", password="y"), PermissionDenied)
        assert isinstance(await ask.refused("auth/nope/login/x", password="y"), NotFound)


async def test_disabling_or_moving_ends_the_tokens_that_it_gave(tmp_path) -> None:
    """A move ends service tokens too, as in Vault; a batch token knows its issuer wherever that is."""
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/up", type="userpass")
        await ask.post("auth/up/users/bob", password="pw")
        moved = (await ask.auth("auth/up/login/bob", password="pw"))["client_token"]
        await ask.post("auth/up/users/carl", password="pw", token_type="batch")
        batch = (await ask.auth("auth/up/login/carl", password="pw"))["client_token"]
        await ask.post("sys/remount", **{"from": "auth/up", "to": "auth/moved"})
        disabled = (await ask.auth("auth/moved/login/bob", password="pw"))["client_token"]
        for token in (disabled, batch):
            assert (await ask.by(token).get("auth/token/lookup-self"))["id"] == token
        await ask.delete("sys/auth/moved")
        for token in (moved, disabled, batch):
            error = await ask.by(token).refused("auth/token/lookup-self", Operation.READ)
            assert isinstance(error, PermissionDenied)
