"""What clients send for a duration, a number, a flag or a list, and how times are shown to them."""

from decimal import Decimal
from typing import Any

import pytest
from support.asking import Asker
from support.corefixture import opened

from node.auth import fields
from node.core.fields import REMARK_CHARACTERS_MAX, Field, in_path, remarks
from node.errors import InvalidRequest
from storage.sanity import INTEGER_MAX


def test_what_is_over_later_than_the_store_can_tell_is_over_then() -> None:
    assert fields.ends_ns(5, 7) == 12
    assert fields.ends_ns(2**60, 2**62) == INTEGER_MAX


LIFETIMES = [
    ("sys/auth/ap", {"type": "approle"}, "config.max_lease_ttl"),
    ("sys/mounts/secret/tune", {"max_lease_ttl": "0"}, "default_lease_ttl"),
    ("sys/mounts/secret/tune", {}, "max_lease_ttl"),
    ("sys/auth/token/tune", {}, "max_lease_ttl"),
    ("secret/config", {}, "delete_version_after"),
    ("auth/ap/role/r", {}, "token_ttl"),
    ("auth/ap/role/r", {}, "secret_id_ttl"),
]


async def _say(ask: Asker, path: str, data: dict[str, Any], name: str, duration: str) -> None:
    inside, _, last = name.rpartition(".")
    said = {last: duration}
    await ask.post(path, **data, **({inside: said} if inside else said))


@pytest.mark.parametrize("years", [100, 146])
async def test_lifetimes_of_a_century_are_granted_as_far_as_there_are_years(tmp_path, years) -> None:
    """100 years is what people say who mean for ever."""
    long = f"{years * 365 * 24}h"
    async with opened(tmp_path) as core:
        ask = Asker(core)
        for path, data, name in LIFETIMES:
            await _say(ask, path, data, name, long)
        await ask.post("secret/data/a", data={"x": 1})
        assert (await ask.get("secret/data/a"))["metadata"]["deletion_time"] > "21"
        for name in ("ttl", "period", "explicit_max_ttl"):
            auth = await ask.auth("auth/token/create", policies=["default"], **{name: long})
            await ask.by(auth["client_token"]).post("auth/token/renew-self", increment=long)
        secret_id = (await ask.post("auth/ap/role/r/secret-id")).data or {}
        role_id = (await ask.get("auth/ap/role/r/role-id"))["role_id"]
        auth = await ask.by(None).auth("auth/ap/login", role_id=role_id, secret_id=secret_id["secret_id"])
        assert auth["lease_duration"] > 80 * 365 * 24 * 3600


async def test_longer_lifetimes_than_the_store_can_tell_are_refused(tmp_path) -> None:
    async with opened(tmp_path) as core:
        ask = Asker(core)
        await ask.post("sys/auth/ap", type="approle")
        for path, data, name in LIFETIMES:
            with pytest.raises(InvalidRequest, match="duration out of range"):
                await _say(ask, path, data, name, "2540400h")


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [(None, 0), ("", 0), (3600, 3600 * 10**9), ("3600", 3600 * 10**9), ("1h", 3600 * 10**9), ("0.5s", 5 * 10**8),
     ("1h0m0s", 3600 * 10**9), ("1.5h", 5400 * 10**9), ("250ms", 25 * 10**7), ("1µs", 1000),
     ("2d", 172800 * 10**9)],
)  # fmt: skip
def test_durations(value: Any, nanoseconds: int) -> None:
    assert fields.duration_ns(value, "ttl") == nanoseconds


@pytest.mark.parametrize("value", [True, [], {}, " ", "\t", "h", "1 h", "1h1", "-1", -1, "1e3", "inf", float("nan"),
                                   0.5, 60.0, Decimal("1.50"), 10**30,
                                   float("inf"), 10**12, 2**33, "9" * 19, "1" * 100 + "h", "٣s", "1h\n2"])  # fmt: skip
def test_no_durations(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        fields.duration_ns(value, "ttl")


def test_other_fields() -> None:
    assert [fields.integer(value, "n") for value in (None, "", 3, "3", 3.0, "-7")] == [0, 0, 3, 3, 3, -7]
    assert [fields.boolean(value, "b") for value in (None, "", True, "true", "T", 1, "0", "f", False)] == [
        False, False, True, True, True, True, False, False, False,
    ]  # fmt: skip
    assert fields.strings(" a, b,,c ", "s") == ["a", "b", "c"]
    assert fields.strings(["a", " b", 3, ""], "s") == ["a", " b", "3"]
    assert fields.strings(3, "s") == ["3"]
    assert [fields.mapping(value, "m") for value in (None, {"a": 1}, [])] == [None, {"a": 1}, {}]
    assert fields.string_map({"a": 1}, "m") == fields.string_map('{"a": "1"}', "m") == {"a": "1"}
    assert fields.string_map("a=1,b = 2", "m") == fields.string_map(["a=1", "b=2"], "m")
    for reader, values in [
        (fields.integer, ["x", True, 1.5, [], "9" * 30, "٣"]),
        (fields.boolean, ["yes", 2, [], 0.0]),
        (fields.strings, [{}, True, [[]], [True]]),
        (fields.mapping, ["x", 1, True, [1], ""]),
        (fields.string_map, ["x", 1, "{", {"a": []}, '{"a"' + ":{" * 9]),
        (fields.text, [{}, [], True]),
    ]:
        for value in values:
            with pytest.raises(InvalidRequest):
                reader(value, "field")


@pytest.mark.parametrize("value", [",", " ", "a,", "a,,b", [""], [None], ["a", ""]])
def test_a_restriction_is_lifted_by_nothing_else_than_an_empty_list(value: Any) -> None:
    assert [fields.bounds(nothing, "cidrs") for nothing in (None, "", [])] == [[], [], []]
    assert fields.bounds("a, b", "cidrs") == fields.bounds(["a", "b"], "cidrs") == ["a", "b"]
    with pytest.raises(InvalidRequest, match="empty item"):
        fields.bounds(value, "cidrs")


def test_times_as_go_prints_them() -> None:
    hour = 3600 * fields.SECOND_NS
    shown = {3 * hour: "3h0m0s", hour + 1: "1h0m0.000000001s", 15 * 10**8: "1.5s", 25 * 10**7: "250ms", 0: "0s",
             1500: "1.5µs", 7: "7ns", 90 * fields.SECOND_NS: "1m30s", -hour: "-1h0m0s"}  # fmt: skip
    assert {value: fields.go_duration(value) for value in shown} == shown
    assert fields.rfc3339(1_795_330_884_423_537_570) == "2026-11-22T07:01:24.42353757Z"
    assert fields.rfc3339(1_795_330_884 * 10**9) == "2026-11-22T07:01:24Z"


def test_a_warning_about_unknown_parameters_is_no_longer_than_it_needs_to_be() -> None:
    declared = (in_path("name", "It."), Field("ttl"))
    assert remarks(declared, ["name"], ["ttl"]) == []
    (unknown,) = remarks(declared, ["name"], ["b" * 10**6, "ttl", "a"])
    assert "[a bbb" in unknown
    assert len(unknown) < REMARK_CHARACTERS_MAX + 100
