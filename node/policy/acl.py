"""May these policies do this? A pure function of rules, operation, path and parameters.

The precedence is Vault's (vault/acl.go and the policy documentation): an exact rule decides alone; else the
most specific matching pattern does; rules of several policies on one pattern are united, and a deny among them
wins. No rule is the same as deny.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.auth import globs
from node.core.request import Operation
from node.policy.parse import (
    CAPABILITIES,
    CREATE,
    DELETE,
    DENY,
    LIST,
    PATCH,
    READ,
    SCAN,
    SUBSCRIBE,
    SUDO,
    UPDATE,
    Parameters,
    Pattern,
    Policy,
    Rule,
)

_NEEDED = {  # help is no matter of policies
    Operation.READ: READ,
    Operation.LIST: LIST,
    Operation.SCAN: SCAN,
    Operation.CREATE: CREATE,
    Operation.UPDATE: UPDATE,
    Operation.PATCH: PATCH,
    Operation.DELETE: DELETE,
}
_LISTINGS = frozenset({Operation.LIST, Operation.SCAN})
_WITH_PARAMETERS = frozenset({Operation.READ, Operation.CREATE, Operation.UPDATE, Operation.PATCH})


@dataclass(slots=True)
class _Grant:
    """What all policies together say about one pattern."""

    pattern: str  # as it is written, all but placeholders
    capabilities: int = 0
    required: list[str] = field(default_factory=list)
    allowed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    denied: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    min_wrapping_ttl_ns: int = 0
    max_wrapping_ttl_ns: int = 0
    event_types: set[str] = field(default_factory=set)

    def add(self, rule: Rule) -> None:
        """Unite with another rule on the same pattern; once denied, always denied."""
        if self.capabilities & DENY or rule.capabilities & DENY:
            self.capabilities = DENY
            return
        self.capabilities |= rule.capabilities
        self.required += [name for name in rule.required if name not in self.required]
        _unite(self.allowed, rule.allowed)
        _unite(self.denied, rule.denied)
        self.min_wrapping_ttl_ns = _smaller(self.min_wrapping_ttl_ns, rule.min_wrapping_ttl_ns)
        self.max_wrapping_ttl_ns = _smaller(self.max_wrapping_ttl_ns, rule.max_wrapping_ttl_ns)
        if rule.capabilities & SUBSCRIBE:
            self.event_types |= set(rule.event_types or ("*",))


@dataclass(frozen=True, slots=True)
class _Wildcard:
    """A pattern with "+" segments."""

    segments: tuple[str, ...]
    prefix: bool  # ended in "*": the last segment is the beginning of the rest
    rank: tuple[int, bool, int, int, str]
    grant: _Grant

    def matches(self, parts: list[str]) -> bool:
        wanted = self.segments
        if len(parts) < len(wanted) or (len(parts) != len(wanted) and not self.prefix):
            return False
        last = len(wanted) - 1
        for position, segment in enumerate(wanted):
            part = parts[position]
            if segment in ("+", part) or (self.prefix and position == last and part.startswith(segment)):
                continue
            return False
        return True

    def reaches(self, parts: list[str]) -> bool:
        """Whether a path that begins with these segments could match."""
        last = len(self.segments) - 1
        for position, part in enumerate(parts[: len(self.segments)]):
            segment = self.segments[position]
            if segment not in ("+", part) and not (
                self.prefix and position == last and part.startswith(segment)
            ):
                return False
        return self.prefix or len(self.segments) > len(parts)

    def tells_apart(self, parts: list[str]) -> bool:
        """Whether it matches some names in the folder of these segments, and not others."""
        if len(self.segments) <= len(parts) or not self.reaches(parts):
            return False
        return self.segments[len(parts)] not in ("+", "")


class ACL:
    """A compiled set of policies. Immutable once made; safe to share."""

    def __init__(self, policies: Iterable[Policy], *, root: bool = False) -> None:
        self._root = root
        self._exact: dict[str, _Grant] = {}
        self._prefixes: dict[str, _Grant] = {}
        wildcards: dict[str, _Grant] = {}
        tables = {
            Pattern.EXACT: self._exact,
            Pattern.PREFIX: self._prefixes,
            Pattern.SEGMENTS: wildcards,
        }
        for policy in policies:
            for rule in policy.rules:
                if rule.pattern is not Pattern.TEMPLATE:
                    tables[rule.pattern].setdefault(rule.path, _Grant(rule.written)).add(rule)
        grants = [grant for table in tables.values() for grant in table.values()]
        self._limits_wrapping = any(each.min_wrapping_ttl_ns or each.max_wrapping_ttl_ns for each in grants)
        self._exact_sorted, self._prefixes_sorted = sorted(self._exact), sorted(self._prefixes)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._wildcards = sorted(
            (_wildcard(path, grant) for path, grant in wildcards.items()),
            key=lambda wildcard: wildcard.rank,
            reverse=True,
        )

    def allows(self, operation: Operation, path: str, data: Mapping[str, Any], *, sudo: bool) -> bool:
        """Whether `operation` on a canonical path with these parameters is granted; sudo asks for that too."""
        if self._root:
            return True
        listing = operation in _LISTINGS
        if listing and not path.endswith("/"):
            path += "/"  # what is listed is a folder, however it was spelled
        grant = self._grant(path, listing=listing)
        if grant is None or not grant.capabilities & _NEEDED.get(operation, 0):
            return False
        if sudo and not grant.capabilities & SUDO:
            return False
        return operation not in _WITH_PARAMETERS or _parameters_allowed(grant, data)

    def decides_alike(self, folder: str) -> bool:
        """Whether one rule, or none, decides about all names in a folder (which ends in "/"); a name holds no "/"."""
        if self._root:
            return True
        if _goes_into(self._exact_sorted, folder) or _goes_into(self._prefixes_sorted, folder):
            return False
        parts = folder.split("/")[:-1]
        return not any(wildcard.tells_apart(parts) for wildcard in self._wildcards)

    def subscribes(self, path: str, event_type: str) -> bool:
        """Whether events of a type about this path may be heard without the right to read it."""
        grant = None if self._root else self._grant(path, listing=False)
        if grant is None or not grant.capabilities & SUBSCRIBE:
            return self._root
        return any(globs.matches(each, event_type) for each in grant.event_types)

    def wraps(self, path: str, ttl_ns: int) -> bool:
        """Whether an answer may be wrapped for `ttl_ns` (0: sent as it is), where a policy insists on something."""
        grant = self._grant(path, listing=path.endswith("/")) if self._limits_wrapping else None
        if grant is None:
            return True
        shortest, longest = grant.min_wrapping_ttl_ns, grant.max_wrapping_ttl_ns
        if not shortest and not longest:
            return True
        return ttl_ns > 0 and ttl_ns >= shortest and (not longest or ttl_ns <= longest)

    def capabilities(self, path: str) -> list[str]:
        """Sorted; ["root"] for root and ["deny"] when nothing is granted."""
        if self._root:
            return ["root"]
        grant = self._grant(path, listing=True)
        if grant is None or grant.capabilities in (0, DENY):
            return ["deny"]
        return sorted(name for name, bit in CAPABILITIES.items() if grant.capabilities & bit)

    def has_sudo(self, path: str) -> bool:
        """Whether the holder may do on this path what only root may otherwise."""
        if self._root:
            return True
        grant = self._grant(path, listing=False)
        return grant is not None and bool(grant.capabilities & SUDO)

    def reaches(self, prefix: str) -> bool:
        """Whether anything at or below a path prefix (a mount's, ending in "/") is granted to anybody asking.

        Decides only whether a mount may be seen, not what may be done in it.
        """
        if self._root:
            return True
        grants = [grant for path, grant in self._exact.items() if path.startswith(prefix)]
        grants += [
            grant
            for path, grant in self._prefixes.items()
            if path.startswith(prefix) or prefix.startswith(path)
        ]
        parts = prefix.removesuffix("/").split("/")
        grants += [wildcard.grant for wildcard in self._wildcards if wildcard.reaches(parts)]
        return any(grant.capabilities not in (0, DENY) for grant in grants)

    def denies(self, path: str) -> bool:
        """Whether a rule says deny for this path, as opposed to no rule granting anything."""
        grant = self._grant(path, listing=False)
        return not self._root and grant is not None and grant.capabilities == DENY

    @property
    def root(self) -> bool:
        return self._root

    def verdict(
        self, operation: Operation, path: str, data: Mapping[str, Any], *, sudo: bool
    ) -> tuple[str, str]:
        """What allows() goes by: the pattern that decides, "" if none does, and what it comes to in words."""
        if self._root:
            return "", "the token is root"
        listing = operation in _LISTINGS
        if listing and not path.endswith("/"):
            path += "/"
        grant = self._grant(path, listing=listing)
        if grant is None:
            return "", "no rule matches this path"
        if grant.capabilities == DENY:
            return grant.pattern, "the most specific rule denies"
        if not grant.capabilities & _NEEDED.get(operation, 0):
            return grant.pattern, f"the most specific rule does not grant {operation.value}"
        if sudo and not grant.capabilities & SUDO:
            return grant.pattern, "this path needs sudo, which the most specific rule does not grant"
        if operation in _WITH_PARAMETERS and not _parameters_allowed(grant, data):
            return grant.pattern, "the parameters are not those that the rule allows or requires"
        return grant.pattern, f"the most specific rule grants {operation.value}"

    def described(self) -> dict[str, Any]:
        """Everything that is granted or denied, by pattern, as user interfaces of Vault read it."""
        if self._root:
            return {"root": True}
        globs = {f"{path}*": grant for path, grant in self._prefixes.items()}
        globs |= {each.rank[-1] + ("*" if each.prefix else ""): each.grant for each in self._wildcards}
        return {
            "root": False,
            "exact_paths": {path: _described(grant) for path, grant in sorted(self._exact.items())},
            "glob_paths": {
                path.removesuffix("*"): _described(grant) for path, grant in sorted(globs.items())
            },
        }

    def _grant(self, path: str, *, listing: bool) -> _Grant | None:
        """The one rule that decides. A list of "a/b/" is also one of "a/b", where nothing says more."""
        grant = self._exact.get(path)
        bare = path[:-1] if listing and path.endswith("/") else None
        if grant is None and bare is not None:
            grant = self._exact.get(bare)
        if grant is None:
            grant = self._patterned(path)
        if grant is None and bare is not None:
            grant = self._patterned(bare)
        return grant

    def _patterned(self, path: str) -> _Grant | None:
        prefix, grant = None, None
        for length in self._lengths:
            grant = self._prefixes.get(path[:length])
            if grant is not None:
                prefix = path[:length]
                break
        if not self._wildcards:
            return grant
        rank = None if prefix is None else (len(prefix), False, 0, len(prefix), prefix)
        parts = path.split("/")
        for wildcard in self._wildcards:  # best first
            if rank is not None and wildcard.rank < rank:
                break
            if wildcard.matches(parts):
                return wildcard.grant
        return grant


def _goes_into(paths: Sequence[str], folder: str) -> bool:
    """Whether one of these sorted paths is longer than the folder and lies in it."""
    after = bisect_right(paths, folder)
    return after < len(paths) and paths[after].startswith(folder)


def _described(grant: _Grant) -> dict[str, Any]:
    names = sorted(name for name, bit in CAPABILITIES.items() if grant.capabilities & bit)
    return {"capabilities": names or ["deny"]}


def _wildcard(path: str, grant: _Grant) -> _Wildcard:
    prefix = path.endswith("*")
    bare = path[:-1] if prefix else path
    segments = tuple(bare.split("/"))
    # What Vault compares, in order: where the first wildcard stands (later wins), no glob at the end,
    # fewer "+", longer, lexicographically greater.
    rank = (path.index("+"), not prefix, -segments.count("+"), len(bare), bare)
    return _Wildcard(segments, prefix, rank, grant)


def _smaller(one: int, other: int) -> int:
    """The smaller of two limits, 0 meaning that there is none."""
    return min(one, other) if one and other else one or other


def _unite(target: dict[str, tuple[Any, ...]], more: Parameters | None) -> None:
    for name, values in (more or {}).items():
        known = target.get(name)
        # an empty list means every value, so it swallows the other
        target[name] = () if not values or known == () else (known or ()) + values


def _parameters_allowed(grant: _Grant, data: Mapping[str, Any]) -> bool:
    if any(name not in data for name in grant.required):
        return False
    if not data:
        return True
    if grant.denied and _denied(grant.denied, data):
        return False
    allowed = grant.allowed
    anything = "*" in allowed
    if not allowed or (anything and len(allowed) == 1):
        return True
    for name, value in data.items():
        values = allowed.get(name.lower())
        if values is None:
            if not anything:
                return False
        elif not _is_one_of(value, values):
            return False
    return True


def _denied(denied: Mapping[str, tuple[Any, ...]], data: Mapping[str, Any]) -> bool:
    if "*" in denied:
        return True
    return any(
        name.lower() in denied and _is_one_of(value, denied[name.lower()]) for name, value in data.items()
    )


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is in a policy's list: the empty list holds every value."""
    return not values or any(_equal(value, wanted) for wanted in values)


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return _glob(wanted, value)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return bool(value == wanted)


def _glob(pattern: str, value: str) -> bool:
    """A "*" at either end or both; a pattern of one character stands for itself."""
    if len(pattern) < 2:
        return value == pattern
    head, tail = pattern.startswith("*"), pattern.endswith("*")
    if head and tail:
        return pattern[1:-1] in value
    if head:
        return value.endswith(pattern[1:])
    return value.startswith(pattern[:-1]) if tail else value == pattern


ROOT_ACL = ACL([], root=True)
NOTHING = ACL([])
