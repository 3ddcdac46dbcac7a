"""The PKI engine: what it issues verifies, and what a role forbids is refused."""

import asyncio
import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from support.corefixture import call
from support.pki import EC, EC_KEY, WEB, certificate, mounted, ok, refused, request_for, verify, with_a_root

from node.core.request import Operation


@pytest.fixture
async def wire(site):
    return await with_a_root(await site.connect())


async def test_what_is_issued_verifies_and_belongs_to_its_key(wire):
    body = {"common_name": "a.example.com", "alt_names": "b.example.com", "ip_sans": "127.0.0.1"}
    issued = await ok(wire, "pki/issue/web", body)
    root = certificate((await wire.ask("GET", "/v1/pki/ca/pem")).body.decode())
    made = certificate(issued["certificate"])
    for name in ("a.example.com", "b.example.com"):
        assert verify(made, [root], name=name)[-1] == root
    key = serialization.load_pem_private_key(issued["private_key"].encode(), None)
    assert key.public_key() == made.public_key()
    assert (issued["private_key_type"], issued["serial_number"].replace(":", "")) == (
        "ec",
        format(made.serial_number, f"0{len(issued['serial_number'].replace(':', ''))}x"),
    )
    assert certificate(issued["issuing_ca"]) == root
    assert issued["expiration"] == int(made.not_valid_after_utc.timestamp())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"common_name": "evil.com"}, "common name evil.com not allowed by this role"),
        ({"common_name": "example.com"}, "common name example.com not allowed by this role"),
        ({"common_name": "evilexample.com"}, "common name evilexample.com not allowed by this role"),
        (
            {"common_name": "a.example.com", "alt_names": "evil.com"},
            "subject alternate name evil.com not allowed",
        ),
        (
            {"common_name": "a.example.com", "uri_sans": "spiffe://x"},
            "URI Subject Alternative Name spiffe://x not",
        ),
        ({"common_name": "a.example.com", "ip_sans": "nope"}, 'the value "nope" is not a valid IP address'),
        ({"common_name": "a b.example.com"}, "common name a b.example.com not allowed"),
        ({"common_name": "a.example.com\x00.evil.com"}, "common name"),
        ({"common_name": "a.example.com", "other_sans": "1.2.3;UTF8:x"}, '"other_sans" is not offered'),
        ({"common_name": "a.example.com", "not_after": "2030-01-01T00:00:00Z"}, '"not_after" is not offered'),
        ({"common_name": "a.example.com", "user_ids": "u"}, '"user_ids" is not offered'),
        ({"common_name": "a.example.com", "format": "p12"}, 'the "format" path parameter'),
        ({"common_name": "a.example.com", "ttl": "x"}, 'invalid duration for field "ttl"'),
        ({}, "the common_name field is required"),
    ],
)
async def test_a_role_decides_what_is_issued(wire, body, error):
    assert (await refused(wire, "pki/issue/web", body)).startswith(error)
    assert len((await ok(wire, "pki/certs", method="LIST"))["keys"]) == 1, "only the root has been issued"


@pytest.mark.parametrize(
    ("role", "name", "allowed"),
    [
        ({}, "*.example.com", True),
        ({"allow_wildcard_certificates": False}, "*.example.com", False),
        ({"allow_bare_domains": True}, "example.com", True),
        ({"allow_subdomains": False}, "a.example.com", False),
        ({"allowed_domains": "web-*.example.com", "allow_glob_domains": True, "allow_subdomains": False},
         "web-1.example.com", True),
        ({"allowed_domains": "web-*.example.com", "allow_subdomains": False}, "web-1.example.com", False),
        ({"allow_any_name": True}, "anything.test", True),
        ({}, "localhost", True),
        ({"allow_localhost": False}, "localhost", False),
        ({"allow_any_name": True}, "Some Person", False),
        ({"allow_any_name": True, "enforce_hostnames": False}, "Some Person", True),
    ],
)  # fmt: skip
async def test_names_by_role(wire, role, name, allowed):
    await ok(wire, "pki/roles/other", WEB | role)
    answer = await wire.ask("POST", "/v1/pki/issue/other", {"common_name": name})
    assert (answer.status == 200) is allowed, answer.body


