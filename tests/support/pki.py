"""A mount of the PKI engine to test with, and what its answers are looked at with."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC = {"key_type": "ec", "key_bits": 256}
WEB = EC | {"allowed_domains": "example.com", "allow_subdomains": True, "ttl": "1h", "max_ttl": "2h"}


async def mounted(wire, path):
    assert (await wire.ask("POST", f"/v1/sys/mounts/{path}", {"type": "pki"})).status == 204


async def ok(wire, path, body=None, method="POST"):
    answer = await wire.ask(method, f"/v1/{path}", body)
    assert answer.status == 200, answer.body
    return answer.json["data"]


async def refused(wire, path, body, method="POST"):
    answer = await wire.ask(method, f"/v1/{path}", body)
    assert answer.status == 400, answer.body
    return answer.json["errors"][0]


def certificate(pem):
    return x509.load_pem_x509_certificate(pem.encode())


def verify(issued, roots, between=(), name="a.example.com"):
    """As a TLS client would."""
    verifier = PolicyBuilder().store(Store(roots)).build_server_verifier(x509.DNSName(name))
    return verifier.verify(issued, list(between))


async def revoked_serials(wire, mount="pki"):
    answer = await wire.ask("GET", f"/v1/{mount}/crl/pem")
    listed = x509.load_pem_x509_crl(answer.body)
    return {format(each.serial_number, "x") for each in listed}


def plain(serial):
    return serial.replace(":", "").lstrip("0")


def request_for(name, key=None, alternative=()):
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    )
    if alternative:
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in alternative])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode(), key


async def with_a_root(wire):
    """`pki` has a root and a role for servers."""
    await mounted(wire, "pki")
    await ok(wire, "pki/root/generate/internal", {"common_name": "root"} | EC)
    await ok(wire, "pki/roles/web", WEB)
    return wire
