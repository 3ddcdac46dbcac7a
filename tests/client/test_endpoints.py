"""Which node is asked: the nearest that works, with fail-over and return. Time is the test's own."""

import random

import pytest
from strongroom._effects import Answer, Pause, Send
from strongroom._endpoints import AWAY_MAX_S, AWAY_MIN_S, MEASURE_EVERY_S, Endpoint, Endpoints
from strongroom._errors import ConfigurationError
from strongroom._requests import Ask, Limits, Requests

NEAR, FAR, FARTHEST = "https://near:1", "https://far:1", "https://farthest:1"


def measured(**round_trips_s: float | None) -> Endpoints:
    """Endpoints near, far, farthest with these round trips, measured at time 0."""
    endpoints = Endpoints([f"https://{name}:1" for name in round_trips_s])
    for endpoint, seconds in zip(endpoints.all, round_trips_s.values(), strict=True):
        endpoints.measured(endpoint, seconds, 0.0)
    return endpoints


def test_the_nearest_is_chosen() -> None:
    assert measured(farthest=0.3, near=0.01, far=0.1).choose(0.0).url == NEAR


def test_the_next_nearest_takes_over_and_the_nearest_is_used_again_when_it_works() -> None:
    endpoints = measured(near=0.01, far=0.1, farthest=0.3)
    near = endpoints.choose(0.0)
    endpoints.failed(near, 0.0)
    assert endpoints.choose(0.1).url == FAR
    assert near not in endpoints.due(0.1)
    assert near in endpoints.due(AWAY_MIN_S), "when its pause is over it is measured"
    endpoints.measured(near, 0.01, AWAY_MIN_S)
    assert endpoints.choose(AWAY_MIN_S).url == NEAR


def test_no_call_finds_out_whether_one_that_failed_works_again() -> None:
    endpoints = measured(near=0.01, far=0.1)
    near = endpoints.choose(0.0)
    endpoints.failed(near, 0.0)
    assert endpoints.choose(AWAY_MAX_S).url == FAR
    endpoints.measured(near, None, AWAY_MAX_S)
    assert endpoints.choose(3 * AWAY_MAX_S).url == FAR
    endpoints.measured(near, 0.01, 3 * AWAY_MAX_S)
    assert endpoints.choose(3 * AWAY_MAX_S).url == NEAR


def test_an_endpoint_that_keeps_failing_is_asked_ever_more_seldom() -> None:
    endpoints = measured(near=0.01, far=0.1)
    near, now, pauses = endpoints.all[0], 0.0, []
    for _ in range(3000):  # a day
        endpoints.failed(near, now)
        pauses.append(near.away_until - now)
        now = near.away_until
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (AWAY_MIN_S, AWAY_MAX_S)


def test_one_that_is_hardly_nearer_does_not_take_over() -> None:
    endpoints = measured(near=0.010, far=0.011)
    assert endpoints.choose(0.0).url == NEAR
    endpoints.all[1].round_trip_s = 0.009
    assert endpoints.choose(0.0).url == NEAR
    endpoints.all[1].round_trip_s = 0.002
    assert endpoints.choose(0.0).url == FAR


def test_within_a_call_others_are_tried_before_one_is_tried_again() -> None:
    endpoints = measured(near=0.01, far=0.1, farthest=0.3)
    tried: list[Endpoint] = []
    for _ in range(4):
        tried.append(endpoints.choose(0.0, tried))
    assert [each.url for each in tried] == [NEAR, FAR, FARTHEST, NEAR]


def test_if_all_are_away_one_is_asked_all_the_same() -> None:
    endpoints = measured(near=0.01, far=0.1)
    for each, at in zip(endpoints.all, (0.0, 5.0), strict=True):
        for _ in range(5):
            endpoints.failed(each, at)
    assert endpoints.choose(6.0).url == NEAR, "the one whose pause ends first"


def test_a_single_endpoint_needs_no_measuring() -> None:
    assert Endpoints([NEAR]).due(0.0) == []