async def test_addresses_by_role(wire):
    await ok(wire, "pki/roles/near", WEB | {"allowed_ip_sans_cidr": ["10.0.0.0/8", "fd00::/8"]})
    for ip, status in (("10.1.2.3", 200), ("fd00::1", 200), ("11.0.0.1", 400), ("10.1.2.3,8.8.8.8", 400)):
        answer = await wire.ask("POST", "/v1/pki/issue/near", {"common_name": "a.example.com", "ip_sans": ip})
        assert answer.status == status, ip
    await ok(wire, "pki/roles/none", WEB | {"allow_ip_sans": False})
    assert "IP Subject" in await refused(
        wire, "pki/issue/none", {"common_name": "a.example.com", "ip_sans": "10.0.0.1"}
    )


async def test_what_no_certificate_can_say_is_refused_and_ends_no_node(wire):
    """The library panics at some of it, which no handler of errors took for one."""
    await ok(wire, "pki/roles/old", WEB | {"not_before_duration": "700000h"})
    assert "before 1950" in await refused(wire, "pki/issue/old", {"common_name": "a.example.com"})
    await ok(wire, "pki/roles/land", WEB | {"country": "é"})
    assert "cannot stand in a subject" in await refused(
        wire, "pki/issue/land", {"common_name": "a.example.com"}
    )
    long = {"common_name": "r", "max_path_length": 2**70} | EC
    assert "max_path_length is at most" in await refused(wire, "pki/root/generate/internal", long)
    await ok(wire, "pki/issue/web", {"common_name": "a.example.com"})


async def test_no_certificate_outlives_its_role_nor_its_issuer(wire):
    body = {"common_name": "a.example.com", "ttl": "5h"}
    answer = await wire.ask("POST", "/v1/pki/issue/web", body)
    made = certificate(answer.json["data"]["certificate"])
    assert made.not_valid_after_utc - made.not_valid_before_utc <= datetime.timedelta(hours=2, seconds=30)
    assert answer.json["warnings"][0].startswith('TTL "5h0m0s" is longer than permitted maxTTL "2h0m0s"')
    await mounted(wire, "short")
    await ok(wire, "short/root/generate/internal", {"common_name": "short", "ttl": "30m"} | EC)
    await ok(wire, "short/roles/web", WEB)
    error = await refused(wire, "short/issue/web", {"common_name": "a.example.com"})
    assert "is beyond the expiration of the CA certificate" in error


async def test_an_intermediate_of_another_mount_completes_the_chain(wire):
    await mounted(wire, "inter")
    made = await ok(wire, "inter/intermediate/generate/internal", {"common_name": "between"} | EC)
    assert "private_key" not in made
    body = {"csr": made["csr"], "common_name": "between", "max_path_length": 0}
    signed = await ok(wire, "pki/root/sign-intermediate", body)
    imported = await ok(wire, "inter/intermediate/set-signed", {"certificate": signed["certificate"]})
    assert list(imported["mapping"].values()) == [made["key_id"]]
    await ok(wire, "inter/roles/web", WEB)
    issued = await ok(wire, "inter/issue/web", {"common_name": "a.example.com"})
    root = certificate((await wire.ask("GET", "/v1/pki/ca/pem")).body.decode())
    between = certificate(issued["ca_chain"][0])
    path = verify(certificate(issued["certificate"]), [root], [between])
    assert [each.subject.rfc4514_string() for each in path] == ["CN=a.example.com", "CN=between", "CN=root"]


async def test_constraints_that_are_not_offered_are_refused_not_left_out(wire):
    body = {"common_name": "between", "permitted_dns_domains": "example.com"} | EC
    assert await refused(wire, "pki/root/generate/internal", body) == '"permitted_dns_domains" is not offered'


