"""Rekeying and making root tokens: what shares prove, what a lost answer costs, and what a stranger can do."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import People, call, new_token, opened_by_people

from consensus.errors import OutcomeUnknown as RaftOutcomeUnknown
from node.core.request import Operation
from node.errors import InvalidRequest, OutcomeUnknown, PermissionDenied, Unsupported

READ, UPDATE, DELETE = Operation.READ, Operation.UPDATE, Operation.DELETE


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[People]:
    async with opened_by_people(tmp_path, 3, 2) as made:
        yield made


async def ask(
    people: People, operation: Operation, path: str, data: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    response = await call(people.core, operation, path, data, **({"token": people.token} | options))
    return response.data or {}


async def begin(people: People, **fields: Any) -> str:
    asked = {"secret_shares": 1, "secret_threshold": 1} | fields
    return str((await ask(people, UPDATE, "sys/rekey/init", asked))["nonce"])


async def offer(people: People, nonce: str, keys: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for key in keys:
        told = await ask(people, UPDATE, "sys/rekey/update", {"key": key, "nonce": nonce}, token=None)
    return told


async def opens(people: People, keys: list[str]) -> bool:
    """Whether these shares, and no others, open the store."""
    if people.core.store is not None:
        await people.core.lifecycle.seal()
    await ask(people, UPDATE, "sys/unseal", {"reset": True})
    try:
        for key in keys:
            await ask(people, UPDATE, "sys/unseal", {"key": key})
    except InvalidRequest:
        return False
    return people.core.store is not None


# --- lost answers -------------------------------------------------------------------------------------------


async def test_a_lost_answer_can_be_asked_for_again_with_the_same_shares(people: People) -> None:
    nonce = await begin(people, secret_shares=3, secret_threshold=2)
    first = await offer(people, nonce, people.keys[:2])
    with pytest.raises(InvalidRequest, match="no rekey in progress"):
        await offer(people, "another nonce", people.keys[:1])
    again = await offer(people, nonce, people.keys[1:])
    assert again["keys"] == first["keys"]
    assert await opens(people, first["keys"][1:])


async def test_what_was_replaced_since_cannot_be_asked_for(people: People) -> None:
    nonce = await begin(people)
    share = (await offer(people, nonce, people.keys[:2]))["keys"]
    await offer(people, await begin(people), share)
    with pytest.raises(InvalidRequest, match="no rekey in progress"):
        await offer(people, nonce, people.keys[:2])


async def test_when_the_outcome_is_unknown_the_same_shares_lead_to_the_same_keys(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = people.core.unsealed
    group, lost = store._group, [True]
    propose = group.propose

    async def answer_lost(command: bytes, **options: Any) -> Any:
        applied = await propose(command, **options)
        if lost.pop() if lost else False:
            raise RaftOutcomeUnknown("the answer was lost")
        return applied

    nonce = await begin(people)
    monkeypatch.setattr(group, "propose", answer_lost)
    with pytest.raises(OutcomeUnknown, match="keep the old ones"):
        await offer(people, nonce, people.keys[:2])
    told = await offer(people, nonce, people.keys[:2])
    assert told["complete"]
    assert await opens(people, told["keys"])
    assert not await opens(people, people.keys[:2])


# --- shares that prove nothing ------------------------------------------------------------------------------


async def test_shares_of_another_store_or_of_nobody_are_refused_and_begin_anew(
    people: People, tmp_path: Path
) -> None:
    nonce = await begin(people)
    async with opened_by_people(tmp_path, 3, 2) as other:
        with pytest.raises(InvalidRequest, match="rekey failed"):
            await offer(people, nonce, other.keys[:2])
    status = await ask(people, READ, "sys/rekey/init")
    assert (status["progress"], status["started"]) == (0, True)
    for malformed in ("", "zz", "00", "AA==", base64.b64encode(bytes(33)).decode()):
        with pytest.raises(InvalidRequest):
            await offer(people, nonce, [malformed])
    assert (await offer(people, nonce, people.keys[:2]))["complete"]


async def test_the_same_share_twice_is_one(people: People) -> None:
    nonce = await begin(people)
    assert (await offer(people, nonce, [people.keys[0]] * 3))["progress"] == 1


async def test_numbers_that_do_not_go_together_are_refused(people: People) -> None:
    for shares, threshold in ((0, 0), (1, 2), (3, 1), (256, 2), (2, 0), ("x", 1)):
        with pytest.raises(InvalidRequest):
            await begin(people, secret_shares=shares, secret_threshold=threshold)
    with pytest.raises(InvalidRequest, match="without providing PGP keys"):
        await begin(people, backup=True)
    with pytest.raises(InvalidRequest, match="error parsing PGP key"):
        await begin(people, pgp_keys=["bm90IGEga2V5"])
    with pytest.raises(InvalidRequest, match="count mismatch"):
        await begin(people, pgp_keys=["YQ==", "Yg=="])
    await begin(people)
    with pytest.raises(InvalidRequest, match="already in progress"):
        await begin(people)


# --- strangers ----------------------------------------------------------------------------------------------


async def test_only_the_nonce_or_a_token_that_may_cancels(people: People) -> None:
    nonce = await begin(people)
    harmless = await new_token(people.core, policy='path "x" { capabilities = ["read"] }', by=people.token)
    for token in (None, "s.unknown", harmless):
        assert (await ask(people, READ, "sys/rekey/init", token=token))["nonce"] == ""
        with pytest.raises(PermissionDenied):
            await ask(people, DELETE, "sys/rekey/init", token=token)
        with pytest.raises(PermissionDenied):
            await ask(people, DELETE, "sys/rekey/init", token=token, query={"nonce": "wrong"})
    trusted = await new_token(
        people.core,
        policy='path "sys/rekey/init" { capabilities = ["read", "delete"] }',
        by=people.token,
    )
    assert (await ask(people, READ, "sys/rekey/init", token=trusted))["nonce"] == nonce
    await ask(people, DELETE, "sys/rekey/init", token=trusted)
    nonce = await begin(people)
    await ask(people, DELETE, "sys/rekey/init", token=None, query={"nonce": nonce})
    assert not (await ask(people, READ, "sys/rekey/init"))["started"]


async def test_a_root_generation_is_guarded_alike(people: People) -> None:
    begun = await ask(people, UPDATE, "sys/generate-root/attempt", {})
    assert (await ask(people, READ, "sys/generate-root/attempt", token=None))["nonce"] == ""
    with pytest.raises(PermissionDenied):
        await ask(people, DELETE, "sys/generate-root/attempt", token=None)
    with pytest.raises(InvalidRequest, match="incorrect nonce"):
        half = {"key": people.keys[0], "nonce": "wrong"}
        await ask(people, UPDATE, "sys/generate-root/update", half, token=None)
    done: dict[str, Any] = {}
    for key in people.keys[1:]:
        body = {"key": key, "nonce": begun["nonce"]}
        done = await ask(people, UPDATE, "sys/generate-root/update", body, token=None)
    padded = base64.b64decode(done["encoded_token"] + "==")
    token = bytes(a ^ b for a, b in zip(padded, begun["otp"].encode(), strict=True)).decode()
    assert (await ask(people, READ, "auth/token/lookup-self", token=token))["policies"] == ["root"]


async def test_a_one_time_pad_has_the_length_of_a_token(people: People) -> None:
    for body in (
        {"otp": "short"},
        {"otp": "é" * 26},
        {"otp": 5},
        {"pgp_key": "x"},
        {"otp": "a" * 26, "pgp_key": "YQ=="},
    ):
        with pytest.raises(InvalidRequest):
            await ask(people, UPDATE, "sys/generate-root/attempt", body)


async def test_the_endpoints_without_a_token_can_be_closed(tmp_path: Path) -> None:
    async with opened_by_people(tmp_path, 1, 1, unauthenticated_rekey=False) as people:
        for path in ("sys/rekey/init", "sys/generate-root/attempt"):
            with pytest.raises(Unsupported):
                await ask(people, READ, path)
        begun = await ask(people, UPDATE, "sys/rotate/root/init", {"secret_shares": 1, "secret_threshold": 1})
        body = {"key": people.keys[0], "nonce": begun["nonce"]}
        assert (await ask(people, UPDATE, "sys/rotate/root/update", body))["complete"]


async def test_nothing_of_it_is_in_clear_in_the_audit_log(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    async with opened_by_people(tmp_path, 3, 2, audit_files=(log,)) as people:
        nonce = await begin(people)
        done = await offer(people, nonce, people.keys[:2])
        begun = await ask(people, UPDATE, "sys/generate-root/attempt", {})
        text = log.read_text()
        for secret in (*people.keys, *done["keys"], *done["keys_base64"], begun["otp"], people.token):
            assert secret not in text


async def test_sealing_forgets_what_was_under_way(people: People) -> None:
    await begin(people)
    assert await opens(people, people.keys[:2])
    assert not (await ask(people, READ, "sys/rekey/init"))["started"]


async def test_showing_new_shares_can_begin_anew(people: People) -> None:
    nonce = await begin(people, secret_shares=2, secret_threshold=2, require_verification=True)
    done = await offer(people, nonce, people.keys[:2])
    shown = {"key": done["keys"][0], "nonce": done["verification_nonce"]}
    assert (await ask(people, UPDATE, "sys/rekey/verify", shown, token=None))["progress"] == 1
    with pytest.raises(PermissionDenied):
        await ask(people, DELETE, "sys/rekey/verify", token=None)
    restarted = await ask(people, DELETE, "sys/rekey/verify")
    assert restarted["progress"] == 0
    with pytest.raises(InvalidRequest, match="incorrect nonce"):
        await ask(people, UPDATE, "sys/rekey/verify", shown, token=None)
    for key in done["keys"]:
        told = await ask(people, UPDATE, "sys/rekey/verify", {"key": key, "nonce": restarted["nonce"]})
    assert told == {"nonce": restarted["nonce"], "complete": True}
    assert await opens(people, done["keys"])


async def test_recovery_keys_are_for_stores_that_a_key_file_opens(people: People) -> None:
    with pytest.raises(InvalidRequest, match="recovery rekeying not supported"):
        await ask(people, UPDATE, "sys/rekey-recovery-key/init", {"secret_shares": 1, "secret_threshold": 1})
