"""What a subscriber wants to hear of: types as a pattern, and a filter expression over what an event says.

The expressions are the part of Vault's (go-bexpr) that compares texts: ==, !=, `in`, `not in`, `contains`,
`is empty`, `is not empty`, with and, or, not and parentheses. Regular expressions (`matches`) are refused: nobody
bounds their time.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from node.auth import globs
from node.errors import InvalidRequest
from node.events.happened import TYPES

FILTER_CHARACTERS_MAX = 4096
DEPTH_MAX = 32
SELECTORS = ("event_type", "operation", "source_plugin_mount", "data_path", "path", "namespace")

Facts = Mapping[str, str]
Test = Callable[[Facts], bool]

_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<sign>==|!=|\(|\))|(?P<word>[^\s()"`=!]+))'
)


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled expression. `data_path`: the only one that it can let through, if there is one."""

    test: Test | None = None
    data_path: str | None = None
    text: str = ""

    def lets(self, facts: Facts) -> bool:
        return self.test is None or self.test(facts)


ALL = Filter()


def event_types(pattern: str) -> frozenset[str]:
    """The types that a pattern names. Raises InvalidRequest if it names none."""
    found = frozenset(each for each in TYPES if globs.matches(pattern, each))
    if not found:
        raise InvalidRequest(f"there are no events of type {pattern!r}: there are {', '.join(TYPES)}")
    return found


def compile_filter(text: str) -> Filter:
    """The filter that an expression describes; an empty one lets everything through. Raises InvalidRequest."""
    if not text.strip():
        return ALL
    if len(text) > FILTER_CHARACTERS_MAX:
        raise InvalidRequest(f"the filter has more than {FILTER_CHARACTERS_MAX} characters")
    return replace(_Parser(text).whole(), text=text)


class _Parser:
    """Recursive descent; `or` binds least, then `and`, then `not`."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise InvalidRequest(f"the filter cannot be read from character {position + 1} on")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self._at = 0

    def whole(self) -> Filter:
        found = self._any(0)
        if self._at < len(self._tokens):
            raise InvalidRequest(f"the filter goes on unexpectedly at {self._tokens[self._at][1]!r}")
        return found

    def _any(self, depth: int) -> Filter:
        found = self._all(depth)
        while self._takes("or"):
            found = _either(found, self._all(depth))
        return found

    def _all(self, depth: int) -> Filter:
        found = self._one(depth)
        while self._takes("and"):
            found = _both(found, self._one(depth))
        return found

    def _one(self, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise InvalidRequest("the filter is nested too deeply")
        if self._takes("not"):
            inner = self._one(depth + 1)
            return Filter(lambda facts: not inner.lets(facts))
        if self._takes("("):
            inner = self._any(depth + 1)
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Filter:
        kind, first = self._next()
        if self._takes("not"):
            self._expect("in")
            test = self._contained(first, self._selector(self._next()[1]))
            return Filter(lambda facts: not test(facts))
        if self._takes("in"):
            return Filter(self._contained(first, self._selector(self._next()[1])))
        if kind == "text":
            raise InvalidRequest('a filter compares a name with a text: data_path == "secret/data/x"')
        name = self._selector(first)
        _, operator = self._next()
        if operator == "is":
            negated = self._takes("not")
            self._expect("empty")
            return Filter(lambda facts: (not facts[name]) is not negated)
        if operator == "contains":
            return Filter(self._contained(self._next()[1], name))
        if operator not in ("==", "!="):
            raise InvalidRequest(
                f"a filter does not offer {operator!r}: ==, !=, in, not in, contains, is empty"
            )
        wanted = _plain(self._next()[1])
        if operator == "!=":
            return Filter(lambda facts: facts[name] != wanted)
        return Filter(lambda facts: facts[name] == wanted, wanted if name == "data_path" else None)

    @staticmethod
    def _contained(part: str, name: str) -> Test:
        wanted = _plain(part)
        return lambda facts: wanted in facts[name]

    @staticmethod
    def _selector(name: str) -> str:
        plain = _plain(name).removeprefix("/")
        if plain not in SELECTORS:
            raise InvalidRequest(f"a filter knows no {plain!r}: {', '.join(SELECTORS)}")
        return plain

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise InvalidRequest("the filter ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _takes(self, word: str) -> bool:
        if self._at < len(self._tokens):
            kind, token = self._tokens[self._at]
            if kind != "text" and token == word:
                self._at += 1
                return True
        return False

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            raise InvalidRequest(f"the filter lacks {word!r}")


def _plain(token: str) -> str:
    if token[:1] == '"':
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return token[1:-1] if token[:1] == "`" else token


def _both(one: Filter, other: Filter) -> Filter:
    path = one.data_path if one.data_path is not None else other.data_path
    return Filter(lambda facts: one.lets(facts) and other.lets(facts), path)


def _either(one: Filter, other: Filter) -> Filter:
    return Filter(lambda facts: one.lets(facts) or other.lets(facts))