async def test_an_authority_is_signed_with_the_names_of_its_request_if_that_is_wanted(wire):
    csr, _ = request_for("from the request")
    body = {"csr": csr, "common_name": "from the caller"}
    for wish, name in ((False, "from the caller"), (True, "from the request")):
        signed = await ok(wire, "pki/root/sign-intermediate", body | {"use_csr_values": wish})
        assert certificate(signed["certificate"]).subject.rfc4514_string() == f"CN={name}"


async def test_roots_can_be_left_out_of_the_chain(wire):
    body = {"common_name": "a.example.com", "remove_roots_from_chain": True}
    assert (await ok(wire, "pki/issue/web", body))["ca_chain"] == []


async def test_requests_are_signed_under_the_same_rules(wire):
    csr, key = request_for("a.example.com", alternative=["b.example.com"])
    signed = await ok(wire, "pki/sign/web", {"csr": csr})
    made = certificate(signed["certificate"])
    assert made.public_key() == key.public_key()
    assert "private_key" not in signed
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"a.example.com", "b.example.com"}
    evil, _ = request_for("a.example.com", alternative=["evil.com"])
    assert (await refused(wire, "pki/sign/web", {"csr": evil})).startswith("subject alternate name evil.com")
    as_it_stands = await ok(wire, "pki/sign-verbatim", {"csr": evil})
    assert certificate(as_it_stands["certificate"]).subject.rfc4514_string() == "CN=a.example.com"


@pytest.mark.parametrize(
    ("csr", "error"),
    [
        ("", '"csr" is empty'),
        ("nothing", "csr contains no data"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
            "certificate request could not",
        ),
    ],
)
async def test_what_is_no_request_is_refused(wire, csr, error):
    assert (await refused(wire, "pki/sign/web", {"csr": csr})).startswith(error)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a.example.com", b"\xff" * 13),  # a name that is no text
        (b"b.example.com", b"\xff" * 13),
        (b"\x02\x01\x00", b"\x02\x01\x34"),  # a version that there is not
        (b"\x31\x16\x30\x14", b"\x3e\x16\x30\x14"),  # a name that is no set
    ],
)
async def test_what_cannot_be_read_in_a_signed_request_is_refused(wire, old, new):
    csr, key = request_for("a.example.com", alternative=["b.example.com"])
    asked = x509.load_pem_x509_csr(csr.encode())
    spoilt = asked.tbs_certrequest_bytes.replace(old, new, 1)
    assert spoilt != asked.tbs_certrequest_bytes
    der = asked.public_bytes(serialization.Encoding.DER)
    at = der.index(asked.tbs_certrequest_bytes)
    after = at + len(spoilt)
    algorithm = der[after : after + 2 + der[after + 1]]
    signature = b"\0" + key.sign(spoilt, ec.ECDSA(hashes.SHA256()))
    inside = spoilt + algorithm + bytes((3, len(signature))) + signature
    whole = b"\x30\x82" + len(inside).to_bytes(2, "big") + inside
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.b64encode(whole).decode()}\n-----END CERTIFICATE REQUEST-----"
    for path in ("pki/sign/web", "pki/sign-verbatim", "pki/root/sign-intermediate"):
        assert "could not be parsed" in await refused(wire, path, {"csr": pem, "use_csr_values": True})


async def test_a_request_needs_a_key_of_the_roles_kind(wire):
    await ok(wire, "pki/roles/rsa", WEB | {"key_type": "rsa", "key_bits": 2048})
    csr, _ = request_for("a.example.com")
    assert await refused(wire, "pki/sign/rsa", {"csr": csr}) == "role requires keys of type rsa"


