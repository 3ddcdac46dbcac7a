"""When a token is renewed and when it is had anew. The session is a program: the test answers it, and has the time."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from strongroom import AppRole, Client, Forbidden, Token, Unavailable
from strongroom._core import Core, Settings
from strongroom._effects import Answer, Exclusive, Failure, Pause, Program, Send
from strongroom._endpoints import Endpoints
from strongroom._requests import Limits, Requests
from strongroom._session import Session
from support.patience import PATIENCE_S

HOUR = 3600.0


class World:
    """A clock and a server. `asked` holds what was asked, by path."""

    def __init__(self, credentials: Any) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[], Answer | Failure]] = {}
        limits = Limits(timeout_s=10, attempt_timeout_s=1, attempts_max=2)
        requests = Requests(Endpoints(["https://n1:1"]), limits, lambda: self.now)
        self.session = Session(requests, credentials, None, lambda: self.now)

    def run(self, program: Program[Any]) -> Any:
        outcome: Any = None
        try:
            while True:
                match program.send(outcome):
                    case Send(url=url):
                        path = url.removeprefix("https://n1:1/v1/")
                        self.asked.append(path)
                        outcome = self.answers[path]()
                    case Exclusive(program=nested):
                        outcome = self.run(nested())
                    case Pause(seconds=seconds):
                        self.now += seconds
                        outcome = True
        except StopIteration as stop:
            return stop.value

    def ready(self) -> list[str]:
        """What had to be asked before a call could be made now."""
        self.asked.clear()
        self.run(self.session.ready())
        return list(self.asked)


def auth(token: str, lifetime_s: float, *, renewable: bool = True) -> Callable[[], Answer]:
    found = {"client_token": token, "lease_duration": lifetime_s, "renewable": renewable}
    return lambda: Answer(200, {}, {"auth": found})


LOGIN, RENEW, LOOKUP = "auth/approle/login", "auth/token/renew-self", "auth/token/lookup-self"


def role(lifetime_s: float = HOUR, *, renewable: bool = True) -> World:
    """Logged in at 1000."""
    world = World(AppRole("r", "s"))
    world.answers[LOGIN] = auth("s.1", lifetime_s, renewable=renewable)
    assert world.ready() == [LOGIN]
    return world


def test_a_token_is_renewed_when_two_thirds_of_its_life_are_over() -> None:
    world = role()
    world.answers[RENEW] = auth("s.1", HOUR)
    world.now += HOUR * 2 / 3 - 1
    assert world.ready() == []
    world.now += 2
    assert world.ready() == [RENEW]
    assert world.ready() == []
    assert world.session.headers()["X-Vault-Token"] == "s.1"


def test_when_renewals_reach_the_longest_life_there_is_a_new_login() -> None:
    world = role()
    world.answers[RENEW] = auth("s.1", 100)
    world.answers[LOGIN] = auth("s.2", HOUR)
    world.now += HOUR * 0.7
    assert world.ready() == [RENEW, LOGIN]
    assert world.session.headers()["X-Vault-Token"] == "s.2"


@pytest.mark.parametrize("status", [400, 403])
def test_when_a_renewal_is_refused_there_is_a_new_login(status: int) -> None:
    world = role()
    world.answers[RENEW] = lambda: Answer(status, {}, {"errors": ["no"]})
    world.answers[LOGIN] = auth("s.2", HOUR)
    world.now += HOUR * 0.7
    assert world.ready() == [RENEW, LOGIN]


def test_a_token_that_cannot_be_renewed_is_replaced_shortly_before_its_end() -> None:
    world = role(60, renewable=False)
    world.now += 50
    assert world.ready() == []
    world.now += 6
    assert world.ready() == [LOGIN]


def test_while_no_node_can_renew_the_token_is_used_to_its_end() -> None:
    """And not every call waits for another attempt."""
    world = role()
    world.answers[RENEW] = lambda: Answer(503, {}, {"errors": ["no leader"]})
    world.now += HOUR * 0.7
    assert set(world.ready()) == {RENEW}
    assert world.ready() == []
    world.now += 6
    assert set(world.ready()) == {RENEW}
    world.now += HOUR
    with pytest.raises(Unavailable):
        world.ready()


def test_a_token_that_was_given_is_looked_up_once_and_renewed() -> None:
    world = World(Token("s.given"))
    world.answers[LOOKUP] = lambda: Answer(200, {}, {"data": {"ttl": 300, "renewable": True}})
    world.answers[RENEW] = auth("s.given", 300)
    assert world.ready() == [LOOKUP]
    assert world.ready() == []
    world.now += 201
    assert world.ready() == [RENEW]


def test_a_token_that_was_given_and_ends_is_not_asked_about_again_and_again() -> None:
    world = World(Token("s.given"))
    world.answers[LOOKUP] = lambda: Answer(200, {}, {"data": {"ttl": 300, "renewable": True}})
    world.answers[RENEW] = lambda: Answer(400, {}, {"errors": ["lease is not renewable"]})
    world.ready()
    world.now += 201
    assert world.ready() == [RENEW]
    world.now += 1000
    assert world.ready() == []


@pytest.mark.parametrize("status", [429, 412, 500])
def test_a_server_that_has_too_much_to_do_has_said_nothing_about_the_token(status: int) -> None:
    world = World(Token("s.given"))
    busy = Answer(status, {}, {"errors": ["later"]})
    known = Answer(200, {}, {"data": {"ttl": HOUR, "renewable": True}})
    world.answers = {LOOKUP: lambda: busy, RENEW: lambda: busy}
    assert set(world.ready()) == {LOOKUP}
    assert world.ready() == [], "not every call waits for another attempt"
    world.now += 6
    world.answers[LOOKUP] = lambda: known
    assert world.ready() == [LOOKUP]
    world.now += HOUR * 0.7
    assert set(world.ready()) == {RENEW}
    world.now += 6
    world.answers[RENEW] = auth("s.given", HOUR)
    assert world.ready() == [RENEW]


def test_a_root_token_and_none_at_all_need_nothing() -> None:
    world = World(Token("root"))
    world.answers[LOOKUP] = lambda: Answer(200, {}, {"data": {"ttl": 0}})
    assert world.ready() == [LOOKUP]
    world.now += 1e9
    assert world.ready() == []
    nobody = World(None)
    assert nobody.ready() == []
    assert nobody.session.headers() == {}


def test_a_policy_that_hides_the_token_from_itself_is_no_obstacle() -> None:
    world = World(Token("s.given"))
    world.answers[LOOKUP] = lambda: Answer(403, {}, {"errors": ["permission denied"]})
    assert world.ready() == [LOOKUP]
    assert world.ready() == []


def test_a_login_that_fails_is_tried_again_by_the_next_call() -> None:
    world = World(AppRole("r", "s"))
    world.answers[LOGIN] = lambda: Failure("refused", sent=False)
    with pytest.raises(Exception, match="refused"):
        world.ready()
    world.answers[LOGIN] = auth("s.1", HOUR)
    assert world.ready() == [LOGIN]


def test_a_call_that_is_refused_while_another_has_the_token_replaced_goes_on_with_the_new_one() -> None:
    """Step by step: both were sent with the old token, and one hears of its end before the other."""
    core = Core(Settings(endpoints=["https://n1:1"], auth=AppRole("r", "s")), lambda: 0.0)
    tokens = ["s.1", "s.2"]
    denied = Answer(403, {}, {"errors": ["permission denied"]})

    def step(program: Program[Any], answer: Any) -> Send:
        """Its next request; logins are answered at once."""
        effect = program.send(answer)
        while not isinstance(effect, Send):
            assert isinstance(effect, Exclusive)
            login = effect.program()
            with pytest.raises(StopIteration):
                assert "login" in login.send(None).url  # type: ignore[union-attr]
                login.send(auth(tokens.pop(0), HOUR)())
            effect = program.send(None)
        return effect

    first, second = core.call("GET", "x"), core.call("GET", "x")
    assert step(first, None).headers["X-Vault-Token"] == "s.1"
    assert step(second, None).headers["X-Vault-Token"] == "s.1"
    assert step(first, denied).url.endswith("lookup-self")
    assert step(first, denied).headers["X-Vault-Token"] == "s.2"
    again = step(second, denied)
    assert (again.url, again.headers["X-Vault-Token"]) == ("https://n1:1/v1/x", "s.2")
    assert tokens == []


def test_nothing_is_left_of_a_login_that_was_under_way_when_the_client_logged_out() -> None:
    issued: list[str] = []
    revoked: list[str] = []
    logging_in, go_on, told = threading.Event(), threading.Event(), threading.Event()

    def server(request: httpx.Request) -> httpx.Response:
        token = request.headers.get("X-Vault-Token", "")
        if request.url.path.endswith("/login"):
            if issued:
                logging_in.set()
                assert go_on.wait(PATIENCE_S)
            issued.append(f"s.{len(issued)}")
            auth = {"client_token": issued[-1], "lease_duration": HOUR, "renewable": True}
            return httpx.Response(200, json={"auth": auth})
        if request.url.path.endswith("/revoke-self"):
            revoked.append(token)
            told.set()
            return httpx.Response(204)
        return httpx.Response(403, json={"errors": ["permission denied"]})

    client = Client("https://n1:1", AppRole("r", "s"), transport=httpx.MockTransport(server))

    def read() -> None:
        with pytest.raises(Forbidden):  # the first token is not known any more, so there is another login
            client.read("secret/data/a")

    reads, leaves = threading.Thread(target=read), threading.Thread(target=client.log_out)
    reads.start()
    assert logging_in.wait(PATIENCE_S)
    leaves.start()
    told.wait(0.3)
    go_on.set()
    for thread in (reads, leaves):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert revoked[-1:] == issued[-1:], "a token that nobody revokes"
    client.close()


def test_a_token_that_may_not_even_look_itself_up_is_not_taken_for_one_that_ended() -> None:
    """Each refusal by the policies would log in anew, and leave a token behind."""
    world = World(AppRole("role", "secret"))
    world.answers[LOGIN] = auth("s.1", HOUR)
    world.ready()
    refusal = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
    world.answers[LOOKUP] = lambda: Answer(403, {}, refusal)
    assert not world.run(world.session.is_rejected(world.session.headers()))
    world.answers[LOOKUP] = lambda: Answer(403, {}, {"errors": ["permission denied"]})
    assert world.run(world.session.is_rejected(world.session.headers()))
