"""Many writers share frames and batches; few wait for nobody. Told by what reaches the log and the link."""

import asyncio
import itertools
from typing import Any

import pytest
from support.patience import PATIENCE_S

from consensus import batching, proposals, wire
from consensus.api import Applied
from consensus.batching import BUSY_PROPOSALS, GATHER_S, GATHERED_ENTRIES_MAX
from consensus.errors import NoLeader, OutcomeUnknown, Overloaded, Shutdown
from consensus.options import RaftOptions
from consensus.proposals import Proposals


class Member:
    """Where proposals go: a log of one's own, or a link to a leader elsewhere."""

    def __init__(self) -> None:
        self.accepting = True
        self.disk_full = False
        self.leader_elsewhere: str | None = None
        self.term = 1
        self.log: list[bytes] = []
        self.sent: list[list[tuple[bytes, bytes]]] = []
        self.link = True
        self.known: dict[bytes, Applied] = {}

    def append(self, payload: bytes) -> int:
        self.log.append(payload)
        return len(self.log)

    def send(self, peer: str, body: bytes) -> bool:
        frame = wire.decode(body)
        assert isinstance(frame, wire.Propose)
        if self.link:
            self.sent.append(frame.commands)
        return self.link

    def outcome(self, request_id: bytes) -> Applied | None:
        return self.known.get(request_id)


class Writers:
    """Proposals of one member, each with an id of its own."""

    def __init__(self, **options: Any) -> None:
        self.member = Member()
        self.proposals = Proposals(self.member, RaftOptions(**options))
        self._numbers = itertools.count(1)
        self._applied = self._committed = 0

    def begin(
        self, count: int = 1, command: bytes = b"x", timeout: float = 60.0
    ) -> list[asyncio.Future[Applied]]:
        return [
            self.proposals.begin(command, request_id=next(self._numbers).to_bytes(16, "big"), timeout=timeout)
            for _ in range(count)
        ]

    def commit(self, count: int) -> None:
        """So much more of the log is committed."""
        self._committed += count
        self.proposals.batcher.committed(self._committed)

    def apply(self, count: int) -> None:
        """So much more of the log is applied here."""
        for payload in self.member.log[self._applied : self._applied + count]:
            self._applied += 1
            self.proposals.applied(self._applied, payload[1:17], "done", len(payload))


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def writers(monkeypatch):
    """Nothing is sent because a moment has passed: on a slow machine it passes in between."""
    monkeypatch.setattr(batching, "GATHER_S", PATIENCE_S)
    found = Writers()
    yield found
    found.proposals.stop()


async def test_few_writers_wait_for_nobody(writers):
    for count in range(1, BUSY_PROPOSALS + 1):
        writers.begin()
        await turn()
        assert len(writers.member.log) == count


async def test_many_writers_share_the_next_batch(writers):
    writers.begin(BUSY_PROPOSALS)
    await turn()
    futures = writers.begin(30)
    await turn()
    assert len(writers.member.log) == BUSY_PROPOSALS, "the next ones are not gathered"
    writers.commit(BUSY_PROPOSALS - 1)
    assert len(writers.member.log) == BUSY_PROPOSALS
    writers.commit(1)
    assert len(writers.member.log) == BUSY_PROPOSALS + 30, "the batch is over, and the next one has not begun"
    writers.apply(BUSY_PROPOSALS + 30)
    assert [(await future).result for future in futures] == ["done"] * 30


async def test_a_batch_that_would_be_small_waits_for_those_who_are_answered_now(writers):
    """They write again soon."""
    writers.begin(40)
    await turn()
    writers.begin(39)
    await turn()
    writers.commit(40)
    assert len(writers.member.log) == 40
    writers.begin()
    await turn()
    writers.commit(0)
    assert len(writers.member.log) == 80


async def test_what_comes_in_one_turn_to_a_leader_that_waits_for_nothing_is_one_batch(writers):
    writers.begin(3 * BUSY_PROPOSALS)
    await turn()
    assert len(writers.member.log) == 3 * BUSY_PROPOSALS
    writers.begin()
    await turn()
    assert len(writers.member.log) == 3 * BUSY_PROPOSALS, "a batch is under way"


async def test_a_batch_that_takes_its_time_holds_up_the_next_for_a_moment_only(writers, monkeypatch):
    monkeypatch.setattr(batching, "GATHER_S", GATHER_S)
    loop = asyncio.get_running_loop()
    writers.begin(BUSY_PROPOSALS)
    await turn()
    writers.begin()
    began = loop.time()
    async with asyncio.timeout(PATIENCE_S):
        while len(writers.member.log) == BUSY_PROPOSALS or not writers.member.log:
            await asyncio.sleep(0)
    assert loop.time() - began >= GATHER_S / 2


