"""A network of regions as a process, which takes orders."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from node.wan.conditions import Conditions
from node.wan.orders import ANSWER_TIMEOUT_S, Configuration, Ways
from node.wan.proxy import Wan

ORDER_BYTES_MAX = 64 * 1024

Clerk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(configuration: Configuration, control: Path, stop: asyncio.Event) -> None:
    """Run a network until `stop`. Raises OSError where an address is taken, KeyError for an unknown region."""
    wan = Wan(configuration.regions, configuration.doors, seed=configuration.seed)
    for each in configuration.ways:
        carry_out(wan, each)
    await wan.start()
    try:
        server = await _listen(control, _clerk(wan))  # who is answered finds the doors open
        try:
            await stop.wait()
        finally:
            server.close()
            _forget(control)
    finally:
        await wan.stop()


def carry_out(wan: Wan, order: Ways) -> list[dict[str, Any]]:
    """Change the ways that an order names; what they are like then. Raises KeyError for an unknown region,
    msgspec.ValidationError for conditions that are none; nothing has changed then.
    """
    known = {name for pair in wan.ways for name in pair}
    for name in (order.here, order.there):
        if name and name not in known:
            raise KeyError(name)
    named = {pair: way for pair, way in wan.ways.items() if _names(order, *pair)}
    changed = {
        pair: msgspec.convert(msgspec.structs.asdict(way.conditions) | order.change, Conditions)
        for pair, way in named.items()
    }
    for pair, way in named.items():
        way.change(changed[pair])
    return [
        {"from": source, "to": target, "connections": len(way.connections), "bytes": way.bytes_carried}
        | msgspec.structs.asdict(way.conditions)
        for (source, target), way in named.items()
    ]


def _names(order: Ways, source: str, target: str) -> bool:
    forth = order.here in ("", source) and order.there in ("", target)
    back = order.here in ("", target) and order.there in ("", source)
    return forth or (back and not order.one_way)


async def _listen(control: Path, clerk: Clerk) -> asyncio.Server:
    _forget(control)
    before = os.umask(0o177)  # only the owner may give orders
    try:
        return await asyncio.start_unix_server(clerk, control, limit=ORDER_BYTES_MAX)
    finally:
        os.umask(before)


def _forget(control: Path) -> None:
    control.unlink(missing_ok=True)


def _clerk(wan: Wan) -> Clerk:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await reader.readline()
            writer.write(_answered(wan, line) + b"\n")
        except (OSError, ValueError):  # who asked is gone, or says too much
            pass
        finally:
            writer.close()

    return take


def _answered(wan: Wan, line: bytes) -> bytes:
    try:
        return msgspec.json.encode({"ways": carry_out(wan, msgspec.json.decode(line, type=Ways))})
    except msgspec.MsgspecError as error:
        return msgspec.json.encode({"error": f"not an order: {error}"})
    except KeyError as error:
        return msgspec.json.encode({"error": f"there is no region {error.args[0]}"})
