"""The audit log: everything is recorded, nothing secret is, and without a record there is no answer."""

import base64
import contextlib
import errno
import hashlib
import hmac
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import ROOT_TOKEN, audit_records, call, new_token, opened

from node.audit.log import AuditLog
from node.audit.record import LIST_ITEMS_MAX, SEALED_MARK, Hasher, outcome
from node.core.request import Operation, Request, Response
from node.errors import AuditFailed, NodeError, NotFound, PermissionDenied, Sealed
from storage.keyring import AUDIT_HMAC
from storage.secret import Secret

FULL_DISK = Path("/dev/full")
CANARY = "canary-4f1d9b7e-in-the-value"


def a_request(**changes: Any) -> Request:
    return Request(id="id", operation=Operation.READ, path="secret/data/a", **changes)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_request_and_its_answer_are_two_records(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policy='path "secret/*" { policy = "write" }')
        before = len(audit_records(core))
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"x": CANARY, "n": 7}}, token=token)
        request, response = audit_records(core)[before:]
        assert (request["type"], response["type"]) == ("request", "response")
        assert request["request"]["id"] == response["request"]["id"]
        assert request["request"]["operation"] == "create"
        assert request["request"]["path"] == "secret/data/a"
        assert request["request"]["mount_point"] == "secret/"
        assert request["request"]["remote_address"] == "127.0.0.1"
        assert request["request"]["data"]["data"]["n"] == 7
        assert request["auth"]["token_type"] == "service"
        assert request["auth"]["display_name"] == "token"
        assert request["auth"]["client_token"] == request["request"]["client_token"]
        assert response["response"]["data"]["version"] == 1
        assert [record["seq"] for record in audit_records(core)] == list(range(1, before + 3))


async def test_records_say_whose_entity_asks_and_with_what_kind_of_token(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/up", type="userpass")
        await ask.post("auth/up/users/bob", password="pw", token_type="batch")
        bob = await ask.auth("auth/up/login/bob", password="pw")
        await ask.by(bob["client_token"]).post("sys/capabilities-self", path="x")
        asked = audit_records(core)[-2]["auth"]
        assert (asked["token_type"], asked["entity_id"]) == ("batch", bob["entity_id"])


async def test_values_are_recognised_by_who_knows_them(tmp_path) -> None:
    """The HMAC is that of sys/audit-hash: hmac-sha256 of the value under the store's audit key."""
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"x": CANARY}})
        await call(core, Operation.READ, "secret/data/a")
        key = core.unsealed.root.derive(AUDIT_HMAC)
        want = "hmac-sha256:" + hmac.new(key, CANARY.encode(), hashlib.sha256).hexdigest()
        assert core.audit.hash(CANARY) == want
        written, _, _, read = audit_records(core)
        assert written["request"]["data"]["data"]["x"] == want
        assert read["response"]["data"]["data"]["x"] == want
        assert written["auth"]["client_token"] == core.audit.hash(ROOT_TOKEN)


async def test_errors_are_recorded_with_who_asked_for_what(tmp_path) -> None:
    async with opened(tmp_path) as core:
        token = await new_token(core, policies="default")
        before = len(audit_records(core))
        for error, path, presented in [
            (PermissionDenied, "secret/data/a", token),
            (PermissionDenied, "secret/data/a", "s.CANARYcanaryCANARYcanary"),
            (PermissionDenied, "secret/data/a", None),
            (NotFound, "secret/data/missing", ROOT_TOKEN),
        ]:
            with pytest.raises(error):
                await call(core, Operation.READ, path, token=presented)
        records = audit_records(core)[before:]
        assert [record["type"] for record in records] == ["request", "response"] * 4
        assert records[0]["error"] == records[1]["error"] == "1 error occurred:\n\t* permission denied\n\n"
        assert records[0]["auth"]["policies"] == ["default"]
        assert records[2]["auth"] == {}
        assert records[2]["request"]["client_token"] == core.audit.hash("s.CANARYcanaryCANARYcanary")
        assert "client_token" not in records[4]["request"]


