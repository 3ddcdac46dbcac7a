"""The PKI engine: what is revoked is on the list, the list is for everybody, and what has ended is forgotten."""

import asyncio

import pytest
from cryptography import x509
from support.pki import WEB, certificate, ok, plain, revoked_serials, with_a_root

from node.engines.pki import certificates
from node.errors import NoQuorum


@pytest.fixture
async def wire(site):
    return await with_a_root(await site.connect())


async def test_a_revoked_certificate_is_on_the_list_and_stays_readable(wire):
    first, second = [(await ok(wire, "pki/issue/web", {"common_name": "a.example.com"})) for _ in range(2)]
    assert await revoked_serials(wire) == set()
    serial = first["serial_number"]
    done = await ok(wire, "pki/revoke", {"serial_number": serial.replace(":", "-").upper()})
    assert done["state"] == "revoked"
    assert await ok(wire, "pki/revoke", {"serial_number": serial}) == done, (
        "again is no error and changes nothing"
    )
    assert await revoked_serials(wire) == {plain(serial)}
    read = await ok(wire, f"pki/cert/{serial}", method="GET")
    assert read["revocation_time"] == done["revocation_time"]
    assert (await ok(wire, f"pki/cert/{second['serial_number']}", method="GET"))["revocation_time"] == 0
    assert (await ok(wire, "pki/certs/revoked", method="LIST"))["keys"] == [serial]
    root = certificate((await wire.ask("GET", "/v1/pki/ca/pem")).body.decode())
    listed = x509.load_pem_x509_crl((await wire.ask("GET", "/v1/pki/crl/pem")).body)
    assert listed.is_signature_valid(root.public_key())


async def test_a_revocation_list_is_given_out_also_where_it_cannot_be_kept(site, wire, monkeypatch):
    serial = (await ok(wire, "pki/issue/web", {"common_name": "a.example.com"}))["serial_number"]
    await ok(wire, "pki/revoke", {"serial_number": serial})

    async def nowhere(*args, **kwargs):
        raise NoQuorum("no leader")

    monkeypatch.setattr(site.core.unsealed, "submit", nowhere)
    assert await revoked_serials(wire) == {plain(serial)}


async def test_strangers_who_ask_for_a_revocation_list_do_not_have_it_made_for_each_of_them(
    site, wire, monkeypatch
):
    issued = [await ok(wire, "pki/issue/web", {"common_name": "a.example.com"}) for _ in range(2)]
    serials = [each["serial_number"] for each in issued]
    await ok(wire, "pki/revoke", {"serial_number": serials[0]})
    made, make_crl = [], certificates.make_crl

    def counted(*args, **kwargs):
        made.append(args)
        return make_crl(*args, **kwargs)

    async def nowhere(*args, **kwargs):
        raise NoQuorum("no leader")

    monkeypatch.setattr(certificates, "make_crl", counted)
    strangers = [await site.connect(token="") for _ in range(5)]
    with monkeypatch.context() as cut_off:
        cut_off.setattr(site.core.unsealed, "submit", nowhere)
        for _ in range(2):
            found = await asyncio.gather(*map(revoked_serials, strangers))
            assert found == [{plain(serials[0])}] * 5
    assert len(made) == 1
    await ok(wire, "pki/revoke", {"serial_number": serials[1]})
    assert await revoked_serials(strangers[0]) == set(map(plain, serials))
    await ok(wire, "pki/config/crl", {"disable": True})
    assert await revoked_serials(strangers[0]) == set()
    assert len(made) == 3


async def test_a_lease_on_a_certificate_ends_by_revoking_it(wire):
    await ok(wire, "pki/roles/leased", WEB | {"generate_lease": True})
    answer = (await wire.ask("POST", "/v1/pki/issue/leased", {"common_name": "a.example.com"})).json
    assert answer["lease_id"].startswith("pki/issue/leased/")
    assert (answer["renewable"], answer["lease_duration"]) == (False, 3600)
    assert (await wire.ask("PUT", "/v1/sys/leases/revoke", {"lease_id": answer["lease_id"]})).status == 204
    assert await revoked_serials(wire) == {plain(answer["data"]["serial_number"])}


async def test_lists_come_in_pages(wire):
    for name in ("api", "db"):
        await ok(wire, f"pki/roles/{name}", WEB)
    assert (await ok(wire, "pki/roles?after=api&limit=1", method="LIST"))["keys"] == ["db"]
    assert (await ok(wire, "pki/roles", method="LIST"))["keys"] == ["api", "db", "web"]


async def test_what_is_public_needs_no_token_and_the_rest_does(site, wire):
    serial = (await ok(wire, "pki/issue/web", {"common_name": "a.example.com"}))["serial_number"]
    stranger = await site.connect(token="")
    for path in (
        "ca",
        "ca/pem",
        "ca_chain",
        "crl",
        "crl/pem",
        "cert/ca",
        f"cert/{serial}",
        f"cert/{serial}/raw/pem",
    ):
        assert (await stranger.ask("GET", f"/v1/pki/{path}")).status == 200, path
    for method, path in (
        ("GET", "roles/web"),
        ("LIST", "certs"),
        ("GET", "config/urls"),
        ("POST", "issue/web"),
    ):
        answer = await stranger.ask(method, f"/v1/pki/{path}", {} if method == "POST" else None)
        assert answer.status == 403, path


async def test_certificates_say_where_to_look(wire):
    said = {
        "issuing_certificates": ["http://a/ca"],
        "crl_distribution_points": "http://a/crl",
        "ocsp_servers": ["http://o"],
    }
    shown = await ok(wire, "pki/config/urls", said)
    assert shown["crl_distribution_points"] == ["http://a/crl"]
    made = certificate((await ok(wire, "pki/issue/web", {"common_name": "a.example.com"}))["certificate"])
    points = made.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name[0].value == "http://a/crl"
    access = made.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_location.value for each in access] == ["http://o", "http://a/ca"]


async def test_tidy_forgets_what_has_ended_and_nothing_else(site, wire):
    await ok(wire, "pki/roles/brief", WEB | {"ttl": "1s"})
    ended = await ok(wire, "pki/issue/brief", {"common_name": "a.example.com"})
    await ok(wire, "pki/revoke", {"serial_number": ended["serial_number"]})
    kept = await ok(wire, "pki/issue/web", {"common_name": "a.example.com"})
    while site.core.unsealed.now_ns() <= (ended["expiration"] + 1) * 10**9:
        await wire.ask("GET", "/v1/sys/health")
    body = {"tidy_cert_store": True, "tidy_revoked_certs": True, "safety_buffer": "0s"}
    assert (await wire.ask("POST", "/v1/pki/tidy", body)).status == 202
    left = (await ok(wire, "pki/certs", method="LIST"))["keys"]
    assert ended["serial_number"] not in left
    assert kept["serial_number"] in left
    assert (await wire.ask("LIST", "/v1/pki/certs/revoked")).status == 404
