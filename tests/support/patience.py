"""How long tests wait for what is to happen."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 60.0
"""A test that is right never comes near it, on a machine with ten times as much to do as it can either."""
LOOK_AGAIN_S = 0.005


async def eventually(holds: Callable[[], object], what: str = "it") -> None:
    """Poll until `holds()`; fail loudly at the deadline. For other processes there is `processes.poll`."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None