async def test_no_secret_in_any_record(tmp_path) -> None:
    """Values, tokens and accessors, in every encoding that somebody might have thought harmless."""
    async with opened(tmp_path) as core:
        update, read = Operation.UPDATE, Operation.READ
        secrets = [CANARY, ROOT_TOKEN]
        response = await call(
            core, update, "auth/token/create", {"policies": "default", "meta": {"team": CANARY[:0]}}
        )
        assert response.auth is not None
        token, accessor = response.auth["client_token"], response.auth["accessor"]
        secrets += [token, accessor]
        for path, data in [
            ("secret/data/a", {"data": {"x": CANARY, "deep": [{"y": [CANARY]}]}, "options": {"cas": 0}}),
            ("secret/metadata/a", {"custom_metadata": {"k": CANARY}}),
            ("auth/token/lookup", {"token": token}),
            ("auth/token/lookup-accessor", {"accessor": accessor}),
            ("auth/token/renew", {"token": token, "increment": "1h"}),
            ("sys/capabilities", {"token": token, "path": "secret/data/a"}),
            ("sys/capabilities-accessor", {"accessor": accessor, "path": "secret/data/a"}),
            ("auth/token/create", {"id": CANARY}),
            ("auth/token/lookup", {"token": CANARY}),
            ("sys/policies/acl/x", {"policy": f"path {CANARY}"}),
            ("auth/token/revoke", {"token": CANARY}),
        ]:
            with contextlib.suppress(NodeError):
                await call(core, update, path, data)
        for path in ("secret/data/a", "secret/metadata/a", "auth/token/lookup-self"):
            await call(core, read, path, query={"note": CANARY})
            await call(core, read, "auth/token/lookup-self", token=token)
        await call(core, Operation.LIST, "auth/token/accessors")
        raw = core.settings.audit_files[0].read_bytes()
        assert raw.count(b"\n") > 20
        for secret in secrets:
            data = secret.encode()
            for form in (data, base64.b64encode(data)[:-4], data.hex().encode(), data[::-1]):
                assert form not in raw


def test_a_sealed_node_records_without_a_key(tmp_path) -> None:
    """init and unseal carry shares and answer with keys; there is no key yet to hash them under."""
    log = AuditLog([tmp_path / "audit.log"])
    request = a_request(data={"key": CANARY, "reset": False}, token=Secret(CANARY.encode()))
    log.request(request)
    log.response(request, Response(data={"keys": [CANARY], "root_token": CANARY, "t": 1}))
    log.close()
    asked, answered = lines(tmp_path / "audit.log")
    assert asked["request"]["data"] == {"key": SEALED_MARK, "reset": False}
    assert asked["request"]["client_token"] == SEALED_MARK
    assert answered["response"]["data"] == {"keys": [SEALED_MARK], "root_token": SEALED_MARK, "t": 1}


async def test_sealing_takes_the_key_away(tmp_path) -> None:
    async with opened(tmp_path) as core:
        await core.lifecycle.seal()
        assert core.audit.hash(CANARY) == SEALED_MARK
        with pytest.raises(Sealed):
            await call(core, Operation.UPDATE, "secret/data/a", {"data": {"x": CANARY}})
        assert audit_records(core)[-1]["request"]["data"] == {"data": {"x": SEALED_MARK}}


def test_a_long_listing_is_recorded_by_its_length() -> None:
    request = Request(id="id", operation=Operation.LIST, path="secret/metadata/")
    hasher = Hasher(b"k" * 32)

    def keys(count: int) -> Any:
        answer = Response(data={"keys": [str(number) for number in range(count)]})
        return json.loads(outcome(hasher, request, answer))["data"]["keys"]

    assert len(keys(LIST_ITEMS_MAX)) == LIST_ITEMS_MAX
    assert keys(LIST_ITEMS_MAX + 1) == LIST_ITEMS_MAX + 1


def test_what_cannot_be_recorded_is_a_bug_not_a_hole() -> None:
    with pytest.raises(TypeError):
        Hasher(None).tree({"x": object()})


async def test_a_full_disk_stops_everything(tmp_path) -> None:
    """The write is not carried out, the read is not answered, and both are counted."""
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"x": "1"}})
        index = core.unsealed.position
        core.audit, working = AuditLog([FULL_DISK]), core.audit
        for operation, path, data in [
            (Operation.UPDATE, "secret/data/a", {"data": {"x": "2"}}),
            (Operation.READ, "secret/data/a", None),
            (Operation.DELETE, "secret/data/a", None),
            (Operation.UPDATE, "auth/token/create", {}),
        ]:
            with pytest.raises(AuditFailed):
                await call(core, operation, path, data)
        assert core.audit.failures == {"/dev/full": 4}
        assert core.audit.refused == 4
        core.audit.close()
        core.audit = working
        assert core.unsealed.position == index
        response = await call(core, Operation.READ, "secret/data/a")
        assert response.data is not None
        assert response.data["metadata"]["version"] == 1