def test_round_trips_are_measured_again_and_smoothed() -> None:
    endpoints = measured(near=0.01, far=0.1)
    assert endpoints.due(MEASURE_EVERY_S - 0.1) == []
    assert endpoints.due(MEASURE_EVERY_S) == endpoints.all
    endpoints.measured(endpoints.all[0], 0.11, MEASURE_EVERY_S)
    assert endpoints.all[0].round_trip_s == pytest.approx(0.04)


def test_whatever_happens_a_working_endpoint_is_preferred() -> None:
    """Random histories: never one that is away while another is not."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    endpoints, now = Endpoints([NEAR, FAR, FARTHEST]), 0.0
    for _ in range(3000):
        now += dice.expovariate(1.0)
        each = dice.choice(endpoints.all)
        match dice.randrange(3):
            case 0:
                endpoints.failed(each, now)
            case 1:
                endpoints.worked(each)
            case 2:
                endpoints.measured(each, dice.choice([None, dice.random()]), now)
        chosen = endpoints.choose(now)
        if any(other.available(now) for other in endpoints.all):
            assert chosen.available(now)


def test_what_a_node_tells_of_is_added_unless_it_leads_out_of_tls() -> None:
    endpoints = Endpoints([NEAR])
    endpoints.told(
        [
            FAR + "/",
            NEAR,
            "http://plain:1",
            "https://bad:port",
            "nonsense",
            *(f"https://n{i}:1" for i in range(90)),
        ]
    )
    urls = [each.url for each in endpoints.all]
    assert urls[:2] == [NEAR, FAR]
    assert "http://plain:1" not in urls
    assert len(urls) == len(set(urls)) == 64


def test_what_is_told_of_no_more_goes_but_for_what_the_user_has_given() -> None:
    """A region that has left the others would go on answering, with what is its own by now."""
    endpoints = Endpoints([NEAR])
    endpoints.told([NEAR, FAR])
    for each in endpoints.all:
        endpoints.measured(each, 0.1 if each.url == NEAR else 0.01, 1.0)
    assert endpoints.choose(2.0).url == FAR
    endpoints.told([FARTHEST])
    assert [each.url for each in endpoints.all] == [NEAR, FARTHEST]
    assert endpoints.used is None
    assert endpoints.choose(2.0).url == NEAR


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["near:1"],
        ["ftp://near"],
        ["https://near:1/path"],
        ["https://near:1?a=b"],
        ["https://near:1#a"],
        ["https://"],
    ],
)
def test_what_is_no_endpoint_is_refused(urls: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        Endpoints(urls)
    with pytest.raises(ConfigurationError):
        Endpoints([f"https://n{i}:1" for i in range(65)])


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoints(["https://ann:hunter2@near:1"])
    assert "hunter2" not in str(caught.value)


def test_where_one_node_has_not_heard_of_a_change_another_one_is_asked() -> None:
    """Of an index that is not there yet servers say 429: who asks for none has only to wait."""
    later = Answer(429, {"retry-after": "1"}, {"errors": ["this node does not hold the demanded index yet"]})
    endpoints = Endpoints(["https://n1:1", "https://n2:1"])
    limits = Limits(timeout_s=30, attempt_timeout_s=1, attempts_max=None)

    def second(index: str) -> object:
        """What comes after the first answer."""
        ask = Ask("GET", "secret/data/a", index=lambda: index)
        program = Requests(endpoints, limits, lambda: 0.0).send(ask, {})
        first = program.send(None)
        while not isinstance(first, Send):
            first = program.send([(Answer(200, {}), 0.001)] * 2)
        after = program.send(later)
        return (first.url, after.url) if isinstance(after, Send) else after

    assert second("index") == ("https://n1:1/v1/secret/data/a", "https://n2:1/v1/secret/data/a")
    assert isinstance(second(""), Pause)


def test_a_measurement_that_was_broken_off_is_made_anew() -> None:
    """Whoever asked first may have been cancelled: the nearest would not be known for half a minute."""
    endpoints = Endpoints([NEAR, FAR])
    limits = Limits(timeout_s=30, attempt_timeout_s=1, attempts_max=None)
    measuring = Requests(endpoints, limits, lambda: 0.0).measure()
    next(measuring)
    assert endpoints.due(0.0) == [], "nobody else does it meanwhile"
    measuring.close()
    assert endpoints.due(0.0) == endpoints.all
