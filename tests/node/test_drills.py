"""What speaks against a drill, and what a report is that the store keeps: signed, bounded, and nobody else's words."""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.corefixture import call, new_token, opened
from support.stub_api import Reply, stub_api

from node.cli.client import Client
from node.cli.drill_probe import Acknowledged, longest_gap_s
from node.cli.drill_run import Run, conduct
from node.cli.output import Output, RemoteError
from node.core.core import Core
from node.core.request import Operation
from node.drills import obstacles
from node.drills.history import REPORTS_MAX
from node.drills.probes import PROBES_MAX
from node.drills.report import LINES_MAX, verifies
from node.errors import InvalidRequest, NotFound, PermissionDenied, TooBusy

READ, UPDATE, DELETE = Operation.READ, Operation.UPDATE, Operation.DELETE
REPORT: dict[str, Any] = {
    "drill": "leader",
    "ending": "passed",
    "started": "2026-11-25T10:00:00.000Z",
    "ended": "2026-11-25T10:00:07.500Z",
    "rto_ms": 412,
    "rpo_writes": 0,
    "requests": 70,
    "requests_failed": 1,
    "steps": [{"what": "Asking n1 to step down", "ms": 35}],
    "notes": ["n2 leads now: “fine”\x7f\n"],
}


@pytest.fixture
async def core(tmp_path: Path) -> Any:
    async with opened(tmp_path) as made:
        yield made


async def keep(core: Core, **changes: Any) -> str:
    response = await call(core, UPDATE, "sys/drills/history", {"report": REPORT | changes})
    assert response.data is not None
    return str(response.data["id"])


async def history(core: Core) -> dict[str, Any]:
    response = await call(core, READ, "sys/drills/history")
    assert response.data is not None
    return response.data


async def test_a_report_is_kept_with_who_recorded_it_and_its_signature_holds(core: Core) -> None:
    kept = await keep(core)
    told = await history(core)
    (record,) = told["reports"]
    assert (record["id"], record["by"], record["cluster_id"]) == (kept, "root", core.lifecycle.cluster_id)
    assert record["report"].items() >= REPORT.items()
    assert verifies(record, told["public_key"])
    for change in ({"by": "somebody"}, {"report": record["report"] | {"rto_ms": 411}}, {"signature": "AAAA"}):
        assert not verifies(record | change, told["public_key"])
    assert not verifies(record, "not a key")


async def test_a_repeated_request_keeps_one_report(core: Core) -> None:
    for _ in range(2):
        await call(core, UPDATE, "sys/drills/history", {"report": REPORT}, request_id=b"0123456789abcdef")
    assert len((await history(core))["reports"]) == 1


async def test_the_newest_reports_are_kept(core: Core) -> None:
    for number in range(REPORTS_MAX + 3):
        await keep(core, started=f"2026-11-25T10:{number // 60:02}:{number % 60:02}Z", requests=number)
    told = [each["report"]["requests"] for each in (await history(core))["reports"]]
    assert told == list(range(REPORTS_MAX + 2, 2, -1))


