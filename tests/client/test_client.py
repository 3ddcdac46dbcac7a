"""What a caller sees when nodes fail, tokens end and answers get lost: the same with threads and with asyncio."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from strongroom import (
    STALE_OK,
    ApiError,
    CasMismatch,
    ConfigurationError,
    Consistency,
    Deleted,
    Forbidden,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    Token,
    Unavailable,
    Unreachable,
)
from support.certs import Authority
from support.patience import PATIENCE_S
from support.processes import poll
from support.replies import DENIED, HEALTH, META, READ, SEALED, SECRET, WELL, WRITE, WRITTEN, calls
from support.stub_api import LOST, Reply, StubApi, dead_address, stub_api

Make = Callable[..., Any]


def test_a_secret_is_read_and_written(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"))
        secret = client(lambda c: c.kv.get("/app/"))
        assert secret["password"].reveal() == "pw"
        assert (secret.path, secret.info.version, secret.stale) == ("app", 3, False)
        assert client(lambda c: c.kv.put("app", {"a": 1}, cas=3)).version == 4
        assert api.asked[-1] == (
            "PUT",
            "/v1/secret/data/app",
            {"data": {"a": 1}, "options": {"cas": 3}},
            "s.t",
        )


@pytest.mark.parametrize("ill", ["gone", "sealed", "losing"])
def test_another_node_is_asked_when_one_does_not_serve(make: Make, ill: str) -> None:
    with (
        stub_api(WELL) as well,
        stub_api({HEALTH: (200, {}), READ: SEALED if ill == "sealed" else LOST}) as other,
    ):
        client = make([dead_address() if ill == "gone" else other.address, well.address], Token("s.t"))
        for _ in range(3):
            assert client(lambda c: c.kv.get("app"))["password"].reveal() == "pw"
        assert client.client.endpoint == well.address
        assert calls(other, READ) <= 1, "it is left alone for a while"


def later_than(near: StubApi) -> Callable[[str | None], Reply]:
    """The health of a server that is far away: it answers long after another one was asked."""

    def answer(_: str | None) -> Reply:
        poll(lambda: calls(near, HEALTH), what="the other one is asked")
        time.sleep(0.5)
        return 200, {}

    return answer


def test_the_nearest_is_asked_and_used_again_when_it_is_back(make: Make) -> None:
    with stub_api(WELL) as near, stub_api(WELL | {HEALTH: later_than(near)}) as far:
        client = make([far.address, near.address], Token("s.t"))
        client(lambda c: c.kv.get("app"))
        assert client.client.endpoint == near.address
        near.replies[READ] = near.replies[HEALTH] = SEALED
        client(lambda c: c.kv.get("app"))
        assert client.client.endpoint == far.address
        near.replies |= WELL
        deadline = time.monotonic() + PATIENCE_S
        while client.client.endpoint != near.address:
            client(lambda c: c.kv.get("app"))
            assert time.monotonic() < deadline


def test_a_write_whose_answer_is_lost_is_sent_again_as_the_same_write(make: Make) -> None:
    answers = [LOST, SEALED, WRITTEN]
    with stub_api(WELL | {WRITE: lambda _: answers.pop(0)}) as api:
        assert make(api.address, Token("s.t"))(lambda c: c.kv.put("app", {"a": 1})).version == 4
        sent = [
            h["X-Strongroom-Request-Id"] for h, c in zip(api.headers, api.asked, strict=True) if c[0] == "PUT"
        ]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert len(bytes.fromhex(sent[0])) == 16


@pytest.mark.parametrize(
    "last", [LOST, SEALED, (504, {"errors": ["unknown"]}), DENIED], ids=["lost", "sealed", "504", "403"]
)
def test_a_write_that_may_have_happened_is_never_told_as_a_failure(make: Make, last: Reply) -> None:
    """Not even if what comes after says that nothing can happen."""
    answers = [LOST]
    with stub_api(WELL | {WRITE: lambda _: answers.pop() if answers else last}) as api:
        client = make(api.address, Token("s.t"), attempts_max=3)
        with pytest.raises(OutcomeUnknown) as caught:
            client(lambda c: c.kv.put("app", {"password": "hidden"}))
        assert caught.value.request_id == api.headers[-1]["X-Strongroom-Request-Id"]
    assert "hidden" not in str(caught.value)
    assert "s.t" not in str(caught.value)


def test_what_is_refused_after_a_lost_answer_may_be_refused_because_it_was_done(make: Make) -> None:
    """Secrets are known by their request id; what else there is may answer that it exists already."""
    taken: Reply = (400, {"errors": ["path is already in use at x/"]})
    stale: Reply = (400, {"errors": ["check-and-set parameter did not match the current version"]})
    mounts, secrets = [LOST, taken], [LOST, stale]
    replies = {"PUT /v1/sys/mounts/x": lambda _: mounts.pop(0), WRITE: lambda _: secrets.pop(0)}
    with stub_api(WELL | replies) as api:
        client = make(api.address, Token("s.t"))
        with pytest.raises(OutcomeUnknown):
            client(lambda c: c.write("sys/mounts/x", {"type": "kv"}))
        with pytest.raises(CasMismatch):
            client(lambda c: c.kv.put("app", {}, cas=1))
        mounts.append(taken)
        with pytest.raises(InvalidRequest):
            client(lambda c: c.write("sys/mounts/x", {"type": "kv"}))


def test_a_reads_error_on_the_server_is_told_as_such(make: Make) -> None:
    with stub_api(WELL | {READ: (500, {"errors": ["internal error"]})}) as api, pytest.raises(ServerError):
        make(api.address, Token("s.t"), attempts_max=2)(lambda c: c.kv.get("app"))


def test_a_write_that_certainly_did_not_happen_is_told_so(make: Make) -> None:
    with stub_api(WELL | {WRITE: SEALED}) as api, pytest.raises(Unavailable, match="sealed"):
        make(api.address, Token("s.t"), attempts_max=2)(lambda c: c.kv.put("app", {}))
    with pytest.raises(Unreachable):
        make([dead_address(), dead_address()], attempts_max=3)(lambda c: c.kv.put("app", {}))


def test_a_read_is_never_of_unknown_outcome(make: Make) -> None:
    with stub_api(WELL | {READ: LOST}) as api, pytest.raises(Unreachable):
        make(api.address, Token("s.t"), attempts_max=2)(lambda c: c.kv.get("app"))


def test_a_call_ends_in_time(make: Make) -> None:
    with stub_api(WELL | {READ: SEALED}) as api:
        client = make(api.address, Token("s.t"), timeout_s=0.5, attempts_max=1000)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            client(lambda c: c.kv.get("app"))
        assert time.monotonic() - started < PATIENCE_S


@contextmanager
def trickling() -> Iterator[str]:
    """The address of a server whose answer comes a byte at a time, for half as long as tests wait."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def answer() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                ends = time.monotonic() + PATIENCE_S / 2
                while not over.wait(0.02) and time.monotonic() < ends:
                    connection.sendall(b" ")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        listening.close()
        thread.join()