async def test_a_request_needs_a_key_no_smaller_than_the_roles(wire):
    await ok(wire, "pki/roles/large", WEB | {"key_bits": 384})
    small, _ = request_for("a.example.com")
    assert "requires a minimum of a 384-bit key" in await refused(wire, "pki/sign/large", {"csr": small})
    large, key = request_for("a.example.com", ec.generate_private_key(ec.SECP384R1()))
    signed = await ok(wire, "pki/sign/large", {"csr": large})
    assert certificate(signed["certificate"]).public_key() == key.public_key()
    await ok(wire, "pki/roles/edwards", WEB | {"key_type": "ed25519", "key_bits": 384})
    await ok(wire, "pki/issue/edwards", {"common_name": "a.example.com"})


async def test_forms_of_answers(wire):
    body = {"common_name": "a.example.com"}
    der = await ok(wire, "pki/issue/web", body | {"format": "der"})
    assert x509.load_der_x509_certificate(base64.b64decode(der["certificate"])).subject
    bundle = (await ok(wire, "pki/issue/web", body | {"format": "pem_bundle"}))["certificate"]
    kinds = [line for line in bundle.splitlines() if line.startswith("-----BEGIN")]
    assert kinds == ["-----BEGIN EC PRIVATE KEY-----"] + ["-----BEGIN CERTIFICATE-----"] * 2
    pkcs8 = await ok(wire, "pki/issue/web", body | {"private_key_format": "pkcs8"})
    assert pkcs8["private_key"].startswith("-----BEGIN PRIVATE KEY-----")


async def test_private_keys_are_shown_only_when_asked_for(site, wire):
    shown = await ok(
        wire, "pki/root/generate/exported", {"common_name": "other", "issuer_name": "other"} | EC
    )
    assert shown["private_key"].startswith("-----BEGIN EC PRIVATE KEY-----")
    for path in ("pki/issuer/other", "pki/issuer/default", f"pki/key/{shown['key_id']}"):
        assert "PRIVATE" not in str(await ok(wire, path, method="GET"))
    assert "PRIVATE" not in site.core.settings.audit_files[0].read_text()


async def test_issuers_are_named_chosen_and_taken_out_of_use(wire):
    await ok(wire, "pki/root/generate/internal", {"common_name": "second", "issuer_name": "second"} | EC)
    listed = await ok(wire, "pki/issuers", method="LIST")
    assert [each["is_default"] for each in listed["key_info"].values()].count(True) == 1
    issued = await ok(wire, "pki/issuer/second/issue/web", {"common_name": "a.example.com"})
    assert certificate(issued["issuing_ca"]).subject.rfc4514_string() == "CN=second"
    await ok(wire, "pki/config/issuers", {"default": "second"})
    assert (await ok(wire, "pki/issuer/second", {"issuer_name": "renamed"}))["issuer_name"] == "renamed"
    assert (await ok(wire, "pki/issuer/renamed/revoke", {}))["revoked"] is True
    assert "requested usage issuing-certificates" in await refused(
        wire, "pki/issue/web", {"common_name": "a.example.com"}
    )
    answer = await wire.ask("DELETE", "/v1/pki/issuer/renamed")
    assert answer.status == 200
    assert "unable to find PKI issuer" in await refused(wire, "pki/issuer/renamed", None, "GET")


