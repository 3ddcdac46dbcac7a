"""From a path to what answers it: path tables as data.

Patterns are literal segments, `{name}` for one segment and a final `{name...}` for one or more. System
paths come from one table; a mount's paths from its engine's table, relative to the mount.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from node.core.fields import Field
from node.core.request import Operation, Request, Response, Shape
from storage.cache import CachedValue

if TYPE_CHECKING:
    from node.core.core import Core
    from node.store import Store

Handler = Callable[["Core", Request, dict[str, str]], Awaitable[Response]]
Exists = Callable[["Core", Request, dict[str, str]], bool]
AtOnce = Callable[["Store", Request, dict[str, str]], tuple[CachedValue, dict[str, Any]] | None]
Begins = Callable[["Core", Request, dict[str, str]], "Begun | None"]
Anonymous = Callable[[Request], bool]


class Begun(Protocol):
    """A write that was checked and has not begun: the audit record comes first. Ends with release().

    Its command carries the position of the state that its caller's permission was read from, so that the state
    machine refuses it if that has changed since: no node has to confirm first that its state is current.
    """

    def start(self, timeout_s: float) -> "asyncio.Future[Any]":
        """Begin it. Raises NodeError: nothing has happened."""
        ...

    def release(self) -> None:
        """It is over, or was never started: others may go on."""
        ...

    def answer(self, begun: "asyncio.Future[Any]") -> Response | None:
        """What came of it; None: nothing at the first attempt, so release() and go on. Raises NodeError."""
        ...

    async def answer_later(self) -> Response:
        """All further attempts. The caller's permission was read anew, from a state that is confirmed."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """One path and who answers it."""

    pattern: str
    handlers: Mapping[Operation, Handler]  # UPDATE serves POST and PUT; CREATE is never a key
    authenticated: bool = True  # False: no token is asked for, no policy applies
    anonymous: Anonymous | None = None  # which requests need no token all the same
    acl: bool = True  # False: any valid token may (the handler checks what there is to check)
    spends: bool = True  # False: asking takes no use from a token that has a limited number of them
    sudo: bool = False  # the token's policies must grant sudo on the path too
    sealed: bool = False  # answers while sealed or uninitialised as well
    audited: bool = True
    upload: bool = False  # its body is a file: it is handed on unread, and may be larger than any other
    patient: bool = False  # takes as long as it takes: what it waits for has deadlines of its own
    link: bool = False  # for other regions alone
    fresh: bool = (
        True  # waits for a read index, unless the caller accepts staleness; False: not if no quorum gives one
    )
    local: bool = False  # any region does what is asked by POST or DELETE, too (node/regions/placing.py)
    shape: Shape = Shape.LOGICAL
    at_once: AtOnce | None = (
        None  # the data of a 200, without waiting for anything, or gives up (node/api/lane.py)
    )
    begins: Begins | None = None  # a write in steps, or None where that will not do (node/api/write_lane.py)
    exists: Exists | None = None  # decides whether a write is `create` or `update` for the policies
    listed: bool = (
        True  # False: it only tells what the right path is; help and the OpenAPI document leave it out
    )
    folded: str = ""  # the path parameter of which lower case is meant: policies must allow that path as well
    twin: str = ""  # a pattern with the same parameters that does the same: policies must not deny that path
    summary: str = ""  # one sentence, for help and the OpenAPI document
    fields: tuple[Field, ...] = ()  # what it takes; path parameters that are not declared are strings
    answers: Mapping[Operation, tuple[Field, ...]] = field(default_factory=dict)  # what a 200 holds
    media_type: str = "application/json"  # of a 200


class Match(msgspec.Struct):
    route: Route
    params: dict[str, str]

    @property
    def folded(self) -> str:
        """The path, relative to the mount, by the one spelling that is meant."""
        return filled(self.route.pattern, self._meant)

    @property
    def twin(self) -> str:
        """The other path that does the same, relative to the mount."""
        return filled(self.route.twin, self._meant)

    @property
    def _meant(self) -> dict[str, str]:
        name = self.route.folded
        return self.params | {name: self.params[name].lower()} if name else self.params


def filled(pattern: str, params: Mapping[str, str]) -> str:
    """A path of a pattern."""
    parts = (
        part.strip("{}").removesuffix("...") if part.startswith("{") else None for part in pattern.split("/")
    )
    return "/".join(
        literal if name is None else params[name]
        for name, literal in zip(parts, pattern.split("/"), strict=True)
    )


class Table:
    """An immutable set of routes; the most literal pattern wins."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact = {route.pattern: route for route in routes if "{" not in route.pattern}
        patterns = sorted(
            ((route.pattern.split("/"), route) for route in routes if "{" in route.pattern),
            key=lambda item: [part.startswith("{") for part in item[0]],
        )
        self._open = [item for item in patterns if item[0][0].startswith("{")]
        self._by_first: dict[str, list[tuple[list[str], Route]]] = {}
        for item in patterns:
            if item not in self._open:
                self._by_first.setdefault(item[0][0], []).append(item)

    def match(self, path: str) -> Match | None:
        """The route of a canonical path (a trailing slash counts), or None."""
        route = self._exact.get(path)
        if route is not None:
            return Match(route, {})
        parts = path.split("/")
        for group in (self._by_first.get(parts[0], ()), self._open):
            for pattern, candidate in group:
                params = _bind(pattern, parts)
                if params is not None:
                    return Match(candidate, params)
        return None

    def reached(self, folder: str) -> list[Route]:
        """The routes to which names in a folder (which ends with "/") may lead; a name gets the first that fits."""
        parts = folder.split("/")[:-1]
        groups = [(pattern.split("/"), route) for pattern, route in self._exact.items()]
        for first, group in self._by_first.items():
            groups += group if first in parts[:1] or not parts else ()
        groups += self._open
        return [route for pattern, route in groups if _reaches(pattern, parts)]

    def tail(self, folder: str) -> tuple[Route, str, str] | None:
        """Where every name in a folder leads, if that is one route with one parameter: that, its parameter's name,
        and what the parameter holds before the name.
        """
        reached = self.reached(folder)
        if not reached:
            return None
        *fixed, last = reached[0].pattern.split("/")
        begins = "".join(f"{part}/" for part in fixed)
        if "{" in begins or not last.endswith("...}") or not folder.startswith(begins):
            return None
        return reached[0], last[1:-4], folder[len(begins) :]


def _reaches(pattern: list[str], parts: list[str]) -> bool:
    for want, part in zip(pattern, parts, strict=False):
        if want.endswith("...}"):
            return True
        if not want.startswith("{") and want != part:
            return False
    return len(pattern) > len(parts) and pattern[len(parts)] != ""  # no name is empty


def _bind(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for position, want in enumerate(pattern):
        if want.endswith("...}"):
            rest = "/".join(parts[position:])
            if not rest:
                return None
            params[want[1:-4]] = rest
            return params
        if position >= len(parts):
            return None
        if want.startswith("{"):
            if not parts[position]:
                return None
            params[want[1:-1]] = parts[position]
        elif want != parts[position]:
            return None
    return params if len(parts) == len(pattern) else None


def payload(**fields: Any) -> Response:
    """A 200 with these fields as data."""
    return Response(data=fields)