async def test_a_denied_request_must_be_recorded_too(tmp_path) -> None:
    """Else probing would be invisible exactly when the disk is full."""
    async with opened(tmp_path, audit_files=(FULL_DISK,)) as core:
        for token in ("nope", None):
            with pytest.raises(AuditFailed):
                await call(core, Operation.READ, "secret/data/a", token=token)


def test_a_closed_descriptor_is_a_failure(tmp_path) -> None:
    log = AuditLog([tmp_path / "audit.log"])
    log.close()
    with pytest.raises(AuditFailed):
        log.request(a_request())


def test_one_sink_of_two_is_enough_and_the_other_is_counted(tmp_path) -> None:
    good = tmp_path / "audit.log"
    for paths in ([FULL_DISK, good], [good, FULL_DISK]):
        log = AuditLog(paths)
        log.request(a_request())
        assert log.failures == {"/dev/full": 1, str(good): 0}
        assert log.refused == 0
        log.close()
    assert len(lines(good)) == 2


def test_a_torn_record_fails_and_the_next_starts_its_own_line(tmp_path, monkeypatch) -> None:
    """A disk that fills in the middle of a write: os.write returns less than it was given."""
    log = AuditLog([tmp_path / "audit.log"])
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:20]))
    with pytest.raises(AuditFailed):
        log.request(a_request())
    monkeypatch.undo()
    log.request(a_request())
    log.close()
    torn, whole = (tmp_path / "audit.log").read_text().splitlines()
    assert len(torn) == 20
    assert json.loads(whole)["seq"] == 1


def test_without_sinks_every_record_is_accepted() -> None:
    log = AuditLog([])
    log.request(a_request())
    log.response(a_request(), None, error="x")
    assert not log.enabled


def test_files_are_for_the_owner_only(tmp_path) -> None:
    before = os.umask(0)
    try:
        AuditLog([tmp_path / "audit.log"]).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_no_symbolic_link_is_followed(tmp_path) -> None:
    """The log is no way to append to another file."""
    victim = tmp_path / "victim"
    victim.write_text("")
    (tmp_path / "audit.log").symlink_to(victim)
    with pytest.raises(OSError) as caught:
        AuditLog([tmp_path / "audit.log"])
    assert caught.value.errno == errno.ELOOP
    assert victim.read_text() == ""


def test_a_pipe_that_nobody_reads_does_not_hang_the_node(tmp_path) -> None:
    os.mkfifo(tmp_path / "audit.log")
    with pytest.raises(OSError):
        AuditLog([tmp_path / "audit.log"])


def test_a_sink_that_cannot_be_opened_stops_the_start(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditLog([tmp_path / "good.log", tmp_path / "missing" / "audit.log"])
    with pytest.raises(IsADirectoryError):
        AuditLog([tmp_path])


def test_records_are_appended_to_what_is_there(tmp_path) -> None:
    path = tmp_path / "audit.log"
    for _ in range(2):
        log = AuditLog([path])
        log.request(a_request())
        log.close()
    assert len(lines(path)) == 2


def test_rotation(tmp_path) -> None:
    """SIGHUP after a rename: new records go to a new file, none is lost."""
    path, rotated = tmp_path / "audit.log", tmp_path / "audit.log.1"
    log = AuditLog([path])
    log.request(a_request())
    path.rename(rotated)
    log.request(a_request())
    assert log.reopen() == []
    log.request(a_request())
    assert [record["seq"] for record in lines(rotated)] == [1, 2]
    assert [record["seq"] for record in lines(path)] == [1]
    log.close()


def test_a_rotation_that_fails_keeps_the_old_file(tmp_path) -> None:
    directory, aside = tmp_path / "audit", tmp_path / "aside"
    directory.mkdir()
    log = AuditLog([directory / "audit.log"])
    directory.rename(aside)
    assert log.reopen() == [str(directory / "audit.log")]
    assert log.failures == {str(directory / "audit.log"): 1}
    log.request(a_request())
    log.close()
    assert len(lines(aside / "audit.log")) == 1
