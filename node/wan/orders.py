"""How a network of regions is described, and how it is told to change: a line of JSON each way over a Unix socket."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

ANSWER_TIMEOUT_S = 5.0
SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit


class Door(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where other regions reach a node of `region`: at `listen`, though it listens at `target` (host:port both)."""

    region: str
    listen: str
    target: str


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