async def test_a_batch_is_bounded(writers):
    writers.begin(BUSY_PROPOSALS)
    await turn()
    writers.begin(GATHERED_ENTRIES_MAX)
    await turn()
    assert len(writers.member.log) == BUSY_PROPOSALS + GATHERED_ENTRIES_MAX


async def test_an_id_is_appended_once_however_often_it_is_handed_over(writers):
    writers.begin(BUSY_PROPOSALS)
    await turn()
    writers.begin(BUSY_PROPOSALS)
    await turn()
    for _ in range(3):
        writers.proposals.try_again()
        await turn()
    writers.commit(BUSY_PROPOSALS)
    assert len(writers.member.log) == len(set(writers.member.log)) == 2 * BUSY_PROPOSALS


async def test_what_was_gathered_by_a_leader_that_hands_over_goes_to_the_next_one(writers):
    writers.begin(BUSY_PROPOSALS)
    await turn()
    futures = writers.begin(BUSY_PROPOSALS)
    await turn()
    writers.member.accepting, writers.member.leader_elsewhere = False, "n2"
    writers.commit(BUSY_PROPOSALS)
    writers.apply(BUSY_PROPOSALS)
    assert len(writers.member.log) == BUSY_PROPOSALS, "a leader that hands over appends no more"
    writers.proposals.batcher.end_term()
    writers.proposals.try_again()
    await turn()
    assert [len(commands) for commands in writers.member.sent] == [BUSY_PROPOSALS]
    assert not any(future.done() for future in futures)


async def test_a_turn_of_the_loop_is_one_frame(writers):
    writers.member.accepting, writers.member.leader_elsewhere = False, "n2"
    writers.begin(40)
    await turn()
    writers.begin(2)
    await turn()
    assert [len(commands) for commands in writers.member.sent] == [40, 2]


async def test_a_frame_is_bounded_in_commands_and_bytes(writers, monkeypatch):
    writers.member.accepting, writers.member.leader_elsewhere = False, "n2"
    writers.begin(wire.PROPOSALS_MAX + 1)
    await turn()
    assert [len(commands) for commands in writers.member.sent] == [wire.PROPOSALS_MAX, 1]
    writers.member.sent.clear()
    monkeypatch.setattr(proposals, "FRAME_COMMANDS_BYTES_MAX", 250)
    writers.begin(5, bytes(100))
    writers.begin(1, bytes(1000))
    await turn()
    assert [len(commands) for commands in writers.member.sent] == [2, 2, 1, 1]


async def test_a_refused_command_is_tried_again_and_the_others_are_left_alone(writers):
    writers.member.accepting, writers.member.leader_elsewhere = False, "n2"
    first, second = writers.begin(2)
    await turn()
    refused = writers.member.sent[0][0][0]
    writers.proposals.refused(refused, wire.OVERLOADED)
    async with asyncio.timeout(PATIENCE_S):
        while len(writers.member.sent) == 1:
            writers.proposals.look()
            await asyncio.sleep(0.001)
    assert [request_id for request_id, _ in writers.member.sent[1]] == [refused]
    assert not first.done()
    assert not second.done()


async def test_the_deadline_tells_what_was_never_handed_over_from_what_may_be_in_a_log(writers):
    writers.member.accepting = False
    (never,) = writers.begin(timeout=0)
    await turn()
    writers.proposals.look()
    with pytest.raises(NoLeader):
        await never
    writers.member.leader_elsewhere = "n2"
    (maybe,) = writers.begin(timeout=0)
    await turn()
    writers.proposals.look()
    with pytest.raises(OutcomeUnknown):
        await maybe
    writers.member.link = False
    (lost,) = writers.begin(timeout=0)
    await turn()
    writers.proposals.look()
    with pytest.raises(NoLeader):
        await lost


async def test_two_callers_of_one_id_share_its_outcome_and_one_may_leave(writers):
    one, two, three = (writers.proposals.begin(b"x", request_id=bytes(16), timeout=60) for _ in range(3))
    two.cancel()
    await turn()
    writers.proposals.look()
    writers.apply(1)
    assert (await one) is (await three)
    assert len(writers.member.log) == 1


async def test_stopping_ends_every_wait(writers):
    (begun,) = writers.begin()
    await turn()
    writers.member.accepting = False
    (waiting,) = writers.begin()
    writers.proposals.stop()
    with pytest.raises(OutcomeUnknown):
        await begun
    with pytest.raises(Shutdown):
        await waiting
    with pytest.raises(Shutdown):
        writers.begin()


async def test_what_waits_is_bounded_in_bytes():
    writers = Writers(pending_bytes_max=1000)
    writers.begin(9, bytes(100))
    with pytest.raises(Overloaded):
        writers.begin(2, bytes(100))
    writers.proposals.stop()
    await turn()
