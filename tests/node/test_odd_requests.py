"""Requests that make sense but for a field or two: each is answered, and none by a bug."""

import random
from typing import Any

import pytest
from support.corefixture import call, opened

from node.core.core import Core
from node.core.fields import Place
from node.core.request import Operation
from node.errors import NodeError

REQUESTS = 1_500
MOUNTS = {"tr": "transit", "pk": "pki", "k1": "kv", "k2": "kv-v2"}
ENGINES = {"tr": "transit", "pk": "pki", "k1": "kv-v1", "k2": "kv-v2"}
SYSTEM = (
    "cubbyhole",
    "sys/internal/ui",
    "sys/leases",
    "sys/mounts",
    "sys/remount",
    "sys/revoke",
    "sys/wrapping",
)
EC = {"key_type": "ec"}  # RSA keys take long to make
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2, 10**30, 1.5, 1e300, "", "a", "x" * 300, "1h", "-5", "9" * 25, "\0", "ü", "*",
    "*.x.com", [],
    ["a"], [1, None], [{}], [["a"]], {}, {"a": {"b": 1}}, "vault:v1:AAAA", "vault:v999999999:AAAA", '{"a":1}',
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "latest", "127.0.0.1", "a,b",
)  # fmt: skip
SEGMENTS = (
    "a",
    "default",
    "x",
    "nope",
    "9",
    "internal",
    "wrapped",
    "encryption-key",
    "sha2-256",
    "web/b",
    "00:11",
)


async def prepared(core: Core) -> dict[str, Any]:
    """A mount of every engine with something in it; fields that mean something there."""
    for path, kind in MOUNTS.items():
        await call(core, Operation.UPDATE, f"sys/mounts/{path}", {"type": kind})
    await call(core, Operation.UPDATE, "tr/keys/a", {"exportable": True, "allow_plaintext_backup": True})
    await call(core, Operation.UPDATE, "tr/keys/default", {"type": "ecdsa-p256"})
    await call(core, Operation.UPDATE, "pk/root/generate/internal", {"common_name": "x"} | EC)
    role = {"allow_any_name": True, "ttl": "1h", "generate_lease": True} | EC
    await call(core, Operation.UPDATE, "pk/roles/a", role)
    made = await call(core, Operation.UPDATE, "pk/intermediate/generate/exported", {"common_name": "i"} | EC)
    issued = await call(core, Operation.UPDATE, "pk/issue/a", {"common_name": "a.b"})
    ciphertext = await call(core, Operation.UPDATE, "tr/encrypt/a", {"plaintext": "YQ=="})
    backup = await call(core, Operation.READ, "tr/backup/a")
    assert made.data and issued.data and ciphertext.data and backup.data and issued.lease  # noqa: PT018
    return {
        "common_name": "a.b", "csr": made.data["csr"], "certificate": issued.data["certificate"],
        "pem_bundle": made.data["private_key"] + "\n" + issued.data["certificate"], "plaintext": "YQ==",
        "ciphertext": ciphertext.data["ciphertext"], "input": "YQ==", "backup": backup.data["backup"], "force": True,
        "serial_number": issued.data["serial_number"], "lease_id": issued.lease.id, "type": "kv",
        "from": "k9", "to": "k8",        "data": {"a": 1}, "versions": [1], "default": "default", **EC,
    }  # fmt: skip


@pytest.mark.timeout(240)
async def test_odd_requests_meet_no_bug(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)  # shown when the test fails
    rng = random.Random(seed)
    async with opened(tmp_path) as core:
        usual = await prepared(core)
        everywhere = [
            (f"{path}/", route) for path, engine in ENGINES.items() for route in core.engines[engine].routes
        ]
        everywhere += [("", route) for route in core.system.routes if route.pattern.startswith(SYSTEM)]
        answered = 0
        for _ in range(REQUESTS):
            before, route = rng.choice(everywhere)
            parts = [
                rng.choice(SEGMENTS) if part.startswith("{") else part for part in route.pattern.split("/")
            ]
            path, operation = before + "/".join(parts), rng.choice(list(route.handlers))
            body = {name: value for name, value in usual.items() if rng.random() < 0.75}
            names = [each.name for each in route.fields if each.place is Place.BODY] or list(usual)
            body |= {name: rng.choice(ODD) for name in rng.sample(names, min(len(names), rng.randrange(3)))}
            if "rsa" in f"{body.get('type')} {body.get('key_type')}" or (
                "generate" in path and not body.get("key_type")
            ):
                continue
            query = (
                {"limit": str(rng.choice(ODD)), "after": str(rng.choice(ODD))} if rng.random() < 0.3 else {}
            )
            try:
                await call(core, operation, path, body, query=query)
                answered += 1
            except NodeError:
                continue
            except Exception as error:
                raise AssertionError(f"seed {seed}: {operation} {path} {body} {query}") from error
    assert answered > REQUESTS / 10, "most of what is drawn must get past the first check"