def test_an_answer_that_comes_byte_by_byte_takes_no_longer_than_a_call_may(make: Make) -> None:
    with trickling() as address:
        client = make(address, timeout_s=0.5, attempts_max=1)
        started = time.monotonic()
        with pytest.raises(Unreachable):
            client(lambda c: c.kv.get("app"))
        assert time.monotonic() - started < PATIENCE_S / 3


def test_who_is_asked_to_wait_waits(make: Make) -> None:
    answers: list[Reply] = [(429, {"errors": ["later"]}, {"Retry-After": "0"}), SECRET]
    with stub_api(WELL | {READ: lambda _: answers.pop(0)}) as api:
        assert make(api.address, Token("s.t"))(lambda c: c.kv.get("app")).info.version == 3
        api.replies[READ] = (429, {"errors": ["later"]}, {"Retry-After": "0"})
        with pytest.raises(RateLimited):
            make(api.address, Token("s.t"), attempts_max=2)(lambda c: c.kv.get("app"))


def test_answers_are_told_by_their_type(make: Make) -> None:
    gone: Reply = (404, {"data": {"data": None, "metadata": META | {"destroyed": True}}})
    stale: Reply = (400, {"errors": ["check-and-set parameter did not match the current version"]})
    listing = "GET /v1/secret/metadata?list=true"
    with stub_api(WELL | {READ: gone, WRITE: stale}) as api:
        client = make(api.address, Token("s.t"))
        with pytest.raises(Deleted) as caught:
            client(lambda c: c.kv.get("app"))
        assert caught.value.metadata["destroyed"] is True
        with pytest.raises(CasMismatch):
            client(lambda c: c.kv.put("app", {}, cas=1))
        with pytest.raises(NotFound):
            client(lambda c: c.kv.get("none"))
        assert client(lambda c: c.kv.list()) == []
        api.replies[listing] = (404, {"errors": ['no handler for route "secret/". route entry not found.']})
        with pytest.raises(NotFound):
            client(lambda c: c.kv.list())
        api.replies[READ] = DENIED
        with pytest.raises(Forbidden):
            client(lambda c: c.kv.get("app"))


