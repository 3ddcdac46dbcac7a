"""What a server tells of itself under sys/, and refuses to be told."""

import base64
import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import call, new_token, opened

from node import API_VERSION
from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest, NotFound, PermissionDenied, Unsupported
from node.tools import RANDOM_BYTES_MAX

READ, UPDATE, LIST, DELETE = Operation.READ, Operation.UPDATE, Operation.LIST, Operation.DELETE


async def read(core: Core, path: str, **options: Any) -> dict[str, Any]:
    response = await call(core, READ, path, **options)
    assert response.data is not None
    return response.data


@pytest.fixture
async def core(tmp_path: Path) -> Any:
    async with opened(tmp_path) as made:
        yield made


async def test_health_answers_with_the_code_that_was_asked_for(core: Core) -> None:
    async def code(**query: str) -> int:
        return (await call(core, READ, "sys/health", token=None, query=query)).status

    assert await code() == 200
    assert await code(activecode="299") == 299
    assert await code(sealedcode="299") == 200
    for bad in ("99", "600", "abc", "2e2", "", "0200", "２００"):
        with pytest.raises(InvalidRequest):
            await code(activecode=bad)
        with pytest.raises(InvalidRequest):
            await code(drsecondarycode=bad)
    await core.lifecycle.seal()
    assert await code() == 503
    assert await code(sealedcode="204") == 204
    told = await read(core, "sys/health", token=None)
    assert (told["sealed"], told["standby"], told["replication_dr_mode"]) == (True, True, "unknown")
    assert "cluster_id" not in told


async def test_a_store_in_memory_has_no_leader_to_speak_of(core: Core) -> None:
    assert await read(core, "sys/leader", token=None) == {"ha_enabled": False}
    nodes = (await read(core, "sys/ha-status"))["nodes"]
    assert [(node["active_node"], node["version"]) for node in nodes] == [(True, API_VERSION)]


async def test_random_bytes(core: Core) -> None:
    async def drawn(path: str, **data: Any) -> str:
        response = await call(core, UPDATE, f"sys/tools/random{path}", data)
        assert response.data is not None
        return str(response.data["random_bytes"])

    assert len(base64.b64decode(await drawn(""))) == 32
    assert len(bytes.fromhex(await drawn("/16", format="hex"))) == 16
    assert len(base64.b64decode(await drawn("/platform/8"))) == 8
    assert len(base64.b64decode(await drawn("/all", bytes="5"))) == 5
    assert await drawn("") != await drawn("")
    for path, data in (
        ("/0", {}),
        (f"/{RANDOM_BYTES_MAX + 1}", {}),
        ("/nowhere/8", {}),
        ("/x", {}),
        ("", {"format": "morse"}),
        ("", {"bytes": [1]}),
    ):
        with pytest.raises(InvalidRequest):
            await drawn(path, **data)


async def test_digests(core: Core) -> None:
    async def digest(path: str = "", **data: Any) -> str:
        response = await call(core, UPDATE, f"sys/tools/hash{path}", data)
        assert response.data is not None
        return str(response.data["sum"])

    text = base64.b64encode(b"abc").decode()
    assert await digest(input=text) == hashlib.sha256(b"abc").hexdigest()
    assert await digest("/sha3-512", input=text) == hashlib.sha3_512(b"abc").hexdigest()
    in_base64 = await digest(input=text, algorithm="sha2-384", format="base64")
    assert base64.b64decode(in_base64) == hashlib.sha384(b"abc").digest()
    for path, data in (
        ("/md5", {"input": text}),
        ("", {"input": "*"}),
        ("", {"input": text, "format": "x"}),
    ):
        with pytest.raises(InvalidRequest):
            await digest(path, **data)


async def test_audit_devices_are_told_and_not_changed(core: Core) -> None:
    devices = await read(core, "sys/audit")
    path = str(core.settings.audit_files[0])
    assert {name: each["options"] for name, each in devices.items()} == {"file/": {"file_path": path}}
    hashed = await call(core, UPDATE, "sys/audit-hash/file", {"input": "value"})
    assert hashed.data == {"hash": core.audit.hash("value")}
    with pytest.raises(InvalidRequest, match='unknown audit backend "other/"'):
        await call(core, UPDATE, "sys/audit-hash/other", {"input": "value"})
    with pytest.raises(InvalidRequest, match="cannot enable audit device via API"):
        await call(core, UPDATE, "sys/audit/x", {"type": "file", "options": {"file_path": "/tmp/x"}})
    with pytest.raises(InvalidRequest, match="cannot disable audit device via API"):
        await call(core, DELETE, "sys/audit/file")
    assert (await call(core, DELETE, "sys/audit/other")).status == 204


async def test_the_configuration_is_told_without_secrets(core: Core) -> None:
    told = await read(core, "sys/config/state/sanitized")
    assert told["storage"]["type"] == "inmem"
    assert told["listeners"][0]["config"]["address"] == "127.0.0.1:8200"
    host = await read(core, "sys/host-info")
    assert host["memory"]["total"] > host["memory"]["available"] > 0
    assert host["host"]["hostname"]
    versions = await call(core, LIST, "sys/version-history/")
    assert versions.data is not None
    assert versions.data["keys"] == [API_VERSION]


