"""The check of registers sees what it must see."""

import pytest

from chaos.registers import Op, violations

WRITE = Op("write", "k", "n1", 1, 2, 1, "a")
NEXT = Op("write", "k", "n1", 3, 4, 2, "b")


def read(began: float, ended: float, version: int, value: str | None) -> Op:
    return Op("read", "k", "n2", began, ended, version, value)


@pytest.mark.parametrize(
    "more",
    [
        [read(5, 6, 2, "b")],
        [read(3.5, 6, 1, "a"), read(3.5, 3.6, 2, "b")],  # the write took effect between the two
        [read(0, 1.5, 0, None), read(0, 1.5, 1, "a")],
        [Op("write", "k", "n3", 5, None, None, "c"), read(6, 7, 3, "c"), read(8, 9, 3, "c")],
        [Op("refused", "k", "n3", 5, 6, None, "c", 1)],
        [Op("refused", "k", "n3", 2.5, 3.5, None, "c", 1)],
    ],
)
def test_histories_that_some_order_explains(more: list[Op]) -> None:
    assert violations([WRITE, NEXT, *more]) == []


@pytest.mark.parametrize(
    "more",
    [
        [read(5, 6, 1, "a")],  # older than what was acknowledged
        [read(2.5, 3.5, 2, "b"), read(3.6, 3.7, 1, "a")],  # older than what another had read
        [read(0, 0.5, 1, "a")],  # before it was written
        [read(5, 6, 2, "a")],
        [read(5, 6, 3, "z")],
        [Op("write", "k", "n3", 5, 6, 2, "c")],  # the same version twice
        [Op("write", "k", "n3", 5, 6, 4, "c", 2)],  # followed another version than it demanded
        [Op("refused", "k", "n3", 5, 6, None, "c", 2)],  # refused for no reason
        [Op("write", "k", "n3", 5, None, None, "c"), read(6, 7, 3, "c"), read(8, 9, 2, "b")],
    ],
)
def test_histories_that_no_order_explains(more: list[Op]) -> None:
    assert violations([WRITE, NEXT, *more])
