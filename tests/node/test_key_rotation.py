"""When the key that encrypts is replaced, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest
from support.corefixture import call, opened

from node import key_rotation
from node.core.core import Core
from node.core.request import Operation
from node.errors import InvalidRequest
from node.key_rotation import Rotation, is_due
from storage.keyring import WRAPS_PER_TERM_MAX
from storage.rows import KeyTerm

READ, UPDATE = Operation.READ, Operation.UPDATE
DAY_NS = 24 * 3600 * 10**9
TERM = KeyTerm(term=1, wrapped_key=b"", created_ns=DAY_NS)


@pytest.mark.parametrize(
    ("rotation", "age_days", "wraps", "due"),
    [
        (Rotation(), 0, 0, False),
        (Rotation(), 89, 0, False),
        (Rotation(), 90, 0, True),
        (Rotation(), 0, WRAPS_PER_TERM_MAX - 1, False),
        (Rotation(), 0, WRAPS_PER_TERM_MAX, True),
        (Rotation(interval_s=0), 10_000, 0, False),
        (Rotation(operations_max=5), 0, 5, True),
        (Rotation(enabled=False), 10_000, 10_000, False),
        (Rotation(enabled=False, operations_max=5), 0, WRAPS_PER_TERM_MAX, True),
    ],
)
def test_a_term_is_replaced_by_age_and_by_use(
    rotation: Rotation, age_days: int, wraps: int, due: bool
) -> None:
    assert is_due(rotation, TERM, wraps=wraps, now_ns=TERM.created_ns + age_days * DAY_NS) is due


@pytest.fixture
async def core(tmp_path: Path) -> Any:
    async with opened(tmp_path) as made:
        yield made


async def read(core: Core, path: str) -> dict[str, Any]:
    response = await call(core, READ, path)
    assert response.data is not None
    return response.data


async def test_old_values_stay_readable_and_new_ones_use_the_new_term(core: Core) -> None:
    await call(core, UPDATE, "secret/data/a", {"data": {"n": 1}})
    before = await read(core, "sys/key-status")
    await call(core, UPDATE, "sys/rotate")
    after = await read(core, "sys/key-status")
    assert after["term"] == before["term"] + 1
    assert after["encryptions"] == 0
    await call(core, UPDATE, "secret/data/b", {"data": {"n": 2}})
    assert (await read(core, "sys/key-status"))["encryptions"] == 1
    assert core.unsealed.reads.key_terms()[0].wraps == before["encryptions"]
    for name in ("a", "b"):
        assert (await call(core, READ, f"secret/data/{name}")).status == 200


async def test_the_leader_replaces_a_term_that_is_due(core: Core) -> None:
    store = core.unsealed
    await key_rotation.rotate_if_due(store)
    assert key_rotation.newest(store).term == 1
    await call(core, UPDATE, "sys/rotate/config", {"max_operations": 1_000_000, "interval": "24h"})
    assert await read(core, "sys/rotate/config") == {
        "enabled": True,
        "interval": "24h0m0s",
        "max_operations": 1_000_000,
    }
    core.unsealed._machine._executor.wraps.count = 1_000_000
    await key_rotation.rotate_if_due(store)
    assert key_rotation.newest(store).term == 2


async def test_limits_of_the_configuration(core: Core) -> None:
    with pytest.raises(InvalidRequest, match="greater or equal to 24h"):
        await call(core, UPDATE, "sys/rotate/config", {"interval": "1h"})
    told = await call(
        core, UPDATE, "sys/rotate/config", {"max_operations": 3_865_470_566, "enabled": "false"}
    )
    assert told.warnings
    assert await read(core, "sys/rotate/config") == {
        "enabled": False,
        "interval": "2160h0m0s",
        "max_operations": WRAPS_PER_TERM_MAX,
    }
