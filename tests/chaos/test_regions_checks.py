"""The checker of regions accepts what was promised, and names each promise that was broken."""

from dataclasses import replace

import pytest

from chaos.checker import NodeState, check
from chaos.history import Fault, History, Outcome, Write
from chaos.regions.checks import (
    Promotion,
    Replayed,
    SetAside,
    check_applications,
    check_promotions,
    entries,
    first_writes,
    set_aside_of,
    unplaced,
    without_losses,
)
from chaos.regions.report import slow, spread

SECOND = 1_000_000_000
PROMOTED = 100  # the first position of the new epoch


def write(number: int, *, at: float, key: str = "", expect: int | None = None) -> Write:
    """Acknowledged write `number` at that position: begun at that second, answered a tenth later."""
    return Write(
        process=number,
        key=key or f"u/{number}",
        value=f"value {number}",
        expect=expect,
        node="eu-1",
        request_id=f"{number:032x}",
        invoked_ns=int(at * SECOND),
        outcome=Outcome.OK,
        completed_ns=int((at + 0.1) * SECOND),
        version=1 if expect is None else expect + 1,
        index=number,
        status=200,
        attempts=1,
    )


# Second 10: the link is cut. 12: eu is killed. 15: us is promoted, which announces a loss of all since second 10.
BEFORE = [write(97, at=7), write(98, at=8), write(99, at=9, key="s/1", expect=0)]
LOST = [write(100, at=11), write(101, at=11.5, key="s/1", expect=1)]
AFTER = [write(102, at=16), write(103, at=17)]
ENTRIES = (
    SetAside("1-100", 1, 100, "KvPut", "u/100", 1),
    SetAside("1-101", 1, 101, "KvPut", "s/1", 2),
    SetAside("1-102", 1, 102, "TokenPut", "", None),
)
PROMOTION = Promotion(
    old="eu",
    new="us",
    first_asked_ns=14 * SECOND,
    asked_ns=15 * SECOND,
    learnt_ns=int(15.5 * SECOND),
    epoch=2,
    position=PROMOTED,
    lag_entries=2,
    lag_seconds=5.0,
    set_aside=ENTRIES,
)


def states(writes: list[Write]) -> list[NodeState]:
    values: dict[str, dict[int, str]] = {}
    for one in writes:
        values.setdefault(one.key, {})[one.version or 0] = one.value
    return [NodeState(region, 200, "digest", values) for region in ("eu", "us")]


def kinds(
    writes: list[Write],
    held: list[Write],
    *,
    promotion: Promotion = PROMOTION,
    replays: tuple[Replayed, ...] = (),
) -> set[str]:
    """What is found, by the checker of one region and that of regions together."""
    history = History(1, 3, tuple(writes), ())
    found = states(held)
    lost = set_aside_of(history, [promotion], replays, found)
    violations = [
        *check(without_losses(history, lost), found, unplaced=unplaced(history, [promotion])).violations,
        *check_promotions(history, [promotion], lost, replays, found),
    ]
    return {each.kind for each in violations}


ALL = [*BEFORE, *LOST, *AFTER]
KEPT = [*BEFORE, *AFTER]


def test_what_was_set_aside_is_no_broken_promise() -> None:
    assert kinds(ALL, KEPT) == set()


def test_an_acknowledged_write_that_is_nowhere_is_lost() -> None:
    """The divergence view left one out."""
    some = replace(
        PROMOTION, set_aside=(ENTRIES[0], replace(ENTRIES[1], kind="KvPut", key="other"), ENTRIES[2])
    )
    assert kinds(ALL, KEPT, promotion=some) == {"lost"}
    assert "lost" in kinds(ALL, KEPT, promotion=replace(PROMOTION, set_aside=()))


def test_a_write_that_had_travelled_must_not_be_gone() -> None:
    assert kinds(ALL, KEPT[1:]) == {"lost"}


def test_what_the_old_primary_acknowledges_after_the_promotion_is_seen() -> None:
    """Without the fence the old primary orders writes when it comes back, and sets them aside later."""
    dual = write(101, at=16, key="s/1", expect=1)
    assert kinds([*BEFORE, LOST[0], dual, *AFTER], KEPT) == {"dual"}


def test_an_answer_on_its_way_while_another_region_is_promoted_is_seen() -> None:
    late = replace(LOST[0], completed_ns=16 * SECOND)
    assert kinds([*BEFORE, late, LOST[1], *AFTER], KEPT) == {"dual"}


def test_a_primary_that_was_cut_off_goes_on_until_it_learns_of_its_successor_and_no_longer() -> None:
    split = replace(PROMOTION, learnt_ns=int(16.5 * SECOND), answers_s=1.0)
    assert (
        kinds([*BEFORE, LOST[0], write(101, at=16, key="s/1", expect=1), *AFTER], KEPT, promotion=split)
        == set()
    )
    on_its_way = replace(LOST[0], completed_ns=17 * SECOND)
    assert kinds([*BEFORE, on_its_way, LOST[1], *AFTER], KEPT, promotion=split) == set()
    for late in (replace(on_its_way, completed_ns=18 * SECOND), write(100, at=16.6)):
        assert kinds([*BEFORE, late, LOST[1], *AFTER], KEPT, promotion=split) == {"dual"}


def test_a_write_that_its_client_repeated_in_the_new_history_was_not_lost() -> None:
    again = replace(LOST[0], completed_ns=16 * SECOND, attempts=2)
    assert kinds([*BEFORE, again, LOST[1], *AFTER], [*KEPT, again]) == set()