@pytest.mark.parametrize(
    "change",
    [
        {"drill": "earthquake"},
        {"ending": "great"},
        {"started": "yesterday"},
        {"started": "2026-11-25T10:00:00Z/../../x"},
        {"rto_ms": -1},
        {"rto_ms": "fast"},
        {"requests": 1 << 60},
        {"notes": ["x"] * (LINES_MAX + 1)},
        {"notes": ["x" * 501]},
        {"approved": True},
        {"steps": [{"what": "x", "ms": 1, "by": "me"}]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_is_no_report_is_refused(core: Core, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="not the report of a drill"):
        await keep(core, **change)
    with pytest.raises(InvalidRequest):
        await call(core, UPDATE, "sys/drills/history", {})


async def test_drills_need_sudo(core: Core) -> None:
    without = await new_token(
        core, policy='path "sys/drills/*" { capabilities = ["read", "update", "delete"] }'
    )
    granted = await new_token(core, policy='path "sys/drills/*" { capabilities = ["read", "sudo"] }')
    for path in ("sys/drills/history", "sys/drills/plan", "sys/drills/node", "sys/drills/probe/a"):
        with pytest.raises(PermissionDenied):
            await call(core, READ, path, token=without)
    assert (await call(core, READ, "sys/drills/history", token=granted)).status == 200


async def test_probes_count_are_few_and_go(core: Core) -> None:
    async def put(name: str, number: Any) -> None:
        await call(core, UPDATE, f"sys/drills/probe/{name}", {"number": number})

    for number in range(PROBES_MAX):
        await put(f"p{number}", number)
    await put("p3", 99)
    read = await call(core, READ, "sys/drills/probe/p3")
    assert read.data == {"number": 99}
    with pytest.raises(TooBusy):
        await put("more", 1)
    for name, number in (("P", 1), ("a" * 33, 1), ("p1", -1), ("p1", "x"), ("p1", 1 << 40)):
        with pytest.raises(InvalidRequest):
            await put(name, number)
    await call(core, DELETE, "sys/drills/probe/p3")
    with pytest.raises(NotFound):
        await call(core, READ, "sys/drills/probe/p3")
    await put("more", 1)


# --- what speaks against it ---------------------------------------------------------------------------------


def member(name: str, **changes: Any) -> dict[str, Any]:
    return {"node_id": name, "voter": True, "healthy": True, "leader": name == "n1"} | changes


def region(name: str, **changes: Any) -> dict[str, Any]:
    role = "primary" if name == "eu" else "secondary"
    node = {"node_id": f"{name}-1", "leader_id": f"{name}-1", "seal_reachable": True, "seal_problem": ""}
    told = {"name": name, "role": role, "lag_entries": 0, "lag_seconds": 0.0, "last_contact_seconds": 0.2}
    return told | {"nodes": [node]} | changes


def plan(members: list[dict[str, Any]], tolerance: int, regions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "node": region("eu")["nodes"][0],
        "cluster": {"leader": "n1", "failure_tolerance": tolerance, "members": members},
        "regions": {"region": "eu", "primary": "eu", "stuck": "", "regions": regions} if regions else None,
    }


THREE = [member("n1"), member("n2"), member("n3")]
GOOD = plan(THREE, 1, [region("eu", last_contact_seconds=None), region("us")])


def with_us(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(GOOD)
    changed["regions"]["regions"][1] |= changes
    return changed


def test_nothing_speaks_against_a_drill_where_all_is_well() -> None:
    assert not obstacles.to_leader(GOOD)
    assert not obstacles.to_node(GOOD, "n2")
    assert not obstacles.to_switchover(GOOD, "us")


def test_where_no_write_gets_through_there_is_nothing_to_measure() -> None:
    for contact_s, against in ((0.2, 0), (9.0, 1), (None, 1)):
        behind = copy.deepcopy(GOOD)
        behind["regions"]["region"] = "us"
        behind["regions"]["regions"][0]["last_contact_seconds"] = contact_s
        for found in (obstacles.to_leader(behind), obstacles.to_node(behind, "n2")):
            assert ["eu orders writes and does not answer" in each for each in found] == [True] * against
    nobody = copy.deepcopy(GOOD)
    nobody["regions"]["primary"] = ""
    assert "no region orders writes" in obstacles.to_leader(nobody)[0]


def test_no_leader_steps_down_and_no_node_stops_where_no_other_may_fail() -> None:
    degraded = plan([member("n1"), member("n2"), member("n3", healthy=False)], 0, [])
    assert "2 of 3 voters are healthy" in obstacles.to_leader(degraded)[0]
    assert "2 of 3 voters are healthy" in obstacles.to_node(degraded, "n2")[0]
    assert "not healthy as it is" in obstacles.to_node(degraded, "n3")[0]
    assert "one voter" in obstacles.to_leader(plan([member("n1")], 0, []))[0]
    assert "there is no node n9" in obstacles.to_node(GOOD, "n9")[0]


@pytest.mark.parametrize(
    ("given", "target", "because"),
    [
        (plan(THREE, 1, []), "us", "no regions"),
        (GOOD, "asia", "no region asia"),
        (GOOD, "eu", "orders writes already"),
        (with_us(lag_entries=1001), "us", "1001 commands behind"),
        (with_us(lag_entries=None), "us", "nobody here knows"),
        (with_us(last_contact_seconds=2.5), "us", "us does not answer"),
        (with_us(last_contact_seconds=None), "us", "us does not answer"),
        (with_us(role="leaving"), "us", "us is leaving"),
        (with_us(role="primary"), "us", "not clear which region"),
        (GOOD | {"regions": GOOD["regions"] | {"stuck": "upgrade"}}, "us", "does not get on: upgrade"),
    ],
)
def test_no_region_is_handed_over_where_that_would_hurt(given: Any, target: str, because: str) -> None:
    assert because in "; ".join(obstacles.to_switchover(given, target))


def test_a_promotion_is_told_to_be_a_switchover_while_the_primary_answers() -> None:
    assert "region switchover us" in obstacles.to_promotion(GOOD, "us")[0]
    alone = copy.deepcopy(GOOD)
    alone["regions"] |= {"region": "us"}
    alone["regions"]["regions"] = [
        region("eu", last_contact_seconds=60.0),
        region("us", lag_entries=7, lag_seconds=3.5),
    ]
    alone["node"] |= {"seal_reachable": False, "seal_problem": "no key file", "leader_id": None}
    told = obstacles.to_promotion(alone, "us")
    for part in ("no leader", "no key file", "7 commands, all of the last 3.5 seconds"):
        assert part in "; ".join(told)


def test_the_gap_is_the_longest_time_without_an_acknowledged_write() -> None:
    writes = [
        Acknowledged(number, ended - 0.1, ended) for number, ended in enumerate((1.0, 2.0, 5.0, 5.5), 1)
    ]
    assert longest_gap_s(writes, 1.5) == 3.0
    assert longest_gap_s(writes, 5.2) == pytest.approx(0.3)
    assert longest_gap_s(writes, 9.0) == 0.0


def test_a_report_that_was_printed_is_kept_later(
    strongroom: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = tmp_path / "report.json"
    printed.write_text(json.dumps({"id": None, "report": REPORT}))
    replies: dict[str, Reply] = {
        "POST /v1/sys/drills/history": (200, {"data": {"id": "x"}}),
        "GET /v1/sys/drills/history": (200, {"data": {"reports": [], "public_key": ""}}),
    }
    with stub_api(replies) as api:
        monkeypatch.setenv("STRONGROOM_ADDR", api.address)
        assert strongroom("drill", "history", f"-keep={printed}")[0] == 0
        assert api.asked[0][:3] == ("POST", "/v1/sys/drills/history", {"report": REPORT})
        printed.write_text("[]")
        code, _, err = strongroom("drill", "history", f"-keep={printed}")
        assert (code, "not what a drill prints" in err) == (1, True)


def test_a_drill_that_would_hurt_is_refused_with_the_reasons(
    strongroom: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    degraded = plan([member("n1"), member("n2"), member("n3", healthy=False)], 0, [])
    with stub_api({"GET /v1/sys/drills/plan": (200, {"data": degraded})}) as api:
        monkeypatch.setenv("STRONGROOM_ADDR", api.address)
        code, out, err = strongroom("drill", "leader")
        assert (code, out) == (2, "")
        assert "2 of 3 voters are healthy" in err
        assert [method for method, *_ in api.asked] == ["GET"], "nothing was begun"


@pytest.mark.parametrize(
    ("error", "stubborn", "ending"),
    [
        (None, False, "passed"),
        (None, True, "failed"),
        (RemoteError("it broke"), False, "failed"),
        (KeyboardInterrupt(), True, "interrupted"),
    ],
)
def test_what_a_drill_began_is_undone_however_it_ends(
    error: BaseException | None, stubborn: bool, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    did: list[str] = []

    def fails() -> None:
        if stubborn:
            raise RemoteError("no")

    def body(run: Run) -> None:
        run.undone("the first", partial(did.append, "first"))
        run.undone("the stubborn", fails)
        run.undone("the second", partial(did.append, "second"))()  # done in the course of it
        run.undone("the last", partial(did.append, "last"))
        if error is not None:
            raise error

    with stub_api({"POST /v1/sys/drills/history": (200, {"data": {"id": "x"}})}) as api:
        run = Run(Client(api.address), Output("json"), "isolated", "", False, None)
        assert conduct(run, body) == (0 if ending == "passed" else 2)
        report = api.asked[-1][2]["report"]
    assert did == ["last", "first"]
    assert report["ending"] == ending
    assert ("left undone: the stubborn: no" in report["notes"]) == stubborn
    assert json.loads(capsys.readouterr().out)["id"] == "x"
