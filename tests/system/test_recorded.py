"""The exchanges that were recorded with a real OpenBao, asked again: any difference is in the list, with its reason."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import compared, recorded
from support.ports import free_ports
from support.processes import Server
from support.targets import Target, unique

REFERENCE = os.environ.get("STRONGROOM_SYSTEM_TARGET") == "openbao"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Target]:
    """A server in development mode, as the recording had: ours, or OpenBao to check the recording by."""
    if REFERENCE:
        reference: Target = request.getfixturevalue("openbao")
        yield reference
        return
    home = tmp_path_factory.mktemp("recorded")
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", unique("root"), home)
    arguments = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={target.token}"]
    with Server(
        home, *arguments, f"-dev-listen-address={target.address[7:]}", address=target.address
    ) as ours:
        ours.start()
        ours.wait_health(200)
        yield target


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Target]:
    """A server that nobody has initialised."""
    target = Target(f"http://127.0.0.1:{free_ports(1)[0]}", "", tmp_path, real=REFERENCE)
    with Server(
        tmp_path / "run", f"-config={recorded.fresh_configuration(target)}", address=target.address
    ) as ours:
        ours.start()
        ours.wait_health(501)
        yield target


@pytest.mark.parametrize("group", [each for each in recorded.groups() if each not in recorded.FRESH])
def test_answers_are_as_recorded(server: Target, group: str) -> None:
    compare_with_recording(server, group)


@pytest.mark.parametrize("group", sorted(recorded.FRESH))
@pytest.mark.skipif(REFERENCE, reason="these are asked of our server alone")
def test_answers_of_a_server_without_a_store_are_as_recorded(fresh: Target, group: str) -> None:
    compare_with_recording(fresh, group)


def compare_with_recording(server: Target, group: str) -> None:
    """Every answer of a group, member by member."""
    meant = [] if REFERENCE else recorded.differences()
    needed: set[int] = set()
    unmeant: list[str] = []
    session = recorded.Session(server)
    try:
        for step in recorded.steps(group):
            name = f"{group}/{step['name']}"
            status, answer = session.ask(step)
            found = [("status", step["status"], status)] if status != step["status"] else []
            found += recorded.compare(step["answer"], answer)
            for at, was, now in found:
                covering = {i for i, each in enumerate(meant) if recorded.is_meant(each, name, at)}
                needed |= covering
                if not covering:
                    unmeant.append(f"{name} at {at}: recorded {was!r}, here {now!r}")
    finally:
        session.close()
    assert not unmeant, "\n".join(unmeant)
    stale = [each for i, each in enumerate(meant) if each["step"].startswith(f"{group}/") and i not in needed]
    assert not stale, "differences that are none any more"


def test_the_document_says_what_the_list_says() -> None:
    assert recorded.DOCUMENT.read_text() == recorded.document()


def test_two_servers_are_asked_side_by_side() -> None:
    steps = [
        {"name": "make", "method": "POST", "path": "auth/token/create", "body": {"ttl": "1h"},
         "save": {"t": "auth.client_token"}},
        {"name": "use", "method": "GET", "path": "auth/token/lookup-self", "token": "${t}"},
        {"name": "odd", "method": "GET", "path": "sys/policies/acl/default"},
        {"name": "no such", "method": "GET", "path": "sys/mounts/none", "save": {"u": "data.uuid"}},
    ]  # fmt: skip
    lines = list(compared.compared(steps))
    assert lines
    assert all(line.startswith("odd at .data.") for line in lines), lines


def test_a_difference_is_noticed() -> None:
    """The comparison itself: by member, by length, by type, and in what a mark does not cover."""
    recorded_answer = {"data": {"a": [1, 2], "t": "<time>"}, "n": 1}
    for other in ({"data": {"a": [1, 2], "t": "<uuid>"}, "n": 1}, {"data": {"a": [1], "t": "<time>"}, "n": 1},
                  {"data": {"a": [1, 2], "t": "<time>"}, "n": True}, {"n": 1}):  # fmt: skip
        assert list(recorded.compare(recorded_answer, other))
    assert not list(recorded.compare(recorded_answer, dict(recorded_answer)))


@pytest.mark.parametrize(
    ("member", "kept"),
    [
        ({"id": "0af5c4a3-7b7e-4b55-8f3e-7ab4fd4b1d35"}, "<uuid>"),
        ({"at": "2026-01-02T03:04:05.6Z"}, "<time>"),
        ({"at": "0001-01-01T00:00:00Z"}, "0001-01-01T00:00:00Z"),
        ({"ttl": 3599}, 3600),
        ({"creation_ttl": 3599}, 3599),
        ({"made": 1_800_000_000}, "<unix>"),
        ({"path": f"a/{'x' * 24}"}, "a/<id>"),
        ({"name": "web"}, "web"),
    ],
)
def test_marks_stand_for_what_no_two_runs_share_and_nothing_else(
    member: dict[str, object], kept: object
) -> None:
    assert list(recorded.normal(member).values()) == [kept]


def test_recordings_hold_nothing_secret() -> None:
    for group in recorded.groups():
        text = (Path(recorded.FOLDER) / f"{group}.json").read_text()
        assert "-----BEGIN" not in text
        assert "hvs." not in text