async def test_an_authority_of_elsewhere_can_be_imported_once(wire):
    made = await ok(wire, "pki/root/generate/exported", {"common_name": "elsewhere"} | EC)
    bundle = {"pem_bundle": f"{made['private_key']}\n{made['certificate']}\n"}
    await mounted(wire, "copy")
    first = await ok(wire, "copy/config/ca", bundle)
    assert (len(first["imported_issuers"]), len(first["imported_keys"])) == (1, 1)
    again = await ok(wire, "copy/config/ca", bundle)
    assert (again["imported_issuers"], again["existing_issuers"]) == (None, first["imported_issuers"])
    await ok(wire, "copy/roles/web", WEB)
    issued = await ok(wire, "copy/issue/web", {"common_name": "a.example.com"})
    verify(certificate(issued["certificate"]), [certificate(made["certificate"])])
    assert "no PEM" in await refused(wire, "copy/config/ca", {"pem_bundle": "/etc/ssl/ca.pem"})


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
async def test_certificates_and_keys_that_cannot_be_read_are_not_imported(wire):
    for serial, key, error in (
        (-5, EC_KEY, "serial number is negative"),
        (5, x25519.X25519PrivateKey.generate(), "of a kind that is not supported"),
    ):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "elsewhere")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), abs(serial), now, now)
        der = builder.sign(EC_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        if serial < 0:
            der = der.replace(b"\x02\x01\x05", b"\x02\x01\xfb", 1)
        pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----"
        assert error in await refused(wire, "pki/issuers/import/cert", {"pem_bundle": pem})


@pytest.mark.parametrize(
    ("role", "error"),
    [
        ({"key_type": "dsa"}, "unknown key type dsa"),
        ({"ttl": "3h", "max_ttl": "2h"}, '"ttl" value must be less than "max_ttl" value'),
        (
            {"key_type": "rsa", "key_bits": 1024},
            "RSA keys < 2048 bits are unsafe and not supported: got 1024",
        ),
        ({"key_type": "ec", "key_bits": 1}, "unsupported bit length for EC key: 1"),
        ({"key_usage": "Nothing"}, "unknown key usage Nothing"),
        ({"ext_key_usage_oids": "1.x"}, '"1.x" is not a valid OID'),
        ({"allowed_domains_template": True}, '"allowed_domains_template" is not offered'),
        ({"not_after_bound": "forbid"}, '"not_after_bound" is not offered'),
        ({"allowed_ip_sans_cidr": "10.0.0.0/99"}, '"10.0.0.0/99" is not a valid CIDR'),
    ],
)
async def test_roles_that_cannot_be(wire, role, error):
    assert await refused(wire, "pki/roles/bad", role) == error
    assert (await wire.ask("GET", "/v1/pki/roles/bad")).status == 404


@pytest.mark.parametrize(
    ("operation", "path", "one", "other"),
    [
        (Operation.PATCH, "pki/roles/web", {"ttl": "10m"}, {"max_ttl": "90m"}),
        (Operation.UPDATE, "pki/config/crl", {"expiry": "50h"}, {"ocsp_expiry": "5h"}),
        (
            Operation.UPDATE,
            "pki/config/urls",
            {"ocsp_servers": ["http://o"]},
            {"issuing_certificates": ["http://i"]},
        ),
    ],
)
async def test_of_two_who_change_parts_of_the_same_at_once_none_is_lost_in_silence(
    site, wire, monkeypatch, operation, path, one, other
):
    store = site.core.unsealed
    submit = store.submit

    async def later(*arguments, **options):  # as if each came to another node: all read before any writes
        await asyncio.sleep(0)
        return await submit(*arguments, **options)

    monkeypatch.setattr(store, "submit", later)
    asked = (call(site.core, operation, path, dict(data), token=site.token) for data in (one, other))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    kept = await call(site.core, Operation.READ, path, token=site.token)
    before = {**WEB, "expiry": "72h", "ocsp_expiry": "12h"}
    done = 0
    for data, outcome in zip((one, other), outcomes, strict=True):
        if isinstance(outcome, Exception):
            assert "somebody else changed this" in str(outcome)
            continue
        done += 1
        (name,) = data
        assert kept.data[name] not in (None, [], before.get(name))
        assert kept.data[name] == outcome.data[name]
    assert done >= 1


async def test_roles_are_kept_by_name(wire):
    shown = await ok(wire, "pki/roles/web", method="GET")
    assert (shown["allowed_domains"], shown["ttl"], shown["max_ttl"]) == (["example.com"], 3600, 7200)
    assert (await ok(wire, "pki/roles", method="LIST"))["keys"] == ["web"]
    assert (await wire.ask("DELETE", "/v1/pki/roles/web")).status == 204
    assert await refused(wire, "pki/issue/web", {"common_name": "a.example.com"}) == "unknown role: web"
