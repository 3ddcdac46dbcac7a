"""`timeout_s` is for a whole call: a log-in, a look-up, another call's turn and every attempt come out of it."""

import asyncio
import threading
from typing import Any

import httpx
import pytest
from strongroom import AppRole, Cache, OutcomeUnknown, Token, Unreachable
from strongroom._core import Core, Settings
from strongroom._drivers import AsyncDriver, SyncDriver
from strongroom._effects import BUSY, Answer, Exclusive, Failure, Pause, Program, Send
from strongroom._kv import KvV2Core
from support.patience import PATIENCE_S

TIMEOUT_S = 10.0
SLOW_S = 4.0
LOGIN, LOOKUP, DATA = "auth/approle/login", "auth/token/lookup-self", "secret/data/a"
DENIED = Answer(403, {}, {"errors": ["permission denied"]})
LOGGED_IN = Answer(200, {}, {"auth": {"client_token": "s.1", "lease_duration": 3600, "renewable": True}})


class Slow:
    """A client at a server that takes SLOW_S for each answer, where it has one; and the time that passes."""

    def __init__(self, *, busy: bool = False, **settings: Any) -> None:
        self.now, self.asked, self._busy = 0.0, list[str](), busy
        told = Settings(endpoints=["https://n1:1"], timeout_s=TIMEOUT_S, **settings)
        self.core = Core(told, lambda: self.now)
        self.answers: dict[str, Answer] = {LOGIN: LOGGED_IN}

    def run(self, program: Program[Any]) -> Any:
        outcome, raised = None, None
        try:
            while True:
                effect = program.send(outcome) if raised is None else program.throw(raised)
                outcome, raised = None, None
                try:
                    outcome = self._perform(effect)
                except Exception as error:
                    raised = error
        except StopIteration as stop:
            return stop.value

    def _perform(self, effect: Any) -> Any:
        match effect:
            case Send(url=url, timeout_s=timeout_s):
                path = url.removeprefix("https://n1:1/v1/")
                self.asked.append(path)
                answer = self.answers.get(path)
                in_time = answer is not None and timeout_s >= SLOW_S
                self.now += SLOW_S if in_time else timeout_s
                return answer if in_time else Failure("no answer", sent=True)
            case Exclusive(wait_s=wait_s) if self._busy:
                self.now += wait_s or 0
                return BUSY
            case Exclusive(program=nested):
                return self.run(nested())
            case Pause(seconds=seconds):
                self.now += seconds
                return True


def test_a_log_in_takes_from_what_the_call_has() -> None:
    slow = Slow(auth=AppRole("r", "s"))
    with pytest.raises(OutcomeUnknown):
        slow.run(slow.core.call("PUT", DATA, {}))
    assert slow.asked[:2] == [LOGIN, DATA]
    assert slow.now <= TIMEOUT_S


def test_so_does_a_look_up_of_a_token_that_was_given() -> None:
    slow = Slow(auth=Token("s.given"))
    with pytest.raises(Unreachable, match="no answer"):
        slow.run(slow.core.call("GET", DATA))
    assert (set(slow.asked), slow.now <= TIMEOUT_S) == ({LOOKUP}, True)


def test_what_is_left_no_time_for_is_not_sent() -> None:
    """A refusal, the question whether the token is known, another log-in: a write that was refused is not sent again.
    And of a write that was not sent nothing is unknown.
    """
    slow = Slow(auth=AppRole("r", "s"))
    slow.run(slow.core.session.ready())
    slow.now, slow.asked = 0.0, []
    slow.answers |= {DATA: DENIED, LOOKUP: DENIED}
    with pytest.raises(Unreachable, match="no token could be had"):
        slow.run(slow.core.call("PUT", DATA, {}))
    assert slow.asked == [DATA, LOOKUP, LOGIN]
    assert slow.now <= TIMEOUT_S


@pytest.mark.parametrize("settings", [{"auth": AppRole("r", "s")}, {"cache": Cache()}])
def test_nobody_waits_longer_for_the_turn_of_another_call(settings: dict[str, Any]) -> None:
    slow = Slow(busy=True, **settings)
    with pytest.raises(Unreachable, match="other calls"):
        slow.run(KvV2Core(slow.core, "secret").get("a", None, None))
    assert (slow.asked, slow.now) == ([], TIMEOUT_S)


def test_what_is_cached_is_given_where_others_ask_all_the_time() -> None:
    slow = Slow(cache=Cache(fresh_s=1))
    metadata = {"version": 1, "created_time": "", "deletion_time": "", "destroyed": False}
    slow.answers[DATA] = Answer(200, {}, {"data": {"data": {"v": 1}, "metadata": metadata}})
    mount = KvV2Core(slow.core, "secret")
    slow.run(mount.get("a", None, None))
    slow.now += 10
    slow._busy = True
    assert slow.run(mount.get("a", None, None)).stale


def one(effect: Any) -> Program[Any]:
    return (yield effect)


def nothing() -> Program[str]:
    yield Pause(0)
    return "done"


def test_threads_give_a_turn_up_in_time() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def held() -> Program[None]:
        inside.set()
        yield Pause(0)
        while not go_on.is_set():
            yield Pause(0.01)

    driver = SyncDriver(httpx.Client)
    holder = threading.Thread(target=driver.run, args=(one(Exclusive("k", held)),))
    holder.start()
    assert inside.wait(PATIENCE_S)
    assert driver.run(one(Exclusive("k", nothing, 0.01))) is BUSY
    assert driver.run(one(Exclusive("other", nothing, 0.0))) == "done"
    go_on.set()
    holder.join(PATIENCE_S)
    assert driver.run(one(Exclusive("k", nothing, 0.0))) == "done", "nobody has the turn any more"
    driver.close()


async def test_tasks_give_a_turn_up_in_time() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    def held() -> Program[None]:
        inside.set()
        while not go_on.is_set():
            yield Pause(0.01)

    driver = AsyncDriver(httpx.AsyncClient())
    holder = asyncio.create_task(driver.run(one(Exclusive("k", held))))
    async with asyncio.timeout(PATIENCE_S):
        await inside.wait()
        assert await driver.run(one(Exclusive("k", nothing, 0.01))) is BUSY
        assert await driver.run(one(Exclusive("other", nothing, 0.0))) == "done"
        go_on.set()
        await holder
    assert await driver.run(one(Exclusive("k", nothing, 0.0))) == "done", "nobody has the turn any more"
    await driver.close()
