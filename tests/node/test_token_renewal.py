"""How long a token lives when it is renewed."""

from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, call, new_token, opened

from node.auth import fields
from node.auth.ttl import Limits, grant
from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest

HOUR = 3600
LIMITS = Limits(768 * HOUR * 10**9, 768 * HOUR * 10**9)


async def post(core: Core, name: str, data: dict[str, Any] | None = None, *, by: str = ROOT_TOKEN) -> Any:
    return await call(core, Operation.UPDATE, f"auth/token/{name}", data, token=by)


async def look_up(core: Core, token: str) -> dict[str, Any]:
    response = await post(core, "lookup", {"token": token})
    assert response.data is not None
    return response.data


async def test_renewal(tmp_path) -> None:
    """As recorded: an increment up to the maximum since creation, else what was granted before."""
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", ttl="1h", explicit_max_ttl="90m")

        async def renew(**data: Any) -> tuple[int, Any]:
            response = await post(core, "renew-self", data, by=token)
            assert response.auth is not None
            assert response.auth["client_token"] == token
            return response.auth["lease_duration"], response.warnings

        assert await renew() == (HOUR, None)
        assert await renew(increment=60) == (60, None)
        assert 59 <= (await look_up(core, token))["ttl"] <= 60
        capped = 'TTL of "2h" exceeded the effective max_ttl of "1h30m"; TTL value is capped accordingly'
        duration, warnings = await renew(increment="2h")
        assert 5390 <= duration <= 5400
        assert warnings == [capped]
        data = await look_up(core, token)
        assert data["last_renewal"].startswith("20")
        assert data["last_renewal_time"] >= data["creation_time"]
        response = await post(core, "renew-accessor", {"accessor": data["accessor"], "increment": "1m"})
        assert (response.auth["client_token"], response.auth["lease_duration"]) == ("", 60)
        response = await post(core, "renew", {"token": token, "increment": "2m"})
        assert (response.auth["client_token"], response.auth["lease_duration"]) == (token, 120)


async def test_a_periodic_token_always_gets_its_period(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default", period="1h")
        for increment in (None, 60, "2h"):
            response = await post(core, "renew-self", {"increment": increment}, by=token)
            assert response.auth["lease_duration"] == HOUR
        assert (await look_up(core, token))["period"] == HOUR


async def test_renewal_refused(tmp_path) -> None:
    async with opened(tmp_path) as core:
        fixed = await new_token(core, policies="default", ttl="1h", renewable=False)
        with pytest.raises(InvalidRequest, match="lease is not renewable"):
            await post(core, "renew-self", by=fixed)
        for name, data, message in [
            ("renew", {}, "missing token ID"),
            ("renew", {"token": "nope"}, "token not found"),
            ("renew-accessor", {}, "missing accessor"),
            ("renew-accessor", {"accessor": "nope"}, "invalid accessor"),
            ("renew-self", {"increment": "-1s"}, "negative"),
        ]:
            with pytest.raises(InvalidRequest, match=message):
                await post(core, name, data)


def test_nothing_is_granted_past_the_maximum() -> None:
    """A renewal that arrives when the maximum has passed, sweep or not."""
    hour = HOUR * fields.SECOND_NS
    for period_ns in (0, hour):
        with pytest.raises(InvalidRequest, match="past the max TTL"):
            grant(LIMITS, asked_ns=hour, period_ns=period_ns, explicit_max_ns=hour, created_ns=0, now_ns=hour)
    assert grant(LIMITS, asked_ns=0, period_ns=hour, explicit_max_ns=0, created_ns=0, now_ns=10**18) == (
        hour,
        [],
    )
