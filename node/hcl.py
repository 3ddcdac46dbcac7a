"""The part of HCL that policies and configurations are written in: attributes, blocks, lists, objects, literals.

No expressions, templates or functions: both are data. Linear in the length of the text, depth and size
bounded, and unlike a general HCL library it refuses an attribute given twice, of which one would silently win.
Attributes of a one-line block may follow each other without a comma, which HCL 1 took and HCL 2 does not.
"""

import re
from typing import Any, NoReturn

DEPTH_MAX = 16

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?[0-9]{1,18}(?:\.[0-9]{1,18})?(?![A-Za-z0-9_.]))
      | (?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<mark>[][{}=,])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_WORDS = {"true": True, "false": False}


class HclError(ValueError):
    """Not HCL, or more of it than is needed here. The message says where, and so do line and column."""

    def __init__(self, what: str, line: int, column: int) -> None:
        super().__init__(f"{what} at line {line} column {column}")
        self.what, self.line, self.column = what, line, column


class Block(list[tuple[str, Any]]):
    """The entries of a body in order: a labelled block is (keyword, Block([(label, Block(...))]))."""


def loads(text: str) -> Block:
    """The entries of a document. Raises HclError."""
    return _Parser(text).body(closing="", depth=0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._kind = ""
        self._value: Any = None
        self._start = 0
        self._next()

    def body(self, *, closing: str, depth: int) -> Block:
        entries = Block()
        attributes: set[str] = set()
        while not self._at(closing):
            key = self._key()
            if self._at("="):
                if key in attributes:
                    self._fail(f'the argument "{key}" is set twice')
                self._next()
                attributes.add(key)
                entries.append((key, self._literal(depth)))
            else:
                entries.append((key, self._labelled(depth)))
            if depth and self._at(","):
                self._next()
        self._next()
        return entries

    def _labelled(self, depth: int) -> Block:
        if self._at("{"):
            return self._nested(depth)
        if depth >= DEPTH_MAX:
            self._fail(f"nested deeper than {DEPTH_MAX}")
        label = self._key()
        return Block([(label, self._labelled(depth + 1))])

    def _nested(self, depth: int) -> Block:
        if depth >= DEPTH_MAX:
            self._fail(f"nested deeper than {DEPTH_MAX}")
        self._next()
        return self.body(closing="}", depth=depth + 1)

    def _literal(self, depth: int) -> Any:
        if self._at("{"):
            return self._nested(depth)
        if self._at("["):
            return self._list(depth)
        value = self._value
        if self._kind == "word" and value in _WORDS:
            value = _WORDS[value]
        elif self._kind not in ("string", "number"):
            self._fail(f"unexpected {self._shown()}, expected a value")
        self._next()
        return value

    def _list(self, depth: int) -> list[Any]:
        if depth >= DEPTH_MAX:
            self._fail(f"nested deeper than {DEPTH_MAX}")
        self._next()
        items: list[Any] = []
        while not self._at("]"):
            items.append(self._literal(depth + 1))
            if self._at(","):
                self._next()
            elif not self._at("]"):
                self._fail(f'unexpected {self._shown()}, expected "," or "]"')
        self._next()
        return items

    def _key(self) -> str:
        if self._kind not in ("word", "string"):
            self._fail(f"unexpected {self._shown()}")
        key = str(self._value)
        self._next()
        return key

    def _at(self, mark: str) -> bool:
        return self._kind == ("mark" if mark else "end") and self._value == mark

    def _next(self) -> None:
        while True:
            self._start = self._position
            if self._position >= len(self._text):
                self._kind, self._value = "end", ""
                return
            match = _TOKEN.match(self._text, self._position)
            if match is None:
                self._kind, self._value = "bad", self._text[self._position]
                self._fail(f"illegal character {self._value!a}")
            self._position = match.end()
            kind = match.lastgroup or ""
            if kind != "space":
                self._kind, self._value = kind, self._decoded(kind, match[0])
                return

    def _decoded(self, kind: str, token: str) -> Any:
        if kind == "string":
            return _ESCAPE.sub(self._unescaped, token[1:-1]) if "\\" in token else token[1:-1]
        if kind == "number":
            return float(token) if "." in token else int(token)
        return token

    def _unescaped(self, match: re.Match[str]) -> str:
        code = match[1]
        if code in _ESCAPES:
            return _ESCAPES[code]
        point = int(code[1:], 16) if len(code) > 1 else 0
        if not 0 < point <= 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            self._fail("unknown escape in a string")
        return chr(point)

    def _shown(self) -> str:
        return "end of text" if self._kind == "end" else f'"{self._value}"'

    def _fail(self, message: str) -> NoReturn:
        line = self._text.count("\n", 0, self._start) + 1
        column = self._start - (self._text.rfind("\n", 0, self._start) + 1) + 1
        raise HclError(message, line, column)