def test_what_a_read_may_see_travels_with_it(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), consistency=Consistency.max_staleness(1.5))

        def sent() -> str | None:
            return api.headers[-1].get("X-Strongroom-Consistency")

        client(lambda c: c.kv.get("app"))
        assert sent() == "max-staleness=1500ms"
        client(lambda c: c.kv.get("app", consistency=STALE_OK))
        assert sent() == "stale-ok"
        client(lambda c: c.kv.put("app", {}))
        assert sent() is None, "a write has no choice"


def test_one_endpoint_is_enough_where_nodes_tell_of_the_others(make: Make) -> None:
    with stub_api(WELL) as far, stub_api(WELL) as first:
        regions = [{"name": "eu", "endpoints": [first.address]}, {"name": "us", "endpoints": [far.address]}]
        first.replies["GET /v1/sys/regions"] = (200, {"data": {"regions": regions}})
        client = make(first.address, Token("s.t"), discover=True)
        client(lambda c: c.kv.get("app"))
        first.replies[READ] = first.replies[HEALTH] = SEALED
        client(lambda c: c.kv.get("app"))
        assert client.client.endpoint == far.address
        assert calls(first, "GET /v1/sys/regions") == 1, "they are not asked every time"


@pytest.mark.parametrize(
    "told", [DENIED, SEALED, (200, {"data": {"regions": [{"endpoints": "x"}, 1]}}), (200, b"[]")]
)
def test_who_is_told_of_nobody_goes_on_with_what_is_known(make: Make, told: Reply) -> None:
    with stub_api(WELL | {"GET /v1/sys/regions": told}) as api:
        client = make(api.address, Token("s.t"), discover=True, attempts_max=1)
        assert client(lambda c: c.kv.get("app")).info.version == 3