@pytest.mark.parametrize("index", [101, 103], ids=["its-own", "where-the-node-was"])
def test_a_write_that_both_primaries_carried_out_has_the_position_of_either(index: int) -> None:
    """The client was answered by the old primary, and a repetition of his had reached the new one before."""
    both = replace(LOST[1], key="u/101", expect=None, version=1, attempts=2, index=index)
    entry = replace(ENTRIES[1], key="u/101", version=1, position=101)
    earlier = replace(AFTER[0], index=100, invoked_ns=12 * SECOND)  # began later, at a lower position
    split = replace(PROMOTION, set_aside=(ENTRIES[0], entry, ENTRIES[2]))
    written = [*BEFORE, LOST[0], both, earlier]
    assert kinds(written, [*BEFORE, both, earlier], promotion=split) == set()


def test_an_answer_from_memory_has_the_position_of_the_superseded_primary_that_gave_it() -> None:
    """The write had travelled; its first answer was lost in the cut, its second came from the old primary."""
    again = replace(BEFORE[0], completed_ns=13 * SECOND, attempts=2, index=102)
    began_later = replace(AFTER[0], index=100, invoked_ns=14 * SECOND)
    written = [again, *BEFORE[1:], *LOST, began_later]
    assert kinds(written, [again, *BEFORE[1:], began_later]) == set()
    assert kinds([replace(again, attempts=1), *written[1:]], [again, *BEFORE[1:], began_later]) == {
        "disordered"
    }
    assert kinds(written, [*BEFORE[1:], began_later]) == {"lost"}  # it is acknowledged all the same


def test_a_loss_that_is_older_than_was_announced_is_seen() -> None:
    assert kinds(ALL, KEPT, promotion=replace(PROMOTION, lag_seconds=3.0)) == {"understated"}


def test_a_gap_in_what_was_set_aside_is_seen() -> None:
    assert "misnumbered" in kinds(
        ALL, KEPT, promotion=replace(PROMOTION, set_aside=(*ENTRIES[:1], *ENTRIES[2:]))
    )


def test_less_than_was_known_to_be_missing_is_seen() -> None:
    assert kinds(ALL, KEPT, promotion=replace(PROMOTION, lag_entries=4)) == {"misnumbered"}


def test_a_check_and_set_on_what_was_set_aside_may_be_refused() -> None:
    refused = replace(
        write(104, at=18, key="s/1", expect=2), outcome=Outcome.FAIL, version=None, index=None, status=400
    )
    assert kinds([*ALL, refused], KEPT) == set()
    assert kinds([*KEPT, replace(refused, key="s/2")], KEPT) == {"refused"}


def test_entries_that_are_written_again_stand_where_they_stood() -> None:
    replays = (Replayed(ENTRIES[0], 1), Replayed(ENTRIES[1], None, "check-and-set"))
    assert kinds(ALL, [*KEPT, LOST[0]], replays=replays) == set()


@pytest.mark.parametrize(
    ("version", "held"),
    [(1, []), (1, [replace(LOST[0], value="value of somebody else")]), (2, [replace(LOST[0], version=2)])],
    ids=["absent", "another value", "another version"],
)
def test_an_entry_that_was_written_again_wrongly_is_seen(version: int, held: list[Write]) -> None:
    assert "replay" in kinds(ALL, [*KEPT, *held], replays=(Replayed(ENTRIES[0], version),))


def test_an_entry_that_was_written_again_twice_is_seen() -> None:
    held = [*KEPT, LOST[0], replace(LOST[0], version=2)]
    assert kinds(ALL, held, replays=(Replayed(ENTRIES[0], 1),)) == {"twice"}


def test_a_batch_that_was_applied_twice_is_seen() -> None:
    assert kinds(ALL, [*KEPT, replace(AFTER[0], version=2)]) == {"twice"}


def test_regions_that_differ_are_seen() -> None:
    history = History(1, 3, tuple(BEFORE), ())
    one, two = states(BEFORE)
    assert {v.kind for v in check(history, [one, replace(two, digest="other")]).violations} == {"diverged"}


def test_applications_see_no_error_and_lose_nothing() -> None:
    written = {"sdk/0": {1: "a", 2: "b"}}
    held = [NodeState("eu", None, None, {"sdk/0": {1: "a", 2: "b"}})]
    assert check_applications(written, [], held) == []
    assert [v.kind for v in check_applications(written, ["OutcomeUnknown"], held)] == ["application"]
    held = [NodeState("eu", None, None, {"sdk/0": {1: "a"}})]
    assert [v.kind for v in check_applications(written, [], held)] == ["lost"]


def test_the_first_write_counts_from_the_operators_first_word_and_is_one_of_the_new_history() -> None:
    late = replace(
        LOST[0], completed_ns=int(14.5 * SECOND)
    )  # an answer of the old primary that was on its way
    history = History(1, 3, (*BEFORE, late, *AFTER), (Fault("loss", "eu", 0, 1),))
    lost = set_aside_of(history, [PROMOTION], (), states(KEPT))
    assert first_writes(history, [PROMOTION], lost) == pytest.approx([2.1])


def test_entries_are_read_as_the_server_tells_them() -> None:
    told = [
        {
            "id": "1-7",
            "epoch": 1,
            "position": 7,
            "kind": "KvPut",
            "mount": "secret/",
            "path": "a/b",
            "version": 3,
        },
        {"id": "1-8", "epoch": 1, "position": 8, "kind": "TokenPut", "accessor": "x"},
    ]
    assert entries(told) == (
        SetAside("1-7", 1, 7, "KvPut", "a/b", 3),
        SetAside("1-8", 1, 8, "TokenPut", "", None),
    )


def test_what_takes_longer_than_promised_is_told() -> None:
    times = {"promote to first write": spread([1.0] * 98 + [11.0, 12.0]), "anything else": spread([100.0])}
    assert times["promote to first write"] == {"n": 100, "p50": 1.0, "p99": 11.0, "max": 12.0}
    assert len(slow(times)) == 1
