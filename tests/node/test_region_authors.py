"""Who wrote what was set aside, by the audit records of a real core."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import call, new_token, opened

from node.cli.output import LocalError
from node.cli.region_authors import WITHIN_S, find
from node.core.request import Operation
from node.errors import InvalidRequest


def entry(identity: str, **fields: Any) -> dict[str, Any]:
    return {"id": identity, "time_ns": time.time_ns(), "mount": "secret/", "kind": "KvPut"} | fields


async def test_the_record_with_the_same_path_version_and_moment_names_the_writer(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        policy = 'path "secret/*" { capabilities = ["create", "update"] }'
        alice = await new_token(core, policy=policy, display_name="alice")
        entries = [
            entry("first", path="a", version=1),
            entry("second", path="a", version=2),
            entry("policy", mount=None, name="ops"),
            entry("elsewhere", path="b", version=1),
            entry("long ago", path="a", version=1, time_ns=time.time_ns() - int((WITHIN_S + 5) * 1e9)),
        ]
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"v": 1}})
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"v": 2}}, token=alice)
        with pytest.raises(InvalidRequest):
            await call(core, Operation.UPDATE, "secret/data/b", {"data": {"v": 2}, "options": {"cas": 7}})
        await call(core, Operation.UPDATE, "sys/policies/acl/ops", {"policy": policy})
        file = core.settings.audit_files[0]
        with file.open("ab") as end:
            end.write(b'{"time":"2026-11-25T10:00:00Z","type":"response","re')  # a node that was killed
        found = find(entries, [file])
        assert {name: each["display_name"] for name, each in found.items()} == {
            "first": "root",
            "second": "token-alice",
            "policy": "root",
        }
        told = audit_records_until_cut(file)
        record = next(each for each in told if each["request"]["id"] == found["second"]["audit_request_id"])
        assert record["auth"]["accessor"] == found["second"]["accessor"] != found["first"]["accessor"]


def audit_records_until_cut(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()[:-1]]


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot be read"):
        find([entry("a", path="a", version=1)], [tmp_path / "none"])
