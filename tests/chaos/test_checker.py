"""The checker accepts a good history and names each broken promise."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.checker import NodeState, check
from chaos.history import Fault, History, Outcome, Recorder, Write, read_history
from chaos.report import figures, silences
from chaos.workload import decode_index

SECOND = 1_000_000_000


def write(
    number: int, *, key: str | None = None, expect: int | None = None, at: float | None = None
) -> Write:
    """Acknowledged write `number`: half a second long, at its own second, key its own if not named."""
    start = int((number if at is None else at) * SECOND)
    return Write(
        process=number,
        key=key or f"u/{number}",
        value=f"value {number}",
        expect=expect,
        node="n1",
        request_id=f"{number:032x}",
        invoked_ns=start,
        outcome=Outcome.OK,
        completed_ns=start + SECOND // 2,
        version=1 if expect is None else expect + 1,
        index=100 + number,
        status=200,
        attempts=1,
    )


def good_writes() -> list[Write]:
    chain = [write(10 + n, key="s/1/0", expect=n) for n in range(5)]
    return [*(write(n) for n in range(5)), *chain]


def history(writes: list[Write]) -> History:
    return History(seed=1, nodes=3, writes=tuple(writes), faults=())


def state_of(writes: list[Write], node: str) -> NodeState:
    values: dict[str, dict[int, str]] = {}
    for one in writes:
        if one.version is not None:
            values.setdefault(one.key, {})[one.version] = one.value
    return NodeState(node, 500, "digest", values)


def states(writes: list[Write]) -> list[NodeState]:
    return [state_of(writes, node) for node in ("n1", "n2", "n3")]


def kinds(writes: list[Write], nodes: list[NodeState]) -> set[str]:
    return {violation.kind for violation in check(history(writes), nodes).violations}


def test_a_cluster_that_kept_its_promises_is_good() -> None:
    writes = good_writes()
    assert check(history(writes), states(writes)).good


def test_concurrent_writes_may_be_ordered_either_way() -> None:
    first, second = write(1, at=1.0), write(2, at=1.2)
    writes = [replace(first, index=200), replace(second, index=100)]
    assert check(history(writes), states(writes)).good


@pytest.mark.parametrize("landed", [True, False])
def test_a_write_of_unknown_outcome_may_be_there_or_not(landed: bool) -> None:
    writes = good_writes()
    unknown = replace(write(50), outcome=Outcome.INFO, version=None, index=None, status=None)
    present = [*writes, *([replace(unknown, version=1)] if landed else [])]
    assert check(history([*writes, unknown]), states(present)).good


@pytest.mark.parametrize("victim", range(10))
def test_an_acknowledged_write_missing_on_one_node_is_lost(victim: int) -> None:
    """The proof that the checker can see: drop each write in turn from one node's answers."""
    writes = good_writes()
    sabotaged = [one for number, one in enumerate(writes) if number != victim]
    found = check(history(writes), [*states(writes)[:2], state_of(sabotaged, "n3")])
    assert found.count("lost") == 1
    assert found.count("diverged") == 1


def test_an_acknowledged_write_missing_everywhere_is_lost() -> None:
    writes = good_writes()
    assert kinds(writes, states(writes[1:])) == {"lost"}


def test_another_value_under_an_acknowledged_version_is_a_loss() -> None:
    writes = good_writes()
    changed = [replace(writes[0], value="other"), *writes[1:]]
    assert kinds(writes, states(changed)) == {"lost", "phantom"}


def test_a_retry_that_was_applied_again_is_seen() -> None:
    writes = good_writes()
    again = replace(writes[0], version=2)
    assert kinds(writes, states([*writes, again])) == {"twice"}


def test_one_version_promised_to_two_writes_is_seen() -> None:
    writes = [*good_writes(), write(20, key="s/1/0", expect=4)]
    assert "twice" in kinds(writes, states(writes))


def test_a_gap_in_the_versions_is_seen() -> None:
    writes = good_writes()
    unknown = replace(write(50, key="u/0"), outcome=Outcome.INFO, version=None, index=None)
    assert kinds([*writes, unknown], states([*writes, replace(unknown, version=3)])) == {"gap"}


def test_a_version_that_skips_its_check_and_set_is_seen() -> None:
    writes = [replace(write(1, key="s/1/0", expect=0), version=2)]
    assert "gap" in kinds(writes, states(writes))


