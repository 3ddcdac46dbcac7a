"""Full collections: in quiet moments, at last in any, and they take what ended connections leave."""

import gc

from support.corefixture import opened
from support.httpfixture import serve

from node.api.protocol import Connection
from node.collector import BUSY_AGE_S, LOOK_EVERY_S, QUIET_ACTIVITY_MAX, QUIET_AGE_S, Schedule, collect


def test_a_quiet_moment_is_used_once() -> None:
    schedule = Schedule(0, 0.0)
    assert not schedule.is_due(1000, QUIET_AGE_S + 1), "that was a busy moment"
    assert schedule.is_due(1000 + QUIET_ACTIVITY_MAX, QUIET_AGE_S + 2)
    assert not schedule.is_due(1000 + QUIET_ACTIVITY_MAX, 10 * BUSY_AGE_S), "nothing has happened since"


def test_not_too_often() -> None:
    schedule = Schedule(0, 0.0)
    assert schedule.is_due(1, QUIET_AGE_S)
    assert not schedule.is_due(2, QUIET_AGE_S + LOOK_EVERY_S)
    assert schedule.is_due(3, 2 * QUIET_AGE_S)


def test_a_node_that_is_never_quiet_collects_all_the_same() -> None:
    schedule, answers, times = Schedule(0, 0.0), 0, []
    for second in range(int(2.5 * BUSY_AGE_S)):
        answers += 1000
        if schedule.is_due(answers, float(second)):
            times.append(second)
    assert times == [BUSY_AGE_S, 2 * BUSY_AGE_S]


async def test_ended_connections_leave_nothing_behind(tmp_path) -> None:
    async with opened(tmp_path) as core, serve(core) as site:
        for _ in range(20):
            wire = await site.connect()
            await wire.ask("GET", "/v1/sys/health")
            await wire.ask("LIST", "/v1/secret/metadata/")
            await wire.close()
        site.wires.clear()
        collect()
        gc.unfreeze()
        left = [found for found in gc.get_objects() if isinstance(found, Connection)]
        assert len(left) <= 1, "the last one may be on its way out"
