"""Tokens as a caller meets them: logging in, renewing, logging out: the same with threads and with asyncio."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import pytest
from strongroom import (
    AppRole,
    Forbidden,
    InvalidRequest,
    NotFound,
    UserPass,
)
from support.patience import PATIENCE_S
from support.replies import (
    DENIED,
    LOGIN,
    LOOKUP,
    READ,
    ROOT,
    SECRET,
    WELL,
    calls,
    session,
)
from support.stub_api import Reply, stub_api

Make = Callable[..., Any]


def test_a_burst_of_calls_logs_in_once(make: Make) -> None:
    with stub_api(WELL | {LOGIN: session("s.1")}) as api:
        client = make(api.address, UserPass("ann", "pw"))
        client.at_once(lambda c: c.kv.get("app"), 8)
        assert calls(api, LOGIN) == 1
        assert {call[3] for call in api.asked if call[1].endswith("/app")} == {"s.1"}


def test_a_token_that_has_ended_is_replaced_and_the_call_goes_on(make: Make) -> None:
    current = ["s.1"]

    def known(reply: Reply) -> Callable[[str | None], Reply]:
        return lambda token: reply if token == current[0] else DENIED

    replies = {
        READ: known(SECRET),
        LOOKUP: known(ROOT),
        "PUT /v1/auth/approle/login": lambda _: session(current[0]),
    }
    with stub_api(WELL | replies) as api:
        client = make(api.address, AppRole("role", "id"))
        client(lambda c: c.kv.get("app"))
        current[0] = "s.2"
        assert all(each.info.version == 3 for each in client.at_once(lambda c: c.kv.get("app"), 6))
        assert calls(api, "PUT /v1/auth/approle/login") == 2, "one for the first call, one for all six"


def test_a_refusal_by_the_policies_is_no_reason_to_log_in(make: Make) -> None:
    with stub_api(WELL | {LOGIN: session("s.1"), READ: DENIED}) as api:
        client = make(api.address, UserPass("ann", "pw"))
        with pytest.raises(Forbidden):
            client(lambda c: c.kv.get("app"))
        assert (calls(api, LOGIN), calls(api, READ)) == (1, 1)


def test_a_refused_login_is_told(make: Make) -> None:
    refusal: Reply = (400, {"errors": ["invalid username or password"]})
    with stub_api({LOGIN: refusal}) as api, pytest.raises(InvalidRequest, match="invalid username") as caught:
        make(api.address, UserPass("ann", "wrong-pw"))(lambda c: c.kv.get("app"))
    assert "wrong-pw" not in str(caught.value)


def test_upkeep_renews_while_nobody_calls(make: Make) -> None:
    """A lifetime of one second, asked for again and again."""
    renewals: list[str | None] = []

    def renew(token: str | None) -> Reply:
        renewals.append(token)
        return session("s.1", 1)

    with stub_api(WELL | {LOGIN: session("s.1", 1), "PUT /v1/auth/token/renew-self": renew}) as api:
        client = make(api.address, UserPass("ann", "pw"), upkeep=True)
        deadline = time.monotonic() + PATIENCE_S
        while len(renewals) < 2:
            time.sleep(0.01)
            client(_turn)
            assert time.monotonic() < deadline
        assert calls(api, LOGIN) == 1
        assert set(renewals) == {"s.1"}


def _turn(client: Any) -> Any:
    """Lets the loop of an AsyncClient run for a moment."""
    return asyncio.sleep(0.02) if type(client).__name__ == "AsyncClient" else None


def test_logging_out_revokes(make: Make) -> None:
    with stub_api(WELL | {LOGIN: session("s.1"), "POST /v1/auth/token/revoke-self": (204, None)}) as api:
        client = make(api.address, UserPass("ann", "pw"))
        client(lambda c: c.kv.get("app"))
        client(lambda c: c.log_out())
        assert api.asked[-1][:2] == ("POST", "/v1/auth/token/revoke-self")
        client(lambda c: c.kv.get("app"))
        assert (api.asked[-1][3], calls(api, LOGIN)) == (None, 1)


@pytest.mark.parametrize("name", ["ann@example.com", "ann smith", "änn", "a%40b"])
def test_whoever_logs_in_is_called_by_the_name_that_was_given(make: Make, name: str) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, UserPass(name, "pw"))
        with suppress(NotFound):
            client(lambda c: c.kv.get("app"))
        assert unquote(api.asked[-1][1]) == f"/v1/auth/userpass/login/{name}"