def test_a_value_that_nobody_wrote_is_seen() -> None:
    writes = good_writes()
    assert kinds(writes, states([*writes, write(70)])) == {"phantom"}


def test_a_write_that_certainly_failed_must_not_be_there() -> None:
    writes = good_writes()
    failed = replace(write(50), outcome=Outcome.FAIL, version=None, index=None, status=None)
    assert kinds([*writes, failed], states([*writes, replace(failed, version=1)])) == {"phantom"}


def test_a_later_write_with_a_smaller_index_is_disordered() -> None:
    writes = good_writes()
    writes[3] = replace(writes[3], index=50)
    found = check(history(writes), states(writes))
    assert [violation.kind for violation in found.violations] == ["disordered"]


def test_an_answer_without_an_index_is_seen() -> None:
    writes = [replace(write(1), index=None)]
    assert kinds(writes, states(writes)) == {"disordered"}


def test_a_refusal_of_the_only_writer_is_seen() -> None:
    """A check-and-set that fails when a write is repeated under its id: the first attempt was forgotten."""
    writes = good_writes()
    refused = replace(write(50), outcome=Outcome.INFO, version=None, index=None, status=400, attempts=2)
    assert kinds([*writes, refused], states(writes)) == {"refused"}


def test_nodes_that_differ_are_seen() -> None:
    writes = good_writes()
    one, two, three = states(writes)
    assert kinds(writes, [one, two, replace(three, digest="other")]) == {"diverged"}
    assert kinds(writes, [one, two, replace(three, applied_index=499)]) == {"diverged"}


def test_the_order_check_agrees_with_brute_force() -> None:
    """Random small histories, against the definition: A answered before B began, so A's index is smaller."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(300):
        writes = []
        for number in range(8):
            start = rng.randrange(20)
            one = replace(write(number), invoked_ns=start, completed_ns=start + rng.randrange(1, 8))
            writes.append(replace(one, index=rng.randrange(1, 12)))
        expected = {
            b.process
            for a in writes
            for b in writes
            if (a.completed_ns or 0) < b.invoked_ns and (a.index or 0) >= (b.index or 0)
        }
        found = check(history(writes), states(writes))
        assert found.count("disordered") == len(expected), f"seed {seed}"


def test_a_history_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path, seed=7, nodes=3) as recorder:
        for process in (1, 2):
            recorder.invoke(
                process=process, key="k", value=f"v{process}", expect=None, node="n1", request_id="ab"
            )
        recorder.fault(Fault("kill leader", "n1", 5, 9, "torn"))
        recorder.complete(
            Outcome.OK, process=1, key="k", value="v1", version=4, index=9, status=200, attempts=3
        )
    found = read_history(path)
    assert (found.seed, found.nodes) == (7, 3)
    assert found.faults == (Fault("kill leader", "n1", 5, 9, "torn"),)
    answered, open_for_ever = found.writes
    assert (answered.outcome, answered.version, answered.index, answered.attempts) == (Outcome.OK, 4, 9, 3)
    assert answered.completed_ns is not None
    assert answered.completed_ns >= answered.invoked_ns
    assert (open_for_ever.outcome, open_for_ever.completed_ns) == (Outcome.INFO, None)


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="not a history"):
        read_history(path)


def test_the_silence_after_a_fault_is_measured_to_the_first_answer_of_the_new_leader() -> None:
    faults = [
        Fault("kill leader", "n1", 1 * SECOND, 2 * SECOND),
        Fault("kill any", "n2", 9 * SECOND, 9 * SECOND),
    ]
    in_flight, recovered = int(1.1 * SECOND), int(2.6 * SECOND)
    times = [0, in_flight, *range(recovered, 10 * SECOND, SECOND // 10)]
    assert silences(times, faults) == pytest.approx([1.5, 0.1])


def test_figures_count_what_was_learnt_only_by_asking_again() -> None:
    writes = [write(1), replace(write(2), attempts=3), replace(write(3), outcome=Outcome.INFO)]
    found = figures(history(writes))
    assert (found.acknowledged, found.retried, found.unknown) == (2, 1, 1)


@pytest.mark.parametrize(
    ("header", "index"),
    [
        ("eyJjbHVzdGVyIjoiYyIsInZhbHVlIjoiNTAifQ==", 50),
        (None, None),
        ("", None),
        ("not base64", None),
        ("e30=", None),
    ],
)
def test_the_index_header_is_decoded(header: str | None, index: int | None) -> None:
    assert decode_index(header) == index
