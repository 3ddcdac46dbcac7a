"""The usual form of a policy in HCL: indented by two, one thing a line, equals signs aligned, comments kept."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from node.cli.output import LocalError
from node.policy.parse import PolicyError, parse

INDENT = "  "
_INSIDE = "this policy is not formatted: a comment stands in the middle of a rule"
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+)
      | (?P<newline>\n)
      | (?P<comment>\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<punctuation>[{}\[\],=:])
      | (?P<word>[^\s{}\[\],="#:]+)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    newlines: int  # how many stand between it and the token before it


@dataclass(slots=True)
class _Item:
    """`key "label" = value`, or a comment alone (no keys)."""

    keys: list[str] = field(default_factory=list)
    assigned: bool = False
    value: "str | _List | _Object" = ""
    comments: list[str] = field(default_factory=list)  # above it
    remark: str = ""  # behind it, on the same line
    apart: bool = False  # an empty line stood above it


@dataclass(slots=True)
class _List:
    elements: list[_Item]
    spread: bool


@dataclass(slots=True)
class _Object:
    items: list[_Item]


def formatted(text: str) -> str:
    """The same policy, written in the usual way. Raises LocalError if it is none, or is JSON."""
    if text.lstrip().startswith("{"):
        raise LocalError("policies in JSON are not formatted, only those in HCL")
    try:
        meaning = parse("formatted", text)
    except PolicyError as e:
        raise LocalError(str(e)) from e
    written = "\n".join(_items(_Reader(list(_tokens(text))).items(""), "")) + "\n"
    try:
        same = parse("formatted", written) == meaning and _comments(written) == _comments(text)
    except PolicyError:
        same = False
    if not same:
        raise LocalError(_INSIDE)
    return written


def _comments(text: str) -> list[str]:
    """What the comments of a policy say: formatting must lose none."""
    return [" ".join(token.text.split()) for token in _tokens(text) if token.kind == "comment"]


def _tokens(text: str) -> Iterator[_Token]:
    at, newlines = 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise LocalError(f"failed to parse policy: line {text.count(chr(10), 0, at) + 1} cannot be read")
        at, kind = match.end(), match.lastgroup or ""
        if kind == "newline":
            newlines += 1
        elif kind != "blank":
            yield _Token(kind, match[0], newlines)
            newlines = 0


class _Reader:
    """Recursive descent over tokens of a policy that has been parsed before: it is well formed."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def items(self, closing: str) -> list[_Item]:
        """Everything up to the closing bracket, which is taken too."""
        found: list[_Item] = []
        pending = _Item()
        while (token := self._peek()) is not None and token.text != closing:
            self._next()
            if token.text == ",":
                continue
            if token.kind == "comment":
                self._comment(token, found, pending)
                continue
            pending.apart = pending.apart or (not pending.comments and token.newlines > 1)
            self._item(token, pending)
            found.append(pending)
            pending = _Item()
        if pending.comments:
            found.append(pending)
        if closing and self._peek() is not None:
            self._next()
        return found

    def _comment(self, token: _Token, found: list[_Item], pending: _Item) -> None:
        if token.newlines == 0 and found and not pending.comments and not found[-1].remark:
            found[-1].remark = token.text
            return
        pending.apart = pending.apart or (not pending.comments and token.newlines > 1)
        pending.comments.append(token.text)

    def _item(self, token: _Token, item: _Item) -> None:
        if token.text in ("{", "["):
            item.value = self._value(token)
            return
        item.keys.append(token.text)
        while (following := self._peek()) is not None and following.text not in (",", "]", "}"):
            if following.kind == "comment":
                self._refuse_inside_a_rule()
                break
            if following.newlines and following.text not in ("{", "="):
                break
            self._next()
            if following.text in ("=", ":"):
                item.assigned = True
                item.value = self._value(self._next())
                return
            if following.text == "{":
                item.value = self._value(following)
                return
            item.keys.append(following.text)

    def _refuse_inside_a_rule(self) -> None:
        """A comment between a key and its value has no place in the usual form."""
        after = next((each.text for each in self._tokens[self._at :] if each.kind != "comment"), "")
        if after in ("=", "{"):
            raise LocalError(_INSIDE)

    def _value(self, token: _Token) -> "str | _List | _Object":
        if token.text == "{":
            return _Object(self.items("}"))
        if token.text != "[":
            return token.text
        start = self._at
        elements = self.items("]")
        spread = any(each.newlines for each in self._tokens[start : self._at]) or any(
            element.comments or element.remark for element in elements
        )
        return _List(elements, spread)


def _items(items: list[_Item], indent: str) -> list[str]:
    """The lines of a body. Between things of several lines there is an empty one."""
    lines: list[str] = []
    blocks = [_item(item, indent, 0) for item in items]
    widths = _aligned(items, blocks)
    for number, item in enumerate(items):
        block = _item(item, indent, widths[number])
        tall = len(block) > 1 or (number > 0 and len(blocks[number - 1]) > 1)
        if number and (item.apart or tall):
            lines.append("")
        lines += block
    return lines


def _aligned(items: list[_Item], blocks: list[list[str]]) -> list[int]:
    """For each item how wide its keys are made: neighbours of one line each agree."""
    widths = [0] * len(items)
    start = 0
    for end in range(1, len(items) + 1):
        if end < len(items) and not items[end].apart and len(blocks[end]) == len(blocks[end - 1]) == 1:
            continue
        run = range(start, end)
        width = max(
            (len(" ".join(items[i].keys)) for i in run if items[i].assigned and len(blocks[i]) == 1),
            default=0,
        )
        for i in run:
            widths[i] = width if len(blocks[i]) == 1 else 0
        start = end
    return widths


def _item(item: _Item, indent: str, width: int) -> list[str]:
    lines = [
        f"{indent}{line.strip() if i == 0 else line}" for each in item.comments for i, line in _numbered(each)
    ]
    keys = " ".join(item.keys)
    if not item.keys and item.value == "":
        return lines
    head = (
        f"{keys.ljust(width)} = " if item.assigned else f"{keys} " if item.keys and item.value != "" else keys
    )
    value = _value(item.value, indent)
    value[0] = f"{indent}{head}{value[0]}"
    value[-1] += f" {item.remark}" if item.remark else ""
    return lines + value


def _numbered(comment: str) -> Iterator[tuple[int, str]]:
    """A comment's lines; those of a block keep their place below its first."""
    for number, line in enumerate(comment.splitlines()):
        yield number, line if number == 0 else f"   {line.strip()}"


def _value(value: "str | _List | _Object", indent: str) -> list[str]:
    if isinstance(value, str):
        return value.split("\n")
    if isinstance(value, _Object):
        if not value.items:
            return ["{}"]
        return ["{", *_items(value.items, indent + INDENT), f"{indent}}}"]
    if not value.spread:
        inner = ["\n".join(_item(element, "", 0)) for element in value.elements]
        return f"[{', '.join(inner)}]".split("\n")
    lines = ["["]
    for element in value.elements:
        block = _item(
            _Item(element.keys, element.assigned, element.value, element.comments), indent + INDENT, 0
        )
        if element.keys or element.value != "":
            block[-1] += "," + (f" {element.remark}" if element.remark else "")
        lines += block
    return [*lines, f"{indent}]"]
