"""Which node of a region is asked first."""

from node.regions.nearness import Nearness

NODES = ("a:1", "b:1", "c:1")


def measured(**seconds: float) -> Nearness:
    nearness = Nearness()
    for name, each in seconds.items():
        nearness.measured(f"{name}:1", each)
    return nearness


def test_the_nearest_first_and_those_that_were_never_measured_last() -> None:
    assert Nearness().order(NODES) == list(NODES)
    assert measured(a=0.09, c=0.07).order(NODES) == ["c:1", "a:1", "b:1"]


def test_a_handshake_is_no_distance() -> None:
    nearness = measured(a=0.28, b=0.07)  # its first answer came over a new connection
    assert nearness.order(NODES)[0] == "b:1"
    nearness.measured("a:1", 0.05)
    assert nearness.order(NODES)[0] == "a:1"
    nearness.measured("a:1", 0.06)
    nearness.measured("a:1", 0.10)
    assert nearness.order(NODES)[0] == "a:1", "one slow answer"


def test_who_is_a_little_nearer_changes_nothing() -> None:
    nearness = measured(a=0.0710, b=0.0715)
    assert nearness.order(NODES)[0] == "a:1"
    nearness.measured("b:1", 0.0700)
    assert nearness.order(NODES)[0] == "a:1"
    nearness.measured("b:1", 0.0300)
    assert nearness.order(NODES)[0] == "b:1"


def test_a_node_that_is_no_help_is_asked_last_until_it_answers_again() -> None:
    nearness = measured(a=0.01, b=0.07)
    nearness.no_help("a:1")
    assert nearness.order(NODES) == ["b:1", "c:1", "a:1"]
    nearness.helps("a:1")
    assert nearness.order(NODES)[0] == "a:1"


def test_a_region_further_away_than_ever_is_believed_in_time() -> None:
    nearness = measured(a=0.01, b=0.07)
    assert nearness.order(NODES)[0] == "a:1"
    for _ in range(40):
        nearness.measured("a:1", 0.2)
    assert nearness.order(NODES)[0] == "b:1"
