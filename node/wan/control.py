"""A network of regions as a process: its configuration, and orders over a Unix socket, a line of JSON each way."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from node.wan.conditions import Conditions
from node.wan.proxy import Door, Wan

ORDER_BYTES_MAX = 64 * 1024
ANSWER_TIMEOUT_S = 5.0
SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit

Clerk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Ways(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ways between two regions: both, unless one_way. "" is every other region."""

    here: str = ""
    there: str = ""
    one_way: bool = False
    change: dict[str, Any] = {}  # conditions by name; the others stay


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of regions with the addresses that they connect from; doors; what the ways are like at first."""

    regions: dict[str, str]
    doors: list[Door]
    ways: list[Ways] = []
    seed: int = 0


class Refused(Exception):
    """An order that was not carried out, or a network that does not answer: a sentence."""


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


def ask(control: Path, order: Ways) -> list[dict[str, Any]]:
    """Give a running network an order and return what it answers: the ways named, as they are now. Raises Refused."""
    check_path(control)
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(ANSWER_TIMEOUT_S)
            asking.connect(str(control))
            asking.sendall(msgspec.json.encode(order) + b"\n")
            with asking.makefile("rb") as answer:
                told: Mapping[str, Any] = json.loads(answer.readline())
    except (OSError, ValueError) as error:
        raise Refused(f"the network between the regions does not answer: {error}") from None
    if "error" in told:
        raise Refused(str(told["error"]))
    ways: list[dict[str, Any]] = told["ways"]
    return ways


def check_path(control: Path) -> None:
    """Raises Refused for a path that is too long for a socket."""
    if len(os.fsencode(control)) > SOCKET_PATH_BYTES_MAX:
        raise Refused(
            f"{control} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have"
        )


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