async def test_the_level_of_a_logger_can_be_changed_and_taken_back(core: Core) -> None:
    before = await read(core, "sys/loggers")
    assert set(before) >= {"server", "lifecycle"}
    try:
        await call(core, UPDATE, "sys/loggers/lifecycle", {"level": "error"})
        assert await read(core, "sys/loggers/lifecycle") == {"lifecycle": "error"}
        assert not logging.getLogger("lifecycle").isEnabledFor(logging.WARNING)
        with pytest.raises(InvalidRequest):
            await call(core, UPDATE, "sys/loggers/lifecycle", {"level": "loud"})
        with pytest.raises(InvalidRequest, match='logger "nobody" not found'):
            await read(core, "sys/loggers/nobody")
        await call(core, DELETE, "sys/loggers/lifecycle")
        assert await read(core, "sys/loggers") == before
        await call(core, UPDATE, "sys/loggers", {"level": "debug"})
        assert set((await read(core, "sys/loggers")).values()) == {"debug"}
        await call(core, DELETE, "sys/loggers")
        assert await read(core, "sys/loggers") == before
    finally:
        logging.getLogger("lifecycle").setLevel(logging.NOTSET)


async def test_what_there_is_not_is_told_as_it_is(core: Core) -> None:
    assert await read(core, "sys/config/cors") == {"enabled": False}
    with pytest.raises(InvalidRequest):
        await call(core, UPDATE, "sys/config/cors", {"allowed_origins": ["*"]})
    assert (await call(core, DELETE, "sys/config/cors")).status == 204
    for path in (
        "sys/config/ui/headers/X-Y",
        "sys/config/auditing/request-headers/X-Y",
        "sys/quotas/rate-limit/x",
        "sys/namespaces/x",
    ):
        with pytest.raises((NotFound, InvalidRequest)):
            await read(core, path)
        with pytest.raises(InvalidRequest):
            await call(core, UPDATE, path, {"values": ["a"]})
    assert await read(core, "sys/config/auditing/request-headers") == {"headers": {}}
    assert (await read(core, "sys/replication/status", token=None))["dr"] == {"mode": "disabled"}
    for path in ("sys/quotas/rate-limit/", "sys/namespaces/"):
        with pytest.raises(NotFound):
            await call(core, LIST, path)
    for path in ("sys/nosuch", "sys/internal/inspect/router/root", "sys/pprof", "sys/raw/x"):
        with pytest.raises(NotFound, match="unsupported path"):
            await read(core, path)
    with pytest.raises(Unsupported):
        await call(core, UPDATE, "sys/leader", {}, token=None)


async def test_counters(core: Core) -> None:
    async def total() -> int:
        return int((await read(core, "sys/internal/counters/tokens"))["counters"]["service_tokens"]["total"])

    before = await total()
    await new_token(core)
    assert await total() == before + 1
    assert (await read(core, "sys/internal/counters/entities"))["counters"] == {"entities": {"total": 0}}


async def test_the_catalog_names_what_can_be_mounted(core: Core) -> None:
    catalog = await read(core, "sys/plugins/catalog")
    assert {"kv", "cubbyhole"} & set(catalog["secret"])
    assert "userpass" in catalog["auth"]
    for kind in ("secret", "auth"):
        for name in catalog[kind]:
            assert (await read(core, f"sys/plugins/catalog/{kind}/{name}"))["builtin"]
    listed = await call(core, LIST, "sys/plugins/catalog/secret/")
    assert listed.data == {"keys": catalog["secret"]}
    with pytest.raises(InvalidRequest):
        await call(core, UPDATE, "sys/plugins/catalog/secret/mine", {"command": "x", "sha256": "y"})


async def test_a_token_is_told_what_it_may_do(core: Core) -> None:
    policy = """
    path "secret/data/a" { capabilities = ["read", "create"] }
    path "secret/data/team/*" { capabilities = ["list"] }
    path "secret/+/x" { capabilities = ["deny"] }
    path "sys/internal/ui/resultant-acl" { capabilities = ["read"] }
    """
    token = await new_token(core, policy=policy)
    told = await read(core, "sys/internal/ui/resultant-acl", token=token)
    assert not told["root"]
    assert told["exact_paths"]["secret/data/a"] == {"capabilities": ["create", "read"]}
    assert told["glob_paths"] == {
        "secret/data/team/": {"capabilities": ["list"]},
        "secret/+/x": {"capabilities": ["deny"]},
    }
    assert await read(core, "sys/internal/ui/resultant-acl") == {"root": True}


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (READ, "sys/host-info"),
        (READ, "sys/config/state/sanitized"),
        (READ, "sys/audit"),
        (UPDATE, "sys/loggers/server"),
        (UPDATE, "sys/rotate"),
        (UPDATE, "sys/rotate/root/init"),
        (READ, "sys/rekey/backup"),
        (UPDATE, "sys/generate-root-token/attempt"),
    ],
)
async def test_operators_paths_need_sudo(core: Core, operation: Operation, path: str) -> None:
    policy = f'path "{path}" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
    token = await new_token(core, policy=policy)
    with pytest.raises(PermissionDenied):
        await call(core, operation, path, {}, token=token)
