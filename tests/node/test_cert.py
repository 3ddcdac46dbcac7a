"""The auth method cert: whose certificate lets whom in. That TLS has verified it is taken for granted here."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.corefixture import call, opened

from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied

READ, UPDATE, DELETE, LIST = Operation.READ, Operation.UPDATE, Operation.DELETE, Operation.LIST
ROLE = "auth/cert/certs/web"


@pytest.fixture
async def core(tmp_path: Path) -> Any:
    async with opened(tmp_path) as made:
        await call(made, UPDATE, "sys/auth/cert", {"type": "cert"})
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def pem(path: Path) -> str:
    """The certificate in a file, which may hold its key as well."""
    head, end, _ = path.read_text().partition("-----END CERTIFICATE-----")
    return head + end


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem(path))


async def log_in(core: Core, *chain: Path, name: str = "") -> dict[str, Any]:
    body = {"name": name} if name else {}
    shown = [der(path) for path in chain]
    answer = await call(core, UPDATE, "auth/cert/login", body, token=None, client_chain=shown)
    assert answer.auth is not None
    return answer.auth


async def test_a_certificate_of_the_authority_gives_a_token(core: Core, authority: Authority) -> None:
    await call(
        core, UPDATE, ROLE, {"certificate": pem(authority.ca), "token_policies": "p", "token_ttl": "1h"}
    )
    client = authority.issue("ann", ["ann.example.com"])
    auth = await log_in(core, client, authority.ca)
    assert auth["policies"] == ["default", "p"]
    assert (auth["metadata"]["cert_name"], auth["metadata"]["common_name"]) == ("web", "ann")
    assert auth["lease_duration"] == 3600
    told = (await call(core, READ, "auth/token/lookup-self", token=auth["client_token"])).data
    assert told is not None
    assert told["display_name"] == "cert-web"
    again = await log_in(core, client, authority.ca, name="WEB")
    assert again["entity_id"] == auth["entity_id"] != ""


async def test_no_certificate_and_a_foreign_one_get_in_nowhere(
    core: Core, authority: Authority, tmp_path: Path
) -> None:
    await call(core, UPDATE, ROLE, {"certificate": pem(authority.ca)})
    with pytest.raises(InvalidRequest, match="no client certificate supplied"):
        await log_in(core)
    foreign = Authority(tmp_path / "foreign")
    with pytest.raises(InvalidRequest, match="no chain matching all constraints"):
        await log_in(core, foreign.issue("eve", ["ann.example.com"]), foreign.ca)
    with pytest.raises(InvalidRequest, match='"none"'):
        await log_in(core, authority.issue("ann", ["ann"]), authority.ca, name="none")


async def test_who_is_no_authority_lets_in_himself_and_nobody_else(core: Core, authority: Authority) -> None:
    """His certificate pinned; what claims to be signed by him is not believed."""
    ann, bob = authority.issue("ann", ["ann"]), authority.issue("bob", ["bob"])
    await call(core, UPDATE, ROLE, {"certificate": pem(ann)})
    await log_in(core, ann, authority.ca)
    for chain in ((bob, authority.ca), (bob,)):
        with pytest.raises(InvalidRequest, match="no chain"):
            await log_in(core, *chain)


async def test_a_root_lets_in_what_is_below_an_intermediate(
    core: Core, authority: Authority, tmp_path: Path
) -> None:
    middle = Authority(tmp_path / "middle", above=authority)
    client = middle.issue("ann", ["ann"])
    await call(core, UPDATE, ROLE, {"certificate": pem(authority.ca)})
    await log_in(core, client, middle.ca, authority.ca)
    await call(core, UPDATE, ROLE, {"certificate": pem(middle.ca)})
    await log_in(core, client, middle.ca, authority.ca)
    await log_in(core, client)  # of a resumed session no more is known
    with pytest.raises(InvalidRequest, match="no chain"):
        await log_in(core, authority.issue("bob", ["bob"]), authority.ca)


@pytest.mark.parametrize(
    ("bounds", "is_let_in"),
    [
        ({"allowed_common_names": "ann"}, True),
        ({"allowed_common_names": ["b*", "a*"]}, True),
        ({"allowed_common_names": "bob"}, False),
        ({"allowed_dns_sans": "*.example.com"}, True),
        ({"allowed_dns_sans": "*.example.org"}, False),
        ({"allowed_names": "ann.example.com"}, True),
        ({"allowed_names": "bob"}, False),
        ({"allowed_organizational_units": "ops"}, True),
        ({"allowed_organizational_units": "sales"}, False),
        ({"allowed_email_sans": "*"}, False),
        ({"allowed_uri_sans": "*"}, False),
        ({"allowed_common_names": "ann", "allowed_dns_sans": "*.example.org"}, False),
        ({"token_bound_cidrs": "10.0.0.0/8"}, False),
    ],
)
async def test_a_role_may_ask_for_names(
    core: Core, authority: Authority, bounds: dict[str, Any], is_let_in: bool
) -> None:
    await call(core, UPDATE, ROLE, {"certificate": pem(authority.ca)} | bounds)
    client = authority.issue("ann", ["ann.example.com"], unit="ops")
    if is_let_in:
        await log_in(core, client, authority.ca)
    else:
        with pytest.raises((InvalidRequest, PermissionDenied)):
            await log_in(core, client, authority.ca)


async def test_a_renewal_shows_the_certificate_of_the_log_in(core: Core, authority: Authority) -> None:
    await call(core, UPDATE, ROLE, {"certificate": pem(authority.ca), "token_ttl": "1h"})
    ann, bob = authority.issue("ann", ["ann"]), authority.issue("bob", ["bob"])
    token = (await log_in(core, ann, authority.ca))["client_token"]

    async def renew(*chain: Path) -> None:
        shown = [der(path) for path in chain]
        await call(core, UPDATE, "auth/token/renew-self", {}, token=token, client_chain=shown)

    await renew(ann, authority.ca)
    with pytest.raises(InvalidRequest, match="not matching"):
        await renew(bob, authority.ca)
    with pytest.raises(InvalidRequest, match="no client certificate"):
        await renew()
    await call(core, UPDATE, "auth/cert/config", {"disable_binding": True})
    await renew()
    await call(core, DELETE, ROLE)
    with pytest.raises(InvalidRequest, match="failed to find role"):
        await renew()


async def test_roles_are_kept_shown_and_removed(core: Core, authority: Authority) -> None:
    with pytest.raises(NotFound):
        await call(core, LIST, "auth/cert/certs")
    await call(
        core, UPDATE, ROLE, {"certificate": pem(authority.ca), "allowed_names": "a,b", "policies": "p"}
    )
    assert (await call(core, LIST, "auth/cert/certs")).data == {"keys": ["web"]}
    shown = (await call(core, READ, ROLE)).data
    assert shown is not None
    assert (shown["display_name"], shown["allowed_names"]) == ("web", ["a", "b"])
    assert (shown["certificate"], shown["token_policies"]) == (pem(authority.ca), ["p"])
    await call(core, UPDATE, ROLE, {"display_name": "w"})
    changed = (await call(core, READ, ROLE)).data
    assert changed == shown | {"display_name": "w"}
    assert (await call(core, READ, "auth/cert/config")).data == {"disable_binding": False}
    assert (await call(core, DELETE, ROLE)).status == 204
    with pytest.raises(NotFound):
        await call(core, READ, ROLE)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "failed to parse certificate"),
        ({"certificate": "x"}, "failed to parse certificate"),
        ({"certificate": "ä"}, "failed to parse certificate"),
        ({"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}, "failed to parse"),
        ({"certificate": "x" * 200_000}, "at most 131072 characters"),
        ({"allowed_common_names": [""]}, "an empty item"),  # not: any name
        ({"required_extensions": "1.2.3:x"}, "required_extensions is not offered"),
        ({"ocsp_enabled": True}, "ocsp_enabled is not offered"),
    ],
)
async def test_a_role_that_makes_no_sense_is_refused(core: Core, body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        await call(core, UPDATE, ROLE, body)


async def test_a_certificate_without_a_common_name_names_nobody(core: Core, authority: Authority) -> None:
    await call(core, UPDATE, ROLE, {"certificate": pem(authority.ca)})
    with pytest.raises(InvalidRequest, match="no common name"):
        await log_in(core, authority.issue("", ["ann"]), authority.ca)