def test_what_was_read_can_be_written_elsewhere_without_being_revealed(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"))
        found = client(lambda c: c.kv.get("app"))
        client(lambda c: c.kv.put("app", {**found.data, "all": found.data}))
        assert api.asked[-1][2]["data"] == {"password": "pw", "all": {"password": "pw"}}


@pytest.mark.parametrize("path", ["../../sys/raw", "a/./b", "a/..", "x" * 70_000, "half \ud800"])
def test_a_name_never_becomes_another_path(make: Make, path: str) -> None:
    """HTTP libraries take "a/../b" for "b"."""
    with stub_api(WELL) as api:
        client = make(api.address)
        for ask in (lambda c: c.kv.get(path), lambda c: c.kv.put(path, {}), lambda c: c.read(path)):
            with pytest.raises(InvalidRequest, match=r"a path has no|the path is longer") as caught:
                client(ask)
            assert len(str(caught.value)) < 400
        assert api.asked == []


@pytest.mark.parametrize("answer", [b"<html>", None, [], {"data": None}, {"data": {"value": 1}}])
def test_a_success_of_somebody_else_is_told_as_such(make: Make, answer: object) -> None:
    listing = "GET /v1/secret/metadata?list=true"
    replies: dict[str, Reply] = dict.fromkeys(
        (READ, WRITE, listing, "GET /v1/secret/metadata/app"), (200, answer)
    )
    with stub_api({HEALTH: (200, {})} | replies) as api:
        client = make(api.address)
        for ask in (
            lambda c: c.kv.get("app"),
            lambda c: c.kv.put("app", {}),
            lambda c: c.kv.list(),
            lambda c: c.kv.metadata("app"),
        ):
            with pytest.raises(ApiError, match="is this endpoint a server"):
                client(ask)


@pytest.mark.parametrize("nodes", [1, 2])
def test_where_no_certificate_is_trusted_the_client_says_so_at_once(
    make: Make, nodes: int, tmp_path: Path
) -> None:
    """A write would go on until its time is up."""
    theirs, ours = Authority(tmp_path / "theirs"), Authority(tmp_path / "ours")
    certificate = theirs.issue("node", ["localhost"])
    with stub_api(WELL, certificate=certificate) as one, stub_api(WELL, certificate=certificate) as other:
        addresses = [one.address, other.address][:nodes]
        client = make(addresses, Token("s.t"), ca_file=ours.ca, timeout_s=200)
        for ask in (lambda c: c.kv.put("app", {}), lambda c: c.kv.get("app")):
            with pytest.raises(ConfigurationError, match=r"CERTIFICATE_VERIFY_FAILED.*ca_file="):
                client(ask)
        assert one.asked == other.asked == []


def test_several_authorities_can_be_trusted(make: Make, tmp_path: Path) -> None:
    """Each region has its own."""
    authorities = [Authority(tmp_path / name) for name in ("eu", "us")]
    for each in authorities:
        with stub_api(WELL, certificate=each.issue("node", ["localhost"])) as api:
            client = make(api.address, ca_file=[one.ca for one in authorities])
            assert client(lambda c: c.kv.get("app"))["password"].reveal() == "pw"


def test_an_error_tells_what_is_the_matter_with_each_node(make: Make) -> None:
    with stub_api({HEALTH: (200, {}), READ: SEALED}) as sealed:
        gone = dead_address()
        client = make([gone, sealed.address], Token("s.t"), attempts_max=1)
        with pytest.raises(Unavailable) as caught:
            client(lambda c: c.kv.get("app"))
    assert f"{sealed.address}: Vault is sealed" in str(caught.value)
    assert f"{gone}: ConnectError" in str(caught.value)


def test_whoever_forgets_the_s_of_https_is_told_so(make: Make, tmp_path: Path) -> None:
    certificate = Authority(tmp_path / "ca").issue("node", ["localhost"])
    with stub_api(WELL, certificate=certificate) as api:
        client = make(api.address.replace("https", "http"), attempts_max=1)
        with pytest.raises(Unreachable, match="is it https://"):
            client(lambda c: c.kv.get("app"))


def test_a_closed_client_says_so_at_once(make: Make) -> None:
    client = make([dead_address(), dead_address()])
    client(lambda c: c.close() if hasattr(c, "close") else c.aclose())
    for ask in (lambda c: c.kv.get("app"), lambda c: c.kv.put("app", {})):
        with pytest.raises(Unreachable, match=r"secret/data/app: the client is closed$"):
            client(ask)


def test_a_node_that_is_behind_is_not_waited_for_while_there_is_another(make: Make) -> None:
    behind: Reply = (412, {"errors": ["required index state not present"]})
    with stub_api(WELL | {READ: behind}) as near, stub_api(WELL | {HEALTH: later_than(near)}) as far:
        client = make([near.address, far.address], Token("s.t"))
        assert client(lambda c: c.kv.get("app"))["password"].reveal() == "pw"
        assert calls(near, READ) == calls(far, READ) == 1
        near.replies[READ] = SECRET
        client(lambda c: c.kv.get("app"))
        assert client.client.endpoint == near.address, "it works"
