"""What `strongroom region` says where a node cannot be asked as usual."""

from pathlib import Path

import pytest
from support.cli import Cli, empty_environment, runner
from support.stub_api import Reply, stub_api

from node.cli import region

OWN = {
    "name": "eu",
    "role": "secondary",
    "position": 7,
    "lag_entries": 0,
    "lag_seconds": 9.0,
    "last_contact_seconds": None,
    "round_trip_ms": None,
    "fetching": None,
}
TOLD = {
    "region": "eu",
    "role": "secondary",
    "epoch": 2,
    "primary": "us",
    "leader": "",
    "stuck": "",
    "arriving": None,
    "regions": [OWN],
}
NO_QUORUM = (503, {"errors": ["no quorum confirms that this node is up to date"]})


@pytest.fixture
def strongroom(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    empty_environment(monkeypatch, tmp_path)
    return runner(capsys, monkeypatch)


def test_without_a_quorum_the_status_is_what_the_node_knew(strongroom: Cli) -> None:
    answers = iter([NO_QUORUM, (200, {"data": TOLD})])
    with stub_api({"GET /v1/sys/regions": lambda _: next(answers)}) as api:
        code, out, _ = strongroom("region", "status", "-address", api.address)
        assert [each.get("X-Strongroom-Consistency") for each in api.headers] == [None, "stale-ok"]
    assert (code, "us orders writes" in out, "no quorum" in out) == (2, True, True), out


def test_a_sealed_node_is_told_to_be_sealed(strongroom: Cli) -> None:
    sealed = {"GET /v1/sys/regions": (503, {"errors": ["Vault is sealed"]})}
    with stub_api({**sealed, "GET /v1/sys/init": (200, {"initialized": True})}) as api:
        code, _, err = strongroom("region", "status", "-address", api.address)
    assert (code, "Vault is sealed" in err) == (2, True)


def test_a_node_without_a_store_says_how_it_gets_one(strongroom: Cli) -> None:
    sealed = {"GET /v1/sys/regions": (503, {"errors": ["Vault is sealed"]})}
    with stub_api({**sealed, "GET /v1/sys/init": (200, {"initialized": False})}) as api:
        code, _, err = strongroom("region", "status", "-address", api.address)
    assert (code, "region join" in err, "sealed" in err) == (2, True, False), err


def test_a_handover_is_told_of_when_it_is_over(strongroom: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [{"epoch": 1, "region": "eu", "position": 3}]
    after = [*before, {"epoch": 2, "region": "us", "position": 9}]
    steps = (before, "leaving"), (after, "leaving"), (after, "secondary")
    told = [{"epochs": epochs, "regions": [OWN | {"role": role}]} for epochs, role in steps]
    answers = iter([(200, {"data": each}) for each in told])
    replies = {
        "POST /v1/sys/regions/switchover": (204, None),
        "GET /v1/sys/regions": lambda _: next(answers),
    }
    with stub_api(replies) as api:
        code, out, _ = strongroom("region", "switchover", "us", "-address", api.address)
        assert (code, out) == (0, "Success! us orders writes since position 9.\n")
        assert next(answers, None) is None, "and until the other one follows"
        api.replies["GET /v1/sys/regions"] = (403, {"errors": ["permission denied"]})
        code, out, _ = strongroom("region", "switchover", "us", "-address", api.address)
        assert (code, "as soon as it has everything" in out) == (0, True), "who may not look is not kept"
        assert all(each in out for each in ("permission denied", "region status", "sys/regions")), out
        monkeypatch.setattr(region, "TOOK_OVER_TIMEOUT_S", 0.3)
        api.replies["GET /v1/sys/regions"] = (200, {"data": told[0]})
        code, _, err = strongroom("region", "switchover", "us", "-address", api.address)
        assert (code, "demote -force" in err) == (2, True), err


def test_what_was_written_again_is_told_also_where_not_all_could_be(strongroom: Cli) -> None:
    entries = [{"id": f"1-{number}", "path": f"secret/{number}", "kind": "KvPut"} for number in range(4)]
    replies: dict[str, Reply] = {
        "GET /v1/sys/regions/divergence?after=": (200, {"data": {"entries": entries, "next": ""}}),
        "POST /v1/sys/regions/divergence/1-0": (200, {"data": {"path": "secret/data/0", "version": 1}}),
        "POST /v1/sys/regions/divergence/1-1": (404, {"errors": ["no entry 1-1"]}),
        "POST /v1/sys/regions/divergence/1-2": (504, {"errors": ["the outcome is not known"]}),
    }
    with stub_api(replies) as api:
        code, out, err = strongroom("region", "divergence", "-replay=all", "-address", api.address)
    assert (code, "version 1" in out, "gone already" in out, "not known" in err) == (2, True, True, True), out
    assert "secret/3" not in out
